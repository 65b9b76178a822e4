"""Coordinate reference systems by their text."""

import numpy as np
import pytest
from pyproj import CRS

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformed, transformer


def test_a_crs_with_a_number_is_told_by_it():
    for given in (
        "EPSG:32631",
        "epsg:32631",
        CRS(32631).to_wkt(),
        CRS(32631).to_wkt("WKT1_ESRI"),
        "+proj=utm +zone=31 +datum=WGS84 +type=crs",
    ):
        assert crs_text(given) == "EPSG:32631"
    assert crs_text(None) == crs_text("") == ""


def test_another_crs_is_told_by_its_wkt():
    own = "+proj=laea +lat_0=52 +lon_0=11 +datum=WGS84 +type=crs"
    assert crs_text(own).startswith("PROJCRS[") and CRS(crs_text(own)) == CRS(own)


def test_places_are_x_before_y():
    x, y = transformed("EPSG:4326", "EPSG:32631", np.array([3.0]), np.array([0.0]))
    assert x[0] == pytest.approx(500000) and y[0] == pytest.approx(0)


def test_what_is_no_crs_or_no_place_is_refused():
    with pytest.raises(GridError, match="'mars' is not a coordinate reference system; give EPSG:n or WKT"):
        crs_text("mars")
    with pytest.raises(GridError, match="a place at x 3, y 95 in EPSG:4326 has no coordinates in EPSG:32631"):
        transformed("EPSG:4326", "EPSG:32631", np.array([3.0]), np.array([95.0]))
    with pytest.raises(GridError, match="there is no way from"):
        transformer('LOCAL_CS["nowhere",UNIT["metre",1]]', "EPSG:4326")
