"""Opening and reading rasters."""

import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from skysense_cli.errors import GridError, SkySenseError
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.opening import open_raster
from skysense_cli.geo.raster import describe, read_on_grid, read_small, read_window

UTM = "EPSG:32631"
SOUTH = "EPSG:32733"
GRID = make_grid(500000, 5600000, 10, 30, 40, UTM)
RNG = np.random.default_rng(0)


def put(path, pixels, grid=GRID, **profile):
    """A plain GeoTIFF of (C, H, W)."""
    settings = {"driver": "GTiff", "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype.name}
    place = {"crs": grid.crs.to_wkt() if grid.crs else None, "transform": grid.affine} if grid is not None else {}
    with rasterio.open(path, "w", **{**settings, **place, **profile}) as file:
        file.write(pixels)
    return path


def counts(bands=3, height=30, width=40):
    return RNG.integers(1, 10000, (bands, height, width)).astype(np.uint16)


def test_a_raster_on_the_grid_is_read_as_it_is(tmp_path):
    pixels = counts()
    path = put(tmp_path / "a.tif", pixels, nodata=0)
    for method in ("nearest", "bilinear", "cubic", "average"):
        found, data = read_on_grid(path, GRID, [3, 1], resampling=method)
        assert found.dtype == np.uint16 and data.all()
        np.testing.assert_array_equal(found, pixels[[2, 0]])


def test_odd_origins_and_the_southern_hemisphere_are_on_the_grid_too(tmp_path):
    for crs, left, top in ((SOUTH, 300003.7, 9999990.3), (UTM, 500001.1, 120.9)):
        scene = make_grid(left, top, 10, 30, 40, crs)
        pixels = counts()
        path = put(tmp_path / "a.tif", pixels, scene)
        found, data = read_on_grid(path, scene[5:20, 7:19], [1])
        assert found.dtype == np.uint16 and data.all()
        np.testing.assert_array_equal(found[0], pixels[0, 5:20, 7:19])


def test_outside_the_raster_there_is_no_data(tmp_path):
    pixels = counts()
    path = put(tmp_path / "a.tif", pixels, nodata=7)
    around = make_grid(500000 - 50, 5600000 + 30, 10, 40, 60, UTM)
    found, data = read_on_grid(path, around, [1])
    expected = np.full((40, 60), 7, np.uint16)
    expected[3:33, 5:45] = pixels[0]
    np.testing.assert_array_equal(found[0], expected)
    np.testing.assert_array_equal(data[0], expected != 7)
    for far in (make_grid(0, 0, 10, 4, 4, UTM), make_grid(3, 5, 7, 4, 4, UTM), make_grid(500000, 5600000, 10, 4, 4, "EPSG:32601")):
        for method in ("nearest", "bilinear"):
            found, data = read_on_grid(path, far, [1, 2], resampling=method)
            assert found.shape == (2, 4, 4) and not data.any()


def test_a_nested_20_m_band_is_refined_without_touching_the_10_m_band(tmp_path):
    fine, coarse = counts(1), counts(1, 15, 20)
    coarse_grid = make_grid(500000, 5600000, 20, 15, 20, UTM)
    found, _ = read_on_grid(put(tmp_path / "b8a.tif", coarse, coarse_grid, nodata=0), GRID, [1], resampling="bilinear")
    assert found.dtype == np.float32
    block = coarse[0, 3:5, 4:6].astype(float)
    assert found[0, 7, 9] == pytest.approx((block * np.array([[9, 3], [3, 1]]) / 16).sum())
    ten, _ = read_on_grid(put(tmp_path / "b02.tif", fine, GRID, nodata=0), GRID, [1], resampling="bilinear")
    np.testing.assert_array_equal(ten, fine)


def test_a_window_of_a_nested_band_does_not_depend_on_the_window(tmp_path):
    path = put(tmp_path / "a.tif", counts(1, 15, 20), make_grid(500000, 5600000, 20, 15, 20, UTM))
    whole, _ = read_on_grid(path, GRID, [1], resampling="bilinear")
    part, _ = read_on_grid(path, GRID[7:13, 9:22], [1], resampling="bilinear")
    np.testing.assert_array_equal(part, whole[:, 7:13, 9:22])


def test_a_shift_moves_the_scene_east_and_north(tmp_path):
    pixels = counts(1)
    path = put(tmp_path / "a.tif", pixels)
    found, data = read_on_grid(path, GRID, [1], shift_m=(20, 30))
    np.testing.assert_array_equal(found[0, :-3, 2:], pixels[0, 3:, :-2])
    assert not data[0, -3:].any() and not data[0, :, :2].any()
    half, _ = read_on_grid(path, GRID, [1], shift_m=(5, 0), resampling="bilinear")
    assert half[0, 4, 6] == pytest.approx(pixels[0, 4, 5:7].mean())


def test_a_function_is_applied_before_resampling(tmp_path):
    decibels = RNG.uniform(-25, 0, (1, 30, 40)).astype(np.float32)
    path = put(tmp_path / "s1.tif", decibels)
    found, _ = read_on_grid(path, make_grid(500000, 5600000, 20, 15, 20, UTM), [1], resampling="average", before=lambda db: 10 ** (db / 10))
    blocks = (10 ** (decibels[0] / 10)).reshape(15, 2, 20, 2).mean((1, 3))
    np.testing.assert_allclose(found[0], blocks, rtol=1e-5)


def test_nodata_can_be_declared_overruled_and_ignored(tmp_path):
    pixels = counts(2)
    pixels[0, 0, 0], pixels[0, 1, 1] = 0, 9
    path = put(tmp_path / "a.tif", pixels, nodata=0)
    assert not read_on_grid(path, GRID, [1])[1][0, 0, 0]
    overruled = read_on_grid(path, GRID, [1], nodata=9)[1]
    assert overruled[0, 0, 0] and not overruled[0, 1, 1]
    assert read_on_grid(path, GRID, [1], nodata=float("nan"))[1].all()
    assert read_on_grid(path, GRID, [1], nodata=-9999)[1].all()


def test_nan_is_never_data(tmp_path):
    pixels = RNG.normal(size=(1, 30, 40)).astype(np.float32)
    pixels[0, 3, 3] = np.nan
    assert not read_on_grid(put(tmp_path / "a.tif", pixels), GRID, [1])[1][0, 3, 3]


def test_alpha_and_mask_bands_are_honoured(tmp_path):
    pixels = RNG.integers(1, 255, (4, 30, 40)).astype(np.uint8)
    pixels[3] = 255
    pixels[3, 5:9, 5:9] = 0
    path = put(tmp_path / "rgba.tif", pixels, photometric="RGB", alpha="YES")
    assert describe(path).colors[3] == ColorInterp.alpha.name
    for method in ("nearest", "bilinear"):
        found, data = read_on_grid(path, GRID, [1, 2, 3], resampling=method)
        np.testing.assert_array_equal(data, np.broadcast_to(pixels[3] > 0, (3, 30, 40)))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = put(tmp_path / "masked.tif", pixels[:3])
        with rasterio.open(path, "r+") as file:
            file.write_mask(pixels[3])
    np.testing.assert_array_equal(read_on_grid(path, GRID, [2])[1][0], pixels[3] > 0)
    half = make_grid(500000, 5600000, 20, 15, 20, UTM)
    _, data = read_on_grid(path, half, [2], resampling="average")
    np.testing.assert_array_equal(data[0], (pixels[3] > 0).reshape(15, 2, 20, 2).any((1, 3)))


def test_describe_tells_the_header(tmp_path):
    path = put(tmp_path / "a.tif", counts(2), nodata=0)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("B02", "B03")
        file.update_tags(TIFFTAG_DATETIME="2021:03:04 10:30:21")
    info = describe(path)
    assert (info.crs, info.shape, info.count, info.dtype, info.nodata, info.gsd) == (UTM, (30, 40), 2, "uint16", (0, 0), (10, 10))
    assert info.descriptions == ("B02", "B03") and info.tags["TIFFTAG_DATETIME"] == "2021:03:04 10:30:21"
    assert info.grid == GRID


def test_a_small_copy_has_only_values_of_the_raster(tmp_path):
    pixels = counts(1, 600, 400) // 1000 * 7
    small = read_small(put(tmp_path / "a.tif", pixels, None), [1], 100)
    assert small.shape == (1, 100, 67) and set(np.unique(small)) <= set(np.unique(pixels))


def test_a_raster_without_a_place_is_read_by_pixels_only(tmp_path):
    pixels = counts(1)
    nowhere = GeoBox((30, 40), Affine.identity(), None)
    path = put(tmp_path / "a.png", pixels, None, driver="PNG")
    assert describe(path).crs == ""
    np.testing.assert_array_equal(read_on_grid(path, nowhere, [1])[0], pixels)
    refused(path, lambda: read_on_grid(path, GRID, [1]), "has no CRS, but the grid it is read on has EPSG:32631")


def test_ground_control_points_are_no_grid(tmp_path):
    points = [GroundControlPoint(0, 0, 4, 51), GroundControlPoint(0, 40, 5, 51), GroundControlPoint(30, 0, 4, 50)]
    path = put(tmp_path / "grd.tif", counts(1), None, gcps=points, crs="EPSG:4326")
    refused(path, lambda: read_on_grid(path, GRID, [1]), "placed by 3 ground control points only; geocode it")


# what is refused, always by name


def refused(path, action, words, kind=GridError):
    with pytest.raises(kind, match=words) as caught:
        action()
    assert str(path) in str(caught.value)


def test_a_truncated_file_names_file_band_and_window(tmp_path):
    path = put(tmp_path / "a.tif", counts(3, 300, 400), None, interleave="band", compress="deflate")
    path.write_bytes(path.read_bytes()[:250_000])
    refused(path, lambda: read_window(path, [3, 2], (slice(10, 60), slice(0, 40))), r"band 3, rows 10-59, columns 0-39 cannot be read \(")


def test_a_band_that_is_not_there_is_refused(tmp_path):
    path = put(tmp_path / "a.tif", counts(2))
    for number in (0, 3):
        refused(path, lambda: read_on_grid(path, GRID, [number]), f"has no band {number}, it has 2")


# collections of damaged rasters


def read_somehow(path):
    """Header, first band, and the corner on its own grid; a failure must be ours and name the file."""
    try:
        info = describe(path)
        with open_raster(path) as dataset:
            read_window(dataset, [1], (slice(0, min(info.shape[0], 512)), slice(0, min(info.shape[1], 512))))
        read_on_grid(path, info.grid[: min(64, info.shape[0]), : min(64, info.shape[1])], [1], resampling="bilinear")
    except SkySenseError as error:
        assert str(path) in str(error)  # noqa: PT017
        return False
    return True


def test_malformed_public_rasters_are_read_or_refused_by_name(badinput_dir):
    files = [
        path for path in sorted((badinput_dir / "raster").rglob("*")) if path.suffix in {".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".h5"}
    ]
    readable = {path.name for path in files if read_somehow(path)}
    assert len(files) > 150 and {"utm.tif", "cog_uint8_rgb_mask.tif", "RGBA.uint16.tif"} <= readable
    assert not any(name.endswith((".vrt", ".h5")) for name in readable)


def test_generated_hostile_rasters_are_read_or_refused_by_name(badinput_dir, tmp_path):
    subprocess.run([sys.executable, badinput_dir / "make_bad.py", tmp_path, "--only", "raster"], check=True, capture_output=True)
    files = [path for path in sorted((tmp_path / "raster").rglob("*")) if path.is_file() and path.suffix not in {".xml", ".json", ".txt"}]
    assert len(files) > 40
    for path in files:
        read_somehow(path)
