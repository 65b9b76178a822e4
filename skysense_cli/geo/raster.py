"""Rasters in: what a file says of itself, and its pixels on a grid; errors name file, band and window."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from skysense_cli.errors import GridError
from skysense_cli.geo.axes import aligned
from skysense_cli.geo.crs import crs_text
from skysense_cli.geo.grid import shifted
from skysense_cli.geo.grid import window as window_in
from skysense_cli.geo.layer import Layer, Whole, stacked
from skysense_cli.geo.opening import Place, decoded_together, failure, open_raster, place_of, reason_of
from skysense_cli.geo.resample import Method, layers, window_of

MOST_READ_BYTES = 4 << 30  # of one read

Numbers = Sequence[int]


@dataclass(frozen=True)
class RasterInfo:
    """What a raster says of itself.

    crs: "" if none     nodata, descriptions, colors: per band     gcps: number of ground control points
    block: rows and columns of what is decoded at once, (0, 0) where nothing is      together: whether with all bands
    """

    path: str
    crs: str
    transform: Affine
    shape: tuple[int, int]
    count: int
    dtype: str
    nodata: tuple[float | None, ...]
    descriptions: tuple[str | None, ...]
    colors: tuple[str, ...]
    tags: dict[str, str]
    gcps: int
    block: tuple[int, int] = (0, 0)
    together: bool = False

    @property
    def grid(self) -> GeoBox:
        """Raises GridError for a raster without a place on the ground, e.g. one with ground control points only."""
        return _grid_of(self.path, self.shape, self.transform, self.crs, self.gcps)

    @property
    def gsd(self) -> tuple[float, float]:
        """Height and width of a pixel in CRS units."""
        return float(np.hypot(self.transform.b, self.transform.e)), float(np.hypot(self.transform.a, self.transform.d))

    def block_row_bytes(self, bands: int, columns: int) -> int:
        """Decoded bytes of one row of blocks, as far as it meets `columns` columns, when so many bands are read."""
        height, width = self.block
        across = min(columns + 2 * width, -(-self.shape[1] // width) * width) if width else 0
        return height * across * (self.count if self.together else bands) * np.dtype(self.dtype or "uint8").itemsize


def describe(source: Place | DatasetReader) -> RasterInfo:
    """Header facts of a raster; no pixel is read."""
    with _opened(source) as dataset:
        return RasterInfo(
            path=_name(dataset), crs=_crs_of(dataset), transform=dataset.transform, shape=(dataset.height, dataset.width),
            count=dataset.count, dtype=dataset.dtypes[0], nodata=tuple(dataset.nodatavals), descriptions=tuple(dataset.descriptions),
            colors=tuple(color.name for color in dataset.colorinterp), tags=dict(dataset.tags()), gcps=len(dataset.gcps[0]),
            block=dataset.block_shapes[0], together=decoded_together(dataset),
        )  # fmt: skip


def read_on_grid(source: Place | DatasetReader, grid: GeoBox, numbers: Numbers, *,
                 resampling: Method = "nearest", nodata: float | None = None,
                 shift_m: tuple[float, float] = (0.0, 0.0), before: Callable[[np.ndarray], np.ndarray] | None = None,
                 ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Bands `numbers` (from 1) on `grid`: pixels (C, H, W) and where they are data (C, H, W).

    nodata: instead of what the file declares; NaN on a raster of whole numbers: every value counts
    shift_m: the scene is moved by so much eastward and northward (CRS units of `grid`) before it is read
    before: applied to the pixels as read, before any resampling, e.g. dB to power

    A raster already on the grid is read as it is, in its dtype, without a warp. Otherwise nearest
    keeps the dtype, the other methods give float32 with NaN where there is no data. Outside the
    raster there is no data; alpha and mask bands are honoured; NaN is never data.
    """
    return stacked(read_layers(source, grid, numbers, resampling=resampling, nodata=nodata, shift_m=shift_m, before=before))


