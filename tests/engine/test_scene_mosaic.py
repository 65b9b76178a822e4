"""Several scenes, one map: the latest scene's pixel, or the mean by the distance to each border, as the slow way has it."""

import json
import resource

import numpy as np
import pytest
import rasterio
from affine import Affine
from distributed import LocalCluster
from odc.geo.geobox import GeoBox
from scipy import ndimage

from skysense_cli.engine.merging import Layer, Merger, grid_of_all
from skysense_cli.engine.score_map import ScoreMap
from skysense_cli.errors import DiskError, GridError, ItemsFailed
from skysense_cli.geo.cog import write_geotiff
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.raster import read_on_grid

SHIFT = (12, 40)  # rows and columns by which the second scene lies lower and further east


@pytest.fixture(scope="module")
def home(tmp_path_factory, scene_kit):
    """Two scenes of different dates that overlap, the later one with a hole, and their own maps."""
    home = tmp_path_factory.mktemp("mosaics")
    kit = scene_kit
    kit.write_bundle(home / "bundle")
    kit.write_scene(home / "late_20210601.tif", holed(kit.numbers(60, 80)))
    moved = Affine(10, 0, kit.LEFT + 10 * SHIFT[1], 0, -10, kit.TOP - 10 * SHIFT[0])
    kit.write_scene(home / "early_20210401.tif", kit.numbers(60, 80, seed=5), transform=moved)
    scenes = [home / "late_20210601.tif", home / "early_20210401.tif"]
    for name, more in (("own", []), ("shares", ["--what", "probability", "--set", "write.dtype=float32"])):
        assert kit.command(home / "bundle", *scenes, "--out", home / name, *more).exit_code == 0
    return home


def holed(pixels):
    pixels[:, 20:30, 50:60] = 0
    return pixels


def on_one(kit, folder, bands=1, empty=255):
    """The maps of both scenes on the grid of both: (2, bands, H, W)."""
    out = np.full((2, bands, 60 + SHIFT[0], 80 + SHIFT[1]), empty, np.float32)
    out[0, :, :60, :80] = kit.mapped(folder / "late_20210601.tif")[0]
    out[1, :, SHIFT[0] :, SHIFT[1] :] = kit.mapped(folder / "early_20210401.tif")[0]
    return out


def mosaic(kit, home, out, rule, *more, scenes=("early_20210401.tif", "late_20210601.tif")):
    found = kit.command(home / "bundle", *(home / name for name in scenes), "--out", out, "--mosaic", rule, *more)
    assert found.exit_code == 0, found.output
    return kit.mapped(out / "mosaic.tif")


@pytest.mark.parametrize("order", [("early_20210401.tif", "late_20210601.tif"), ("late_20210601.tif", "early_20210401.tif")])
def test_the_latest_scene_is_seen_and_the_map_of_scenes_says_so(home, scene_kit, tmp_path, order):
    pixels, profile, tags = mosaic(scene_kit, home, tmp_path, "latest", "--set", "mosaic.scene_map=true", scenes=order)
    late, early = on_one(scene_kit, home / "own")[:, 0]
    np.testing.assert_array_equal(pixels[0], np.where(late != 255, late, early))
    own = scene_kit.mapped(home / "own" / "late_20210601.tif")[1]
    assert profile["dtype"] == "uint8" and profile["crs"] == own["crs"]
    assert profile["transform"] == own["transform"]
    numbers, _, told = scene_kit.mapped(tmp_path / "mosaic_scene.tif")
    names = json.loads(told["CLASS_NAMES"])
    expected = np.where(late != 255, names_of(names, "late"), np.where(early != 255, names_of(names, "early"), 65535))
    np.testing.assert_array_equal(numbers[0], expected)
    assert tags["SKYSENSE_MOSAIC"] == "latest" and set(tags["SKYSENSE_SCENES"].split()) == {"late_20210601", "early_20210401"}
    item = json.loads((tmp_path / "mosaic.stac.json").read_text())
    assert item["properties"]["start_datetime"][:10] == "2021-04-01" and item["properties"]["end_datetime"][:10] == "2021-06-01"
    assert not list(tmp_path.glob(".*"))


def names_of(names, start):
    return next(int(number) for number, name in names.items() if name.startswith(start))


