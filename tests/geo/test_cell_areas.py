"""Areas of cells agree with pyproj's geodesic area of the whole outline, in every kind of map."""

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod, Transformer

from skysense_cli.errors import GridError
from skysense_cli.geo.cell_areas import CellAreas
from skysense_cli.geo.grid import window

WGS84 = Geod(ellps="WGS84")
GRIDS = {
    "utm at 60 N": GeoBox((1000, 1000), Affine(10, 0, 400_000, 0, -10, 6_650_000), "EPSG:32633"),
    "utm, far from its meridian": GeoBox((3000, 2000), Affine(50, 0, 199_980, 0, -50, 6_700_020), "EPSG:32633"),
    "degrees at 60 N": GeoBox((500, 1000), Affine(0.0002, 0, 15, 0, -0.0002, 60.05), "EPSG:4326"),
    "south up": GeoBox((500, 1000), Affine(0.0002, 0, 15, 0, 0.0002, 59.95), "EPSG:4326"),
    "longitudes beyond 180": GeoBox((500, 1000), Affine(0.0002, 0, 179.9, 0, -0.0002, 60.05), "EPSG:4326"),
    "web mercator at 60 N": GeoBox((1000, 1000), Affine(20, 0, 1_669_792, 0, -20, 8_400_000), "EPSG:3857"),
    "rotated": GeoBox((800, 600), Affine.translation(400_000, 6_650_000) * Affine.rotation(30) * Affine.scale(10, -10), "EPSG:32633"),
    "across the antimeridian": GeoBox((1000, 1000), Affine(10, 0, 327_705, 0, -10, 6_660_205), "EPSG:32601"),
    "around the pole": GeoBox((1000, 1000), Affine(100, 0, -50_000, 0, -100, 50_000), "EPSG:3413"),
}


def geodesic_area(grid, steps=200):
    """Of the outline, its edges cut up."""
    height, width = grid.shape
    share, zero = np.linspace(0, 1, steps, endpoint=False), np.zeros(steps)
    columns = np.concatenate([share, zero + 1, 1 - share, zero]) * width
    rows = np.concatenate([zero, share, zero + 1, 1 - share]) * height
    a, b, c, d, e, f = grid.affine[:6]
    to_degrees = Transformer.from_crs(grid.crs.to_wkt(), 4326, always_xy=True)
    return abs(WGS84.polygon_area_perimeter(*to_degrees.transform(a * columns + b * rows + c, d * columns + e * rows + f))[0])


@pytest.mark.parametrize("name", GRIDS)
def test_all_cells_together_have_the_geodesic_area_of_the_outline(name):
    assert CellAreas(GRIDS[name]).total == pytest.approx(geodesic_area(GRIDS[name]), rel=1e-6)


@pytest.mark.parametrize("name", GRIDS)
def test_a_corner_and_a_cell_between_the_nodes_have_theirs(name):
    grid = GRIDS[name]
    for row, column in ((0, 0), (333, 237), (grid.shape[0] - 1, grid.shape[1] - 1)):
        cell = window(grid, slice(row, row + 1), slice(column, column + 1))
        found = CellAreas(grid).of_rows(slice(row, row + 1))[0, column]
        assert found == pytest.approx(geodesic_area(cell, steps=2), rel=2e-5), (row, column)


def test_the_globe_in_degrees_has_the_area_of_the_ellipsoid():
    globe = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")
    assert CellAreas(globe).total == pytest.approx(510_065_621.724e6, rel=1e-9)


def test_a_cell_of_web_mercator_at_60_north_is_a_quarter_of_its_square():
    grid = GeoBox((3, 3), Affine(20, 0, 1_669_792, 0, -20, 8_399_738), "EPSG:3857")
    assert CellAreas(grid).of_rows(slice(1, 2))[0, 1] == pytest.approx(100, rel=0.01)


def test_a_grid_without_a_place_is_refused():
    with pytest.raises(GridError, match="without a CRS"):
        CellAreas(GeoBox((2, 2), Affine.identity(), None))
