"""One date of a sample on a grid, as it was stored, and what any asset says of itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli.data import npz, radiometry
from skysense_cli.data.sample import Series
from skysense_cli.data.sources import Asset
from skysense_cli.errors import GridError
from skysense_cli.geo import raster
from skysense_cli.geo.crs import crs_text
from skysense_cli.geo.grid import shifted
from skysense_cli.geo.raster import RasterInfo
from skysense_cli.geo.resample import Method, aligned, resample, window_of
from skysense_cli.sensors import Sensor

COARSEN_FROM = 1.5  # as for rasters: pixels so many times smaller than the grid's are averaged


def describe_asset(asset: Asset) -> RasterInfo:
    """Header facts of the raster, or of the series of the sample, that holds a band."""
    if asset.sample is None:
        return raster.describe(asset.path)
    header = npz.header(Path(asset.path))
    series = header.series[asset.sample[0]]
    count = len(series.bands)
    return RasterInfo(
        path=asset.path, crs=header.crs, transform=series.grid.affine, shape=(series.shape[2], series.shape[3]), count=count, dtype="",
        nodata=(None,) * count, descriptions=series.bands, colors=("undefined",) * count, tags={}, gcps=0,
    )  # fmt: skip


def read_stored(
    assets: Sequence[Asset], sensor: Sensor, grid: GeoBox, shift_m: tuple[float, float]
) -> tuple[radiometry.Stored, np.ndarray]:
    """Bands of one date of a sample on `grid`, moved by `shift_m`, and (H, W) where the sample calls them valid.

    A sample on the grid's own pixels is read as it is; others are resampled, radar as linear power.
    """
    where = assets[0].sample
    assert where is not None, "asked for assets of samples only"
    name, date = where
    whole = npz.header(Path(assets[0].path)).series[name].grid
    moved = shifted(grid, -shift_m[0], -shift_m[1])
    if bool(whole.crs) != bool(moved.crs):
        has, wants = (crs_text(whole.crs) or "no CRS"), (crs_text(moved.crs) or "none")
        raise GridError(f"{assets[0].path}: has {has}, but the grid it is read on has {wants}")
    rows, columns = window_of(whole, moved)
    if rows.start == rows.stop or columns.start == columns.stop:
        return _empty(sensor, len(assets), grid), np.zeros(grid.shape, bool)
    series = npz.read_part(Path(assets[0].path), name, [date], (rows, columns))
    pixels = series.pixels[0, [asset.number - 1 for asset in assets]]
    flags = _known(pixels, sensor)
    method = _method(series, moved)
    found, known = _resampled(pixels, flags, series.grid, moved, method, sensor)
    valid, there = resample(series.valid.astype(np.uint8), series.valid, series.grid, moved, "nearest")
    data = np.asarray(known.any(axis=0))
    stored = np.where(data, found, np.asarray(sensor.nodata, sensor.dtype)).astype(sensor.dtype)
    return radiometry.Stored(stored, data, data, {}), data & there[0] & (valid[0] > 0)


def _resampled(pixels: np.ndarray, flags: np.ndarray, source: GeoBox, grid: GeoBox, method: Method,
               sensor: Sensor) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    if method == "nearest":
        return resample(pixels, flags, source, grid, method)
    radar = sensor.kind == "sar"
    found, known = resample(np.power(10.0, pixels / 10).astype(np.float32) if radar else pixels, flags, source, grid, method)
    if radar:
        with np.errstate(divide="ignore", invalid="ignore"):
            return 10 * np.log10(found), known
    limits = np.iinfo(sensor.dtype)
    return np.clip(np.rint(np.where(known, found, 0)), max(limits.min, 1), limits.max), known


def _known(pixels: np.ndarray, sensor: Sensor) -> np.ndarray:
    """(C, H, W): data in some band; the bands of a pixel come and go together."""
    known = ~np.isnan(pixels) if np.isnan(sensor.nodata) else pixels != sensor.nodata
    return np.broadcast_to(known.any(axis=0), pixels.shape) if not np.isnan(sensor.nodata) else known


def _method(series: Series, grid: GeoBox) -> Method:
    steps = aligned(series.grid, grid)
    if steps is not None and all(step.offset(length) is not None for step, length in zip(steps, grid.shape, strict=True)):
        return "nearest"
    return "average" if abs(grid.affine.a / series.grid.affine.a) >= COARSEN_FROM else "bilinear"


def _empty(sensor: Sensor, count: int, grid: GeoBox) -> radiometry.Stored:
    nothing = np.zeros(grid.shape, bool)
    return radiometry.Stored(np.full((count, *grid.shape), sensor.nodata, sensor.dtype), nothing, nothing, {})
