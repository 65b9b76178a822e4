"""An area of interest on the pixels of a grid: which belong to it, and the rows and columns that hold them all."""

from dataclasses import dataclass, replace

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from rasterio.features import geometry_mask
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformed
from skysense_cli.geo.grid import bounds_of
from skysense_cli.geo.grid import window as window_of
from skysense_cli.geo.outlines import outline

MARGIN_DEG = 0.01  # around a scene, within which an area is followed
DENSE = 256  # pieces of the longest side: an edge is straight in degrees and curved on the grid


class OutsideError(GridError):
    """The area and the scene share no pixel."""


@dataclass(frozen=True, eq=False)
class GridArea:
    """An area on a grid.   shape: in the grid's CRS, or in pixels where it has none      rows, columns: that hold its pixels"""

    shape: BaseGeometry
    grid: GeoBox
    rows: slice
    columns: slice

    def inside(self, rows: slice, columns: slice) -> np.ndarray:
        """(n, w) bool: which pixels of the window have their centre in the area."""
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if height <= 0 or width <= 0:
            return np.zeros((max(height, 0), max(width, 0)), bool)
        place = window_of(self.grid, rows, columns)
        return np.asarray(geometry_mask([self.shape], (height, width), place.affine, invert=True))

    def on(self, grid: GeoBox) -> "GridArea":
        """The same area on another grid of the same CRS."""
        rows, columns = _span(self.shape, grid)
        return replace(self, grid=grid, rows=rows, columns=columns)


def area_on(area: BaseGeometry, grid: GeoBox, name: str) -> GridArea:
    """The part of `area` (WGS 84 degrees) that lies on `grid`.   name: what the message calls the scene

    Raises OutsideError when they share no pixel, GridError when the grid is not georeferenced.
    """
    if not grid.crs:
        raise GridError(f"{name} is not georeferenced, so no area can be found on it; leave area out")
    crs = crs_text(grid.crs)
    ground = outline(bounds_of(grid), crs)
    near = area.intersection(ground.buffer(MARGIN_DEG)) if ground is not None else area
    parts = [part for part in shapely.get_parts(near) if part.area > 0]
    if not parts:
        raise OutsideError(f"{name}: no part of the area lies on it (the area reaches {_said(area)}, the scene {_said(ground)})")
    shape = _in_crs(shapely.MultiPolygon(parts), grid)
    rows, columns = _span(shape, grid)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise OutsideError(f"{name}: no part of the area lies on it (the area reaches {_said(area)}, the scene {_said(ground)})")
    return GridArea(shape, grid, rows, columns)


def _in_crs(shape: BaseGeometry, grid: GeoBox) -> BaseGeometry:
    """A shape in degrees in the grid's CRS."""
    left, bottom, right, top = shape.bounds
    dense = shapely.segmentize(shape, max(right - left, top - bottom, 1e-9) / DENSE)
    if grid.crs and grid.crs.geographic:  # longitudes may be counted from another turn
        west, _, east, _ = bounds_of(grid)
        turns = [translate(part, xoff=turn) for part in shapely.get_parts(dense) for turn in (-360, 0, 360)]
        met = [turned for turned in turns if turned.bounds[0] < east and turned.bounds[2] > west]
        dense = shapely.union_all(met) if met else dense
        if crs_text(grid.crs) in ("EPSG:4326", "OGC:CRS84"):
            return dense
    crs = crs_text(grid.crs)
    projected = shapely.transform(dense, lambda points: np.column_stack(transformed("EPSG:4326", crs, points[:, 0], points[:, 1])))
    return shapely.make_valid(projected)


def _span(shape: BaseGeometry, grid: GeoBox) -> tuple[slice, slice]:
    """Rows and columns whose pixel centres the bounds of `shape` hold, cut to the grid."""
    left, bottom, right, top = shape.bounds
    corners = [(~grid.affine) @ corner for corner in ((left, top), (right, top), (left, bottom), (right, bottom))]
    found = []
    for places, side in zip((([y for _, y in corners]), ([x for x, _ in corners])), grid.shape, strict=True):
        first, last = int(np.ceil(min(places) - 0.5 - 1e-6)), int(np.floor(max(places) - 0.5 + 1e-6)) + 1
        found.append(slice(min(max(first, 0), side), max(min(last, side), 0)))
    return found[0], found[1]


def _said(shape: BaseGeometry | None) -> str:
    if shape is None or shape.is_empty:
        return "nowhere"
    left, bottom, right, top = shape.bounds
    return f"{left:.4f}..{right:.4f} E, {bottom:.4f}..{top:.4f} N"
