"""Footprints, tiles and grids. A grid is an odc-geo `GeoBox`, always made of an affine and a whole shape.

`crs` is a text everywhere: `EPSG:n` or WKT2; "" means not georeferenced.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod
from pyproj.exceptions import ProjError
from shapely.geometry.base import BaseGeometry

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformed, transformer, understood

Bounds = tuple[float, float, float, float]  # left, bottom, right, top

WHOLE_PX = 1e-6  # how far from a whole number of pixels a length may be
SCALE_LIMIT = 0.01  # how far from 1 the scale of a map projection may be
MOST_FOOTPRINTS = 20_000_000  # of one zone
MOST_IN_ALL = 50_000_000
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


@dataclass(frozen=True)
class Footprint:
    """A square on the ground. row (southward) and col (eastward) count strides from the anchor; they may be negative.

    days: first and last of its own, both inclusive, where it has some; they are part of its id, as `_20190401_20191031`
    """

    crs: str
    left: float
    top: float
    size_m: float
    row: int
    col: int
    days: tuple[np.datetime64, np.datetime64] | None = None

    @property
    def id(self) -> str:
        """Name of the place, e.g. `32631_504320_5621120`: EPSG number and upper left corner in metres."""
        prefix = self.crs.removeprefix("EPSG:") if self.crs.startswith("EPSG:") else "grid"
        period = "".join(f"_{str(day).replace('-', '')}" for day in self.days or ())
        return f"{prefix}_{_number(self.left)}_{_number(self.top)}{period}"

    @property
    def bounds(self) -> Bounds:
        """left, bottom, right, top in CRS units."""
        return self.left, self.top - self.size_m, self.left + self.size_m, self.top

    def grid(self, gsd_m: float) -> GeoBox:
        """The footprint in pixels of `gsd_m`. Raises GridError unless they fill it without a rest."""
        pixels = round(self.size_m / gsd_m)
        if pixels < 1 or abs(self.size_m / gsd_m - pixels) > WHOLE_PX:
            nearest = self.size_m / max(pixels, 1)
            raise GridError(f"a footprint of {self.size_m:g} m is not a whole number of {gsd_m:g} m pixels (nearest gsd: {nearest:g} m)")
        return make_grid(self.left, self.top, gsd_m, pixels, pixels, self.crs)


def footprints(area: BaseGeometry, *, crs: str, size_m: float, stride_m: float | None = None,
               anchor: Literal[0, "area"] | tuple[float, float] = 0) -> list[Footprint]:  # fmt: skip
    """Footprints that touch `area`, zone by zone, from north to south and west to east.

    area: in WGS 84 degrees     crs: a CRS, or "utm": each footprint lies in the UTM zone of its centre
    anchor: corners are `anchor` + whole strides; "area" is the upper left corner of the area's bounds,
        to the millimetre
    Along a border of two UTM zones the grids of both meet: a strip narrower than a footprint may be
    seen twice or not at all.
    Raises GridError for a CRS in degrees, one that is more than 1 % out of scale, or an empty area.
    """
    return list(each_footprint(area, crs=crs, size_m=size_m, stride_m=stride_m, anchor=anchor))


def each_footprint(area: BaseGeometry, *, crs: str, size_m: float, stride_m: float | None = None,
                   anchor: Literal[0, "area"] | tuple[float, float] = 0) -> Iterator[Footprint]:  # fmt: skip
    """As `footprints`, one by one."""
    if area.is_empty:
        raise GridError("the area is empty")
    stride = stride_m or size_m
    _check_number(area, size_m, stride)
    found = False
    for name, part in _zones(area) if crs == "utm" else [(crs_text(crs), area)]:
        if not part.is_empty:
            for footprint in _in_one_crs(part, name, (size_m, stride), anchor, own_zone=crs == "utm"):
                found = True
                yield footprint
    if not found:
        raise GridError(f"no footprint of {size_m:g} m touches the area {_brief(area.bounds)}")


def footprints_at(lon: np.ndarray, lat: np.ndarray, *, size_m: float, snap_m: float,
                  periods: Sequence[tuple[np.datetime64, np.datetime64] | None]) -> list[Footprint]:  # fmt: skip
    """Footprints around places (N,) in degrees, each in the UTM zone of its centre, in the order of the places.

    Corners are moved to whole multiples of `snap_m`, so centres lie within half of it, in x and in y, of their places.
    row and col count sizes from the zone's origin to the corner; several footprints may share them.
    periods: their days, see `Footprint`
    Raises GridError for a place beyond 80 S or 84 N.
    """
    beyond = np.flatnonzero(~((lat >= -80) & (lat <= 84)))
    if beyond.size:
        raise GridError(f"UTM ends at 80 S and 84 N, lon {lon[beyond[0]]:.4f}, lat {lat[beyond[0]]:.4f} lies beyond")
    zones = _utm_epsg(lon, lat)
    left, top = np.empty(len(zones)), np.empty(len(zones))
    for zone in np.unique(zones).tolist():
        here = zones == zone
        x, y = transformed("EPSG:4326", f"EPSG:{zone}", lon[here], lat[here])
        left[here], top[here] = (np.round(edge / snap_m) * snap_m for edge in (x - size_m / 2, y + size_m / 2))
    left, top = left.round(6), top.round(6)
    rows, columns = np.floor(-top / size_m + WHOLE_PX).astype(int), np.floor(left / size_m + WHOLE_PX).astype(int)
    places = zip(zones.tolist(), left.tolist(), top.tolist(), rows.tolist(), columns.tolist(), periods, strict=True)
    return [Footprint(f"EPSG:{zone}", x, y, size_m, row, column, days) for zone, x, y, row, column, days in places]


def utm_epsg(lon: float, lat: float) -> int:
    """EPSG number of the UTM zone of a place, with the zones of Norway and Svalbard. Raises GridError beyond 80 S and 84 N."""
    if not -80 <= lat <= 84:
        raise GridError(f"UTM ends at 80 S and 84 N, the place is at latitude {lat:.2f}: give a crs")
    return int(_utm_epsg(np.array([lon]), np.array([lat]))[0])


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
        raise GridError(f"the bounds {_brief(bounds)} have no place on the globe in {crs[:60]}: {error}") from error


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


# footprints in one CRS


def _in_one_crs(area: BaseGeometry, crs: str, sides: tuple[float, float], anchor: Literal[0, "area"] | tuple[float, float],
                own_zone: bool) -> Iterator[Footprint]:  # fmt: skip
    """Footprints of `area` (degrees) in `crs`; with `own_zone` only those whose centre lies in this UTM zone."""
    size, stride = sides
    inside = area.representative_point()
    check_scale(crs, inside.x, inside.y)
    shape = _projected(area, crs)
    left, bottom, right, top = shape.bounds
    if anchor == "area":
        x0, y0 = round(left, 3), round(top, 3)
    else:
        x0, y0 = (0.0, 0.0) if anchor == 0 else (float(anchor[0]), float(anchor[1]))
    slack = size * 1e-6  # a shared edge is no touch
    first, last = int(np.ceil((left - size + slack - x0) / stride)), int(np.floor((right - slack - x0) / stride))
    north, south = int(np.ceil((y0 - top - size + slack) / stride)), int(np.floor((y0 - bottom - slack) / stride))
    columns = np.arange(first, max(last, first) + 1)
    most = len(columns) * (south - north + 1)
    if most > MOST_FOOTPRINTS:
        raise GridError(f"the area holds up to {most:,} footprints of {size:g} m; at most {MOST_FOOTPRINTS:,} are possible")
    shapely.prepare(shape)
    for row in range(north, max(south, north) + 1):
        lefts, y = x0 + columns * stride, y0 - row * stride
        hit = shapely.intersects(shape, _boxes(lefts + slack, y - size + slack, size - 2 * slack))
        if own_zone and hit.any():
            lons, lats = transformed(crs, "EPSG:4326", lefts + size / 2, np.full(len(lefts), y - size / 2))
            hit &= _utm_epsg(lons, lats) == int(crs.removeprefix("EPSG:"))
        for k in np.flatnonzero(hit):
            yield Footprint(crs, float(lefts[k]), float(y), size, row, int(columns[k]))


def _check_number(area: BaseGeometry, size_m: float, stride_m: float) -> None:
    """Raise GridError for an area that holds more than MOST_IN_ALL, by its square metres, before any is made."""
    ground = shapely.transform(area, lambda points: np.column_stack(transformed("EPSG:4326", "EPSG:6933", points[:, 0], points[:, 1])))
    most = int(ground.area / stride_m**2)
    if most > MOST_IN_ALL:
        raise GridError(
            f"the area {_brief(area.bounds)} holds about {most:,} footprints of {size_m:g} m; at most {MOST_IN_ALL:,} are possible: "
            "take a smaller area, or a larger size_m"
        )


def _boxes(lefts: np.ndarray, bottom: float, side: float) -> np.ndarray:
    return shapely.box(lefts, np.full(len(lefts), bottom), lefts + side, np.full(len(lefts), bottom + side))


def _zones(area: BaseGeometry) -> Iterator[tuple[str, BaseGeometry]]:
    """(crs, part of the area) for every UTM zone that may hold a footprint's centre, with a margin."""
    west, south, east, north = area.bounds
    if south < -80 or north > 84:
        raise GridError(f"the area reaches latitude {south if south < -80 else north:.2f}, UTM ends at 80 S and 84 N: give grid.crs")
    for base, low, high in ((32600, -0.5, 84.5), (32700, -80.5, 0.5)):
        for zone in range(1, 61):
            start = zone * 6 - 186
            margin = 9 if high > 56 and north > 55 else 0.5  # the zones of Norway and Svalbard are wider
            if start - margin <= east and west <= start + 6 + margin:
                yield f"EPSG:{base + zone}", area.intersection(shapely.box(start - margin, low, start + 6 + margin, high))