def read_layers(source: Place | DatasetReader, grid: GeoBox, numbers: Numbers, *,
                resampling: Method = "nearest", nodata: float | None = None,
                shift_m: tuple[float, float] = (0.0, 0.0), before: Callable[[np.ndarray], np.ndarray] | None = None,
                ) -> list[Layer]:  # fmt: skip
    """As `read_on_grid`, a layer per band: all are read, but coarser pixels are interpolated only as rows are asked for."""
    with _opened(source) as dataset:
        place = _place(dataset)
        moved = shifted(grid, -shift_m[0], -shift_m[1])
        _check_comparable(_name(dataset), place, moved)
        steps = aligned(place, moved)
        offsets = [s.offset(n) for s, n in zip(steps, grid.shape, strict=True)] if steps else [None, None]
        if offsets[0] is not None and offsets[1] is not None:
            pixels, data = _cut(dataset, numbers, offsets[0], offsets[1], (grid.shape[0], grid.shape[1]), nodata)
            return _whole(pixels if before is None else before(pixels), data)
        window = window_of(place, moved)
        if any(part.start == part.stop for part in window):
            dtype = np.dtype(dataset.dtypes[0] if resampling == "nearest" and before is None else "float32")
            empty = np.full((len(numbers), *grid.shape), np.nan if dtype.kind == "f" else 0, dtype)
            return _whole(empty, np.zeros(empty.shape, bool))
        pixels, data = read_window(dataset, numbers, window, nodata=nodata)
        part = window_in(place, *window)
        return layers(pixels if before is None else before(pixels), data, part, moved, resampling)


