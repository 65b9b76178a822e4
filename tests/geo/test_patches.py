"""Polygons of class maps against GDAL's on the whole raster, shapely's rules for coverages, and counted pixels."""

import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine
from scipy import ndimage

from skysense_cli.errors import GridError
from skysense_cli.geo import patches as module
from skysense_cli.geo.cog import write_geotiff
from skysense_cli.geo.crs import transformed
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.ground import areas_m2, pixel_m, sides_m
from skysense_cli.geo.patches import patches

CRS, LEFT, TOP, GSD = "EPSG:32631", 574_680.0, 5_622_440.0, 10.0


def random_map(seed, shape, classes=4, softness=2.0):
    """Classes with soft outlines, and 255 where there is no data; softness 0 is noise."""
    random = np.random.default_rng(seed)
    fields = random.normal(0, 1, (classes, *shape))
    if softness:
        fields = np.stack([ndimage.gaussian_filter(field, softness) for field in fields])
    ids = fields.argmax(axis=0).astype(np.uint8)
    ids[ndimage.gaussian_filter(random.normal(0, 1, shape), 4) > 0.09] = 255
    return ids


def write(path, ids, crs=CRS, gsd=GSD, left=LEFT, top=TOP):
    write_geotiff(path, ids[None], make_grid(left, top, gsd, *ids.shape, crs), nodata=255, overviews="none")
    return path


def whole(ids):
    """What GDAL makes of all pixels at once: (polygons in pixels, classes)."""
    found = list(rasterio.features.shapes(ids, mask=ids != 255, connectivity=4))
    return np.array([shapely.geometry.shape(shape) for shape, _ in found], dtype=object), np.array([int(value) for _, value in found])


def made(path, **options):
    """(polygons in pixels, classes, areas)."""
    lots = list(patches(path, **options))
    polygons = np.concatenate([lot.polygons for lot in lots])
    back = ~Affine(GSD, 0, LEFT, 0, -GSD, TOP)
    pixels = shapely.transform(polygons, lambda points: points * [back.a, back.e] + [back.c, back.f])
    return pixels, np.concatenate([lot.ids for lot in lots]), np.concatenate([lot.area_m2 for lot in lots])


def corners_of(polygons, ids):
    """A form that is equal for equal polygons, wherever their rings begin."""
    return sorted((int(number), shapely.set_precision(shapely.normalize(polygon), 1e-6).wkt) for polygon, number in zip(polygons, ids))


@pytest.mark.parametrize("block", [16, 23, 1000])
@pytest.mark.parametrize("softness", [0.0, 0.7, 2.0])
def test_blocks_give_what_the_whole_raster_gives(tmp_path, monkeypatch, block, softness):
    monkeypatch.setattr(module, "BLOCK_PX", block)
    monkeypatch.setattr(module, "LOT", 7)
    for seed in range(2):
        ids = random_map(seed, (61, 75), softness=softness)
        pixels, classes, area = made(write(tmp_path / "map.tif", ids))
        expected, values = whole(ids)
        assert corners_of(pixels, classes) == corners_of(expected, values)
        assert area.sum() == pytest.approx((ids != 255).sum() * GSD**2, rel=0.002)  # the scale of UTM here is 0.9997


