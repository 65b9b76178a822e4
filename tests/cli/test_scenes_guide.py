"""The guide to scenes: every command in it runs on small scenes, in its order, and leaves what the guide says."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from typer.testing import CliRunner

from skysense_cli import sensors
from skysense_cli.cli.main import app
from skysense_cli.data import npz
from skysense_cli.data.sample import Sample, Series
from skysense_cli.geo.grid import lonlat, make_grid

GUIDE = (Path(__file__).parents[2] / "examples" / "guides" / "scenes.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line for language, _, text in BLOCKS if language == "bash" for line in text.splitlines() if line.startswith("skysense ")]


def series(sensor, gsd, side_m, left, top):
    side = round(side_m / gsd)
    pixels = np.random.default_rng(0).normal(sensor.mean, np.array(sensor.std) / 4, (1, side, side, len(sensor.bands)))
    pixels = np.moveaxis(pixels, -1, 1)
    return Series(
        sensor=sensor.name, bands=sensor.band_names, times=np.array(["2021-06-01"], "datetime64[s]"), valid=np.ones((1, side, side), bool),
        pixels=(pixels if sensor.kind == "sar" else np.clip(pixels, 1, 9000)).astype(sensor.dtype), items=(sensor.name,), meta=({},),
        grid=make_grid(left, top, gsd, side, side, "EPSG:32631"), units=sensor.units, nodata=sensor.nodata,
    )  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch, scene_kit):
    """A working folder with the bundles, scenes and recipes that the guide names."""
    kit = scene_kit
    kit.write_bundle(tmp_path / "runs" / "crops" / "bundle")
    kit.write_bundle(tmp_path / "runs" / "fused" / "bundle", radar=True)
    scenes = tmp_path / "scenes"
    for name in ("20210601", "s2/20210401", "s2/20210601", "west_20210601"):
        kit.write_scene(scenes / f"{name}.tif", kit.numbers(32, 40, seed=len(name)))
    moved = Affine(10, 0, kit.LEFT + 200, 0, -10, kit.TOP)
    kit.write_scene(scenes / "east_20210613.tif", kit.numbers(32, 40, seed=9), transform=moved)
    kit.write_scene(scenes / "coarse_20210601.tif", kit.numbers(16, 20), transform=Affine(20, 0, kit.LEFT, 0, -20, kit.TOP))
    kit.write_radar(scenes / "s1" / "20210603.tif", 16, 20)
    ring = [[4.0595, 50.7465], [4.0620, 50.7465], [4.0620, 50.7485], [4.0595, 50.7465]]
    (tmp_path / "field.geojson").write_text(f'{{"type": "Polygon", "coordinates": [{ring}]}}')
    bounds = (kit.LEFT, kit.TOP - 320.0, kit.LEFT + 320.0, float(kit.TOP))
    parts = {name: series(sensors.get(kind), gsd, 320, bounds[0], bounds[3]) for name, kind, gsd in (
        ("s2", "sentinel2_l2a", 10), ("s1", "sentinel1_grd", 20))}  # fmt: skip
    npz.write(Sample("place", "EPSG:32631", bounds, lonlat(bounds, "EPSG:32631"), parts), tmp_path / "samples" / "place.npz")
    for language, name, text in BLOCKS:
        if language == "yaml" and name:
            (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_command_runs(home, monkeypatch):
    assert len(COMMANDS) >= 11
    for line in COMMANDS:
        words = shlex.split(line, comments=True)[1:]
        if "--workers" in words:  # the same here, without starting processes
            words[words.index("--workers") + 1] = "1"
        found = CliRunner().invoke(app, [*words, "--device", "cpu"])
        assert found.exit_code == 0, f"{line}: {found.output} {found.exception!r}"
    maps = {str(path.relative_to(home)) for path in home.rglob("*.tif") if "scenes/" not in str(path)}
    assert maps >= {
        "maps/20210601.tif", "again/20210601.tif", "maps/fused/s2.tif", "maps/samples/place.tif", "maps/one.tif", "maps/field/20210601.tif",
        "maps/coarse_20210601.tif", "maps/each/west_20210601.tif", "maps/each/east_20210613.tif", "maps/both/mosaic.tif",
        "maps/latest/mosaic_scene.tif", "maps/region.tif", "maps/region_confidence.tif",
    }  # fmt: skip
    assert (home / "again" / "20210601.tif").read_bytes() == (home / "maps" / "20210601.tif").read_bytes()
    assert not [path for path in home.rglob(".*") if path.is_dir()]


def test_the_message_of_the_guide_is_the_one_that_comes(home):
    found = CliRunner().invoke(app, ["predict", "runs/crops/bundle", "scenes/coarse_20210601.tif", "--out", "m", "--device", "cpu"])
    said = next(text for language, _, text in BLOCKS if language == "text")
    assert " ".join(said.split()) == f"error: {found.exception}".replace(f"{home}/", "/data/")


def test_every_option_of_the_table_is_there(home):
    shown = CliRunner().invoke(app, ["predict", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    for option in set(re.findall(r"`(--[a-z-]+)", GUIDE)):
        assert option in shown, option
