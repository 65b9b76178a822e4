"""A scene becomes a map of prototypes through the command itself: numbers, colours, legend and regions."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_validate

from skysense_cli import sensors
from skysense_cli.cli.map_prototypes import run
from skysense_cli.cli.options import Options
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import build_model, load_bundle
from skysense_cli.engine.prototype_map import prototype_color
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.errors import BundleError, GridError
from skysense_cli.geo.grid import lonlat, make_grid
from skysense_cli.geo.regions import region_of
from skysense_cli.recipe.load import load_recipe
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.model import ModelSection

S2 = sensors.get("sentinel2_l2a")
CRS, LEFT, TOP = "EPSG:32631", 574_680, 5_622_440
REGIONS = 4096
PER_REGION = 5


def write_bundle(folder, known, prototypes=True):
    """A bundle with random weights and, for the regions `known`, random prototypes; cells of 20 m."""
    torch.manual_seed(0)
    section = ModelSection(
        cell_m=20.0,
        width=16,
        anchor="s2",
        encoders={"s2": bind("core/encoders", "vit", {"channels": 10, "dim": 16, "depth": 1, "heads": 2, "patch": 4})},
        fusion=bind("core/fusions", "temporal", {"depth": 1, "heads": 2, "dim": 16}),
        prototypes=bind("core", "prototypes", {"regions": REGIONS, "per_region": PER_REGION}) if prototypes else None,
    )
    inputs = {"s2": Input(S2.name, S2.band_names, 10.0, S2.mean, S2.std)}
    model = build_model(section, inputs)
    if prototypes:
        model.geo_context.resize(len(known))
        model.geo_context.slot_regions[:] = torch.tensor(known)
        model.geo_context.prototypes.normal_()
    spec = BundleSpec(stage="pretrain", model=section, inputs=inputs, dates={"s2": 2}, size_m=(160.0, 160.0))
    bundle.save(folder, spec.to_plain(), {f"model.{name}": tensor for name, tensor in model.state_dict().items()})


def write_scene(path, height, width, crs=CRS, left=LEFT, top=TOP, empty=None):
    random = np.random.default_rng(0)
    level = random.normal(0, 1, (10, height // 8 + 1, width // 8 + 1)).repeat(8, 1).repeat(8, 2)[:, :height, :width]
    pixels = np.clip(np.array(S2.mean)[:, None, None] + np.array(S2.std)[:, None, None] * level, 1, 60_000).astype(np.uint16)
    if empty is not None:
        pixels[:, empty] = 0
    transform = from_origin(left, top, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=10, dtype="uint16", crs=crs, transform=transform, nodata=0
    ) as out:
        out.write(pixels)
        out.descriptions = S2.band_names
        out.update_tags(ACQUISITION="2021-04-01")
    return path


def map_prototypes(tmp_path, scene, tiles="{size_m: 160, overlap: 0.4, batch: 3}", name="prototypes", dry_run=False):
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"""
recipe: map-prototypes
version: 1
bundle: {tmp_path}/bundle
scene: {{s2: ['{scene}']}}
output: {tmp_path}/{name}
tiles: {tiles}
""")
    run(load_recipe(path, "map-prototypes"), Options(dry_run=dry_run, device="cpu"))
    return tmp_path / name


def open_all(folder):
    found = []
    for name in ("prototypes", "prototypes_similarity", "prototypes_region"):
        with rasterio.open(folder / f"{name}.tif") as file:
            found.append(file.read(1))
    return found


def here(left=LEFT, top=TOP):
    return region_of(*lonlat(make_grid(left, top, 160, 1, 1, CRS)), REGIONS)


def test_the_map_is_the_nearest_prototype_of_each_cell(tmp_path):
    write_bundle(tmp_path / "bundle", [7, here()])
    scene = write_scene(tmp_path / "a.tif", 16, 16)
    folder = map_prototypes(tmp_path, scene)
    index, similarity, region = open_all(folder)
    assert index.shape == (8, 8) and index.dtype == np.uint16 and (region == here()).all()

    loaded = load_bundle(tmp_path / "bundle")
    with rasterio.open(scene) as file:
        pixels = torch.from_numpy(((file.read() - np.array(S2.mean)[:, None, None]) / np.array(S2.std)[:, None, None]).astype(np.float32))
    from skysense_cli.core.batch import Batch, SeriesBatch

    series = SeriesBatch(
        pixels[None, None], torch.tensor([[90]]), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, 16, 16, dtype=torch.bool)
    )
    features = loaded.model(Batch({"s2": series}, torch.tensor([here()]), torch.tensor([0]), torch.eye(3)[None, :2])).fused_mm[0]
    bank = loaded.model.geo_context.prototypes[1]
    for row in range(8):
        for column in range(8):
            cosines = [float(torch.cosine_similarity(features[:, row, column], one, dim=0)) for one in bank]
            assert index[row, column] == int(np.argmax(cosines))
            assert similarity[row, column] == pytest.approx(max(cosines), abs=1e-4)


def test_files_legend_and_palette(tmp_path):
    write_bundle(tmp_path / "bundle", [here()])
    folder = map_prototypes(tmp_path, write_scene(tmp_path / "a.tif", 50, 70))
    index, _, _ = open_all(folder)
    with rasterio.open(folder / "prototypes.tif") as file:
        assert file.transform == from_origin(LEFT, TOP, 20, 20) and file.crs == CRS and file.nodata == 65535
        assert file.colormap(1)[3][:3] == prototype_color(here(), 3, PER_REGION)
        assert file.tags()["SKYSENSE_PALETTE_REGION"] == str(here()) and "centre" in file.tags()["SKYSENSE_SEAM_RULE"]
    for name in ("prototypes.tif", "prototypes_similarity.tif", "prototypes_region.tif"):
        assert cog_validate(folder / name, strict=True, quiet=True)[0]
    legend = json.loads((folder / "legend.json").read_text())
    assert {line["prototype"]: line["cells"] for line in legend["prototypes"]} == dict(
        zip(*np.unique(index, return_counts=True), strict=True)
    )
    rows = list(csv.DictReader((folder / "legend.csv").open()))
    for row in rows:
        assert row["color"] == "#{:02x}{:02x}{:02x}".format(*prototype_color(here(), int(row["prototype"]), PER_REGION))
    assert (folder / "prototypes.png").stat().st_size > 1000


def test_two_runs_give_equal_bytes(tmp_path):
    write_bundle(tmp_path / "bundle", [here()])
    scene = write_scene(tmp_path / "a.tif", 40, 40)
    made = []
    for _ in range(2):
        folder = map_prototypes(tmp_path, scene)
        made.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert made[0] == made[1]


def test_a_region_without_prototypes_is_nodata_and_said_so(tmp_path, capsys):
    write_bundle(tmp_path / "bundle", [5, 9])
    folder = map_prototypes(tmp_path, write_scene(tmp_path / "a.tif", 16, 24))
    index, similarity, region = open_all(folder)
    assert (index == 65535).all() and np.isnan(similarity).all() and (region == here()).all()
    said = capsys.readouterr()
    assert f"region {here()} has no prototypes, 96 cells are nodata (this bundle learned regions 5, 9)" in said.err
    assert "WITHOUT prototypes" in said.out
    (empty,) = json.loads((folder / "legend.json").read_text())["regions_without_prototypes"]
    assert empty == {"region": here(), "cells": 96, "area_ha": pytest.approx(96 * 0.04, rel=1e-3)}


def test_ground_without_data_is_nodata(tmp_path):
    write_bundle(tmp_path / "bundle", [here()])
    empty = np.zeros((32, 32), bool)
    empty[:6, :10] = True
    index, similarity, region = open_all(map_prototypes(tmp_path, write_scene(tmp_path / "a.tif", 32, 32, empty=empty)))
    cells = empty[::2, ::2]
    for found in (index == 65535, np.isnan(similarity), region == -1):
        np.testing.assert_array_equal(found, cells)


def test_where_regions_meet_each_tile_uses_its_own(tmp_path):
    lefts = np.arange(400_000, 800_000, 160)
    numbers = [here(left) for left in lefts]
    border = int(lefts[next(k for k in range(1, len(numbers)) if numbers[k] != numbers[k - 1])])
    west, east = here(border - 320), here(border + 320)
    write_bundle(tmp_path / "bundle", [west, east])
    scene = write_scene(tmp_path / "a.tif", 16, 96, left=border - 480)
    index, _, region = open_all(map_prototypes(tmp_path, scene, tiles="{size_m: 160, overlap: 0}"))
    assert set(np.unique(region)) == {west, east} and (index < PER_REGION).all()
    assert (np.diff(region[0]) != 0).sum() == 1 and (region == region[0]).all()


def test_what_has_no_prototypes_or_no_place_is_refused(tmp_path):
    write_bundle(tmp_path / "bundle", [], prototypes=False)
    with pytest.raises(BundleError, match="has no prototypes"):
        map_prototypes(tmp_path, write_scene(tmp_path / "a.tif", 16, 16))
    write_bundle(tmp_path / "bundle", [here()])
    scene = write_scene(tmp_path / "b.tif", 16, 16, crs=None)
    with pytest.raises(GridError, match="no coordinate reference system"):
        map_prototypes(tmp_path, scene)


def test_a_dry_run_names_the_regions_and_writes_nothing(tmp_path, capsys):
    write_bundle(tmp_path / "bundle", [here()])
    folder = map_prototypes(tmp_path, write_scene(tmp_path / "a.tif", 16, 16), dry_run=True)
    assert f"region {here()}" in capsys.readouterr().out and not folder.exists()
