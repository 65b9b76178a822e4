"""Pixels of one grid on another. Bands without data stay without; nothing is invented across them.

Along the axes (same CRS, no rotation, not coarser) it is done here, as GDAL would and to the same
digits; everything else is GDAL's warp with exact coordinates, so that strips of a scene agree.
"""

from typing import Literal

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import reproject

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformer
from skysense_cli.geo.grid import shifted

Method = Literal["nearest", "bilinear", "average", "cubic"]

ON_GRID_PX = 0.01  # grids that agree to this part of a pixel are one grid
COARSER = 1 / 0.95  # beyond this ratio GDAL's kernels grow with the step, so a plain bilinear would differ
TIE = 1e-9  # as GDAL, a place on the border of two pixels belongs to the later one, rounding apart


def resample(pixels: np.ndarray, data: np.ndarray, source: GeoBox, grid: GeoBox, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """`pixels` (C, h, w) on `source`, with `data` (C, h, w) bool, brought onto `grid`.

    nearest: same dtype, 0 without data       bilinear, average, cubic: float32, NaN without data
    A pixel has data where the source pixel around its centre has; with average, where any source
    pixel in it has. Missing neighbours are left out and the other weights scaled up.
    """
    steps = aligned(source, grid)
    if steps is not None and method == "nearest":
        return _nearest(pixels, data, steps, grid)
    if steps is not None and method == "bilinear" and max(steps[0].step, steps[1].step) <= COARSER:
        return _bilinear(pixels, data, steps, grid)
    return _warped(pixels, data, source, grid, method)


class Steps:
    """Along one axis: pixel k of the grid has its centre at `start + (k + 0.5) * step` in source pixels."""

    def __init__(self, start: float, step: float) -> None:
        self.start, self.step = start, step

    def offset(self, length: int) -> int | None:
        """The whole number of source pixels by which the grid is moved, or None if it has other pixels."""
        whole = round(self.start)
        end = self.start + self.step * length
        return whole if abs(self.start - whole) < ON_GRID_PX and abs(end - whole - length) < ON_GRID_PX else None

    def centres(self, length: int) -> np.ndarray:
        """Centres of the grid's pixels, in source pixels from its first edge."""
        return self.start + (np.arange(length) + 0.5) * self.step


def aligned(source: GeoBox, grid: GeoBox) -> tuple[Steps, Steps] | None:
    """(rows, columns) when both grids are north-up in one CRS, else None."""
    a, b, c, d, e, f = source.affine[:6]
    ga, gb, gc, gd, ge, gf = grid.affine[:6]
    if b or d or gb or gd or min(a, ga, -e, -ge) <= 0 or crs_text(source.crs) != crs_text(grid.crs):
        return None
    return Steps((gf - f) / e, ge / e), Steps((gc - c) / a, ga / a)


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


def _nearest(pixels: np.ndarray, data: np.ndarray, steps: tuple[Steps, Steps], grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    picks = []
    for axis, length in enumerate(grid.shape):
        index = np.floor(steps[axis].centres(length) + TIE).astype(np.int64)
        picks.append((np.clip(index, 0, pixels.shape[axis + 1] - 1), (index >= 0) & (index < pixels.shape[axis + 1])))
    (rows, rows_in), (columns, columns_in) = picks
    found = data[:, rows[:, None], columns] & (rows_in[:, None] & columns_in)
    return np.where(found, pixels[:, rows[:, None], columns], pixels.dtype.type(0)), found


def _bilinear(pixels: np.ndarray, data: np.ndarray, steps: tuple[Steps, Steps], grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    if (
        pixels.dtype in (np.uint8, np.int16, np.uint16)
        and all(_halves(s, n, m) for s, n, m in zip(steps, grid.shape, data.shape[1:], strict=True))
        and data.all()
    ):  # nothing is missing: no weights to count, and quarters of quarters are exact in float32
        out = np.empty((len(pixels), *grid.shape), np.float32)
        for band, values in enumerate(pixels):
            down = _halved(values.astype(np.float32), steps[0], grid.shape[0], 0)
            out[band] = _halved(down, steps[1], grid.shape[1], 1)
        return out, np.ones(out.shape, bool)
    _, found = _nearest(data, data, steps, grid)
    out = np.full((len(pixels), *grid.shape), np.nan, np.float32)
    for band, (values, known) in enumerate(zip(pixels, data, strict=True)):  # band by band: less memory
        filled = np.where(known, values, 0).astype(np.float64)
        weight = _between(_between(known.astype(np.float64), steps[0], grid.shape[0], 0), steps[1], grid.shape[1], 1)
        total = _between(_between(filled, steps[0], grid.shape[0], 0), steps[1], grid.shape[1], 1)
        np.divide(total, weight, out=out[band], where=found[band], casting="same_kind")
    return out, found


def _halves(steps: Steps, length: int, available: int) -> bool:
    """Whether pixels are halved exactly, from an edge or a middle of one, and all lie inside."""
    return steps.step == 0.5 and (2 * steps.start).is_integer() and steps.start >= 0 and steps.start + length / 2 <= available


def _halved(values: np.ndarray, steps: Steps, length: int, axis: int) -> np.ndarray:
    """Linear interpolation where `_halves`: three quarters of the pixel, one of the neighbour on that side (of itself at an edge)."""
    shape = (length, values.shape[1]) if axis == 0 else (values.shape[0], length)
    out = np.empty(shape, np.float32)
    first = int(2 * steps.start)  # in half pixels
    for start in range(min(length, 2)):
        count = len(range(start, length, 2))
        pixel, side = divmod(first + start, 2)
        pixels = np.arange(pixel, pixel + count)
        others = np.clip(pixels + (1 if side else -1), 0, values.shape[axis] - 1)
        part = out[start::2] if axis == 0 else out[:, start::2]
        np.multiply(_run(values, pixels, axis), np.float32(0.75), out=part)
        part += _run(values, others, axis) * np.float32(0.25)
    return out


def _run(values: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """The values at consecutive positions, the first or last of which may be repeated."""
    inner = values[index[0] : index[-1] + 1] if axis == 0 else values[:, index[0] : index[-1] + 1]
    if inner.shape[axis] == len(index):
        return inner
    return np.take(values, index, axis)


def _between(values: np.ndarray, steps: Steps, length: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis; what lies outside counts as 0."""
    place = steps.centres(length) - 0.5
    low = np.floor(place + TIE).astype(np.int64)
    share = np.clip(place - low, 0, 1)
    shape = (-1, 1) if axis == 0 else (1, -1)
    total = np.zeros((length, values.shape[1]) if axis == 0 else (values.shape[0], length))
    for index, part in ((low, 1 - share), (low + 1, share)):
        inside = (index >= 0) & (index < values.shape[axis])
        total += np.take(values, np.clip(index, 0, values.shape[axis] - 1), axis) * (part * inside).reshape(shape)
    return total


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
    """`source`, moved by a full turn of the globe if its longitudes are counted otherwise than -180..180."""
    if not source.crs or not source.crs.geographic or crs_text(source.crs) == crs_text(grid.crs):
        return source
    left, right = source.affine.c, source.affine.c + source.affine.a * source.shape[1]
    lon, _ = transformer(crs_text(grid.crs), crs_text(source.crs)).transform(*_centre(grid))
    turns = [turn for turn in (0, 360, -360) if left <= lon + turn <= right]
    return shifted(source, -turns[0], 0) if turns else source


def _centre(grid: GeoBox) -> tuple[float, float]:
    a, b, c, d, e, f = grid.affine[:6]
    height, width = grid.shape
    return a * width / 2 + b * height / 2 + c, d * width / 2 + e * height / 2 + f
