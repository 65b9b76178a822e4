"""How much ground the cells of a grid cover: areas on the WGS 84 ellipsoid, not in the units of the map.

A map that is not equal-area may be wrong by a lot: at 60 degrees north a square metre of Web Mercator is a quarter of one on
the ground, and a cell of a degree grid is half as wide as it is high.
"""

from functools import cached_property

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformed
from skysense_cli.geo.grid import in_degrees, lonlat

NODES = 65  # cells along an axis whose area is computed; between them it changes smoothly
FARTHEST_M = 5_000_000  # from the middle of the equal-area map around a grid; larger grids get one of the whole globe
CYLINDRICAL = "EPSG:6933"  # equal-area, of the whole globe


class CellAreas:
    """Areas of the cells of a grid. Raises GridError for one that is not georeferenced or has no place on the globe."""

    def __init__(self, grid: GeoBox) -> None:
        if not grid.crs:
            raise GridError("a grid without a CRS has no areas on the ground")
        self.grid = grid

    def of_rows(self, rows: slice) -> np.ndarray:
        """(n, W) float64, square metres of the cells of some rows."""
        height, width = self.grid.shape
        nodes_down, nodes_across, areas = self._nodes
        down, across = np.arange(rows.start, rows.stop, dtype=float), np.arange(width, dtype=float)
        if len(nodes_down) == height and not self._curved_rows:
            lines = areas[rows]
        else:
            lines = np.stack([np.interp(down, nodes_down, column) for column in areas.T], axis=1)  # (n, nodes across)
        step = np.interp(across, nodes_across, np.arange(len(nodes_across)))
        low = np.minimum(step.astype(int), max(len(nodes_across) - 2, 0))
        share = step - low
        high = np.minimum(low + 1, len(nodes_across) - 1)
        return lines[:, low] * (1 - share) + lines[:, high] * share

    @property
    def total(self) -> float:
        """Square metres of all cells together."""
        height, width = self.grid.shape
        step = max(1, 4_000_000 // width)
        return float(sum(self.of_rows(slice(top, min(top + step, height))).sum() for top in range(0, height, step)))

    @property
    def _curved_rows(self) -> bool:
        """Whether the area also changes along a row; in an upright degree grid it does not."""
        return not (in_degrees(self.grid) and self.grid.affine.b == 0 == self.grid.affine.d)

    @cached_property
    def _nodes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, columns and areas (rows, columns) of the cells that are computed exactly."""
        height, width = self.grid.shape
        if self._curved_rows:
            down, across = (np.unique(np.linspace(0, side - 1, min(side, NODES)).round()) for side in (height, width))
        else:
            down, across = np.arange(height, dtype=float), np.zeros(1)
        return down, across, self._exact(down, across)

    def _exact(self, down: np.ndarray, across: np.ndarray) -> np.ndarray:
        """Areas of the cells at these rows and columns, by the shoelace formula on an equal-area map."""
        rows, columns = np.meshgrid(down, across, indexing="ij")
        corners = []
        for row, column in ((0, 0), (0, 1), (1, 1), (1, 0)):
            a, b, c, d, e, f = self.grid.affine[:6]
            x, y = columns + column, rows + row
            corners.append(transformed(crs_text(self.grid.crs), self._equal_area, a * x + b * y + c, d * x + e * y + f))
        xs, ys = np.stack([x for x, _ in corners]), np.stack([y for _, y in corners])
        xs, ys = xs - xs[0], ys - ys[0]  # small numbers, whose products keep their digits
        if self._equal_area == CYLINDRICAL:
            around = 2 * transformed("EPSG:4326", CYLINDRICAL, np.array([180.0]), np.array([0.0]))[0][0]
            xs = (xs + around / 2) % around - around / 2  # a cell across the antimeridian is in one piece
        return np.abs((xs * np.roll(ys, -1, 0) - np.roll(xs, -1, 0) * ys).sum(0)) / 2

    @cached_property
    def _equal_area(self) -> str:
        """An equal-area map in which the grid lies in one piece."""
        height, width = self.grid.shape
        a, b, c, d, e, f = self.grid.affine[:6]
        lon, lat = lonlat(self.grid)
        near = f"+proj=laea +lat_0={lat:.6f} +lon_0={lon:.6f} +datum=WGS84 +units=m"
        if self._curved_rows:
            edge_y, edge_x = np.array([0, 0, height, height, height / 2]), np.array([0, width, width, 0, 0])
            x, y = transformed(crs_text(self.grid.crs), near, a * edge_x + b * edge_y + c, d * edge_x + e * edge_y + f)
            if np.hypot(x, y).max() < FARTHEST_M:
                return near
        return CYLINDRICAL