def _utm_epsg(lons: np.ndarray, lats: np.ndarray) -> np.ndarray:
    lons = (np.asarray(lons) + 180) % 360 - 180
    zone = np.minimum(np.floor((lons + 180) / 6) + 1, 60)
    zone = np.where((lats >= 56) & (lats < 64) & (lons >= 3) & (lons < 12), 32, zone)
    svalbard = np.select([lons < 9, lons < 21, lons < 33], [31, 33, 35], 37)
    zone = np.where((lats >= 72) & (lons >= 0) & (lons < 42), svalbard, zone)
    return (np.where(np.asarray(lats) >= 0, 32600, 32700) + zone).astype(int)


def _projected(area: BaseGeometry, crs: str) -> BaseGeometry:
    """The area in `crs`; long edges are cut up first, since a straight line in degrees is curved there."""
    dense = shapely.segmentize(area, 0.1)
    return shapely.transform(dense, lambda points: np.column_stack(transformed("EPSG:4326", crs, points[:, 0], points[:, 1])))


def _suggestion(lon: float, lat: float) -> str:
    return f"EPSG:{utm_epsg(lon, lat)}" if np.isfinite([lon, lat]).all() and -80 <= lat <= 84 else "a UTM zone"


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _brief(bounds: Bounds) -> str:
    return "(" + ", ".join(f"{value:g}" for value in bounds) + ")"
