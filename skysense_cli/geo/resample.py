"""Pixels of one grid on another. Bands without data stay without; nothing is invented across them.

Along the axes (same CRS, no rotation, not coarser) it is done here, as GDAL would and to the same
digits; everything else is GDAL's warp with exact coordinates, so that strips of a scene agree.
"""

import re
from functools import lru_cache
from typing import Literal

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject

from skysense_cli.errors import GridError
from skysense_cli.geo.axes import Steps, aligned
from skysense_cli.geo.crs import crs_text, transformer, understood
from skysense_cli.geo.grid import shifted
from skysense_cli.geo.layer import Doubled, Interpolated, Layer, Whole, stacked

Method = Literal["nearest", "bilinear", "average", "cubic"]

COARSER = 1 / 0.95  # beyond this ratio GDAL's kernels grow with the step, so a plain bilinear would differ


def resample(pixels: np.ndarray, data: np.ndarray, source: GeoBox, grid: GeoBox, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """`pixels` (C, h, w) on `source`, with `data` (C, h, w) bool, brought onto `grid`.

    nearest: same dtype, 0 without data       bilinear, average, cubic: float32, NaN without data
    A pixel has data where the source pixel around its centre has; with average, where any source
    pixel in it has. Missing neighbours are left out and the other weights scaled up.
    """
    return stacked(layers(pixels, data, source, grid, method))


def layers(pixels: np.ndarray, data: np.ndarray, source: GeoBox, grid: GeoBox, method: Method) -> list[Layer]:
    """As `resample`, each band for itself; a bilinear one along the axes is interpolated row by row when it is asked for."""
    steps = aligned(source, grid)
    shape = (grid.shape[0], grid.shape[1])
    if steps is not None and method == "nearest":
        return [_nearest(values, known, steps, shape) for values, known in zip(pixels, data, strict=True)]
    if steps is not None and method == "bilinear" and max(steps[0].step, steps[1].step) <= COARSER:
        return [_linear(values, known, steps, shape) for values, known in zip(pixels, data, strict=True)]
    return [Whole(values, known) for values, known in zip(*_warped(pixels, data, source, grid, method), strict=True)]


def window_of(source: GeoBox, grid: GeoBox) -> tuple[slice, slice]:
    """Rows and columns of `source` that pixels of `grid` may need, cut to its shape; empty where they do not meet."""
    steps = aligned(source, grid)
    if steps is not None:
        spans = [(s.start, s.start + s.step * n, s.step) for s, n in zip(steps, grid.shape, strict=True)]
    else:
        spans = _spans_by_coordinates(source, grid)
    window = []
    for (low, high, step), length in zip(spans, source.shape, strict=True):
        margin = 3 + 2 * max(step, 1)  # a cubic kernel reaches two (coarse) pixels
        first = int(np.clip(np.floor(low - margin), 0, length))
        window.append(slice(first, max(first, int(np.clip(np.ceil(high + margin), 0, length)))))
    return window[0], window[1]


# along the axes


def _nearest(values: np.ndarray, known: np.ndarray, steps: tuple[Steps, Steps], shape: tuple[int, int]) -> Layer:
    (rows, rows_in), (columns, columns_in) = (s.nearest(np.arange(n), m) for s, n, m in zip(steps, shape, values.shape, strict=True))
    found = known[rows[:, None], columns] & (rows_in[:, None] & columns_in)
    return Whole(np.where(found, values[rows[:, None], columns], values.dtype.type(0)), found)


def _linear(values: np.ndarray, known: np.ndarray, steps: tuple[Steps, Steps], shape: tuple[int, int]) -> Layer:
    if Doubled.can(values, known, steps, shape):
        return Doubled(values, steps, shape)
    return Interpolated(values, known, steps, shape)


# any other way


def _warped(pixels: np.ndarray, data: np.ndarray, source: GeoBox, grid: GeoBox, method: Method) -> tuple[np.ndarray, np.ndarray]:
    source = _turned(source, grid)
    found = np.zeros((len(data), *grid.shape), np.uint8)
    _reproject(data.astype(np.uint8), found, source, grid, "nearest", nodata=None)
    if method == "nearest":
        out = np.zeros((len(pixels), *grid.shape), pixels.dtype)
        _reproject(pixels, out, source, grid, method, nodata=None)
        return np.where(found > 0, out, pixels.dtype.type(0)), found > 0
    values = np.full((len(pixels), *grid.shape), np.nan, np.float32)
    _reproject(np.where(data, pixels, np.nan).astype(np.float32), values, source, grid, method, nodata=np.nan)
    known = ~np.isnan(values) if method == "average" else (found > 0) & ~np.isnan(values)
    return np.where(known, values, np.float32(np.nan)), known


def _reproject(values: np.ndarray, out: np.ndarray, source: GeoBox, grid: GeoBox, method: Method, nodata: float | None) -> None:
    rows, columns = _ratios(source, grid)
    try:
        reproject(
            values, out, src_transform=source.affine, src_crs=_wkt(source), dst_transform=grid.affine, dst_crs=_wkt(grid),
            src_nodata=nodata, dst_nodata=nodata, resampling=Resampling[method], num_threads=1, init_dest_nodata=nodata is not None,
            tolerance=0, XSCALE=1 / columns, YSCALE=1 / rows, UNIFIED_SRC_NODATA="NO",
        )  # fmt: skip
    except (RasterioError, ValueError) as error:
        raise GridError(f"cannot warp {crs_text(source.crs)[:40]} to {crs_text(grid.crs)[:40]}: {error}") from error


def _wkt(grid: GeoBox) -> str:
    return grid.crs.to_wkt() if grid.crs else 'LOCAL_CS["not georeferenced",UNIT["metre",1]]'


def _ratios(source: GeoBox, grid: GeoBox) -> tuple[float, float]:
    """Source pixels per grid pixel, down and across, at the middle of the grid.

    GDAL would guess them from the window it is given, and strips of one scene would differ.
    """
    rows, columns = grid.shape
    middle = np.array([[columns / 2, rows / 2], [columns / 2 + 1, rows / 2], [columns / 2, rows / 2 + 1]])
    x, y = _source_px(source, grid, middle[:, 0], middle[:, 1])
    across, down = np.hypot(x[1] - x[0], y[1] - y[0]), np.hypot(x[2] - x[0], y[2] - y[0])
    if not (np.isfinite(across) and np.isfinite(down) and across > 0 and down > 0):
        return 1.0, 1.0
    return float(down), float(across)


def _spans_by_coordinates(source: GeoBox, grid: GeoBox) -> list[tuple[float, float, float]]:
    """(first, last, step) in source pixels, by rows and columns, of a lattice of points in the grid."""
    source = _turned(source, grid)
    rows, columns = np.meshgrid(*(np.linspace(0, n, min(n, 64) + 1) for n in grid.shape), indexing="ij")
    x, y = _source_px(source, grid, columns.ravel(), rows.ravel())
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return [(0, -10, 1), (0, -10, 1)]
    down, across = _ratios(source, grid)
    bend = 2.0  # the lattice may miss the outermost points of a curved edge
    return [(y[known].min() - bend, y[known].max() + bend, down), (x[known].min() - bend, x[known].max() + bend, across)]


def _source_px(source: GeoBox, grid: GeoBox, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates in `source` of pixel coordinates in `grid`; infinite where there are none."""
    a, b, c, d, e, f = grid.affine[:6]
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    if crs_text(source.crs) != crs_text(grid.crs):
        x, y = transformer(crs_text(grid.crs), crs_text(source.crs)).transform(x, y)
    a, b, c, d, e, f = (~source.affine)[:6]
    with np.errstate(invalid="ignore"):
        return a * x + b * y + c, d * x + e * y + f


def _turned(source: GeoBox, grid: GeoBox) -> GeoBox:
    """`source`, moved by a full turn of the globe if its longitudes are counted otherwise than -180..180.

    One that lies across 180 is counted from there instead of from Greenwich: neither PROJ nor GDAL then jumps within it.
    """
    if not source.crs or not source.crs.geographic or crs_text(source.crs) == crs_text(grid.crs):
        return source
    left, right = source.affine.c, source.affine.c + source.affine.a * source.shape[1]
    lon, _ = transformer(crs_text(grid.crs), crs_text(source.crs)).transform(*_centre(grid))
    turns = [turn for turn in (0, 360, -360) if left <= lon + turn <= right]
    turned = shifted(source, -turns[0], 0) if turns else source
    west = turned.affine.c
    for border in (180, -180):
        if west < border < west + right - left:
            moved = shifted(turned, -border, 0)
            return GeoBox(moved.shape, moved.affine, _counted_from_180(crs_text(source.crs)))
    return turned


@lru_cache(maxsize=64)
def _counted_from_180(crs: str) -> str:
    """A geographic CRS whose longitudes begin at 180 degrees."""
    wkt = re.sub(r',AUTHORITY\["[^"]*","[^"]*"\]', "", str(understood(crs).to_wkt("WKT1_GDAL")))
    return re.sub(r'PRIMEM\["[^"]*",[^\]]*\]', 'PRIMEM["180",180]', wkt)


def _centre(grid: GeoBox) -> tuple[float, float]:
    a, b, c, d, e, f = grid.affine[:6]
    height, width = grid.shape
    return a * width / 2 + b * height / 2 + c, d * width / 2 + e * height / 2 + f