def test_shapes_that_wind_through_all_blocks_are_one_patch(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_PX", 8)
    ids = np.zeros((40, 41), np.uint8)
    ids[::2] = 1
    ids[1::4, -1] = ids[3::4, 0] = 1  # one snake of class 1
    ids[16:24, 16:24] = 255
    expected, values = whole(ids)
    pixels, classes, _ = made(write(tmp_path / "map.tif", ids))
    assert corners_of(pixels, classes) == corners_of(expected, values)


def test_a_map_of_one_class_is_one_rectangle(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_PX", 16)
    pixels, classes, area = made(write(tmp_path / "map.tif", np.full((50, 40), 3, np.uint8)))
    assert classes.tolist() == [3] and shapely.normalize(pixels[0]).equals_exact(shapely.normalize(shapely.box(0, 0, 40, 50)), 1e-6)
    assert shapely.get_num_coordinates(pixels[0]) == 5
    assert not list(patches(write(tmp_path / "none.tif", np.full((50, 40), 255, np.uint8))))


@pytest.mark.parametrize("block", [32, 500])
@pytest.mark.parametrize("softness", [0.7, 2.0])
def test_simplified_outlines_leave_no_gap_and_stay_near(tmp_path, monkeypatch, block, softness):
    monkeypatch.setattr(module, "BLOCK_PX", block)
    ids = random_map(5, (90, 80), softness=softness)
    path = write(tmp_path / "map.tif", ids)
    exact, _, _ = made(path)
    pixels, classes, area = made(path, simplify_m=15)
    assert len(pixels) == len(exact) and shapely.is_valid(pixels).all() and (shapely.get_type_id(pixels) == 3).all()
    assert shapely.coverage_is_valid(pixels)  # neighbours share their corners, none overlaps another
    points = shapely.get_num_coordinates(pixels).sum(), shapely.get_num_coordinates(exact).sum()
    assert points[0] < (0.9 if softness < 1 else 0.6) * points[1]
    everything, before = shapely.union_all(pixels), shapely.union_all(exact)
    assert everything.symmetric_difference(before).area < 0.05 * before.area  # towards nodata outlines move as well
    assert shapely.hausdorff_distance(shapely.union_all(pixels[classes == 1]), shapely.union_all(exact[classes_of(ids, exact) == 1])) < 4
    assert area.sum() == pytest.approx(everything.area * GSD**2, rel=0.002)


def classes_of(ids, polygons):
    inside = shapely.point_on_surface(polygons)
    return ids[np.floor(shapely.get_y(inside)).astype(int), np.floor(shapely.get_x(inside)).astype(int)]


def test_a_map_full_of_data_is_covered_to_its_edges(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_PX", 40)
    ids = random_map(7, (100, 90))
    ids[ids == 255] = 0
    pixels, _, _ = made(write(tmp_path / "map.tif", ids), simplify_m=20)
    assert shapely.area(pixels).sum() == pytest.approx(9000, abs=1e-6)
    assert shapely.union_all(pixels).symmetric_difference(shapely.box(0, 0, 90, 100)).area < 1e-6


def test_small_patches_go_and_what_surrounds_them_takes_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_PX", 16)
    ids = np.zeros((48, 48), np.uint8)
    ids[:, 32:] = 1
    ids[5:7, 5:7] = 2  # surrounded by 0
    ids[15:17, 15:18] = 2  # surrounded by 0, on a corner of four blocks
    ids[16, 16] = 1  # within that one
    ids[30:32, 31:33] = 2  # between 0 and 1
    ids[40, 10] = 255  # a hole without data
    ids[8:14, 36:42] = 3  # large enough
    pixels, classes, area = made(write(tmp_path / "map.tif", ids), min_area_m2=1000)
    order = classes.argsort()
    assert classes[order].tolist() == [0, 1, 3]
    zero, one, three = pixels[order]
    assert zero.area == 48 * 32 - 2 - 1 and len(zero.interiors) == 1 and not zero.covers(shapely.Point(10.5, 40.5))
    assert one.area == 48 * 16 - 2 - 36 and three.area == 36
    np.testing.assert_allclose(area, shapely.area(pixels) * 100, rtol=0.002)


def test_areas_are_those_on_the_ground(tmp_path):
    """A square of 0.02 degrees at 60 N: its sides along the parallels are half as long."""
    write_geotiff(tmp_path / "map.tif", np.ones((1, 20, 20), np.uint8), make_grid(10, 60.02, 0.001, 20, 20, "EPSG:4326"), nodata=255)
    (lot,) = patches(tmp_path / "map.tif")
    ellipsoid = (0.02 * 111_412) * (0.02 * 55_800 + 0.02 * 55_767) / 2  # metres of a degree at 60.01 N, by the handbook
    assert lot.area_m2[0] == pytest.approx(ellipsoid, rel=1e-3)
    wide = shapely.box(10, 60, 20, 61)  # geodesics between its corners would bend 15 km away from the parallels
    x, y = transformed("EPSG:4326", "EPSG:6933", np.array([10.0, 20]), np.array([60.0, 61]))  # equal areas, parallels straight
    belt = (x[1] - x[0]) * (y[1] - y[0])
    assert areas_m2(np.array([wide], dtype=object), "EPSG:4326")[0] == pytest.approx(belt, rel=1e-6)
    assert areas_m2(np.array([shapely.box(0, 0, 4, 5)], dtype=object), "")[0] == 20


def test_lengths_are_those_on_the_ground():
    corners = np.array([[[10, 60], [10.01, 60], [10.01, 60.01], [10, 60.01]]], float)
    np.testing.assert_allclose(sides_m(corners, "EPSG:4326"), [[558.0, 1114.1]], rtol=1e-3)
    np.testing.assert_allclose(sides_m(corners, ""), [[0.01, 0.01]])
    assert pixel_m(make_grid(500_000, 5e6, 10, 100, 100, "EPSG:32631")) == pytest.approx(10 / 0.9996, rel=1e-5)
    assert pixel_m(make_grid(0, 60.05, 0.001, 100, 100, "EPSG:4326")) == pytest.approx(np.sqrt(111.41 * 55.8), rel=1e-3)


def test_only_maps_of_classes_are_taken(tmp_path):
    write_geotiff(tmp_path / "map.tif", np.ones((1, 8, 8), np.float32), make_grid(0, 8, 1, 8, 8, CRS))
    with pytest.raises(GridError, match=r"map.tif: is float32; only a map of class numbers can be made polygons"):
        list(patches(tmp_path / "map.tif"))
