"""Places on the ground to lines and samples, by the product's geolocation grid: piecewise bilinear, exact at its points."""

from dataclasses import dataclass

import numpy as np

from skysense_cli.data.products.sentinel1 import GeolocationGrid
from skysense_cli.geo.crs import transformer

MOST_STEPS = 30
CLOSE_M = 1e-4  # a place is found when the surface's point is so near
BEYOND = 0.5  # how far outside the grid, in its cells, a place is still followed; the image ends there anyway


@dataclass(frozen=True, eq=False)
class Places:
    """Where points of the ground lie in the image: line, sample (NaN where nowhere), and the grid surface's height there in metres."""

    line: np.ndarray
    sample: np.ndarray
    height: np.ndarray


class Surface:
    """The surface that the points of a geolocation grid span, cell by cell bilinear.

    Coordinates are metres in a projection around the middle of the image, since a line or row of the image is
    nearly straight there; in degrees at mid latitudes it bends by metres within one cell.
    """

    def __init__(self, grid: GeolocationGrid) -> None:
        self.grid = grid
        lon = np.rad2deg(np.angle(np.exp(1j * np.deg2rad(grid.lon)).mean()))  # a mean that knows the antimeridian
        self.frame = f"+proj=stere +lat_0={grid.lat.mean():.6f} +lon_0={lon:.6f} +datum=WGS84 +units=m +no_defs"
        x, y = transformer("EPSG:4326", self.frame).transform(grid.lon, grid.lat)
        self.points = np.stack([x, y], axis=-1)  # (R, C, 2)
        self.misfit = _misfit(grid)  # (R, C)

    def places(self, x: np.ndarray, y: np.ndarray, crs: str) -> Places:
        """Line and sample of points (any shape) of `crs`; a little outside the grid its border cells go on."""
        east, north = transformer(crs, self.frame).transform(x, y)
        wanted = np.stack([np.ravel(east), np.ravel(north)], axis=-1)
        known = np.isfinite(wanted).all(axis=1)
        row, column = np.full(len(wanted), np.nan), np.full(len(wanted), np.nan)
        row[known], column[known] = self._inverted(wanted[known])
        grid, shape = self.grid, np.shape(x)
        values = np.stack([grid.line, grid.sample, grid.height], axis=-1)
        found = np.where(np.isnan(row)[:, None], np.nan, _bilinear(values, row, column)[0])
        return Places(*(found[:, k].reshape(shape) for k in range(3)))

    def relief(self, line: np.ndarray, sample: np.ndarray) -> float:
        """Metres by which the ground around these lines and samples departs from the surface at least; 0 where none is inside.

        By the heights of the grid's own points alone, of the cells that are touched: each beside the line between its neighbours.
        A hill between two points, which are 13 to 20 km apart, is not seen: a small figure is no proof of flat ground.
        """
        known = np.isfinite(line) & np.isfinite(sample)
        if not known.any():
            return 0.0
        ends = []
        for places, nodes in ((line[known], self.grid.line[:, 0]), (sample[known], self.grid.sample[0])):
            at = np.interp([places.min(), places.max()], nodes, np.arange(len(nodes)))
            ends.append(slice(int(np.floor(at[0])), int(np.ceil(at[1])) + 1))
        return float(self.misfit[ends[0], ends[1]].max())

    def _inverted(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row, column) in the grid of points (N, 2): Newton's steps from cell to cell until the surface's point is met."""
        row, column = self._guess(wanted)
        rows, columns = self.points.shape[:2]
        for _ in range(MOST_STEPS):
            found, down, across = _bilinear(self.points, row, column)
            miss = wanted - found
            if np.abs(miss).max(initial=0) < CLOSE_M:
                break
            size = down[:, 0] * across[:, 1] - down[:, 1] * across[:, 0]
            size = np.where(size == 0, np.nan, size)
            row = np.clip(row + (miss[:, 0] * across[:, 1] - miss[:, 1] * across[:, 0]) / size, -2, rows + 1)
            column = np.clip(column + (down[:, 0] * miss[:, 1] - down[:, 1] * miss[:, 0]) / size, -2, columns + 1)
        far = np.hypot(*(wanted - _bilinear(self.points, row, column)[0]).T) > 100 * CLOSE_M
        far |= (row < -BEYOND) | (row > rows - 1 + BEYOND) | (column < -BEYOND) | (column > columns - 1 + BEYOND)
        return np.where(far, np.nan, row), np.where(far, np.nan, column)

    def _guess(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Roughly which cell: a quadratic fit of the grid, only where the search starts."""
        rows, columns = self.points.shape[:2]
        scale = np.abs(self.points).max()
        index = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
        fit, *_ = np.linalg.lstsq(_terms(self.points.reshape(-1, 2) / scale), index.astype(float), rcond=None)
        row, column = (_terms(wanted / scale) @ fit).T
        return np.clip(row, -1, rows), np.clip(column, -1, columns)


def _misfit(grid: GeolocationGrid) -> np.ndarray:
    """(R, C) metres of each point off the straight line between its neighbours, along lines or samples; 0 at the corners."""
    off = np.zeros_like(grid.height)
    off[1:-1] = _off_line(grid.height, grid.line[:, 0])
    off[:, 1:-1] = np.maximum(off[:, 1:-1], _off_line(grid.height.T, grid.sample[0]).T)
    return off


def _off_line(height: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(N - 2, M) distances of rows from the line between the rows before and after.   at: (N,) where the rows lie"""
    share = ((at[1:-1] - at[:-2]) / (at[2:] - at[:-2]))[:, None]
    return np.abs(height[1:-1] - (1 - share) * height[:-2] - share * height[2:])


def _terms(points: np.ndarray) -> np.ndarray:
    x, y = points.T
    return np.stack([np.ones(len(x)), x, y, x * x, x * y, y * y], axis=1)


def _bilinear(values: np.ndarray, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, K) of `values` (R, C, K) at fractional rows and columns, and its slopes down and across; border cells go on."""
    height, width = values.shape[:2]
    known = np.isfinite(row) & np.isfinite(column)
    r = np.clip(np.floor(np.where(known, row, 0)), 0, height - 2).astype(int)
    c = np.clip(np.floor(np.where(known, column, 0)), 0, width - 2).astype(int)
    v, u = (row - r)[:, None], (column - c)[:, None]
    a, b, d, e = values[r, c], values[r, c + 1], values[r + 1, c], values[r + 1, c + 1]
    across = (b - a) * (1 - v) + (e - d) * v
    down = (d - a) * (1 - u) + (e - b) * u
    return a + (b - a) * u + (d - a) * v + (a - b - d + e) * u * v, down, across
