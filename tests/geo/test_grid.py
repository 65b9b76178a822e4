"""Grids, tiles and places."""

import numpy as np
import pytest
from affine import Affine

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import transformer
from skysense_cli.geo.grid import lonlat, lonlat_bounds, make_grid, tiles, utm_epsg


def test_a_grid_is_an_affine_and_a_whole_shape_even_on_odd_origins():
    made = make_grid(500003.7, 5600001.3, 10, 64, 32, "EPSG:32631")
    assert made.shape == (64, 32)
    assert made.affine == Affine(10, 0, 500003.7, 0, -10, 5600001.3)


@pytest.mark.parametrize(
    "lon, lat, epsg",
    [(4.06, 50.745, 32631), (4.06, -50, 32731), (-180, 0, 32601), (179.99, 5, 32660), (180, 5, 32601), (5, 60, 32632),
     (10, 75, 32633), (8.9, 75, 32631), (33.1, 75, 32637), (0, 0, 32631), (0, -0.01, 32731)],
)  # fmt: skip
def test_utm_zones(lon, lat, epsg):
    assert utm_epsg(lon, lat) == epsg


def test_utm_ends_near_the_poles():
    with pytest.raises(GridError, match="UTM ends"):
        utm_epsg(0, 85)


def test_lonlat_is_the_centre_also_at_the_antimeridian():
    lon, lat = lonlat(make_grid(504320, 5621120, 10, 64, 64, "EPSG:32631"))
    assert lon == pytest.approx(3.0656, abs=1e-3) and lat == pytest.approx(50.739, abs=1e-2)
    x, y = transformer("EPSG:4326", "EPSG:32660").transform(180, 10)
    lon, lat = lonlat((x - 320, y - 320, x + 320, y + 320), "EPSG:32660")
    assert abs(abs(lon) - 180) < 1e-6 and lat == pytest.approx(10, abs=1e-6)
    left, bottom, right, top = lonlat_bounds((x - 320, y - 320, x + 320, y + 320), "EPSG:32660")
    assert left > 179.9 and right < -179.9 and bottom < 10 < top
    assert np.isnan(lonlat(make_grid(0, 0, 10, 4, 4, ""))).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (4, 4), (5, 7), (16, 9), (13, 40)])
@pytest.mark.parametrize("size", [1, 2, 4, 5, (3, 6)])
@pytest.mark.parametrize("overlap", [0, 0.1, 0.25, 0.49])
def test_tiles_are_full_and_their_cores_cover_once(shape, size, overlap):
    covered = np.zeros(shape, int)
    sides = (size, size) if isinstance(size, int) else size
    for tile in tiles(shape, size, overlap):
        assert (tile.height, tile.width) == (min(sides[0], shape[0]), min(sides[1], shape[1]))
        assert 0 <= tile.row <= tile.core[0].start < tile.core[0].stop <= tile.row + tile.height <= shape[0]
        assert 0 <= tile.col <= tile.core[1].start < tile.core[1].stop <= tile.col + tile.width <= shape[1]
        covered[tile.core] += 1
    assert (covered == 1).all()


def test_tiles_by_hand():
    assert [(t.row, t.core[0]) for t in tiles((10, 4), 4, 0.25)] == [(0, slice(0, 3)), (3, slice(3, 6)), (6, slice(6, 10))]


def test_an_overlap_of_a_half_is_refused():
    for overlap in (-0.1, 0.5):
        with pytest.raises(GridError, match="at least 0 and less than 0.5"):
            tiles((10, 10), 4, overlap)