def read_window(source: Place | DatasetReader, numbers: Numbers, window: tuple[slice, slice] | None = None, *,
                nodata: float | None = None) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Bands as stored, rows and columns `window` of the raster (all of it by default), and where they are data."""
    with _opened(source) as dataset:
        name = _name(dataset)
        for number in numbers:
            if not 1 <= number <= dataset.count:
                raise GridError(f"{name}: has no band {number}, it has {dataset.count}")
        rows, columns = window or (slice(0, dataset.height), slice(0, dataset.width))
        box = Window.from_slices(rows, columns)
        size = len(numbers) * box.height * box.width * np.dtype(dataset.dtypes[0]).itemsize
        if size > MOST_READ_BYTES:
            raise GridError(
                f"{name}: a read of {box.height} x {box.width} px needs {size:,} bytes, at most {MOST_READ_BYTES:,}; use smaller tiles"
            )
        pixels = _read_bands(dataset, numbers, box)
        return pixels, _data(dataset, numbers, box, pixels, nodata)


def read_small(source: Place | DatasetReader, numbers: Numbers, max_px: int = 1024) -> np.ndarray:
    """Bands (C, h, w) with the longer side at most `max_px`, from the overviews where there are some; no pixel is mixed."""
    with _opened(source) as dataset:
        scale = min(1.0, max_px / max(dataset.height, dataset.width))
        shape = (len(numbers), max(1, round(dataset.height * scale)), max(1, round(dataset.width * scale)))
        return dataset.read(list(numbers), out_shape=shape)


# places


def _opened(source: Place | DatasetReader) -> Any:
    return nullcontext(source) if isinstance(source, DatasetReader) else open_raster(source)


def _name(dataset: DatasetReader) -> str:
    return place_of(dataset.name)


def _crs_of(dataset: DatasetReader) -> str:
    try:
        return _crs_by_wkt(dataset.crs.to_wkt()) if dataset.crs else ""
    except (CRSError, GridError) as error:
        raise GridError(f"{_name(dataset)}: its coordinate reference system is not understood ({error})") from error


@lru_cache(maxsize=256)
def _crs_by_wkt(wkt: str) -> str:
    return crs_text(wkt)


def _place(dataset: DatasetReader) -> GeoBox:
    gcps = len(dataset.gcps[0])
    return _grid_of(_name(dataset), (dataset.height, dataset.width), dataset.transform, _crs_of(dataset), gcps)


def _grid_of(name: str, shape: tuple[int, int], transform: Affine, crs: str, gcps: int) -> GeoBox:
    if not crs and gcps:
        raise GridError(f"{name}: is placed by {gcps} ground control points only; geocode it to a grid first")
    if not np.isfinite(transform[:6]).all() or transform.determinant == 0:
        raise GridError(f"{name}: has an unusable geotransform, with a pixel size of zero or no numbers in it: {tuple(transform[:6])}")
    return GeoBox(shape, transform, crs or None)


def _check_comparable(name: str, place: GeoBox, grid: GeoBox) -> None:
    if bool(place.crs) != bool(grid.crs):
        has, wants = (place.crs or "no CRS"), (grid.crs or "none")
        raise GridError(f"{name}: has {has}, but the grid it is read on has {wants}; assign one, e.g. with `rio edit-info --crs EPSG:n`")


# reading


def _whole(pixels: np.ndarray, data: np.ndarray) -> list[Layer]:
    return [Whole(values, known) for values, known in zip(pixels, data, strict=True)]


def _cut(dataset: DatasetReader, numbers: Numbers, top: int, left: int, shape: tuple[int, int],
         nodata: float | None) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A window that may reach beyond the raster; there it holds nodata (0 if none is declared)."""
    rows = slice(max(top, 0), max(0, min(top + shape[0], dataset.height)))
    columns = slice(max(left, 0), max(0, min(left + shape[1], dataset.width)))
    inside = rows.start < rows.stop and columns.start < columns.stop
    if inside and (rows.stop - rows.start, columns.stop - columns.start) == shape:
        return read_window(dataset, numbers, (rows, columns), nodata=nodata)
    dtype = np.dtype(dataset.dtypes[0])
    empty = dataset.nodata if nodata is None else nodata
    fill = np.nan if dtype.kind == "f" else (0 if empty is None or not _representable(empty, dtype) else empty)
    pixels, data = np.full((len(numbers), *shape), fill, dtype), np.zeros((len(numbers), *shape), bool)
    if inside:
        target = (slice(None), slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        pixels[target], data[target] = read_window(dataset, numbers, (rows, columns), nodata=nodata)
    return pixels, data


def _read_bands(dataset: DatasetReader, numbers: Numbers, box: Window) -> np.ndarray:
    """All bands at once, since they may share blocks; only after a failure one by one, to name the band."""
    try:
        return dataset.read(list(numbers), window=box)
    except (RasterioError, MemoryError, ValueError, OverflowError):
        return np.stack([_read_band(dataset, number, box) for number in numbers])


def _read_band(dataset: DatasetReader, number: int, box: Window) -> np.ndarray:
    try:
        return dataset.read(number, window=box)
    except (RasterioError, MemoryError, ValueError, OverflowError) as error:
        rows = f"rows {box.row_off}-{box.row_off + box.height - 1}"
        columns = f"columns {box.col_off}-{box.col_off + box.width - 1}"
        raise failure(_name(dataset), f"band {number}, {rows}, {columns} {reason_of(error)}") from error


def _data(dataset: DatasetReader, numbers: Numbers, box: Window, pixels: np.ndarray, nodata: float | None) -> np.ndarray:
    """Where pixels are data: not nodata, not NaN, not masked, not fully transparent."""
    data = ~np.isnan(pixels) if pixels.dtype.kind == "f" else np.ones(pixels.shape, bool)
    declared, masks = dataset.nodatavals, dataset.mask_flag_enums  # each asks every band, and there may be thousands
    for position, number in enumerate(numbers):
        empty = declared[number - 1] if nodata is None else nodata
        if empty is not None and _representable(empty, pixels.dtype):
            data[position] &= pixels[position] != pixels.dtype.type(empty)
        flags = masks[number - 1]
        if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
            data[position] &= dataset.read_masks(number, window=box) > 0
    if ColorInterp.alpha in dataset.colorinterp:
        data &= _read_band(dataset, dataset.colorinterp.index(ColorInterp.alpha) + 1, box) > 0
    return data


def _representable(value: float, dtype: np.dtype) -> bool:
    """Whether a pixel of this dtype can equal `value`."""
    if dtype.kind == "f":
        return not np.isnan(value)
    limits = np.iinfo(dtype)
    return bool(np.isfinite(value)) and limits.min <= value <= limits.max and float(value).is_integer()
