"""No seam on any grid and around any hole: labels of the command equal a blend of the whole scene by the obvious way,
pixel for pixel, and the map lies where the scene lies."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer

from skysense_cli.data.dataset import Input
from skysense_cli.data.scenes import SceneOptions, open_scene
from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.predict_map import open_prediction
from skysense_cli.recipe.load import load_recipe
from skysense_cli.recipe.parts import SceneInput, bind

SHAPE, DAY = (61, 90), 90  # of 1 April, counted from 0


@pytest.fixture(scope="module")
def home(tmp_path_factory, scene_kit):
    """A bundle, the numbers of a scene, and its labels by the slow way."""
    home = tmp_path_factory.mktemp("seams")
    scene_kit.write_bundle(home / "bundle")
    return home


@pytest.fixture(scope="module")
def plain(home, scene_kit):
    """(numbers, labels) of a scene without a hole."""
    pixels = scene_kit.numbers(*SHAPE)
    return pixels, labels_of(scene_kit, home, pixels, np.ones(SHAPE, bool))


def labels_of(kit, home, pixels, valid, **tiles):
    scores = kit.whole_blend(load_bundle(home / "bundle"), pixels, valid, day=DAY, **tiles)
    best = np.sort(scores, axis=0)
    assert (best[-1] - best[-2])[valid].min() > 1e-6, "no two classes are alike anywhere, so rounding cannot decide"
    return np.where(valid, scores.argmax(axis=0), 255)


def run(kit, home, tmp_path, pixels, *words, **scene):
    """(labels (H, W), profile of the map, profile of the scene)."""
    path = kit.write_scene(tmp_path / "20210401.tif", pixels, **scene)
    found = kit.command(home / "bundle", path, "--out", tmp_path / "maps", *words)
    assert found.exit_code == 0, f"{found.output} {found.exception}"
    with rasterio.open(path) as file:
        made = kit.mapped(tmp_path / "maps" / "20210401.tif")
        return made[0][0], made[1], file.profile


# grids

AT = {
    "north": ("EPSG:32631", 4.1, 50.7, 10.0),
    "south": ("EPSG:32735", 27.3, -26.1, 10.0),
    "mercator": ("EPSG:3395", 4.1, 50.7, 15.75),  # 10 m on the ground
    "arctic": ("EPSG:3413", -45.0, 78.0, 10.0),
    "antarctic": ("EPSG:3031", 10.0, -74.0, 10.0),
    "antimeridian": ("EPSG:32601", -179.9995, -16.0 + 81, 10.0),  # its west lies beyond 180
    "feet": ("EPSG:2263", -74.0, 40.7, 32.81),
}


def grid_at(crs, lon, lat, gsd):
    """A transform whose middle lies about there."""
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
    return Affine(gsd, 0, round(x / gsd) * gsd - SHAPE[1] // 2 * gsd, 0, -gsd, round(y / gsd) * gsd + SHAPE[0] // 2 * gsd)


@pytest.mark.parametrize("place", AT)
def test_labels_and_lattice_are_kept_on_grids_in_true_metres(home, scene_kit, plain, tmp_path, place):
    crs, *where = AT[place]
    labels, made, scene = run(scene_kit, home, tmp_path, plain[0], crs=crs, transform=grid_at(crs, *where))
    np.testing.assert_array_equal(labels, plain[1])
    assert made["transform"] == scene["transform"] and made["crs"] == scene["crs"]


@pytest.mark.parametrize(
    ("crs", "lon", "lat", "gsd", "message"),
    [
        ("EPSG:4326", 4.1, 50.7, 0.0001, r"is in degrees, its pixels are 7.06 x 11.1 m on the ground. Say scene_gsd: resample"),
        ("EPSG:4326", 180.0, -16.0, 0.0001, "is in degrees"),
        ("EPSG:3857", 4.1, 50.7, 10.0, r"has 10 m pixels in EPSG:3857, which are 6.3\d m on the ground, the bundle was trained on 10 m"),
        ("EPSG:32631", 4.1, 50.7, 20.0, "has 20 m pixels, the bundle was trained on 10 m ones"),
    ],
)
def test_pixels_that_are_not_the_bundles_are_refused_and_taken_as_they_are_when_asked(
    home, scene_kit, plain, tmp_path, crs, lon, lat, gsd, message
):  # fmt: skip
    grid = Affine(gsd, 0, lon - 45 * gsd, 0, -gsd, lat + 30 * gsd) if crs == "EPSG:4326" else grid_at(crs, lon, lat, gsd)
    path = scene_kit.write_scene(tmp_path / "20210401.tif", plain[0], crs=crs, transform=grid)
    refused = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps")
    assert refused.exit_code != 0
    with pytest.raises(type(refused.exception), match=message):
        raise refused.exception
    assert str(path) in str(refused.exception) and not (tmp_path / "maps").exists()
    labels, made, scene = run(scene_kit, home, tmp_path, plain[0], "--set", "scene_gsd=as_is", crs=crs, transform=grid)
    np.testing.assert_array_equal(labels, plain[1])
    assert made["transform"] == scene["transform"] and made["crs"] == scene["crs"]


@pytest.mark.parametrize(
    ("crs", "grid", "target"),
    [
        ("EPSG:4326", Affine(0.0001, 0, 179.9955, 0, -0.0001, -15.997), "EPSG:327"),  # across 180
        ("EPSG:4326", Affine(0.0007, 0, 20.0, 0, -0.0001, 85.003), "EPSG:5041"),
        ("EPSG:32631", Affine.translation(574_680, 5_622_440) @ Affine.rotation(20) @ Affine.scale(10, -10), "EPSG:32631"),
    ],
    ids=["antimeridian", "near the pole", "rotated"],
)
def test_other_grids_are_resampled_north_up_without_a_seam(home, scene_kit, plain, tmp_path, crs, grid, target):
    path = scene_kit.write_scene(tmp_path / "20210401.tif", plain[0], crs=crs, transform=grid)
    refused = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps")
    assert refused.exit_code != 0 and "scene_gsd: resample" in str(refused.exception) and str(path) in str(refused.exception)
    labels, made, _ = run(scene_kit, home, tmp_path, plain[0], "--set", "scene_gsd=resample", crs=crs, transform=grid)
    assert made["crs"].to_string().startswith(target) and made["transform"].a == 10 and made["transform"].e == -10
    loaded = load_bundle(home / "bundle")
    seen = loaded.inputs["s2"]
    entry = SceneInput(bind("data/sources", "folder", {"path": str(path), "pattern": r"(?P<date>\d{8}).tif"}), bind("data/clouds", "none"))
    inputs = {"s2": Input(seen.sensor, seen.bands, 10.0, seen.mean, seen.std)}
    scene = open_scene({"s2": entry}, inputs, "s2", 40.0, SceneOptions("resample"))
    series = scene.strip(0, scene.units[0])["s2"]
    height, width = labels.shape
    assert scene.grid.shape == (height, width)
    valid = series.valid[0, :height, :width]
    expected = scene_kit.whole_blend(loaded, series.pixels[0, :, :height, :width], valid, day=DAY).argmax(axis=0)
    np.testing.assert_array_equal(labels == 255, ~valid)
    np.testing.assert_array_equal(labels[valid], expected[valid])
    assert 0.4 < valid.mean() <= 1


def test_a_scene_whose_first_row_is_the_southernmost_is_mapped_north_up(home, scene_kit, plain, tmp_path):
    labels, made, _ = run(scene_kit, home, tmp_path, plain[0][:, ::-1], transform=Affine(10, 0, 574_680, 0, 10, 5_622_440))
    np.testing.assert_array_equal(labels, plain[1])
    assert made["transform"] == Affine(10, 0, 574_680, 0, -10, 5_622_440 + 10 * SHAPE[0])


# holes


def wedge():
    empty = np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1])) < 50
    empty[40, 30] = empty[50:61, 70:75] = True
    return empty


@pytest.mark.parametrize("kind", ["zeros without nodata", "declared nodata", "nan", "nan declared", "per band"])
@pytest.mark.parametrize("empty", [wedge(), np.add.outer(np.arange(61), np.zeros(90)) < 44], ids=["wedge", "whole rows of tiles"])
def test_holes_are_nodata_to_the_pixel_and_leave_no_seam(home, scene_kit, tmp_path, kind, empty):
    pixels = scene_kit.numbers(*SHAPE)
    stored, nodata = np.where(empty, 0, pixels), None
    if kind == "declared nodata":
        pixels, nodata = np.where(empty, 65_000, pixels).astype(np.uint16), 65_000
    elif kind.startswith("nan"):
        pixels, nodata = np.where(empty, np.nan, pixels).astype(np.float32), np.nan if kind == "nan declared" else None
    elif kind == "per band":  # one band alone without a number is an ordinary dark pixel
        pixels, nodata = stored.copy(), 0
        pixels[3, 5:30, 60:80] = pixels[7, 55:58] = 0
        stored = np.where(empty, 0, np.maximum(pixels, 1))
    else:
        pixels = stored
    labels, _, _ = run(scene_kit, home, tmp_path, pixels.astype(pixels.dtype), nodata=nodata)
    np.testing.assert_array_equal(labels == 255, empty)
    np.testing.assert_array_equal(labels, labels_of(scene_kit, home, stored, ~empty))


def test_a_scene_without_any_data_is_a_map_without_any(home, scene_kit, tmp_path):
    labels, made, _ = run(scene_kit, home, tmp_path, np.zeros((10, *SHAPE), np.uint16))
    assert (labels == 255).all() and labels.shape == SHAPE and made["nodata"] == 255


@pytest.mark.parametrize(("tile", "overlap", "batch"), [(120, 0.0, 1), (200, 0.45, 5), (2000, 0.25, 8)])
def test_tiles_of_any_size_blend_as_they_should(home, scene_kit, plain, tmp_path, tile, overlap, batch):
    words = ["--set", f"tiles.size_m={tile}", "--overlap", overlap, "--batch", batch]
    labels, _, _ = run(scene_kit, home, tmp_path, plain[0], *words)
    valid = np.ones(SHAPE, bool)
    np.testing.assert_array_equal(labels, labels_of(scene_kit, home, plain[0], valid, tile_units=tile // 40, overlap=overlap))


# every kind of map


def kinds_of(scores):
    """What is written of (K, H, W) float64 scores, by the formulas of the guide."""
    shares = np.exp(scores - scores.max(axis=0))
    shares /= shares.sum(axis=0)
    ranked = np.sort(shares, axis=0)[::-1]
    entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=0) / np.log(len(shares))
    return {"probability": shares, "confidence": ranked[:1], "margin": (ranked[0] - ranked[1])[None], "entropy": entropy[None]}


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(("place", "hole"), [("south", "wedge"), ("mercator", "nan"), ("antarctic", "rows"), ("antimeridian", "wedge")])
def test_every_kind_of_map_equals_the_blend_around_holes(home, scene_kit, tmp_path, place, hole, dtype):
    empty = np.add.outer(np.arange(61), np.zeros(90)) < 44 if hole == "rows" else wedge()
    pixels = np.where(empty, 0, scene_kit.numbers(*SHAPE))
    given = np.where(empty, np.nan, pixels).astype(np.float32) if hole == "nan" else pixels.astype(np.uint16)
    crs, *where = AT[place]
    path = scene_kit.write_scene(tmp_path / "20210401.tif", given, crs=crs, transform=grid_at(crs, *where))
    words = ["--what", "class,probability,confidence,margin,entropy", "--set", f"write.dtype={dtype}"]
    found = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps", *words)
    assert found.exit_code == 0, f"{found.output} {found.exception}"
    expected = kinds_of(scene_kit.whole_blend(load_bundle(home / "bundle"), pixels, ~empty, day=DAY))
    for kind, values in expected.items():
        made, profile, _ = scene_kit.mapped(tmp_path / "maps" / f"20210401_{kind}.tif")
        assert made.shape == values.shape and profile["dtype"] == dtype and profile["transform"] == grid_at(crs, *where)
        nodata = np.isnan(made) if dtype == "float32" else made == 255
        np.testing.assert_array_equal(nodata, np.broadcast_to(empty, nodata.shape), err_msg=kind)
        shown = made * 0.005 if dtype == "uint8" else made
        np.testing.assert_allclose(shown[:, ~empty], values[:, ~empty], atol=0.0026 if dtype == "uint8" else 2e-5, rtol=0, err_msg=kind)


@pytest.mark.parametrize("options", [(160, 0.25, 8), (120, 0.0, 1), (200, 0.45, 5)], ids=["4 units", "apart", "5 units"])
@pytest.mark.parametrize(("place", "hole"), [("mercator", "wedge"), ("antarctic", "rows")])
def test_values_and_features_equal_the_blend_around_holes(home, scene_kit, tmp_path, place, hole, options):
    empty = np.add.outer(np.arange(61), np.zeros(90)) < 44 if hole == "rows" else wedge()
    pixels, (crs, *where), (tile, overlap, batch) = np.where(empty, 0, scene_kit.numbers(*SHAPE)), AT[place], options
    grid = grid_at(crs, *where)
    path = scene_kit.write_scene(tmp_path / "20210401.tif", pixels.astype(np.uint16), crs=crs, transform=grid)
    (tmp_path / "map.yaml").write_text(f"""