@pytest.mark.parametrize("feather_m", [50, 400])
def test_feathered_scores_are_the_mean_by_the_distance_to_each_border(home, scene_kit, tmp_path, feather_m):
    more = ["--what", "probability", "--set", "write.dtype=float32", "--set", f"mosaic.feather_m={feather_m}"]
    made, _, tags = mosaic(scene_kit, home, tmp_path / "shares", "feather", *more)
    labels, *_ = mosaic(scene_kit, home, tmp_path / "labels", "feather", "--set", f"mosaic.feather_m={feather_m}")
    shares = on_one(scene_kit, home / "shares", bands=3, empty=np.nan)
    weights = np.stack([border_weight(~np.isnan(one[0]), feather_m / 10) for one in shares])
    expected = (np.nan_to_num(shares) * weights[:, None]).sum(axis=0) / np.maximum(weights.sum(axis=0), 1e-12)
    nothing = weights.sum(axis=0) == 0
    assert nothing.any() and ((weights > 0).sum(axis=0) == 2).any()
    np.testing.assert_array_equal(np.isnan(made[0]), nothing)
    np.testing.assert_allclose(made[:, ~nothing], expected[:, ~nothing], atol=2e-6)
    clear = np.sort(expected, axis=0)[-1] - np.sort(expected, axis=0)[-2] > 1e-5
    np.testing.assert_array_equal(labels[0][clear & ~nothing], expected.argmax(axis=0)[clear & ~nothing])
    own = on_one(scene_kit, home / "own")
    alone = (own[0, 0] == 255) != (own[1, 0] == 255)
    np.testing.assert_array_equal(labels[0][alone], np.minimum(own[0, 0], own[1, 0])[alone])
    assert (labels[0][nothing] == 255).all() and tags["SKYSENSE_MOSAIC"] == f"feather over {feather_m} m"


def border_weight(data, feather_px):
    """By the definition: distance of each pixel to the nearest one without data, outside the scene counted as such."""
    padded = np.pad(data, 300)[:, :]
    distance = ndimage.distance_transform_edt(padded)[300:-300, 300:-300] - 0.5
    return np.where(data, np.clip(distance / feather_px, 1e-3, 1), 0)


def test_a_finished_mosaic_is_left_alone_and_the_same_recipe_gives_the_same_bytes(home, scene_kit, tmp_path):
    mosaic(scene_kit, home, tmp_path / "a", "feather")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    scenes = [home / "early_20210401.tif", home / "late_20210601.tif"]
    again = scene_kit.command(home / "bundle", *scenes, "--out", tmp_path / "a", "--mosaic", "feather")
    assert "already complete" in again.output
    run = scene_kit.command(tmp_path / "a" / "mosaic.recipe.yaml", "--out", tmp_path / "b" / "mosaic.tif")
    assert run.exit_code == 0, run.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before


@pytest.mark.parametrize("name", ["mosaic_scene.tif", "mosaic.png", "mosaic.stac.json"])
def test_a_file_of_another_beside_a_mosaic_is_refused_before_scenes_are_mapped(home, scene_kit, tmp_path, name):
    (tmp_path / name).write_text("theirs")
    scenes = [home / "late_20210601.tif", home / "early_20210401.tif"]
    more = ["--mosaic", "latest", "--set", "mosaic.scene_map=true"]
    for dry_run in ([], ["--dry-run"]):
        found = scene_kit.command(home / "bundle", *scenes, "--out", tmp_path, *more, *dry_run)
        assert f"{name} exists and is not skysense's; move it" in str(found.exception)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_scene_that_fails_is_named_and_keeps_the_mosaic_from_being_written(home, scene_kit, tmp_path):
    (tmp_path / "broken_20210501.tif").write_bytes(b"II*\0 nothing")
    scenes = [home / "early_20210401.tif", tmp_path / "broken_20210501.tif", home / "late_20210601.tif"]
    found = scene_kit.command(home / "bundle", *scenes, "--out", tmp_path / "maps")
    assert isinstance(found.exception, ItemsFailed) and found.exception.exit_code == 4
    assert "1 of 3 scenes failed (broken_20210501)" in str(found.exception) and f"{scenes[1]}: " in found.output
    assert sorted(path.name for path in (tmp_path / "maps").glob("*.tif")) == ["early_20210401.tif", "late_20210601.tif"]
    found = scene_kit.command(home / "bundle", *scenes, "--out", tmp_path / "maps", "--mosaic", "latest")
    assert "the mosaic needs all" in str(found.exception) and not (tmp_path / "maps" / "mosaic.tif").exists()
    scenes[1].unlink()
    scene_kit.write_scene(scenes[1], scene_kit.numbers(60, 80))
    found = scene_kit.command(home / "bundle", *scenes, "--out", tmp_path / "maps", "--mosaic", "latest")
    assert found.exit_code == 0 and (tmp_path / "maps" / "mosaic.tif").exists()


def test_scenes_outside_an_area_are_no_failures(home, scene_kit, tmp_path):
    elsewhere = Affine(10, 0, 600_000, 0, -10, 5_700_000)
    far = scene_kit.write_scene(tmp_path / "far_20210501.tif", scene_kit.numbers(40, 40), transform=elsewhere)
    with rasterio.open(home / "late_20210601.tif") as file:
        left, bottom, right, top = rasterio.warp.transform_bounds(file.crs, 4326, *file.bounds)
    found = scene_kit.command(
        home / "bundle", home / "late_20210601.tif", far, "--out", tmp_path / "maps", "--area", f"{left},{bottom},{right},{top}"
    )
    assert found.exit_code == 0, found.output
    assert [path.name for path in (tmp_path / "maps").glob("*.tif")] == ["late_20210601.tif"] and "no part of the area" in found.output


