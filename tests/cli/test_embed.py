"""`skysense embed` as a user runs it, on real Sentinel-1 and Sentinel-2 series: what GeoPandas and rasterio make of its files."""

import re
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch

from skysense_cli import sensors
from skysense_cli.cli.build_data import run as run_build
from skysense_cli.cli.embed import run
from skysense_cli.cli.home import OutputError
from skysense_cli.cli.options import Options
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import build_model
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.recipe.load import load_recipe
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.model import ModelSection

README = Path(__file__).parents[2] / "README.md"
GUIDE = Path(__file__).parents[2] / "examples" / "guides" / "embeddings.md"


def skysense(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "skysense_cli", *map(str, arguments)], capture_output=True, text=True, timeout=200, cwd=cwd
    )


@pytest.fixture(scope="module")
def home(shared_data, tmp_path_factory):
    """A folder with an untrained bundle, samples of Belgium A, and embeddings of the scene and of the samples."""
    home, data = tmp_path_factory.mktemp("embed"), shared_data("ts_belgium_A")
    torch.manual_seed(0)
    encoders = {
        "s2": bind("core/encoders", "vit", {"channels": 10, "dim": 16, "depth": 1, "heads": 2, "patch": 2, "size": 16}),
        "s1": bind("core/encoders", "vit", {"channels": 2, "dim": 16, "depth": 1, "heads": 2, "patch": 1, "size": 16}),
    }
    inputs = {}
    for name, sensor, gsd_m in (("s2", "sentinel2_l2a", 10.0), ("s1", "sentinel1_grd", 20.0)):
        found = sensors.get(sensor)
        inputs[name] = Input(sensor, found.band_names, gsd_m, found.mean, found.std)
    fusion = bind("core/fusions", "temporal", {"depth": 1, "heads": 2, "dim": 16})
    section = ModelSection(cell_m=20.0, width=16, anchor="s2", encoders=encoders, fusion=fusion)
    spec = BundleSpec(stage="pretrain", model=section, inputs=inputs, dates={"s2": 3, "s1": 3}, size_m=(320.0, 320.0))
    tensors = {f"model.{name}": tensor for name, tensor in build_model(section, inputs).state_dict().items()}
    bundle.save(home / "bundle", spec.to_plain(), tensors)
    (home / "scene.yaml").write_text(f"""
recipe: embed
version: 1
bundle: {home}/bundle
scene:
  s2:
    path: {data}/s2
    pattern: 'S2_(?P<date>\\d{{8}}T\\d{{6}})\\.tif'
    extra: {{SCL: {{path: {data}/scl, pattern: 'SCL_(?P<date>\\d{{8}}T\\d{{6}})\\.tif'}}}}
    cloud_mask: {{kind: scl}}
  s1: {{path: {data}/s1, pattern: 'S1_(?P<date>\\d{{8}}T\\d{{6}})_ASC\\.tif'}}
period: {{start: 2019-04-01, end: 2019-04-30}}
dates: {{s2: 3, s1: 2}}
tiles: {{size_m: 320, overlap: 0.25, batch: 2}}
output: {home}/region
""")
    (home / "build.yaml").write_text(f"""
recipe: build-data
version: 1
output: {home}/data
area: {data}/label_croptype_code.tif
period: {{start: 2019-04-01, end: 2019-04-30}}
grid: {{size_m: 320, crs: "EPSG:32631", anchor: area}}
modalities:
  s2:
    sensor: sentinel2_l2a
    gsd: 10
    source: {{kind: folder, path: {data}/s2, pattern: 'S2_(?P<date>\\d{{8}}T\\d{{6}})\\.tif'}}
workers: 1
""")
    run_build(load_recipe(home / "build.yaml", "build-data", inputs=True), Options())
    run(load_recipe(home / "scene.yaml", "embed", inputs=True), Options(device="cpu"))
    sets = [f"bundle={home}/bundle", f"data.index={home}/data/index", "data.dates.s2=2", "cells=true"]
    run(load_recipe("embed/samples", "embed", sets, output=home / "samples", inputs=True), Options(device="cpu"))
    return home


