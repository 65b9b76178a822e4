"""Where a raster lies on a web map: a grid in Web Mercator that holds it, and the way back to its own coordinates.

A picture that is pinned to a web map by its corners lies wrong everywhere between them, unless it was warped before. Beyond 180 degrees
the grid goes on: a scene across the antimeridian is in one piece.
"""

from dataclasses import dataclass

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformed, transformer
from skysense_cli.geo.grid import in_degrees

RADIUS_M = 6378137.0
HIGHEST_LAT = 85.0511287798066  # where the square map of the web ends
EDGE_STEPS = 64  # places along an edge whose longitude and latitude are looked at
LATTICES = (2, 3, 5, 9, 17, 33, 65, 129)  # nodes along a side
LATTICE_PX = 0.1  # how far a place between the nodes may lie from where it belongs, in pixels of the raster


@dataclass(frozen=True)
class WebPlace:
    """grid: of the warped raster, in Web Mercator around its own meridian      bounds: west, south, east, north in degrees, west in
    -180..180, east up to 540      cut: whether a part beyond 85.05 degrees is left out
    """

    grid: GeoBox
    bounds: tuple[float, float, float, float]
    cut: bool


def web_place(source: GeoBox, longest_px: int, finer: int = 1) -> WebPlace:
    """The grid in Web Mercator that holds `source`, its pixels as large as those of the source in its middle.

    longest_px: bound of its longer side      finer: so many pixels along one of the source, as far as longest_px allows
    Raises GridError for a grid without a place, around a pole, or all beyond 85.05 degrees.
    """
    if not source.crs:
        raise GridError("is not georeferenced, so it has no place on a map; assign a CRS, e.g. with `rio edit-info --crs EPSG:n`")
    lon, lat = _border(source)
    if lat.min() > HIGHEST_LAT or lat.max() < -HIGHEST_LAT:
        raise GridError(f"lies beyond {HIGHEST_LAT:.2f} degrees, where Web Mercator ends; a web map cannot show it")
    south, north = (float(np.clip(edge, -HIGHEST_LAT, HIGHEST_LAT)) for edge in (lat.min(), lat.max()))
    west, east = float(lon.min()), float(min(lon.max(), lon.min() + 360))
    turn = 360 * np.floor((west + 180) / 360)
    meridian = 180.0 if east - turn > 180 else 0.0
    left, right, bottom, top = _x(west - turn - meridian), _x(east - turn - meridian), _y(south), _y(north)
    crs = f"+proj=webmerc +lon_0={meridian:g} +datum=WGS84 +units=m +no_defs"
    size = max(_pixel_m(source, crs) / finer, (right - left) / longest_px, (top - bottom) / longest_px)
    height, width = (min(max(int(np.ceil(side / size - 1e-6)), 1), longest_px) for side in (top - bottom, right - left))
    grid = GeoBox((height, width), Affine(size, 0, left, 0, -size, top), crs)
    right, bottom = left + size * width, top - size * height
    bounds = float(west - turn), _lat(bottom), float(np.degrees(right / RADIUS_M)) + meridian, _lat(top)
    return WebPlace(grid, bounds, bool(lat.max() > HIGHEST_LAT or lat.min() < -HIGHEST_LAT))


def lattice(source: GeoBox, grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """x and y (n, n) in the CRS of `source` at places evenly spread over `grid`, its corners included.

    Linear interpolation between them is right to LATTICE_PX pixels of the source, as far as 129 x 129 places can.
    """
    for nodes in LATTICES:
        x, y = _nodes(source, grid, nodes)
        if nodes == LATTICES[-1]:
            break
        finer_x, finer_y = _nodes(source, grid, 2 * nodes - 1)
        a, b, _, d, e, _ = (~source.affine)[:6]
        off_x, off_y = finer_x - _doubled(x), finer_y - _doubled(y)
        if np.hypot(a * off_x + b * off_y, d * off_x + e * off_y).max() <= LATTICE_PX:
            break
    return x, y


# private


def _border(source: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes without jumps and latitudes of places around the border."""
    height, width = source.shape
    share = np.arange(EDGE_STEPS) / EDGE_STEPS
    rest, zero = 1 - share, np.zeros(EDGE_STEPS)
    columns = np.concatenate([share, zero + 1, rest, zero]) * width
    rows = np.concatenate([zero, share, zero + 1, rest]) * height
    a, b, c, d, e, f = source.affine[:6]
    lon, lat = transformed(crs_text(source.crs), "EPSG:4326", a * columns + b * rows + c, d * columns + e * rows + f)
    if in_degrees(source):
        lon = a * columns + b * rows + c  # as they are counted: the whole globe is no line
    steps = np.diff(lon, append=lon[0])
    steps = steps if in_degrees(source) else (steps + 180) % 360 - 180  # the short way round
    if abs(steps.sum()) > 180:
        raise GridError("lies around a pole, which a web map cannot show; warp it to degrees or another projection first")
    return lon[0] + np.concatenate([[0], np.cumsum(steps[:-1])]), lat


def _pixel_m(source: GeoBox, crs: str) -> float:
    """The shorter side of a pixel in the middle of the source, in metres of the web map."""
    height, width = source.shape
    a, b, c, d, e, f = source.affine[:6]
    columns, rows = width / 2 + np.array([0.0, 1, 0]), height / 2 + np.array([0.0, 0, 1])
    x, y = transformed(crs_text(source.crs), crs, a * columns + b * rows + c, d * columns + e * rows + f)
    return float(min(np.hypot(x[1] - x[0], y[1] - y[0]), np.hypot(x[2] - x[0], y[2] - y[0])))


def _nodes(source: GeoBox, grid: GeoBox, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = grid.shape
    rows, columns = np.meshgrid(np.linspace(0, height, nodes), np.linspace(0, width, nodes), indexing="ij")
    a, _, c, _, e, f = grid.affine[:6]
    x, y = transformer(crs_text(grid.crs), crs_text(source.crs)).transform(a * columns + c, e * rows + f)
    if in_degrees(source):
        middle = source.affine.c + source.affine.a * source.shape[1] / 2 + source.affine.b * source.shape[0] / 2
        x = x + 360 * np.round((middle - x) / 360)
    return np.asarray(x), np.asarray(y)


def _doubled(nodes: np.ndarray) -> np.ndarray:
    """(2n - 1, 2n - 1): the nodes and the places half-way between them, by linear interpolation."""
    out = np.empty((2 * len(nodes) - 1, nodes.shape[1]))
    out[::2], out[1::2] = nodes, (nodes[:-1] + nodes[1:]) / 2
    wide = np.empty((len(out), 2 * nodes.shape[1] - 1))
    wide[:, ::2], wide[:, 1::2] = out, (out[:, :-1] + out[:, 1:]) / 2
    return wide


def _x(lon: float) -> float:
    return float(np.radians(lon) * RADIUS_M)


def _y(lat: float) -> float:
    return float(np.arcsinh(np.tan(np.radians(lat))) * RADIUS_M)


def _lat(y: float) -> float:
    return float(np.degrees(np.arctan(np.sinh(y / RADIUS_M))))