# the merger alone, on small maps


def layer(folder, name, pixels, grid, day="2021-01-01"):
    path = folder / f"{name}.tif"
    write_geotiff(path, pixels[None].astype(np.uint8), grid, nodata=255)
    return Layer(name, {"class": path}, grid, np.datetime64(day, "s"), {})


def test_scenes_of_two_zones_lie_on_the_grid_of_the_first(tmp_path):
    rng = np.random.default_rng(0)
    west = layer(tmp_path, "west", rng.integers(0, 9, (300, 400)), make_grid(699_000, 5_601_000, 10, 300, 400, "EPSG:32631"))
    east = layer(tmp_path, "east", rng.integers(0, 9, (300, 400)), make_grid(272_500, 5_601_000, 10, 300, 400, "EPSG:32632"), "2022-01-01")
    grid = grid_of_all([west, east], None)
    assert str(grid.crs) == "EPSG:32631" and (grid.affine.c - 699_000) % 10 == 0 and (grid.affine.f - 5_601_000) % 10 == 0
    classes = ScoreMap("class", tuple("abcdefghi"))
    merger = Merger([west, east], [classes], grid, "latest", 500)
    everything = (slice(0, grid.shape[0]), slice(0, grid.shape[1]))
    made, scenes = merger.window(*everything)
    first, later = (read_on_grid(one.files["class"], grid, [1]) for one in (west, east))
    expected = np.where(later[1][0], later[0][0], np.where(first[1][0], first[0][0], 255))
    np.testing.assert_array_equal(made["class"][0], expected)
    np.testing.assert_array_equal(scenes, np.where(later[1][0], 1, np.where(first[1][0], 0, -1)))
    assert all((scenes == number).any() for number in (-1, 0, 1))
    for rows, columns in ((slice(0, 100), slice(0, 128)), (slice(100, 217), slice(128, 391))):
        part, numbers = merger.window(rows, columns)  # a place on the very border of two pixels may fall either way
        assert (part["class"] != made["class"][:, rows, columns]).mean() < 1e-3
        assert (numbers != scenes[rows, columns]).mean() < 1e-3
    other = grid_of_all([west, east], "EPSG:3035")
    assert str(other.crs) == "EPSG:3035" and abs(other.affine.a) == 10


def test_scenes_without_a_place_make_no_mosaic(tmp_path):
    lost = layer(tmp_path, "lost", np.zeros((4, 4)), GeoBox((4, 4), Affine.scale(1, -1), None))
    with pytest.raises(GridError, match="lost is not georeferenced, so it has no place in a mosaic"):
        grid_of_all([lost], None)


@pytest.mark.slow
def test_workers_and_a_running_scheduler_give_the_same_maps(home, scene_kit, tmp_path):
    scenes = [home / "early_20210401.tif", home / "late_20210601.tif"]
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0) as cluster:
        for name, words in (("maps", ["--workers", 2]), ("far", ["--cluster", cluster.scheduler_address])):
            found = scene_kit.command(home / "bundle", *scenes, "--out", tmp_path / name, *words)
            assert found.exit_code == 0, found.output
            for path in (home / "own").iterdir():
                assert (tmp_path / name / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_mosaic_for_which_there_is_no_room_keeps_the_maps_of_its_scenes(home, scene_kit, tmp_path):
    """Until they are compressed the maps of 60 x 240 px take a block of 65,536 bytes, the mosaic takes two."""
    kit, out = scene_kit, tmp_path / "new" / "mosaic.tif"
    for number in range(2):
        beside = Affine(10, 0, kit.LEFT + 2400 * number, 0, -10, kit.TOP)
        kit.write_scene(tmp_path / f"{number}_20210401.tif", kit.numbers(60, 240, seed=number), transform=beside)
    words = [home / "bundle", *sorted(tmp_path.glob("*.tif")), "--out", out, "--mosaic", "latest"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit, left in ((1000, []), (100_000, [".mosaic.tif.scenes", "mosaic.environment.json", "mosaic.recipe.yaml"])):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            found = kit.command(*words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert isinstance(found.exception, DiskError), found.output
        assert sorted(path.name for path in out.parent.glob("*")) == left and out.parent.exists() == bool(left)
    assert "mosaic.tif: cannot be written" in str(found.exception) and "the maps of the scenes are kept in" in str(found.exception)
    kept = {path.name: path.stat().st_mtime_ns for path in (out.parent / left[0]).iterdir()}
    assert kept.keys() >= {"0_20210401.tif", "1_20210401.tif"}
    assert kit.command(*words).exit_code == 0 and kit.mapped(out)[0].shape == (1, 60, 480)
