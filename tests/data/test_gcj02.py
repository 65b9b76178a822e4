import numpy as np
import pytest
from pyproj import Geod

from skysense_cli.data.gcj02 import BOX, from_gcj02, to_gcj02

PUBLISHED = [  # WGS 84 lon, lat; GCJ-02 lon, lat: test values of two independent published tools
    (121.5272106, 31.1774276, 121.531541859215, 31.17530398364597),
    (113.912316, 22.543847, 113.9171764808363, 22.540796131694766),
    (116.377817, 39.911954, 116.38404722455657, 39.91334545536069),
    (116.404, 39.915, 116.41024449916938, 39.91640428150164),
]


def lattice():
    west, south, east, north = BOX
    return [axis.ravel() for axis in np.meshgrid(np.linspace(west + 0.1, east - 0.1, 61), np.linspace(south + 0.1, north - 0.1, 53))]


@pytest.mark.parametrize("lon, lat, shifted_lon, shifted_lat", PUBLISHED)
def test_published_points(lon, lat, shifted_lon, shifted_lat):
    assert to_gcj02(np.array([lon]), np.array([lat])) == (pytest.approx([shifted_lon], abs=1e-11), pytest.approx([shifted_lat], abs=1e-11))
    assert from_gcj02(np.array([shifted_lon]), np.array([shifted_lat])) == (pytest.approx([lon], abs=1e-9), pytest.approx([lat], abs=1e-9))


def test_back_and_forth_is_the_same_place_and_moves_50_to_750_metres():
    lon, lat = lattice()
    there = to_gcj02(lon, lat)
    back = from_gcj02(*there)
    assert max(np.abs(back[0] - lon).max(), np.abs(back[1] - lat).max()) < 1e-9
    length = Geod(ellps="WGS84").inv(lon, lat, *there)[2]
    china = (lon > 80) & (lon < 125) & (lat > 20) & (lat < 48)
    assert 50 < length[china].min() and length[china].max() < 750


def test_order_along_a_line_is_kept():
    lon = np.linspace(BOX[0] + 0.1, BOX[2] - 0.1, 20_000)
    assert (np.diff(to_gcj02(lon, np.full(lon.shape, 35.0))[0]) > 0).all()


def test_outside_of_the_box_nothing_moves():
    lon, lat = np.array([4.06, -104.99, 139.7, 116.0]), np.array([50.7, 39.7, 35.7, -35.0])
    for way in (to_gcj02, from_gcj02):
        np.testing.assert_array_equal(way(lon, lat), (lon, lat))
