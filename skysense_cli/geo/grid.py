"""Tiles and grids. A grid is an odc-geo `GeoBox`, always made of an affine and a whole shape.

`crs` is a text everywhere: `EPSG:n` or WKT2; "" means not georeferenced.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod
from pyproj.exceptions import ProjError

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformed, transformer, understood

Bounds = tuple[float, float, float, float]  # left, bottom, right, top

WHOLE_PX = 1e-6  # how far from a whole number of pixels a length may be
SCALE_LIMIT = 0.01  # how far from 1 the scale of a map projection may be
WGS84 = Geod(ellps="WGS84")


def make_grid(left: float, top: float, gsd_m: float, height: int, width: int, crs: str) -> GeoBox:
    """North-up grid of `height` x `width` square pixels whose upper left corner is (left, top)."""
    return GeoBox((height, width), Affine(gsd_m, 0, left, 0, -gsd_m, top), crs or None)


def shifted(grid: GeoBox, right: float, up: float) -> GeoBox:
    """`grid` moved by so many CRS units."""
    a, b, c, d, e, f = grid.affine[:6]
    return GeoBox(grid.shape, Affine(a, b, c + right, d, e, f + up), grid.crs)


def window(grid: GeoBox, rows: slice, columns: slice) -> GeoBox:
    """The part of `grid` between pixel edges; starts and stops may lie outside of it."""
    a, b, c, d, e, f = grid.affine[:6]
    left, top = columns.start, rows.start
    corner = Affine(a, b, c + a * left + b * top, d, e, f + d * left + e * top)
    return GeoBox((rows.stop - top, columns.stop - left), corner, grid.crs)


def bounds_of(grid: GeoBox) -> Bounds:
    """left, bottom, right, top of a grid in its CRS."""
    a, b, c, d, e, f = grid.affine[:6]
    if a > 0 and e < 0 and not (b or d):  # asked for every tile of a scene; the general way is fifty times slower
        return float(c), float(grid.shape[0] * e + f), float(grid.shape[1] * a + c), float(f)
    box = grid.boundingbox
    return float(box.left), float(box.bottom), float(box.right), float(box.top)


def in_degrees(grid: GeoBox) -> bool:
    """Whether the coordinates of a grid are longitudes and latitudes."""
    return grid.crs is not None and bool(grid.crs.geographic)


def utm_epsg(lon: float, lat: float) -> int:
    """EPSG number of the UTM zone of a place, with the zones of Norway and Svalbard. Raises GridError beyond 80 S and 84 N."""
    if not -80 <= lat <= 84:
        raise GridError(f"UTM ends at 80 S and 84 N, the place is at latitude {lat:.2f}: give a crs")
    return int(utm_codes(np.array([lon]), np.array([lat]))[0])


def lonlat(place: GeoBox | Bounds, crs: str = "") -> tuple[float, float]:
    """Longitude and latitude (WGS 84 degrees) of the centre of a grid, or of bounds in `crs`; NaN if not georeferenced.

    The centre point is transformed; the centroid of a geographic extent would be wrong at the antimeridian.
    """
    if isinstance(place, GeoBox):
        a, b, c, d, e, f = place.affine[:6]
        height, width = place.shape
        x, y, crs = a * width / 2 + b * height / 2 + c, d * width / 2 + e * height / 2 + f, crs_text(place.crs)
    else:
        x, y = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
    if not crs:
        return float("nan"), float("nan")
    lon, lat = transformed(crs, "EPSG:4326", np.array([x]), np.array([y]))
    return float((lon[0] + 180) % 360 - 180), float(lat[0])


def lonlat_bounds(bounds: Bounds, crs: str) -> Bounds:
    """Bounds in WGS 84 degrees that hold the bounds in `crs`; left > right where they cross the antimeridian."""
    try:
        return transformer(crs, "EPSG:4326").transform_bounds(*bounds, densify_pts=21, errcheck=True)
    except ProjError as error:
        raise GridError(f"the bounds {brief(bounds)} have no place on the globe in {crs[:60]}: {error}") from error


def check_scale(crs: str, lon: float, lat: float) -> None:
    """Raise GridError unless `crs` is in metres and within 1 % of true length at the place.

    Web Mercator away from the equator is what this finds: at 45 degrees its metre is 0.7 m long.
    """
    definition = understood(crs)
    if not definition.is_projected or any(axis.unit_conversion_factor != 1 for axis in definition.axis_info[:2]):
        unit = definition.axis_info[0].unit_name if definition.axis_info else "unknown units"
        raise GridError(f"{crs[:60]} is in {unit}; a projected CRS in metres is needed, e.g. {_suggestion(lon, lat)}")
    x, y = transformed("EPSG:4326", crs, np.array([lon]), np.array([lat]))
    ends = np.array([[-500, 0], [500, 0], [0, -500], [0, 500]]) + np.array([x[0], y[0]])
    lons, lats = transformed(crs, "EPSG:4326", ends[:, 0], ends[:, 1])
    _, _, lengths = WGS84.inv(lons[::2], lats[::2], lons[1::2], lats[1::2])
    worst = max(lengths, key=lambda length: abs(length / 1000 - 1))
    if not abs(worst / 1000 - 1) <= SCALE_LIMIT:
        raise GridError(
            f"{crs[:60]}: a metre of the map is {worst / 1000:.3f} m on the ground at lon {lon:.2f}, lat {lat:.2f}; "
            f"reproject to a CRS true to scale there, e.g. {_suggestion(lon, lat)}"
        )


@dataclass(frozen=True)
class Tile:
    """A window of a scene; `core` (rows, columns, in scene pixels) is what it alone decides."""

    row: int
    col: int
    height: int
    width: int
    core: tuple[slice, slice]


def tiles(shape: tuple[int, int], size_px: int | tuple[int, int], overlap: float) -> list[Tile]:
    """Tiles that cover `shape`, row by row; every pixel lies in exactly one tile's core.

    The last row and column are moved back inside instead of being padded, so tiles are always
    full, except when the scene is smaller than one tile.
    Raises GridError if overlap is not in [0, 0.5).
    """
    if not 0 <= overlap < 0.5:
        raise GridError(f"overlap is {overlap:g}, it must be at least 0 and less than 0.5")
    size = (size_px, size_px) if isinstance(size_px, int) else size_px
    if min(*size, *shape) < 1:
        raise GridError(f"cannot cut a scene of {shape[0]} x {shape[1]} px into tiles of {size[0]} x {size[1]} px")
    rows, columns = (list(_spans(total, side, overlap)) for total, side in zip(shape, size, strict=True))
    return [Tile(row, col, min(size[0], shape[0]), min(size[1], shape[1]), (r, c)) for row, r in rows for col, c in columns]


def _spans(total: int, size: int, overlap: float) -> Iterator[tuple[int, slice]]:
    """(start, core) of the tiles along one axis; cores end in the middle of the overlaps."""
    size = min(size, total)
    stride = max(size - round(size * overlap), 1)
    starts = [*range(0, total - size, stride), total - size]
    edges = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), total]
    for start, (low, high) in zip(starts, pairwise(edges), strict=True):
        yield start, slice(low, high)


def utm_codes(lons: np.ndarray, lats: np.ndarray) -> np.ndarray:
    """As `utm_epsg` for places (N,), whatever their latitudes."""
    lons = (np.asarray(lons) + 180) % 360 - 180
    zone = np.minimum(np.floor((lons + 180) / 6) + 1, 60)
    zone = np.where((lats >= 56) & (lats < 64) & (lons >= 3) & (lons < 12), 32, zone)
    svalbard = np.select([lons < 9, lons < 21, lons < 33], [31, 33, 35], 37)
    zone = np.where((lats >= 72) & (lons >= 0) & (lons < 42), svalbard, zone)
    return (np.where(np.asarray(lats) >= 0, 32600, 32700) + zone).astype(int)


def _suggestion(lon: float, lat: float) -> str:
    return f"EPSG:{utm_epsg(lon, lat)}" if np.isfinite([lon, lat]).all() and -80 <= lat <= 84 else "a UTM zone"


def brief(bounds: Bounds) -> str:
    """Bounds as a message shows them."""
    return "(" + ", ".join(f"{value:g}" for value in bounds) + ")"
