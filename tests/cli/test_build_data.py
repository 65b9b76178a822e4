"""`skysense build-data` as a user runs it: exit code, what it says, what it leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from typer.testing import CliRunner

from skysense_cli.cli.home import OutputError
from skysense_cli.cli.main import app

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
RECIPE = """\
recipe: build-data
version: 1
output: {home}/data
area: {home}/scenes/S2_20210401.tif
period: {{start: 2021-01-01, end: 2021-12-31}}
grid: {{size_m: 160, anchor: area, crs: "EPSG:32631"}}
modalities:
  s2:
    sensor: sentinel2_l2a
    gsd: 10
    source: {{kind: folder, path: {home}/scenes, pattern: "S2_(?P<date>\\\\d{{8}}).tif"}}
    dates: {{at_least: 1}}
workers: 1
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    (tmp_path / "scenes").mkdir()
    for day in ("20210401", "20210611"):
        write(tmp_path / "scenes" / f"S2_{day}.tif", np.random.default_rng(0).integers(300, 3000, (10, 32, 32)).astype(np.uint16))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(home=tmp_path))
    return tmp_path / "recipe.yaml"


def write(path: Path, pixels: np.ndarray) -> None:
    with rasterio.open(path, "w", driver="GTiff", count=len(pixels), height=32, width=32, dtype=pixels.dtype, crs="EPSG:32631",
                       transform=Affine(10, 0, 500000, 0, -10, 5600000)) as dataset:  # fmt: skip
        dataset.write(pixels)
        dataset.descriptions = BANDS


def skysense(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "skysense_cli", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_a_dry_run_prints_the_plan_and_writes_nothing(recipe):
    run = skysense("build-data", recipe, "--dry-run")
    assert run.returncode == 0, run.stderr
    assert "4 of 160 m in 1 blocks" in run.stdout
    assert "2 items of sentinel2_l2a, 2021-04-01 to 2021-06-11; 1-40 dates x 10 x 16 x 16 uint16" in run.stdout
    assert not (recipe.parent / "data").exists()


def test_a_build_says_what_it_made_and_where(recipe):
    run = skysense("build-data", recipe, "--out", recipe.parent / "elsewhere")
    assert run.returncode == 0, run.stderr
    assert f"4 samples of 4 footprints (4 train) in {recipe.parent / 'elsewhere'}" in run.stdout
    made = {path.name for path in (recipe.parent / "elsewhere").iterdir()}
    assert made == {"recipe.yaml", "environment.json", "samples", "index", "report.json", "blocks.jsonl"}


@pytest.mark.slow
def test_a_build_on_a_running_scheduler_gives_the_same_bytes(recipe, tmp_path):
    from distributed import LocalCluster

    assert skysense("build-data", recipe, "--set", "splits.block=1").returncode == 0
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0) as cluster:
        address = cluster.scheduler_address
        run = skysense("build-data", recipe, "--set", "splits.block=1", "--out", tmp_path / "far", "--cluster", address)
        assert run.returncode == 0, run.stderr
        next((tmp_path / "scenes").glob("*20210611.tif")).write_bytes(b"no raster")
        run = skysense("build-data", recipe, "--out", tmp_path / "damaged", "--cluster", address)
    assert run.returncode == 4 and "1 dates could not be read" in run.stderr.splitlines()[-1]
    trees = [
        {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}
        for home in (tmp_path / "data", tmp_path / "far")
    ]
    assert trees[0] == trees[1] and sum(name.endswith(".npz") for name in trees[0]) == 4


def test_a_cluster_that_is_no_address_ends_with_one_line(recipe):
    run = skysense("build-data", recipe, "--cluster", "localhost:8786")
    assert run.returncode == 2
    assert "--cluster localhost:8786: is no address of a Dask scheduler, expected e.g. tcp://host:8786" in run.stderr.splitlines()[-1]


def test_numbers_of_another_scale_end_with_one_line_that_says_what_to_set(recipe):
    for path in (recipe.parent / "scenes").glob("*.tif"):
        write(path, np.full((10, 32, 32), 0.2, np.float32))
    run = skysense("build-data", recipe)
    assert run.returncode == 3
    assert "looks like reflectance 0-1: set scale: 10000" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_scenes_that_are_not_there_end_with_code_5(recipe):
    run = skysense("build-data", recipe, "--set", "modalities.s2.source.pattern=none_(?P<date>.{8}).tif")
    assert run.returncode == 5
    assert "no file matches" in run.stderr.splitlines()[-1]


def test_places_that_cannot_be_written_to_are_named_and_nothing_there_is_touched(recipe, badinput_dir, tmp_path):
    bad = tmp_path / "bad"
    subprocess.run([sys.executable, badinput_dir / "make_bad.py", bad, "--only", "fs"], check=True, capture_output=True)
    cases = [case for case in json.loads((bad / "cases.json").read_text()) if case["verb"] == "any with --out"]
    precious = {path: path.read_bytes() for path in (bad / "fs").rglob("*") if path.is_file() and not path.is_symlink()}
    assert len(cases) == 9 and precious
    for case in cases:
        if case["id"] == "fs/readonly" and os.geteuid() == 0:
            continue  # root may write there
        done = CliRunner().invoke(app, ["build-data", str(recipe), "--out", str(bad / case["path"])])
        assert case["want"] == "bounded" or done.exit_code, case["id"]
        if done.exit_code:
            assert isinstance(done.exception, OutputError) and "\n" not in str(done.exception), case["id"]
    assert {path: path.read_bytes() for path in precious} == precious
