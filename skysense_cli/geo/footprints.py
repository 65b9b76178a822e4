"""Footprints: the squares on the ground that samples are cut from, around an area or places."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformed
from skysense_cli.geo.grid import WHOLE_PX, Bounds, brief, check_scale, make_grid, utm_codes

MOST_FOOTPRINTS = 20_000_000  # of one zone
MOST_IN_ALL = 50_000_000


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
        raise GridError(f"no footprint of {size_m:g} m touches the area {brief(area.bounds)}")


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
    zones = utm_codes(lon, lat)
    left, top = np.empty(len(zones)), np.empty(len(zones))
    for zone in np.unique(zones).tolist():
        here = zones == zone
        x, y = transformed("EPSG:4326", f"EPSG:{zone}", lon[here], lat[here])
        left[here], top[here] = (np.round(edge / snap_m) * snap_m for edge in (x - size_m / 2, y + size_m / 2))
    left, top = left.round(6), top.round(6)
    rows, columns = np.floor(-top / size_m + WHOLE_PX).astype(int), np.floor(left / size_m + WHOLE_PX).astype(int)
    places = zip(zones.tolist(), left.tolist(), top.tolist(), rows.tolist(), columns.tolist(), periods, strict=True)
    return [Footprint(f"EPSG:{zone}", x, y, size_m, row, column, days) for zone, x, y, row, column, days in places]


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
            hit &= utm_codes(lons, lats) == int(crs.removeprefix("EPSG:"))
        for k in np.flatnonzero(hit):
            yield Footprint(crs, float(lefts[k]), float(y), size, row, int(columns[k]))


def _check_number(area: BaseGeometry, size_m: float, stride_m: float) -> None:
    """Raise GridError for an area that holds more than MOST_IN_ALL, by its square metres, before any is made."""
    ground = shapely.transform(area, lambda points: np.column_stack(transformed("EPSG:4326", "EPSG:6933", points[:, 0], points[:, 1])))
    most = int(ground.area / stride_m**2)
    if most > MOST_IN_ALL:
        raise GridError(
            f"the area {brief(area.bounds)} holds about {most:,} footprints of {size_m:g} m; at most {MOST_IN_ALL:,} are possible: "
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


def _projected(area: BaseGeometry, crs: str) -> BaseGeometry:
    """The area in `crs`; long edges are cut up first, since a straight line in degrees is curved there."""
    dense = shapely.segmentize(area, 0.1)
    return shapely.transform(dense, lambda points: np.column_stack(transformed("EPSG:4326", crs, points[:, 0], points[:, 1])))


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