recipe: predict
version: 1
bundle: {home}/bundle
scene: {{s2: {{path: '{path}', date: 2021-04-01}}}}
output: {tmp_path}/map.tif
tiles: {{size_m: {tile}, overlap: {overlap}, batch: {batch}}}
write: {{what: [value, features]}}
""")
    loaded = load_bundle(home / "bundle")
    assert loaded.head is not None
    loaded.head.values = True  # what it gives is written as it is
    open_prediction(load_recipe(tmp_path / "map.yaml", "predict", ()), loaded).write(tmp_path / "map.tif", "digest")
    blend = {"tile_units": tile // 40, "overlap": overlap, "day": DAY}
    values, profile, _ = scene_kit.mapped(tmp_path / "map.tif")
    assert profile["transform"] == grid and profile["dtype"] == "float32"
    expected = scene_kit.whole_blend(loaded, pixels, ~empty, **blend)
    np.testing.assert_allclose(values, np.where(empty, np.nan, expected), rtol=0, atol=2e-5)
    features, profile, _ = scene_kit.mapped(tmp_path / "map_features.tif")
    np.testing.assert_allclose(profile["transform"][:6], (grid @ Affine.scale(2))[:6], rtol=0, atol=1e-9)
    assert str(profile["crs"]) == crs and features.shape == (16, 31, 45)
    np.testing.assert_allclose(features, scene_kit.whole_features(loaded, pixels, ~empty, **blend), rtol=0, atol=2e-6)


# many classes


def test_more_classes_than_a_byte_holds_are_two_bytes(scene_kit, plain, tmp_path):
    scene_kit.write_bundle(tmp_path / "bundle", classes=300)
    labels, made, scene = run(scene_kit, tmp_path, tmp_path, plain[0])
    assert made["dtype"] == "uint16" and made["nodata"] == 65_535 and made["transform"] == scene["transform"]
    valid = np.ones(SHAPE, bool)
    expected = scene_kit.whole_blend(load_bundle(tmp_path / "bundle"), plain[0], valid, day=DAY).argmax(axis=0)
    np.testing.assert_array_equal(labels, expected)
    assert labels.max() > 255
    with rasterio.open(tmp_path / "maps" / "20210401.tif") as file:
        assert '"299": "class 299"' in file.tags()["CLASS_NAMES"] and file.colormap(1)[299] == (43, 1, 90, 255)
