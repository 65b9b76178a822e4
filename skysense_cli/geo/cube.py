"""Cubes: netCDF and Zarr with variables in (time, y, x), one slice at a time as an ordinary raster (extra `cubes`).

A slice has an address like any raster, `cube:///data/a.nc!/B02?index=3&form=raw`, and goes through the same door.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, quote, unquote, urlencode

import numpy as np
import pyproj
from affine import Affine
from pyproj.exceptions import CRSError
from rasterio.io import DatasetReader, MemoryFile

from skysense_cli.errors import GridError
from skysense_cli.geo import cube_file
from skysense_cli.geo.crs import crs_text

if TYPE_CHECKING:
    import xarray  # at run time it is imported where a cube is opened: half a second that rasters do not need

SCHEME = "cube://"
SUFFIXES = (".nc", ".nc4", ".zarr")
UNEVEN = 1e-3  # of a pixel

Form = Literal["raw", "scaled", "amplitude"]


@dataclass(frozen=True)
class Variable:
    """A variable over the ground.

    fill: its number for no data, as stored      scale, offset: what it declares: true = stored * scale + offset
    """

    name: str
    dtype: str
    times: tuple[np.datetime64, ...]
    fill: float | None
    scale: float
    offset: float


@dataclass(frozen=True)
class CubeInfo:
    """What a cube says of itself. crs: "" if none     times of its variables: NaT where there is no axis of time"""

    path: str
    crs: str
    transform: Affine
    shape: tuple[int, int]
    variables: tuple[Variable, ...]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """left, bottom, right, top in CRS units."""
        a, _, left, _, e, top = self.transform[:6]
        return left, top + e * self.shape[0], left + a * self.shape[1], top


def is_cube(path: object) -> bool:
    """Whether a path has the name of a cube."""
    return Path(str(path)).suffix.lower() in SUFFIXES and "://" not in str(path)


def address(path: str, variable: str, index: int, form: Form = "raw", gain_db: float = 0.0) -> str:
    """Address of one slice.

    form: "raw" as stored, "scaled" with what the variable declares, "amplitude": dB = 20 log10(stored) + gain_db
    """
    return f"{SCHEME}{path}!/{quote(variable, safe='')}?{urlencode({'index': index, 'form': form, 'gain': gain_db})}"


def describe_cube(path: str) -> CubeInfo:
    """Header facts of a cube. Raises GridError that names it: missing, damaged, an extra that is not installed, or uneven axes."""
    return _described(path, cube_file.stamp_of(path))


@lru_cache(maxsize=256)
def _described(path: str, stamp: int) -> CubeInfo:
    dataset = cube_file.opened(path, stamp)
    found = [name for name in dataset.data_vars if dataset[name].ndim in (2, 3) and dataset[name].dtype.kind in "iuf"]
    found = [name for name in found if dataset[name].shape[-2:] == dataset[found[0]].shape[-2:]]
    if not found:
        raise GridError(f"{path}: has no variable of numbers over (time, y, x) (variables: {', '.join(map(str, dataset.data_vars))[:200]})")
    first = dataset[found[0]]
    y, x = (_axis(path, dataset, str(name)) for name in first.dims[-2:])
    right, down = float(x[1] - x[0]), float(y[1] - y[0])
    left, top = float(x[0]) - right / 2, float(y[0]) - down / 2
    if down > 0:
        top += down * len(y)
    if right <= 0:
        raise GridError(f"{path}: its axis {first.dims[-1]} runs westward, expected eastward")
    transform = Affine(right, 0, left, 0, -abs(down), top)
    return CubeInfo(
        path, _crs(path, dataset, first), transform, (len(y), len(x)), tuple(_variable(path, dataset, str(name)) for name in found)
    )


@contextmanager
def open_slice(place: str) -> Iterator[DatasetReader]:
    """The raster at an `address`, in memory. Raises GridError that names it."""
    path, _, rest = place.removeprefix(SCHEME).rpartition("!/")
    name, _, query = rest.partition("?")
    values = parse_qs(query)
    try:
        index, form, gain = int(values["index"][0]), values["form"][0], float(values["gain"][0])
    except (KeyError, ValueError) as error:
        raise GridError(f"{place}: is no address of a slice") from error
    info = describe_cube(path)
    known = {one.name: one for one in info.variables}
    variable = known.get(unquote(name))
    if variable is None or not 0 <= index < len(variable.times):
        raise GridError(f"{path}: has no slice {index} of {unquote(name)} (variables: {', '.join(known)})")
    pixels, nodata = _formed(_read(path, variable, index), variable, form, gain)
    if info.crs:
        crs = pyproj.CRS.from_user_input(info.crs).to_wkt()
    with (
        MemoryFile(dirname=f"{uuid.uuid4().hex}-{quote(place, safe='')}", filename="slice.tif") as file,
        file.open(
            driver="GTiff", height=info.shape[0], width=info.shape[1], count=1, dtype=pixels.dtype, nodata=nodata,
            crs=crs if info.crs else None, transform=info.transform,
        ) as writing,
    ):  # fmt: skip
        writing.write(pixels, 1)
        writing.set_band_description(1, variable.name)
        writing.close()
        with file.open() as dataset:
            yield dataset


def place_in(name: str) -> str | None:
    """The address of the slice that a raster in memory was made of; None for any other raster."""
    parts = name.removeprefix("/vsimem/").split("/")
    _, dash, quoted = parts[0].partition("-")
    return unquote(quoted) if name.startswith("/vsimem/") and dash and quoted.startswith("cube%3A") else None


# facts


def _axis(path: str, dataset: "xarray.Dataset", name: str) -> np.ndarray:
    if name not in dataset.variables or dataset[name].shape != (dataset.sizes[name],) or dataset.sizes[name] < 2:
        raise GridError(f"{path}: has no coordinates for its axis {name} (at least two are needed)")
    values = np.asarray(dataset[name].values, np.float64)
    steps = np.diff(values)
    if not np.isfinite(values).all() or steps[0] == 0 or np.abs(steps - steps[0]).max() > UNEVEN * abs(steps[0]):
        raise GridError(f"{path}: its axis {name} is not evenly spaced")
    return np.linspace(values[0], values[-1], len(values))


def _crs(path: str, dataset: "xarray.Dataset", first: "xarray.DataArray") -> str:
    """By the grid mapping of the first variable, or one with a usual name; "" if there is none."""
    names = [str(first.attrs.get("grid_mapping", "")), "spatial_ref", "crs"]
    attributes = next((dict(dataset[name].attrs) for name in names if name in dataset.variables), {})
    if not attributes:
        return ""
    try:
        return crs_text(pyproj.CRS.from_cf(attributes).to_wkt())
    except (CRSError, KeyError, TypeError, ValueError) as error:
        raise GridError(f"{path}: its coordinate reference system is not understood ({str(error)[:100]})") from error


def _variable(path: str, dataset: "xarray.Dataset", name: str) -> Variable:
    array = dataset[name]
    facts = array.attrs
    dtype = array.dtype
    if str(facts.get("_Unsigned", "")).lower() == "true" and dtype.kind == "i":
        dtype = np.dtype(f"u{dtype.itemsize}")
    fill = facts.get("_FillValue", facts.get("missing_value"))
    if fill is not None:
        fill = float(np.asarray(fill).ravel()[0])
        fill = fill + 2.0 ** (8 * dtype.itemsize) if dtype.kind == "u" and fill < 0 else fill
    times = _times(path, dataset, str(array.dims[0])) if array.ndim == 3 else (np.datetime64("NaT", "s"),)
    scale, offset = (float(np.asarray(facts.get(key, default)).ravel()[0]) for key, default in (("scale_factor", 1), ("add_offset", 0)))
    return Variable(name, dtype.name, times, fill, scale, offset)


def _times(path: str, dataset: "xarray.Dataset", name: str) -> tuple[np.datetime64, ...]:
    if name not in dataset.variables:
        raise GridError(f"{path}: has no coordinates for its axis {name}")
    import xarray

    try:
        axis = xarray.decode_cf(xarray.Dataset({name: dataset[name]}))[name].values
    except (ValueError, OverflowError, TypeError, ImportError) as error:
        raise GridError(f"{path}: its axis {name} holds no dates ({str(error)[:100]})") from error
    if axis.dtype.kind != "M":
        raise GridError(f"{path}: its axis {name} holds no dates (units: {dataset[name].attrs.get('units', 'none')!r})")
    return tuple(axis.astype("datetime64[s]"))


def _read(path: str, variable: Variable, index: int) -> np.ndarray:
    """(H, W) as stored, north up."""
    dataset = cube_file.opened(path, cube_file.stamp_of(path))
    array = dataset[variable.name]
    size = int(np.prod(array.shape[-2:], dtype=np.int64)) * array.dtype.itemsize
    if size > cube_file.MOST_SLICE_BYTES:
        raise GridError(f"{path}: one slice of {variable.name} has {size:,} bytes, at most {cube_file.MOST_SLICE_BYTES:,} are read")
    try:
        pixels = np.asarray(array[index].values if array.ndim == 3 else array.values)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, MemoryError) as error:
        raise GridError(f"{path}: slice {index} of {variable.name} cannot be read ({str(error)[:200]})") from error
    axis = dataset[str(array.dims[-2])].values
    pixels = pixels[::-1] if axis[1] > axis[0] else pixels
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("=")).view(variable.dtype))


def _formed(pixels: np.ndarray, variable: Variable, form: str, gain_db: float) -> tuple[np.ndarray, float | None]:
    """Pixels and their nodata value."""
    if form == "raw":
        wide = pixels.dtype.kind in "iu" and pixels.dtype.itemsize == 8
        return (pixels.astype(np.float64) if wide else pixels.astype(np.int16) if pixels.dtype == np.int8 else pixels), variable.fill
    known = np.ones(pixels.shape, bool) if variable.fill is None else pixels != variable.fill
    if form == "amplitude":
        with np.errstate(divide="ignore", invalid="ignore"):
            true, known = 20 * np.log10(pixels.astype(np.float64)) + gain_db, known & (pixels > 0)
    else:
        true = pixels.astype(np.float64) * variable.scale + variable.offset
    return np.where(known, true, np.nan).astype(np.float32), np.nan