def test_the_scene_of_belgium_has_its_place_in_rasterio(home, shared_data):
    with (
        rasterio.open(home / "region" / "embedding.tif") as made,
        rasterio.open(shared_data("ts_belgium_A") / "label_croptype_code.tif") as one,
    ):
        assert made.crs == one.crs and tuple(made.bounds) == tuple(one.bounds)
        assert (made.count, made.shape, made.res) == (16, (32, 32), (20, 20))
        cells = made.read()
    assert np.isfinite(cells).mean() > 0.99
    assert cells[:, np.isfinite(cells[0])].std(axis=1).min() > 0


def test_the_tiles_of_belgium_have_their_place_in_geopandas(home, shared_data):
    table = geopandas.read_parquet(home / "region" / "vectors.parquet")
    with rasterio.open(shared_data("ts_belgium_A") / "label_croptype_code.tif") as one:
        left, bottom, right, top = one.bounds
    assert table.crs.to_epsg() == 4326
    metres = table.to_crs(32631)
    np.testing.assert_allclose(metres.total_bounds, (left, bottom, right, top), rtol=0, atol=0.05)
    np.testing.assert_allclose(metres.area.sum(), (right - left) * (top - bottom), rtol=1e-4)
    assert np.hypot(*(table.geometry.iloc[0].centroid.coords[0] - np.array([4.06, 50.745]))) < 0.02  # near Lennik
    assert np.isfinite(np.stack(table.embedding)).all() and table["first"].min() >= "2019-04-01"


def test_the_samples_of_belgium_have_vectors_and_cells(home):
    table = geopandas.read_parquet(home / "samples" / "vectors.parquet").to_crs(32631)
    assert len(table) == 4 and set(table.split) == {"train"}
    for row in table.itertuples():
        with rasterio.open(home / "samples" / "cells" / f"{row.id}.tif") as made:
            np.testing.assert_allclose(row.geometry.bounds, made.bounds, rtol=0, atol=0.05)
            np.testing.assert_allclose(np.nanmean(made.read(), axis=(1, 2)), row.embedding, rtol=0, atol=1e-5)


def test_running_again_does_nothing_and_another_recipe_is_refused(home, capsys):
    run(load_recipe(home / "scene.yaml", "embed"), Options(device="cpu"))
    assert "already complete" in capsys.readouterr().out
    with pytest.raises(OutputError, match=r"was made with another recipe \(feature: fused -> fused_mm\)"):
        run(load_recipe(home / "scene.yaml", "embed", ["feature=fused_mm"]), Options(device="cpu"))


def test_a_recipe_with_neither_or_both_is_one_line(home):
    for sets in (["scene={}"], ["data={index: ., dates: {s2: 1}}"]):
        done = skysense("embed", home / "scene.yaml", "--set", *sets)
        assert done.returncode == 2 and "give either scene (one scene) or data (samples)" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = skysense("embed", home / "scene.yaml", "--set", "cells=false", "--set", "vectors=false")
    assert done.returncode == 2 and "nothing would be written" in done.stderr
    done = skysense(
        "embed", "embed/samples", "--set", f"bundle={home}/bundle", "--set", f"data.index={home}/data/index", "--set", "dates.s2=1"
    )
    assert done.returncode == 2 and "dates: belongs to a scene; for samples it stands in data.dates" in done.stderr


def test_the_shipped_recipes_ask_for_a_scene_and_for_samples():
    assert load_recipe("embed/scene").scene and load_recipe("embed/samples").data


def test_the_python_of_the_readme_embeds_samples(home, monkeypatch):
    (code,) = (text for text in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "vectors(" in text)
    (home / "demo" / "pretrain").mkdir(parents=True, exist_ok=True)
    for link, target in (("demo/pretrain/bundle", "bundle"), ("demo/data", "data")):
        if not (home / link).exists():
            (home / link).symlink_to(home / target)
    monkeypatch.chdir(home)
    names: dict = {}
    exec(code, names)
    assert names["found"].shape == (4, 16) and np.isfinite(names["found"]).all()
    assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_the_python_of_the_guide_runs(home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "embeddings").mkdir(exist_ok=True)
    for link, target in (("embeddings/region", "region"), ("embeddings/samples", "samples")):
        if not (home / link).exists():
            (home / link).symlink_to(home / target)
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        exec(code, names)
    assert names["cell"].shape == (16,) and names["nearest"].iloc[0].similarity == pytest.approx(1)
