"""What must hold in every sample. An error names the place, the key, what was found and what was expected."""

import math
import re
from functools import lru_cache
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli import sensors
from skysense_cli.data.sample import Label, Sample, Series
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.grid import check_scale, lonlat
from skysense_cli.sensors import Sensor

WHOLE_PX = 1e-6
YEARS = (np.datetime64("1970-01-01"), np.datetime64("2100-01-01"))


def check_sample(sample: Sample, where: str) -> None:
    """Raise DataError beginning with `where` unless `sample` keeps every rule of the schema."""
    if not sample.series:
        raise DataError(f"{where}: modalities is empty, expected at least one")
    _check_place(sample, where)
    for name, series in sample.series.items():
        check_series(series, name, where)
        _check_dates(series, name, where)
        _check_bounds(series.grid, sample, f"{where}: {name}/transform")
    if sample.label is not None:
        _check_label(sample.label, sample, where)


def check_series(series: Series, name: str, where: str) -> None:
    """Names, types and lengths of one modality; reads no pixel."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "label":
        raise DataError(f"{where}: modality {name!r} must be lower-case letters, digits and _, and not 'label'")
    try:
        sensor = _sensor(series.sensor, tuple(series.bands))
    except DataError as error:
        raise DataError(f"{where}: {name}/sensor: {error}") from error
    pixels = series.pixels
    if pixels.ndim != 4 or 0 in pixels.shape:
        raise DataError(f"{where}: {name}/pixels has the shape {pixels.shape}, expected (T, C, H, W), none of them 0")
    if pixels.dtype != np.dtype(sensor.dtype):
        raise DataError(f"{where}: {name}/pixels is {pixels.dtype}, {sensor.name} stores {sensor.dtype}. Rebuild the sample.")
    dates, bands, height, width = pixels.shape
    if len(set(series.bands)) != len(series.bands):
        raise DataError(f"{where}: {name}/bands names a band twice ({', '.join(series.bands)})")
    lengths = {
        "bands": (len(series.bands), bands),
        "times": (len(series.times), dates),
        "items": (len(series.items), dates),
        "meta": (len(series.meta), dates),
    }
    for key, (found, expected) in lengths.items():
        if found != expected:
            raise DataError(f"{where}: {name}/{key} has {found} entries, expected {expected} as {name}/pixels")
    if series.valid.shape != (dates, height, width) or series.valid.dtype != bool:
        found_valid = f"{series.valid.dtype} {series.valid.shape}"
        raise DataError(f"{where}: {name}/valid is {found_valid}, expected bool {(dates, height, width)}")
    if tuple(series.grid.shape) != (height, width):
        raise DataError(f"{where}: {name}/transform stands for {tuple(series.grid.shape)} pixels, expected {(height, width)}")


@lru_cache(maxsize=256)
def _sensor(name: str, bands: tuple[str, ...]) -> Sensor:
    """The sensor, which must have all the bands; remembered, since the files of a data set ask the same."""
    sensor = sensors.get(name)
    sensor.statistics(bands)
    return sensor


def _check_dates(series: Series, name: str, where: str) -> None:
    times = series.times
    if np.isnat(times).any():
        if len(times) > 1:
            raise DataError(f"{where}: {name}/times holds unknown dates (NaT) among {len(times)}, possible only for a single date")
    elif (times < YEARS[0]).any() or (times > YEARS[1]).any():
        raise DataError(f"{where}: {name}/times reaches from {times.min()} to {times.max()}, expected 1970 to 2100")
    order = sorted(range(len(times)), key=lambda i: (times[i], series.items[i])) if len(times) > 1 else [0]
    if order != list(range(len(times))):
        raise DataError(f"{where}: {name}/times is not ascending (ties by item id) at {times[_first_wrong(order)]}")
    empty = np.flatnonzero(~series.valid.reshape(len(times), -1).any(1))
    if len(empty):
        raise DataError(f"{where}: {name}/valid has no valid pixel at {times[empty[0]]}, expected at least one per date")


def _check_place(sample: Sample, where: str) -> None:
    left, bottom, right, top = sample.bounds
    if not (math.isfinite(left + bottom + right + top) and left < right and bottom < top):
        raise DataError(f"{where}: bounds is {sample.bounds}, expected left < right and bottom < top")
    if not sample.crs:
        if not all(math.isnan(value) for value in sample.lonlat):
            raise DataError(f"{where}: lonlat is {sample.lonlat}, expected NaN since crs is empty")
        return
    try:
        expected = lonlat(sample.bounds, sample.crs)
        check_scale(sample.crs, *expected)
    except GridError as error:
        raise DataError(f"{where}: crs: {error}") from error
    found = sample.lonlat
    if not (abs((found[0] - expected[0] + 180) % 360 - 180) < 1e-5 and abs(found[1] - expected[1]) < 1e-5):
        raise DataError(f"{where}: lonlat is {found}, expected {expected}, the centre of bounds")


def _check_bounds(grid: GeoBox, sample: Sample, where: str) -> None:
    a, b, c, d, e, f = grid.affine[:6]
    height, width = grid.shape
    found = (c, f + e * height, c + a * width, f)
    pixel = (abs(a), abs(e), abs(a), abs(e))
    if b or d or any(abs(x - y) > WHOLE_PX * px + 1e-9 for x, y, px in zip(found, sample.bounds, pixel, strict=True)):
        raise DataError(f"{where} x {height} x {width} px spans {found}, expected {tuple(sample.bounds)} (bounds)")
    if (str(grid.crs) if grid.crs else "") != sample.crs and grid.crs != sample.crs:
        raise DataError(f"{where} is in {grid.crs}, expected {sample.crs or 'no CRS'} (crs)")


def _check_label(label: Label, sample: Sample, where: str) -> None:
    _check_array(label.classes, "label/ids", ("int64",), (None,), where)
    _check_array(label.colors, "label/colors", ("uint8",), (len(label.names), 3), where)
    _check_array(label.boxes, "label/boxes", ("float32",), (None, (4, 5)), where)
    _check_array(label.values, "label/values", ("float32",), (None,), where)
    _check_array(label.multi, "label/multi", ("bool",), (len(label.names),), where)
    _check_array(label.period, "label/period", ("datetime64[D]",), (2,), where)
    if label.period is not None and not label.period[0] <= label.period[1]:
        raise DataError(f"{where}: label/period is {label.period[0]} to {label.period[1]}, expected the earlier date first")
    if label.boxes is not None and (label.classes is None or len(label.classes) != len(label.boxes)):
        raise DataError(
            f"{where}: label/ids has {0 if label.classes is None else len(label.classes)} entries, expected {len(label.boxes)}, one per box"
        )
    ids = label.classes if label.classes is not None else np.zeros(0, np.int64)
    if label.raster is not None:
        if label.grid is None:
            raise DataError(f"{where}: label/raster needs label/transform")
        _check_array(label.raster, "label/raster", ("uint8", "float32"), tuple(label.grid.shape), where)
        _check_array(label.held_out, "label/held_out", (str(label.raster.dtype),), label.raster.shape, where)
        _check_bounds(label.grid, sample, f"{where}: label/transform")
        if label.raster.dtype == np.uint8:
            rasters = [label.raster] if label.held_out is None else [label.raster, label.held_out]
            ids = np.concatenate([ids, *(np.unique(raster[raster != 255]).astype(np.int64) for raster in rasters)])
    if label.names and len(ids) and not (ids.min() >= 0 and ids.max() < len(label.names)):
        worst = ids.max() if ids.min() >= 0 else ids.min()
        raise DataError(f"{where}: label holds class {worst}, expected 0..{len(label.names) - 1} as label/names")


def _check_array(array: np.ndarray | None, key: str, dtypes: tuple[str, ...], shape: tuple[Any, ...], where: str) -> None:
    """shape: a number, one of several numbers, or None for any, per axis."""
    if array is None:
        return
    fits = len(array.shape) == len(shape) and all(
        want is None or n == want or (isinstance(want, tuple) and n in want) for n, want in zip(array.shape, shape, strict=True)
    )
    if str(array.dtype) not in dtypes or not fits:
        raise DataError(f"{where}: {key} is {array.dtype} {array.shape}, expected {' or '.join(dtypes)} {shape}")


def _first_wrong(order: list[int]) -> int:
    return next(i for i, position in enumerate(order) if i != position)
