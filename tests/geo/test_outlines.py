"""Footprints in degrees: the ground itself, also across the antimeridian and around a pole."""

import numpy as np
import pytest
import shapely

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import transformed
from skysense_cli.geo.grid import lonlat
from skysense_cli.geo.outlines import outline

BELGIUM = (574_680.0, 5_621_800.0, 575_320.0, 5_622_440.0)


def test_an_outline_has_the_corners_of_its_footprint_and_holds_its_centre():
    found = outline(BELGIUM, "EPSG:32631")
    corners = np.array([(x, y) for x in BELGIUM[::2] for y in BELGIUM[1::2]])
    lon, lat = transformed("EPSG:32631", "EPSG:4326", corners[:, 0], corners[:, 1])
    for place in zip(lon, lat, strict=True):
        assert shapely.Point(place).distance(found.exterior) < 1e-9
    assert found.is_valid and found.contains(shapely.Point(lonlat(BELGIUM, "EPSG:32631")))


def test_neighbours_share_an_edge_and_no_ground():
    first, second = (outline((left, 0.0, left + 640, 640.0), "EPSG:32631") for left in (500_000.0, 500_640.0))
    assert first.intersection(second).area < 1e-6 * first.area
    assert first.distance(second) < 1e-12


def test_an_outline_across_the_antimeridian_has_two_parts_of_equal_size():
    x, y = transformed("EPSG:4326", "EPSG:32660", np.array([180.0]), np.array([10.0]))
    found = outline((x[0] - 5000, y[0] - 5000, x[0] + 5000, y[0] + 5000), "EPSG:32660")
    assert found.geom_type == "MultiPolygon" and len(found.geoms) == 2 and found.is_valid
    west, east = sorted(found.geoms, key=lambda part: part.bounds[0])
    assert west.bounds[0] == -180 and east.bounds[2] == 180
    assert west.area == pytest.approx(east.area, rel=0.01)


def test_around_a_pole_it_is_a_cap():
    assert outline((-1e5, -1e5, 1e5, 1e5), "EPSG:3413").bounds[0::2] == (-180, 180)
    assert outline((-1e5, -1e5, 1e5, 1e5), "EPSG:3413").bounds[3] == 90


def test_without_a_crs_there_is_no_outline():
    assert outline(BELGIUM, "") is None


def test_a_place_off_the_globe_is_refused():
    with pytest.raises(GridError, match="has no coordinates in EPSG:4326"):
        outline((1e9, 1e9, 2e9, 2e9), "EPSG:32631")
