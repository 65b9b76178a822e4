"""Pixels of one grid on another."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject

from skysense_cli.geo import resample as resampling
from skysense_cli.geo.crs import transformer
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.grid import window as place_of
from skysense_cli.geo.resample import resample, window_of

UTM = "EPSG:32631"
RNG = np.random.default_rng(0)


def holed(height=16, width=20, bands=2):
    pixels = RNG.integers(1, 10000, (bands, height, width)).astype(np.uint16)
    pixels[0, 2:4, 3:7] = 0
    pixels[-1, 0, -1] = 0
    pixels[:, -1, 0] = 0
    return pixels, pixels != 0


def by_gdal(tmp_path, pixels, source, grid, method, **scale):
    """What GDAL's warped VRT gives for each band as a file with nodata 0; float32, NaN without data."""
    place = {"crs": source.crs.to_wkt(), "transform": source.affine, "height": source.shape[0], "width": source.shape[1]}
    target = {"crs": grid.crs.to_wkt(), "transform": grid.affine, "height": grid.shape[0], "width": grid.shape[1], **scale}
    bands = []
    for band in pixels:
        path = tmp_path / "source.tif"
        with rasterio.open(path, "w", driver="GTiff", count=1, dtype=band.dtype.name, nodata=0, **place) as file:
            file.write(band, 1)
        with rasterio.open(path) as file:
            with WarpedVRT(file, resampling=Resampling[method], dtype="float32", nodata=np.nan, src_nodata=0, **target) as vrt:
                bands.append(vrt.read(1))
    return np.array(bands)


@pytest.mark.parametrize("ratio", [2, 3, 6])
def test_a_nested_coarser_grid_is_refined_exactly_as_gdal_does(tmp_path, ratio):
    pixels, data = holed()
    source = make_grid(499980, 5600040, 10 * ratio, 16, 20, UTM)
    grid = make_grid(499980 + 20 * ratio, 5600040 - 30 * ratio, 10, 12 * ratio, 14 * ratio, UTM)
    found, known = resample(pixels, data, source, grid, "bilinear")
    expected = by_gdal(tmp_path, pixels, source, grid, "bilinear")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(known, ~np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=3e-7)


def test_doubled_by_hand():
    pixels = np.array([[[10, 20], [30, 50]]], np.uint16)
    source, grid = make_grid(0, 40, 20, 2, 2, UTM), make_grid(0, 40, 10, 4, 4, UTM)
    found, known = resample(pixels, np.ones(pixels.shape, bool), source, grid, "bilinear")
    expected = [[10, 12.5, 17.5, 20], [15, 18.125, 24.375, 27.5], [25, 29.375, 38.125, 42.5], [30, 35, 45, 50]]
    np.testing.assert_array_equal(found[0], np.float32(expected))
    assert known.all()


@pytest.mark.parametrize("shift", [(0.3, -0.7), (12.5, 5), (-20, 30)])
@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_a_shift_is_as_gdal_does_it(tmp_path, shift, method):
    pixels, data = holed()
    source = make_grid(499980, 5600040, 10, 16, 20, UTM)
    grid = make_grid(499980 + shift[0], 5600040 + shift[1], 10, 16, 20, UTM)
    found, known = resample(pixels, data, source, grid, method)
    expected = by_gdal(tmp_path, pixels, source, grid, method)
    np.testing.assert_array_equal(known, ~np.isnan(expected))
    np.testing.assert_allclose(np.where(known, found, np.nan), expected, rtol=3e-7)


def test_average_is_the_mean_of_the_pixels_with_data():
    pixels, data = holed(12, 12)
    source, grid = make_grid(0, 120, 10, 12, 12, UTM), make_grid(0, 120, 30, 4, 4, UTM)
    found, known = resample(pixels, data, source, grid, "average")
    for band in range(2):
        for i in range(4):
            for j in range(4):
                block = (band, slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3))
                values = pixels[block][data[block]]
                assert known[band, i, j] == bool(values.size)
                if values.size:
                    assert found[band, i, j] == pytest.approx(values.mean(), rel=1e-6)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "cubic"])
