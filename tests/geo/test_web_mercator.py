"""Where a raster lies on the web map, and the way back to its own coordinates."""

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from skysense_cli.errors import GridError
from skysense_cli.geo.resample import resample
from skysense_cli.geo.web_mercator import RADIUS_M, lattice, web_place

GRIDS = {
    "utm at 60 N": GeoBox((300, 400), Affine(10, 0, 400_000, 0, -10, 6_650_000), "EPSG:32633"),
    "a whole tile": GeoBox((1098, 1098), Affine(100, 0, 199_980, 0, -100, 6_700_020), "EPSG:32633"),
    "degrees": GeoBox((200, 300), Affine(0.0003, 0, 15, 0, -0.0002, 60.05), "EPSG:4326"),
    "south up": GeoBox((200, 300), Affine(10, 0, 400_000, 0, 10, 6_640_000), "EPSG:32633"),
    "rotated": GeoBox((300, 200), Affine.translation(400_000, 6_650_000) * Affine.rotation(30) * Affine.scale(10, -10), "EPSG:32633"),
    "southern": GeoBox((200, 300), Affine(10, 0, 300_000, 0, -10, 6_200_000), "EPSG:32721"),
    "world mercator": GeoBox((200, 300), Affine(20, 0, 1_669_792, 0, -20, 8_380_000), "EPSG:3395"),
    "across the antimeridian": GeoBox((300, 300), Affine(30, 0, 327_705, 0, -30, 6_660_205), "EPSG:32601"),
    "longitudes beyond 180": GeoBox((200, 300), Affine(0.001, 0, 179.9, 0, -0.001, 60.05), "EPSG:4326"),
    "near the pole": GeoBox((300, 300), Affine(100, 0, 1_000_000, 0, -100, -1_000_000), "EPSG:3413"),
}


def lonlat_of(grid, column, row):
    x, y = grid.affine * (column, row)
    return Transformer.from_crs(grid.crs.to_wkt(), 4326, always_xy=True).transform(x, y)


def web_pixel(place, lon, lat):
    """Column and row on the web map's grid, by the formula of the sphere."""
    west = place.bounds[0]
    x = RADIUS_M * np.radians((lon - west) % 360)
    y = RADIUS_M * np.arctanh(np.sin(np.radians(lat)))
    return x / place.grid.affine.a, (place.grid.affine.f - y) / place.grid.affine.a


@pytest.mark.parametrize("name", GRIDS)
def test_a_painted_pixel_is_found_where_the_formula_says(name):
    grid = GRIDS[name]
    place = web_place(grid, 2048)
    for row, column in ((0, 0), (120, 77), (grid.shape[0] - 1, grid.shape[1] - 1)):
        pixels = np.zeros((1, *grid.shape), np.uint8)
        pixels[0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 9
        warped, _ = resample(pixels, np.ones(pixels.shape, bool), grid, place.grid, "nearest")
        rows, columns = np.nonzero(warped[0] == 9)
        middle = [(max(k - 1, 0) + min(k + 2, side)) / 2 for k, side in ((column, grid.shape[1]), (row, grid.shape[0]))]
        expected = web_pixel(place, *lonlat_of(grid, *middle))
        assert columns.mean() + 0.5 == pytest.approx(expected[0], abs=1), name
        assert rows.mean() + 0.5 == pytest.approx(expected[1], abs=1), name


@pytest.mark.parametrize("name", GRIDS)
def test_the_lattice_leads_back_to_the_rasters_own_coordinates(name):
    grid = GRIDS[name]
    place = web_place(grid, 2048)
    x, y = lattice(grid, place.grid)
    nodes, (height, width) = len(x), place.grid.shape
    rng = np.random.default_rng(0)
    for column, row in rng.uniform(0, 1, (20, 2)) * (grid.shape[1], grid.shape[0]):
        across, down = web_pixel(place, *lonlat_of(grid, column, row))
        across, down = across / width * (nodes - 1), down / height * (nodes - 1)
        left, above = min(int(across), nodes - 2), min(int(down), nodes - 2)
        r, s = across - left, down - above
        found = [
            (part[above, left] * (1 - r) + part[above, left + 1] * r) * (1 - s)
            + (part[above + 1, left] * (1 - r) + part[above + 1, left + 1] * r) * s
            for part in (x, y)
        ]
        assert np.hypot(*np.subtract(~grid.affine * tuple(found), (column, row))) < 0.2, name


def test_a_scene_across_the_antimeridian_is_in_one_piece():
    west, _, east, _ = web_place(GRIDS["across the antimeridian"], 2048).bounds
    assert -180 <= west < 180 < east < west + 1


def test_the_longer_side_is_bounded_and_small_maps_get_finer_pixels():
    assert max(web_place(GRIDS["a whole tile"], 500).grid.shape) == 500
    coarse, fine = web_place(GRIDS["degrees"], 2048), web_place(GRIDS["degrees"], 2048, finer=3)
    assert fine.grid.affine.a == pytest.approx(coarse.grid.affine.a / 3)


def test_the_globe_is_cut_where_web_mercator_ends():
    place = web_place(GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326"), 2048)
    assert place.cut
    assert place.bounds == pytest.approx((-180, -85.0511, 180, 85.0511), abs=1e-4)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (GeoBox((10, 10), Affine(100, 0, -500, 0, -100, 500), "EPSG:3413"), "around a pole"),
        (GeoBox((10, 10), Affine(100, 0, 100_000, 0, -100, 100_000), "EPSG:3413"), "beyond 85.05 degrees"),
        (GeoBox((10, 10), Affine.identity(), None), "not georeferenced"),
    ],
)
def test_what_a_web_map_cannot_show_is_refused(grid, message):
    with pytest.raises(GridError, match=message):
        web_place(grid, 512)
