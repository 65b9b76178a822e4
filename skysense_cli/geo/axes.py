"""Two grids of one CRS, both north-up: how the pixels of one lie in the other, along each axis."""

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli.geo.crs import crs_text

ON_GRID_PX = 0.01  # grids that agree to this part of a pixel are one grid
TIE = 1e-9  # as GDAL, a place on the border of two pixels belongs to the later one, rounding apart


class Steps:
    """Along one axis: pixel k of the grid has its centre at `start + (k + 0.5) * step` in source pixels."""

    def __init__(self, start: float, step: float) -> None:
        self.start, self.step = start, step

    def offset(self, length: int) -> int | None:
        """The whole number of source pixels by which the grid is moved, or None if it has other pixels."""
        whole = round(self.start)
        end = self.start + self.step * length
        return whole if abs(self.start - whole) < ON_GRID_PX and abs(end - whole - length) < ON_GRID_PX else None

    def centres(self, places: np.ndarray) -> np.ndarray:
        """Centres of the grid's pixels `places`, in source pixels from its first edge."""
        return self.start + (places + 0.5) * self.step

    def nearest(self, places: np.ndarray, available: int) -> tuple[np.ndarray, np.ndarray]:
        """Source pixels around the centres of `places`, cut to those available, and which of them needed no cut."""
        index = np.floor(self.centres(places) + TIE).astype(np.int64)
        return np.clip(index, 0, available - 1), (index >= 0) & (index < available)


def aligned(source: GeoBox, grid: GeoBox) -> tuple[Steps, Steps] | None:
    """(rows, columns) when both grids are north-up in one CRS, else None."""
    a, b, c, d, e, f = source.affine[:6]
    ga, gb, gc, gd, ge, gf = grid.affine[:6]
    if b or d or gb or gd or min(a, ga, -e, -ge) <= 0 or crs_text(source.crs) != crs_text(grid.crs):
        return None
    return Steps((gf - f) / e, ge / e), Steps((gc - c) / a, ga / a)