def test_another_zone_is_warped_as_gdal_does(tmp_path, method):
    pixels, data = holed(60, 60, 1)
    source = make_grid(699960, 5600040, 10, 60, 60, UTM)
    x, y = transformer(UTM, "EPSG:32632").transform(700260, 5599740)
    grid = make_grid(round(x) - 150, round(y) + 150, 10, 30, 30, "EPSG:32632")
    found, known = resample(pixels, data, source, grid, method)
    expected = by_gdal(tmp_path, pixels, source, grid, method, XSCALE=1, YSCALE=1, tolerance=1e-9)
    both = known & ~np.isnan(expected)
    assert both.mean() > 0.9
    np.testing.assert_allclose(found[both], expected[both], rtol=1e-5)


def around(crs, gsd, height, width):
    """A grid whose middle is that of the 12 km at 500 km east and 5600 km north in UTM 31."""
    x, y = transformer(UTM, crs).transform(506_000, 5_594_000)
    return GeoBox((height, width), Affine(gsd, 0, x - gsd * width / 2, 0, -gsd, y + gsd * height / 2), crs)


OTHER_GRIDS = {
    "another zone": around("EPSG:32632", 9.7, 700, 900),
    "coarser": around("EPSG:32632", 17, 500, 600),
    "degrees": around("EPSG:4326", 8e-5, 600, 800),
}


@pytest.mark.parametrize("name", ["another zone", "degrees"])
def test_pixels_come_from_where_the_projection_says(name):
    """A raster of its own coordinates, read on another grid, gives those that PROJ gives for each pixel's centre."""
    grid, source = OTHER_GRIDS[name], make_grid(500_000, 5_600_000, 10, 1200, 1200, UTM)
    columns, rows = np.meshgrid(np.arange(1200.0) + 1, np.arange(1200.0) + 1)
    own = np.stack([columns, rows]).astype(np.float32)
    found, known = resample(own, np.ones(own.shape, bool), source, grid, "bilinear")
    a, _, left, _, e, top = grid.affine[:6]
    x, y = np.meshgrid(left + a * (np.arange(grid.shape[1]) + 0.5), top + e * (np.arange(grid.shape[0]) + 0.5))
    x, y = transformer(str(grid.crs), UTM).transform(x, y)
    expected = np.stack([(x - 500_000) / 10 + 0.5, (5_600_000 - y) / 10 + 0.5])
    inside = known.all(axis=0) & (expected > 1).all(axis=0) & (expected < 1200).all(axis=0)
    assert inside.mean() > 0.5
    assert abs(found - expected)[:, inside].max() < 2e-4  # what float32 has left of numbers up to 1200


@pytest.mark.parametrize("name", OTHER_GRIDS)
@pytest.mark.parametrize("method", ["nearest", "bilinear", "average"])
def test_numbers_on_another_grid_do_not_depend_on_how_it_is_cut(name, method, monkeypatch):
    monkeypatch.setattr(resampling, "LATTICE_PX", 256)  # so that these small grids meet several cells
    grid, source = OTHER_GRIDS[name], make_grid(500_000, 5_600_000, 10, 1200, 1200, UTM)
    pixels = np.random.default_rng(3).integers(1, 10_000, (1, 1200, 1200)).astype(np.uint16)
    data = pixels % 50 > 0

    def on(part):
        rows, columns = window_of(source, part)
        return resample(pixels[:, rows, columns], data[:, rows, columns], place_of(source, rows, columns), part, method)

    whole, known = on(grid)
    assert 0.3 < known.mean() <= 1
    for rows, columns in ((slice(0, 48), slice(0, 500)), (slice(101, 165), slice(37, 333)), (slice(250, 262), slice(250, 262))):
        part, seen = on(place_of(grid, rows, columns))
        np.testing.assert_array_equal(seen, known[:, rows, columns])
        difference = abs(part.astype(float) - whole[:, rows, columns])[seen]
        assert difference.max() <= (0 if method == "nearest" else 1e-3) and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average", "cubic"])
