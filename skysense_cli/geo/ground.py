"""Sizes on the ground, whatever the map projection (geodesics of WGS 84), and the CRS in which a metre is a metre."""

import math
from itertools import pairwise

import numpy as np
import shapely
from odc.geo.geobox import GeoBox

from skysense_cli.geo.crs import crs_text, transformed
from skysense_cli.geo.grid import WGS84, utm_epsg
from skysense_cli.geo.outlines import dense


def areas_m2(polygons: np.ndarray, crs: str) -> np.ndarray:
    """(N,) square metres of shapely polygons (N,) in `crs`, holes not counted; the units squared when `crs` is ""."""
    if not crs or not len(polygons):
        return shapely.area(polygons).astype(float)
    points, (rings, members) = shapely.to_ragged_array(dense(polygons, crs))[1:]
    lon, lat = transformed(crs, "EPSG:4326", points[:, 0], points[:, 1])
    sizes = np.array([abs(WGS84.polygon_area_perimeter(lon[a:b], lat[a:b])[0]) for a, b in pairwise(rings)])
    outer = np.zeros(len(sizes), bool)
    outer[members[:-1]] = True
    return np.add.reduceat(np.where(outer, sizes, -sizes), members[:-1])


def sides_m(corners: np.ndarray, crs: str) -> np.ndarray:
    """(N, 2) lengths of the first and the second side of quadrilaterals (N, 4, 2) in `crs`; in units when `crs` is ""."""
    if not crs:
        return np.linalg.norm(corners[:, 1:3] - corners[:, 0:2], axis=2)
    lon, lat = (part.reshape(-1, 4) for part in transformed(crs, "EPSG:4326", corners[..., 0].ravel(), corners[..., 1].ravel()))
    return np.stack([WGS84.inv(lon[:, k], lat[:, k], lon[:, k + 1], lat[:, k + 1])[2] for k in (0, 1)], axis=1)


def pixel_m(grid: GeoBox) -> float:
    """Side in metres of a square as large as the grid's middle pixel; in units when the grid has no CRS."""
    row, column = grid.shape[0] // 2, grid.shape[1] // 2
    corners = [grid.affine * (column + x, row + y) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))]
    crs = crs_text(grid.crs.to_wkt()) if grid.crs else ""
    return math.sqrt(areas_m2(np.array([shapely.Polygon(corners)], dtype=object), crs)[0])


def ground_pixel_m(grid: GeoBox) -> tuple[float, float]:
    """Height and width in metres on the ground of the pixel in the middle of a georeferenced grid, whatever the CRS's units are.

    Raises GridError when the middle has no place on the globe.
    """
    rows, columns = grid.shape
    down, across = np.array([-0.5, 0.5, 0, 0]) + rows / 2, np.array([0, 0, -0.5, 0.5]) + columns / 2
    a, b, c, d, e, f = grid.affine[:6]
    lons, lats = transformed(crs_text(grid.crs), "EPSG:4326", a * across + b * down + c, d * across + e * down + f)
    _, _, lengths = WGS84.inv(lons[::2], lats[::2], lons[1::2], lats[1::2])
    return float(lengths[0]), float(lengths[1])


def metric_crs(lon: float, lat: float) -> str:
    """A CRS in metres that is true to scale at the place: its UTM zone, beyond 84 N and 80 S the polar one that goes on from there."""
    if not -80 <= lat <= 84:
        return "EPSG:5041" if lat > 0 else "EPSG:5042"
    return f"EPSG:{utm_epsg(lon, lat)}"
