"""Outlines of footprints in WGS 84 degrees, as they are on the ground: not the box around them."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import shapely
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import transformed, understood
from skysense_cli.geo.grid import Bounds, lonlat_bounds

STEPS = 8  # pieces of an edge, which is straight in the CRS and curved in degrees
LONGEST_M = 1000.0  # of an edge of a polygon: as curved as two centimetres


def outline(bounds: Bounds, crs: str) -> BaseGeometry | None:
    """The ground within `bounds` (left, bottom, right, top in `crs`) in degrees, longitude first; None if not georeferenced.

    Two polygons where it crosses the antimeridian, none beyond 180 degrees; around a pole the box that holds it.
    Raises GridError where the bounds have no place on the globe.
    """
    if not crs:
        return None
    left, bottom, right, top = bounds
    share = np.arange(STEPS) / STEPS
    x = np.concatenate([left + share * (right - left), np.full(STEPS, right), right - share * (right - left), np.full(STEPS, left)])
    y = np.concatenate([np.full(STEPS, bottom), bottom + share * (top - bottom), np.full(STEPS, top), top - share * (top - bottom)])
    lon, lat = transformed(crs, "EPSG:4326", x, y)
    steps = (np.diff(lon, append=lon[0]) + 180) % 360 - 180  # the short way round
    if abs(steps.sum()) > 180:  # once round a pole
        return shapely.box(*lonlat_bounds(bounds, crs))
    ring = lon[0] + np.concatenate([[0], np.cumsum(steps[:-1])])  # without jumps; may leave -180..180
    return _wrapped(shapely.Polygon(np.column_stack([ring, lat])))


def on_globe(polygon: shapely.Polygon, crs: str) -> BaseGeometry:
    """A polygon of `crs` in degrees, longitude first: a MultiPolygon where it crosses the antimeridian, else a Polygon.

    Raises GridError where it has no place on the globe, and for one around a pole, which no polygon in degrees can be.
    """
    if not understood(crs).is_geographic:
        polygon = dense(np.array([polygon], dtype=object), crs)[0]
    points = shapely.get_coordinates(polygon)
    lon, lat = transformed(crs, "EPSG:4326", points[:, 0], points[:, 1])
    starts = np.cumsum([0, *(len(ring.coords) for ring in (polygon.exterior, *polygon.interiors))])
    rings = []
    for begin, end in pairwise(starts):
        steps = (np.diff(lon[begin:end]) + 180) % 360 - 180  # the short way round
        if abs(steps.sum()) > 180:
            raise GridError("a polygon around a pole cannot be written in degrees; write GeoPackage or GeoParquet")
        first = lon[0] + (lon[begin] - lon[0] + 180) % 360 - 180
        ring = np.column_stack([first + np.concatenate([[0], np.cumsum(steps)]), lat[begin:end]])
        ring[-1] = ring[0]  # exactly closed
        rings.append(ring)
    shape = shapely.Polygon(rings[0], rings[1:])
    if shape.bounds[0] >= -180 and shape.bounds[2] <= 180:
        return shape
    parts = [part for part in shapely.get_parts(_wrapped(shape)) if part.geom_type == "Polygon"]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def dense(shapes: np.ndarray, crs: str) -> np.ndarray:
    """The shapes (N,) with so many points that edges, straight in `crs`, are straight on the globe too."""
    known = understood(crs)
    longest = LONGEST_M / 111_320 if known.is_geographic else LONGEST_M / known.axis_info[0].unit_conversion_factor
    return shapely.segmentize(shapes, longest)


def straightened(polygons: np.ndarray, spare: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
    """The polygons (N,) without points at which their outline goes straight on, of those that `spare` (points (P, 2) -> bool) allows."""
    points, (rings, members) = shapely.to_ragged_array(polygons)[1:]
    if not len(points):
        return polygons
    number = np.arange(len(points))
    first, last = rings[:-1], rings[1:] - 1  # the last point of a ring repeats its first
    before, after = number - 1, number + 1
    before[first], after[last] = last - 1, first + 1
    a, b = points - points[before], points[after] - points
    gone = (a[:, 0] * b[:, 1] == a[:, 1] * b[:, 0]) & ((a * b).sum(axis=1) > 0)
    if spare is not None:
        gone &= spare(points)
    gone[last] = True
    kept = np.flatnonzero(~gone)
    counts = np.add.reduceat((~gone).astype(int), first)
    starts = np.concatenate([[0], np.cumsum(counts)])
    closed = np.insert(kept, starts[1:], kept[starts[:-1]])  # every ring ends with its first point again
    return shapely.from_ragged_array(shapely.GeometryType.POLYGON, points[closed], (starts + np.arange(len(starts)), members))


def _wrapped(shape: shapely.Polygon) -> BaseGeometry:
    """A polygon that may reach beyond 180 degrees as one or two that do not."""
    parts = [translate(shape.intersection(shapely.box(turn - 180, -90, turn + 180, 90)), xoff=-turn) for turn in (-360, 0, 360)]
    kept = [part for part in parts if part.area > 0]
    return kept[0] if len(kept) == 1 else shapely.union_all(kept)
