from dataclasses import replace

import numpy as np
import pytest

from skysense_cli.data.sar import terrain
from skysense_cli.errors import DataError


def test_the_points_of_the_geolocation_grid_come_out_where_the_processor_put_them(annotation):
    grid = annotation.grid
    line, sample = terrain.places(annotation, grid.lon, grid.lat, grid.height)
    assert np.abs(line - grid.line).max() < 0.25 and np.abs(sample - grid.sample).max() < 0.4  # pixels of 10 m
    assert abs((line - grid.line).mean()) < 0.1 and abs((sample - grid.sample).mean()) < 0.1


def test_at_the_time_found_the_satellite_passes_abreast(annotation):
    grid = annotation.grid
    point = [grid.lon[4:5, 9], grid.lat[4:5, 9], grid.height[4:5, 9]]
    line, _ = terrain.places(annotation, *point)
    orbit = annotation.orbit
    x, y, z = terrain.transformer(terrain.GEODETIC, terrain.EARTH_FIXED).transform(*point)
    target, time = np.stack([x, y, z], axis=-1)[0], line[0] * annotation.line_interval_s
    # a polynomial through all state vectors, instead of the pieces that the module uses
    path = [np.polynomial.Polynomial.fit(orbit.times_s, orbit.positions[:, k], 8) for k in range(3)]
    ranges = [np.linalg.norm([p(time + dt) - t for p, t in zip(path, target, strict=True)]) for dt in (-0.01, 0, 0.01)]
    assert ranges[1] < ranges[0] and ranges[1] < ranges[2]
    assert ranges[0] == pytest.approx(ranges[2], abs=0.02)  # the nearest point of the path is its vertex


@pytest.mark.parametrize("height", [200.0, -100.0, 2000.0])
def test_what_stands_higher_is_seen_nearer_by_its_height_over_the_tangent_of_the_incidence(annotation, height):
    grid = annotation.grid
    lon, lat, low, incidence = (np.ravel(one[2:8, 3:18]) for one in (grid.lon, grid.lat, grid.height, grid.incidence))
    before = terrain.places(annotation, lon, lat, low)
    after = terrain.places(annotation, lon, lat, low + height)
    shift_m = (after[1] - before[1]) * annotation.sample_spacing_m
    expected = -height / np.tan(np.deg2rad(incidence))
    assert np.abs(shift_m / expected - 1).max() < 0.01 + abs(height) * 1e-5  # the wave front is round, the tangent straight
    assert np.abs(after[0] - before[0]).max() < 0.5 + abs(height) / 500  # along the flight hardly anything moves


def test_a_hilltop_and_the_low_ground_that_hides_it_fall_together(annotation, away):
    grid = annotation.grid
    lon, lat, low, incidence, line = (one[4, 9] for one in (grid.lon, grid.lat, grid.height, grid.incidence, grid.line))
    top = away(lon, lat, line, 200 / np.tan(np.deg2rad(incidence)))
    lines, samples = terrain.places(annotation, np.array([lon, top[0]]), np.array([lat, top[1]]), np.array([low, low + 200]))
    assert abs(samples[1] - samples[0]) < 0.5 and abs(lines[1] - lines[0]) < 0.3  # pixels


def test_no_coordinate_no_place_and_an_orbit_that_ends_is_named(annotation):
    grid = annotation.grid
    line, sample = terrain.places(annotation, np.array([np.nan, 3.3]), np.array([45.0, 45.5]), np.array([0.0, np.nan]))
    assert np.isnan(line).all() and np.isnan(sample).all()
    orbit = annotation.orbit
    short = replace(annotation, orbit=type(orbit)(orbit.times_s[:5], orbit.positions[:5], orbit.velocities[:5]))
    with pytest.raises(DataError, match="^annotation.xml: its orbit runs from -64 to -24 s around the image, a place needs"):
        terrain.places(short, grid.lon[4], grid.lat[4], grid.height[4])
