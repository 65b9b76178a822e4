"""Samples from scenes: a small made archive, and the real patch in Belgium."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from skysense_cli import sensors
from skysense_cli.data import index, npz
from skysense_cli.data.build import build, make_plan
from skysense_cli.data.outlook import outlook
from skysense_cli.data.totals import block_reports
from skysense_cli.errors import DataError, GridError, ItemsFailed, SourceError
from skysense_cli.files import sha256
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.build import BuildDataRecipe

S2 = sensors.get("sentinel2_l2a")
LEFT, TOP, SIDE = 500000.0, 5600000.0, 128  # px of 10 m
DAYS = ("20210215", "20210401", "20210520", "20210711", "20210830", "20211025")
SHIFTS = ((0.0, 0.0), (0.9, 0.4), (-0.8, 0.6), (0.3, -1.1), (-0.6, -0.7), (0.2, 0.8))  # pixels to the right and down


def ground(size: int) -> np.ndarray:
    """(10, size, size): fields of random brightness."""
    random = np.random.default_rng(5)
    points = random.uniform(0, size, (size * size // 200, 2))
    rows, columns = np.mgrid[:size, :size]
    fields = np.argmin([(rows - y) ** 2 + (columns - x) ** 2 for y, x in points], axis=0)
    return random.uniform(500, 3000, (10, len(points)))[:, fields]


@pytest.fixture(scope="module")
def archive(tmp_path_factory, geotiff) -> Path:
    """Six shifted dates of which the third is mostly cloud, an overcast one that the classes call clear, radar, labels."""
    home = tmp_path_factory.mktemp("archive")
    random, picture = np.random.default_rng(0), ground(SIDE + 16)
    for day, (right, down) in zip(DAYS, SHIFTS, strict=True):
        moved = ndimage.shift(picture, (0, down, right), order=1, mode="nearest")[:, 8:-8, 8:-8]
        pixels, classes = moved + random.normal(0, 30, moved.shape), np.full((SIDE, SIDE), 4, np.uint8)
        if day == DAYS[2]:
            pixels[:, :, 40:], classes[:, 40:] = 8000, 9
        geotiff(home / "s2" / f"S2_{day}.tif", pixels.astype(np.uint16), names=S2.band_names)
        geotiff(home / "scl" / f"SCL_{day}.tif", classes)
    geotiff(home / "s2" / "S2_20210603.tif", random.normal(6000, 150, (10, SIDE, SIDE)).astype(np.uint16), names=S2.band_names)
    geotiff(home / "scl" / "SCL_20210603.tif", np.full((SIDE, SIDE), 7, np.uint8))
    for day in ("20210301", "20210701"):
        power = random.gamma(4, 0.02, (2, SIDE // 2, SIDE // 2)).astype(np.float32)
        geotiff(home / "s1" / f"S1_{day}.tif", 10 * np.log10(power), gsd=20, names=["VV", "VH"], UNITS="sigma0 dB")
    geotiff(home / "label.tif", (ground(SIDE)[0] > 1500).astype(np.uint16) + 1)
    (home / "classes.csv").write_text("code,name\n1,dark\n2,bright\n")
    return home


def recipe_of(home: Path, **changes: Any) -> BuildDataRecipe:
    extra = {"SCL": {"path": str(home / "scl"), "pattern": r"SCL_(?P<date>\d{8})\.tif"}}
    tree: dict[str, Any] = {
        "recipe": "build-data",
        "version": 1,
        "output": home / "out",
        "area": home / "label.tif",
        "period": {"start": datetime.date(2021, 1, 1), "end": datetime.date(2021, 12, 31)},
        "grid": {"size_m": 320.0, "anchor": "area", "crs": "EPSG:32631"},
        "modalities": {
            "s2": {
                "sensor": "sentinel2_l2a",
                "gsd": 10.0,
                "source": bind("data/sources", "folder", {"path": str(home / "s2"), "pattern": r"S2_(?P<date>\d{8})\.tif", "extra": extra}),
                "cloud_mask": bind("data/clouds", "scl"),
                "dates": {"at_least": 2, "at_most": 10, "min_valid": 0.8},
            },
            "s1": {
                "sensor": "sentinel1_grd",
                "gsd": 20.0,
                "source": bind("data/sources", "folder", {"path": str(home / "s1"), "pattern": r"S1_(?P<date>\d{8})\.tif"}),
                "dates": {"at_least": 0, "at_most": 10},
            },
        },
        "coregister": {"reference": "s2", "min_shift_m": 1.0},
        "label": {"raster": home / "label.tif", "classes": home / "classes.csv", "hold_out": {"checkerboard_px": 8}},
        "splits": {"train": 0.5, "val": 0.25, "test": 0.25, "block": 2, "seed": 1},
        "workers": 1,
    }
    for path, value in changes.items():
        place = tree
        *parents, last = path.split("__")
        for parent in parents:
            place = place[parent]
        place[last] = value
    return BuildDataRecipe.model_validate(tree)


def tree_of(home: Path) -> dict[str, str]:
    return {str(path.relative_to(home)): sha256(path) for path in sorted(home.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def built(archive, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    home = tmp_path_factory.mktemp("built")
    return home, build(recipe_of(archive), home, "digest")


def test_every_footprint_becomes_a_sound_sample(built):
    home, report = built
    rows = index.read(home / "index")
    assert len(rows) == 16 and sum(report["samples"].values()) == 16
    assert report["samples"] == {"train": 8, "val": 4, "test": 4}
    for row in rows:
        npz.check(home / row.path)
    sample = npz.read(home / rows[0].path)
    assert sample.series["s2"].pixels.shape[1:] == (10, 32, 32) and sample.series["s1"].pixels.shape[1:] == (2, 16, 16)
    assert sample.label.raster.shape == (32, 32) and sample.label.names == ("dark", "bright")
    assert sample.provenance["recipe"] == "digest" and sample.provenance["reference"] == "s2"
    assert sum(rows[0].classes.values()) == 512  # half of the ground is held out
    assert rows[0].dates["s1"] == ("2021-03-01T00:00:00", "2021-07-01T00:00:00")


def test_dates_are_moved_onto_each_other(built):
    """Their mean place counts as true; what is left of the shifts is a tenth of a pixel."""
    home, _ = built
    dates = {date["item"]: date for date in next(block_reports(home))["dates"]["s2"]}
    clear = [k for k in range(6) if k != 2]
    middle = np.mean([SHIFTS[k] for k in range(6)], axis=0)
    for k in clear:
        found = dates[f"S2_{DAYS[k]}"]
        assert found["decision"] in ("moved", "below min_shift")
        assert np.hypot(found["shift_px"][0] + SHIFTS[k][0] - middle[0], found["shift_px"][1] + SHIFTS[k][1] - middle[1]) < 0.3
    series = npz.read(home / index.read(home / "index")[5].path).series["s2"]
    inner = series.pixels[:, :, 4:-4, 4:-4].astype(float)
    together = np.mean([np.corrcoef(inner[0].ravel(), other.ravel())[0, 1] for other in inner[1:]])
    assert together > 0.97
    assert series.meta[1]["decision"] == "moved" and len(series.meta[1]["shift_px"]) == 2


def test_the_overcast_date_that_the_classes_miss_is_refused_and_the_cloudy_one_is_dropped_where_it_is_cloudy(built):
    home, report = built
    for block in block_reports(home):
        dates = {date["item"]: date for date in block["dates"]["s2"]}
        assert dates["S2_20210603"]["decision"] == "refused" and dates["S2_20210603"]["samples"] == 0
        assert dates["S2_20210603"]["dropped"].startswith("no match with the reference")
    used = {row.id: row.dates["s2"] for row in index.read(home / "index")}
    with_cloudy = {name for name, dates in used.items() if any(date.startswith("2021-05-20") for date in dates)}
    assert {name.split("_")[1] for name in with_cloudy} == {"500000"}  # only the westernmost column is clear that day
    assert report["dates"]["s2"]["refused"] == 4


def test_radar_without_a_match_stays_as_geocoded(built):
    home, _ = built
    assert {date["decision"] for block in block_reports(home) for date in block["dates"]["s1"]} <= {"kept as geocoded"}


def test_equal_recipes_give_equal_bytes_with_any_number_of_workers(archive, built, tmp_path):
    home, _ = built
    build(recipe_of(archive, workers=2), tmp_path / "two", "digest")
    assert tree_of(tmp_path / "two") == tree_of(home)


def test_a_finished_block_is_not_built_again(archive, built, tmp_path, capsys):
    recipe = recipe_of(archive, coregister=None)
    build(recipe, tmp_path, "digest")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").rglob("*.npz")}
    index.part_path(tmp_path / "index", "32631_r1_c1").unlink()
    build(recipe, tmp_path, "digest")
    assert "3 of 4 blocks are there already" in capsys.readouterr().out
    changed = {path for path in before if path.stat().st_mtime_ns != before[path]}
    assert len(changed) == 4
    build(recipe, tmp_path, "another digest")
    assert all(path.stat().st_mtime_ns != before[path] for path in before)


def test_left_overs_of_a_killed_run_are_removed(archive, tmp_path):
    shard = index.shard_of("a")
    for half in (f"samples/{shard}/x.npz.tmp", f"index/{shard}/part-a.parquet.tmp", "report.json.tmp"):
        (tmp_path / half).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / half).write_bytes(b"half")
    (tmp_path / "scratch-a.tmp").mkdir()
    (tmp_path / "scratch-a.tmp" / "pixels.npy").touch()
    build(recipe_of(archive, coregister=None, label=None), tmp_path, "digest")
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("wait_s", [0.15, 0.4])
def test_a_killed_build_started_again_gives_the_same_files(archive, tmp_path, wait_s):
    home = tmp_path / "undisturbed"
    build(recipe_of(archive, coregister=None), home, "digest")
    script = (
        "import sys, time; sys.path[:0] = [sys.argv[1]]\n"
        "import pathlib, test_build as t\nfrom skysense_cli.data.build import build\n"
        "print('ready', flush=True)\n"
        "build(t.recipe_of(pathlib.Path(sys.argv[2]), coregister=None), pathlib.Path(sys.argv[3]), 'digest')"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(archive), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as run:
        assert run.stdout is not None and run.stdout.readline() == b"ready\n"
        time.sleep(wait_s)
        run.send_signal(signal.SIGKILL)
    build(recipe_of(archive, coregister=None), tmp_path / "out", "digest")
    assert tree_of(tmp_path / "out") == tree_of(home)


def test_samples_near_another_split_are_left_out(archive, tmp_path):
    recipe = recipe_of(archive, coregister=None, label=None, splits__buffer_m=300.0)
    plan = make_plan(recipe)
    assert plan.left_out > 0 and plan.footprints + plan.left_out == 16
    report = build(recipe, tmp_path, "digest")
    assert len(index.read(tmp_path / "index")) == plan.footprints == 16 - report["left_out_near_other_split"]


def test_too_few_dates_make_no_sample_and_the_report_says_why(archive, tmp_path):
    with pytest.raises(DataError, match=r"no footprint of 16 makes a sample .16 x s1: 2 dates are valid enough, at_least is 3"):
        build(recipe_of(archive, coregister=None, modalities__s1__dates={"at_least": 3}), tmp_path, "digest")
    assert json.loads((tmp_path / "report.json").read_text())["samples"] == dict.fromkeys(("train", "val", "test"), 0)
    assert next(block_reports(tmp_path))["skipped"]["32631_500000_5600000"].startswith("s1: 2 dates")


def test_a_damaged_scene_costs_its_date_and_is_reported(archive, tmp_path, capsys):
    broken = archive / "s2" / "S2_20210404.tif"
    broken.write_bytes((archive / "s2" / "S2_20210401.tif").read_bytes()[:60000])
    (archive / "scl" / "SCL_20210404.tif").write_bytes((archive / "scl" / "SCL_20210401.tif").read_bytes())
    try:
        with pytest.raises(ItemsFailed, match="0 blocks failed and 4 dates could not be read"):
            build(recipe_of(archive, label=None), tmp_path, "digest")
    finally:
        broken.unlink()
        (archive / "scl" / "SCL_20210404.tif").unlink()
    assert "S2_20210404 is left out" in capsys.readouterr().err
    assert len(index.read(tmp_path / "index")) == 16


def test_a_source_that_is_not_there_ends_the_build_with_its_name(archive, tmp_path):
    gone = bind("data/sources", "folder", {"path": str(archive / "gone")})
    with pytest.raises(SourceError, match="gone: no such file or folder"):
        build(recipe_of(archive, modalities__s1__source=gone), tmp_path, "digest")


def test_sizes_that_are_no_whole_pixels_are_refused(archive):
    with pytest.raises(GridError, match="grid.size_m: 330 m is not a whole number of 20 m pixels of modality s1"):
        make_plan(recipe_of(archive, grid__size_m=330.0))
    with pytest.raises(GridError, match="grid.stride_m: 90 m is not a whole number of 20 m pixels"):
        make_plan(recipe_of(archive, grid__stride_m=90.0))


def test_a_period_of_more_than_a_year_is_warned_about(archive, capsys):
    make_plan(recipe_of(archive, period={"start": datetime.date(2020, 6, 1), "end": datetime.date(2021, 12, 31)}))
    assert "the period spans 579 days, but dates are told apart by day of the year only" in capsys.readouterr().err


def test_the_plan_names_items_shapes_and_sizes(archive):
    recipe = recipe_of(archive)
    rows = dict(outlook(recipe, make_plan(recipe)))
    assert rows["footprints"] == "16 of 320 m in 4 blocks"
    assert rows["splits"] == "test 4, train 8, val 4"
    assert rows["s2"] == "7 items of sentinel2_l2a, 2021-02-15 to 2021-10-25; 2-10 dates x 10 x 32 x 32 uint16"
    assert rows["disk"].startswith("at most ")


def test_the_real_patch_in_belgium(shared_data, tmp_path):
    """16 footprints from the corner of the area, the dates of 2019, the checkerboard of the labels."""
    home = shared_data("ts_belgium_A")
    (tmp_path / "classes.csv").write_text("code,name\n1110,wheat\n1200,maize\n1510,barley\n9120,grass\n")
    pattern = r"_(?P<date>\d{8}T\d{6})(_ASC)?\.tif"
    scl = {"SCL": {"path": str(home / "scl"), "pattern": "SCL" + pattern}}
    recipe = BuildDataRecipe.model_validate({
        "recipe": "build-data", "version": 1, "output": tmp_path / "out", "area": home / "label_croptype_code.tif",
        "period": {"start": datetime.date(2018, 11, 1), "end": datetime.date(2019, 10, 31)},
        "grid": {"size_m": 160.0, "stride_m": 160.0, "anchor": "area"},
        "modalities": {
            "s2": {"sensor": "sentinel2_l2a", "gsd": 10.0, "cloud_mask": bind("data/clouds", "scl"),
                   "source": bind("data/sources", "folder", {"path": str(home / "s2"), "pattern": "S2" + pattern, "extra": scl})},
            "s1": {"sensor": "sentinel1_grd", "gsd": 20.0,
                   "source": bind("data/sources", "folder", {"path": str(home / "s1"), "pattern": "S1" + pattern})},
        },
        "label": {"raster": home / "label_croptype_code.tif", "classes": tmp_path / "classes.csv", "ignore": 0,
                  "hold_out": {"checkerboard_px": 8}},
        "workers": 1,
    })  # fmt: skip
    build(recipe, tmp_path / "out", "digest")
    rows = index.read(tmp_path / "out" / "index")
    assert len(rows) == 16 and {row.split for row in rows} == {"train"}
    assert not any(time.startswith("2018-11-12") for row in rows for time in row.dates["s2"])  # opaque cloud called snow
    cloudy = next(date for date in next(block_reports(tmp_path / "out"))["dates"]["s2"] if date["item"].startswith("S2_20181112"))
    assert cloudy["valid"] < 0.05 and cloudy["dropped"].startswith("valid on at most")
    labels = [npz.read_label(tmp_path / "out" / row.path) for row in rows]
    held = sum(int((label.held_out != 255).sum()) for label in labels if label)
    kept = sum(int((label.raster != 255).sum()) for label in labels if label)
    assert held + kept == 1378 + 413 + 294 + 1387 and 0.4 < held / kept < 2.5


def test_a_date_that_sees_too_little_of_the_block_is_used_by_no_footprint(archive, tmp_path):
    """The third date is clear on the western third only, which is all of some footprints."""
    used = {}
    for least in (0.0, 0.5):
        dates = {"at_least": 0, "at_most": 10, "min_valid": 0.8, "min_valid_block": least}
        home = tmp_path / str(least)
        splits = {"train": 1.0, "val": 0.0, "test": 0.0}
        build(recipe_of(archive, coregister=None, modalities__s2__dates=dates, splits=splits), home, "digest")
        used[least] = {date[:10] for row in index.read(home / "index") for date in row.dates.get("s2", ())}
    assert used[0.0] - used[0.5] == {"2021-05-20"} and len(used[0.5]) >= 5


def test_listed_tiles_become_samples_with_their_own_periods(archive, tmp_path):
    """Two neighbours, one of them listed for two periods; all on the grid of the scenes."""
    tile = {"x": 133261, "y": 88282, "z": 18}  # 94 m wide on the ground, near the middle of the scenes
    listed = [tile | {"date_min": "202101", "date_max": "202104"}, tile | {"date_min": "2021-07", "date_max": "2021-10"}]
    listed += [listed[0], listed[1] | {"x": tile["x"] + 4}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(one) + "\n" for one in listed))
    home = tmp_path / "out"
    recipe = recipe_of(archive, area={"tiles": tmp_path / "list.jsonl"}, grid={"size_m": 320.0}, period=None, coregister=None, label=None,
                       splits={"train": 1.0, "val": 0.0, "test": 0.0})  # fmt: skip
    build(recipe, home, "digest")
    rows = index.read(home / "index")
    days = {row.id: [date[:10].replace("-", "") for date in row.dates["s2"]] for row in rows}
    spring = [name for name in days if name.endswith("_20210101_20210430")]
    autumn = [name for name in days if name.endswith("_20210701_20211031")]
    assert len(spring) == 1 and len(autumn) == 2 and len(days) == 3
    assert days[spring[0]] == ["20210215", "20210401"]
    assert all(days[name] == ["20210711", "20210830", "20211025"] for name in autumn)
    for row in rows:
        npz.check(home / row.path)
        assert row.bounds[0] % 20 == 0 and row.bounds[3] % 20 == 0


def test_overlapping_tiles_never_lie_in_two_splits(archive, tmp_path):
    tiles = [{"x": 133261 + k, "y": 88282 + j, "z": 18, "date_min": "202101", "date_max": "202112"} for k in range(12) for j in range(12)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(one) + "\n" for one in tiles))
    recipe = recipe_of(archive, area={"tiles": tmp_path / "list.jsonl"}, grid={"size_m": 320.0}, period=None, splits__block=1)
    plan = make_plan(recipe)
    assert plan.left_out > 0 and len({block.split for block in plan.blocks}) > 1
    for block in plan.blocks:
        for other in plan.blocks:
            if block.split != other.split:
                for a in block.footprints:
                    assert all(max(abs(a.left - b.left), abs(a.top - b.top)) >= 320 for b in other.footprints)


def test_a_list_of_tiles_stands_alone(archive, tmp_path):
    (tmp_path / "list.jsonl").write_text("")
    tiles = {"area": {"tiles": tmp_path / "list.jsonl"}, "grid": {"size_m": 320.0}}
    with pytest.raises(ValueError, match="cannot stand beside a list of tiles"):
        recipe_of(archive, **tiles)
    with pytest.raises(ValueError, match="takes only size_m beside a list of tiles"):
        recipe_of(archive, area=tiles["area"], period=None)
    with pytest.raises(ValueError, match="the period is missing"):
        recipe_of(archive, period=None)
    with pytest.raises(DataError, match=r"list.jsonl: holds no tile"):
        make_plan(recipe_of(archive, **tiles, period=None))
