"""Regions of the globe."""

import numpy as np
import pytest

from skysense_cli.errors import GridError
from skysense_cli.geo.regions import region_of


def test_regions_count_from_the_north_west():
    assert region_of(-180, 90) == 0
    assert region_of(179.999, 90) == 63
    assert region_of(-180, -90) == 4032
    assert region_of(179.999, -90) == 4095
    assert region_of(180, 0) == region_of(-180, 0)
    assert region_of(1, 1, regions=4) == 1 and region_of(-1, -1, regions=4) == 2


def test_regions_have_equal_area():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    lons, lats = np.degrees(np.arctan2(points[:, 1], points[:, 0])), np.degrees(np.arcsin(points[:, 2]))
    counts = np.bincount([region_of(lon, lat, 16) for lon, lat in zip(lons, lats)], minlength=16)
    assert abs(counts - 1250).max() < 150


def test_any_number_of_regions_is_used_up():
    for regions in (1, 7, 12, 64):
        found = {region_of(lon, lat, regions) for lon in range(-180, 181, 3) for lat in range(-90, 91, 3)}
        assert found == set(range(regions))


def test_mercator_regions_are_squares_of_web_mercator():
    assert region_of(0.1, 66.6, 16, "mercator") == 2  # the first row ends at 66.51 N
    assert region_of(0.1, 66.4, 16, "mercator") == 6
    assert region_of(0.1, 89.9, 16, "mercator") == 2
    with pytest.raises(GridError, match="square number of regions, not 12 "):
        region_of(0, 0, 12, "mercator")


def test_an_unknown_place_has_no_region_and_a_wrong_one_is_refused():
    assert region_of(float("nan"), 3) == -1
    with pytest.raises(GridError, match="no place on the globe"):
        region_of(0, 91)
