"""Outlines of footprints in WGS 84 degrees, as they are on the ground: not the box around them."""

import numpy as np
import shapely
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from skysense_cli.geo.crs import transformed
from skysense_cli.geo.grid import Bounds, lonlat_bounds

STEPS = 8  # pieces of an edge, which is straight in the CRS and curved in degrees


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


def _wrapped(shape: shapely.Polygon) -> BaseGeometry:
    """A polygon that may reach beyond 180 degrees as one or two that do not."""
    parts = [translate(shape.intersection(shapely.box(turn - 180, -90, turn + 180, 90)), xoff=-turn) for turn in (-360, 0, 360)]
    kept = [part for part in parts if part.area > 0]
    return kept[0] if len(kept) == 1 else shapely.union_all(kept)
