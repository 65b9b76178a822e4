"""Pixels of one grid on another. Bands without data stay without; nothing is invented across them.

Along the axes (same CRS, no rotation, not coarser) it is done here, as GDAL would and to the same
digits; everything else is GDAL's warp. A pixel of it depends on its place alone, not on the window that is asked for,
so that strips of a scene agree to the last bit: coordinates are exact, and how far a kernel reaches is fixed for each
cell of a lattice. (`rasterio.warp.reproject` interpolates coordinates along each row to an eighth of a pixel, whatever
tolerance it is given; its `WarpedVRT` heeds one.)
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from skysense_cli.errors import GridError
from skysense_cli.geo.axes import Steps, aligned
from skysense_cli.geo.crs import crs_text, transformer, understood
from skysense_cli.geo.grid import shifted, window
from skysense_cli.geo.layer import Doubled, Interpolated, Layer, Whole, stacked

Method = Literal["nearest", "bilinear", "average", "cubic"]

EXACT_PX = 1e-9  # error of a coordinate
LATTICE_PX = 2048  # of the grid warped to: so large are the cells in which kernels reach equally far
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
    dtype, empty = (pixels.dtype, 0) if method == "nearest" else (np.dtype(np.float32), np.nan)
    found, known = np.full((len(pixels), *grid.shape), empty, dtype), np.zeros((len(pixels), *grid.shape), bool)
    for rows, columns, cell in _cells(grid):
        part = window(grid, rows, columns)
        here = _turned(source, part)
        found[:, rows, columns], known[:, rows, columns] = _warped_cell(pixels, data, here, part, method, _ratios(here, cell))
    return found, known


def _warped_cell(pixels: np.ndarray, data: np.ndarray, source: GeoBox, grid: GeoBox, method: Method,
                 ratios: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    flags = _warp(data.astype(np.uint8), source, grid, "nearest", ratios, None) > 0
    if method == "nearest":
        return np.where(flags, _warp(pixels, source, grid, method, ratios, None), pixels.dtype.type(0)), flags
    values = _warp(np.where(data, pixels, np.nan).astype(np.float32), source, grid, method, ratios, np.nan)
    known = ~np.isnan(values) if method == "average" else flags & ~np.isnan(values)
    return np.where(known, values, np.float32(np.nan)), known


def _warp(
    values: np.ndarray, source: GeoBox, grid: GeoBox, method: Method, ratios: tuple[float, float], nodata: float | None
) -> np.ndarray:
    """Bands (C, h, w) on `grid` by GDAL; 0 outside, or `nodata`.   ratios: source pixels per grid pixel, down and across"""
    layout = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2], "interleave": "band"}
    try:
        with MemoryFile() as file:
            with file.open(**layout, dtype=values.dtype, transform=source.affine, nodata=nodata) as made:
                made.write(values)
            with (
                file.open() as whole,
                WarpedVRT(
                    whole, src_crs=_wkt(source), crs=_wkt(grid), transform=grid.affine, height=grid.shape[0], width=grid.shape[1],
                    resampling=Resampling[method], nodata=nodata, tolerance=EXACT_PX, XSCALE=1 / ratios[1], YSCALE=1 / ratios[0],
                    UNIFIED_SRC_NODATA="NO",
                ) as warped,
            ):  # fmt: skip
                return warped.read()
    except (RasterioError, ValueError) as error:
        raise GridError(f"cannot warp {crs_text(source.crs)[:40]} to {crs_text(grid.crs)[:40]}: {error}") from error


def _cells(grid: GeoBox) -> Iterator[tuple[slice, slice, GeoBox]]:
    """Rows and columns of `grid` that lie in one cell of the lattice of its CRS, and the cell as a grid."""
    a, b, c, d, e, f = grid.affine[:6]
    height, width = grid.shape
    if b or d:  # no lattice that other windows would share
        yield slice(0, height), slice(0, width), grid
        return
    for rows in _spans(height, round(f / e)):
        for columns in _spans(width, round(c / a)):
            top, left = (part.start - (part.start + first) % LATTICE_PX for part, first in ((rows, round(f / e)), (columns, round(c / a))))
            yield rows, columns, window(grid, slice(top, top + LATTICE_PX), slice(left, left + LATTICE_PX))


def _spans(length: int, first: int) -> Iterator[slice]:
    """Positions 0 to `length`, cut where `first` plus the position is a multiple of the lattice."""
    start = 0
    while start < length:
        stop = min(start + LATTICE_PX - (start + first) % LATTICE_PX, length)
        yield slice(start, stop)
        start = stop


def _wkt(grid: GeoBox) -> str:
    return grid.crs.to_wkt() if grid.crs else 'LOCAL_CS["not georeferenced",UNIT["metre",1]]'


def _ratios(source: GeoBox, grid: GeoBox) -> tuple[float, float]:
    """Source pixels per grid pixel, down and across, at the middle of the grid. GDAL would guess them from the window it is given."""
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
