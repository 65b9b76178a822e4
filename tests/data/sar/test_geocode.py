from dataclasses import replace

import numpy as np
import pytest
from pyproj import Transformer

from skysense_cli.data.sar import terrain
from skysense_cli.data.sar.geocode import Surface


def test_grid_points_map_back_to_themselves(annotation):
    grid = annotation.grid
    for crs in ("EPSG:4326", "EPSG:32631"):
        x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(grid.lon, grid.lat)
        found = Surface(grid).places(x, y, crs)
        miss = np.hypot((found.line - grid.line) * 10, (found.sample - grid.sample) * 10)
        assert miss.max() < 1e-3  # metres, where 1 is asked for
        assert np.abs(found.height - grid.height).max() < 1e-3


def test_inside_a_cell_it_is_bilinear(annotation):
    surface, rng = Surface(annotation.grid), np.random.default_rng(0)
    back = Transformer.from_crs(surface.frame, "EPSG:4326", always_xy=True)
    for r, c in zip(rng.integers(0, 9, 40), rng.integers(0, 20, 40), strict=True):
        v, u = rng.random(2)
        weights = np.array([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u])

        def mixed(values, r=r, c=c, weights=weights):
            return (weights * values[[r, r, r + 1, r + 1], [c, c + 1, c, c + 1]].T).T.sum(axis=0)

        lon, lat = back.transform(*mixed(surface.points).T)
        found = surface.places(np.array([lon]), np.array([lat]), "EPSG:4326")
        assert abs(found.line[0] - mixed(annotation.grid.line)) < 1e-3 and abs(found.sample[0] - mixed(annotation.grid.sample)) < 1e-3


def test_it_agrees_with_the_orbit_where_the_surface_is_smooth(annotation):
    surface, rng = Surface(annotation.grid), np.random.default_rng(1)
    lon, lat = rng.uniform(2.2, 4.6, 4000), rng.uniform(44.9, 46.1, 4000)
    found = surface.places(lon, lat, "EPSG:4326")
    line, sample = terrain.places(annotation, lon, lat, found.height)
    miss = np.hypot(line - found.line, sample - found.sample)
    assert np.median(miss) < 0.5 and miss.max() < 4  # pixels; between points of other heights a straight line is no more exact


def test_the_heights_of_the_grid_show_relief_at_its_points_and_none_on_a_slope(annotation):
    grid = annotation.grid
    slope = grid.line / 500 + grid.sample / 1000
    even = Surface(replace(grid, height=slope))
    assert even.misfit.max() < 1e-9 and even.relief(grid.line, grid.sample) < 1e-9
    hill = slope.copy()
    hill[4, 9] += 40
    surface = Surface(replace(grid, height=hill))
    assert surface.misfit[4, 9] == pytest.approx(40) and surface.misfit[4, 8] == pytest.approx(20)  # its neighbours see half of it
    line, sample = np.array([grid.line[4, 9] - 100]), np.array([grid.sample[4, 9] + 100])  # in a cell with the point at a corner
    assert surface.relief(line, sample) == pytest.approx(40)
    assert surface.relief(line, np.array([grid.sample[4, 13]])) < 1e-9 == surface.relief(np.array([np.nan]), sample) + 1e-9
    real = Surface(grid)
    assert real.relief(grid.line, grid.sample) == pytest.approx(
        563, abs=1
    )  # by hand from the table: 1202 m between 503 and 559, 1173 and 771


def test_outside_the_grid_there_is_no_place(annotation):
    found = Surface(annotation.grid).places(np.array([3.3, 9.0, np.nan, -170.0]), np.array([45.5, 45.5, 45.5, -80.0]), "EPSG:4326")
    assert np.isfinite(found.line).tolist() == [True, False, False, False] == np.isfinite(found.sample).tolist()


def test_the_antimeridian_is_no_border(annotation):
    grid = annotation.grid
    moved = replace(grid, lon=(grid.lon + 176.5 + 180) % 360 - 180)
    assert moved.lon.min() < -178 and moved.lon.max() > 178
    found = Surface(moved).places(moved.lon, moved.lat, "EPSG:4326")
    assert np.abs(found.line - grid.line).max() < 1e-3 and np.abs(found.sample - grid.sample).max() < 1e-3