@pytest.mark.parametrize("gsd", [10, 33, 7])
def test_strips_of_a_scene_equal_the_whole(method, gsd):
    pixels, data = holed(80, 60)
    source = make_grid(699960, 5600040, 10, 80, 60, UTM)
    x, y = transformer(UTM, "EPSG:32632").transform(699960, 5600040)
    grid = make_grid(round(x) + 40, round(y) - 40, gsd, 400 // gsd, 300 // gsd, "EPSG:32632")
    whole, known = resample(pixels, data, source, grid, method)
    for top in range(0, grid.shape[0] - 4, 4):
        strip = grid[top : top + 4, :]
        window = window_of(source, strip)
        part = place_of(source, *window)
        found, seen = resample(pixels[:, window[0], window[1]], data[:, window[0], window[1]], part, strip, method)
        np.testing.assert_array_equal(seen, known[:, top : top + 4])
        np.testing.assert_allclose(found, whole[:, top : top + 4], rtol=1e-5)


def test_a_south_up_raster_is_turned():
    pixels = np.arange(12, dtype=np.uint16).reshape(1, 3, 4)
    source = GeoBox((3, 4), Affine(10, 0, 0, 0, 10, 0), UTM)
    found, known = resample(pixels, np.ones((1, 3, 4), bool), source, make_grid(0, 30, 10, 3, 4, UTM), "nearest")
    np.testing.assert_array_equal(found[0], pixels[0, ::-1])
    assert known.all()


@pytest.mark.parametrize("start", [-180, 0])
def test_a_raster_of_the_globe_is_read_across_its_own_seam(start):
    lons = start + np.arange(3600) * 0.1 + 0.05
    pixels = np.broadcast_to(np.abs((lons + 180) % 360 - 180), (1, 200, 3600)).astype(np.float32)
    source = GeoBox((200, 3600), Affine(0.1, 0, start, 0, -0.1, 10), "EPSG:4326")
    for lon in (180, 5, -60):
        epsg = 32660 if lon == 180 else 32600 + int((lon + 180) // 6) + 1
        x, y = transformer("EPSG:4326", f"EPSG:{epsg}").transform(lon, 5)
        grid = make_grid(x - 20000, y + 20000, 1000, 40, 40, f"EPSG:{epsg}")
        window = window_of(source, grid)
        part = place_of(source, *window)
        cut = pixels[:, window[0], window[1]]
        found, known = resample(cut, np.ones(cut.shape, bool), part, grid, "nearest")
        assert known.all()
        assert abs(found - abs(lon)).max() < 0.35


@pytest.mark.parametrize(("row", "column", "height", "width"), [(0, 0, 14, 18), (1, 0, 13, 17), (2, 3, 6, 5), (13, 17, 1, 1), (0, 1, 2, 1)])
def test_doubling_is_gdal_s_bilinear_bit_for_bit(row, column, height, width):
    pixels = np.random.default_rng(0).integers(0, 65536, (2, 7, 9)).astype(np.uint16)
    source = make_grid(500000, 5600000, 20, 7, 9, "EPSG:32631")
    grid = make_grid(500000 + 10 * column, 5600000 - 10 * row, 10, height, width, "EPSG:32631")
    found, data = resample(pixels, np.ones(pixels.shape, bool), source, grid, "bilinear")
    expected = np.empty((2, height, width), np.float32)
    reproject(pixels.astype(np.float32), expected, src_transform=source.affine, src_crs="EPSG:32631", dst_transform=grid.affine,
              dst_crs="EPSG:32631", resampling=Resampling.bilinear)  # fmt: skip
    assert found.dtype == np.float32 and np.array_equal(found, expected) and data.all()


@pytest.mark.parametrize("left", [179.995, -180.005])
def test_a_scene_across_the_antimeridian_has_no_hole_there(left):
    pixels = np.arange(1, 101, dtype=np.uint16)[None, None].repeat(60, 1)  # counts columns of 0.0001 degrees
    source = GeoBox((60, 100), Affine(0.0001, 0, left, 0, -0.0001, -16.0), "EPSG:4326")
    x, y = transformer("EPSG:4326", "EPSG:32701").transform(180.0, -16.003)
    grid = GeoBox((40, 60), Affine(10, 0, round(x) - 300, 0, -10, round(y) + 200), "EPSG:32701")
    for rows in (slice(0, 40), slice(7, 9), slice(39, 40)):
        found, data = resample(pixels, np.ones(pixels.shape, bool), source, grid[rows, :], "nearest")
        assert data.all() and (np.diff(found[0].astype(int), axis=1) >= 0).all()
        assert abs(int(found[0, 0, 30]) - 51) <= 2
