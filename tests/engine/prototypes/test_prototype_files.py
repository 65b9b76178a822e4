"""A scene becomes a map of prototypes through the command itself: numbers, colours, legend and regions."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_validate

from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.prototype_map import prototype_color
from skysense_cli.errors import BundleError, DataError, GridError, RecipeError


def test_the_map_is_the_nearest_prototype_of_each_cell(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [7, world.here()])
    scene = world.write_scene(tmp_path / "a.tif", 16, 16)
    folder = world.map_prototypes(tmp_path, scene)
    index, similarity, region = world.open_all(folder)
    assert index.shape == (8, 8) and index.dtype == np.uint16 and (region == world.here()).all()

    loaded = load_bundle(tmp_path / "bundle")
    with rasterio.open(scene) as file:
        mean, std = (np.array(values)[:, None, None] for values in (world.S2.mean, world.S2.std))
        pixels = torch.from_numpy(((file.read() - mean) / std).astype(np.float32))
    series = SeriesBatch(
        pixels[None, None], torch.tensor([[90]]), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1, 16, 16, dtype=torch.bool)
    )
    features = loaded.model(Batch({"s2": series}, torch.tensor([world.here()]), torch.tensor([0]), torch.eye(3)[None, :2])).fused_mm[0]
    bank = loaded.model.geo_context.prototypes[1]
    for row in range(8):
        for column in range(8):
            cosines = [float(torch.cosine_similarity(features[:, row, column], one, dim=0)) for one in bank]
            assert index[row, column] == int(np.argmax(cosines))
            assert similarity[row, column] == pytest.approx(max(cosines), abs=1e-4)


def test_files_legend_and_palette(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    folder = world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 50, 70))
    index, _, _ = world.open_all(folder)
    with rasterio.open(folder / "prototypes.tif") as file:
        assert file.transform == from_origin(world.LEFT, world.TOP, 20, 20) and file.crs == world.CRS and file.nodata == 65535
        assert file.colormap(1)[3][:3] == prototype_color(world.here(), 3, world.PER_REGION)
        assert file.tags()["SKYSENSE_PALETTE_REGION"] == str(world.here()) and "centre" in file.tags()["SKYSENSE_SEAM_RULE"]
    for name in ("prototypes.tif", "prototypes_similarity.tif", "prototypes_region.tif"):
        assert cog_validate(folder / name, strict=True, quiet=True)[0]
    legend = json.loads((folder / "legend.json").read_text())
    assert {line["prototype"]: line["cells"] for line in legend["prototypes"]} == dict(
        zip(*np.unique(index, return_counts=True), strict=True)
    )
    rows = list(csv.DictReader((folder / "legend.csv").open()))
    for row in rows:
        assert row["color"] == "#{:02x}{:02x}{:02x}".format(*prototype_color(world.here(), int(row["prototype"]), world.PER_REGION))
    assert (folder / "prototypes.png").stat().st_size > 1000


def land_cover(folder, shape, name="wood"):
    """The `compare` line for a class raster of three vertical stripes at 10 m."""
    codes = np.repeat([1, 2, 3], -(-shape[1] // 3))[None, : shape[1]].repeat(shape[0], 0).astype(np.uint8)
    with rasterio.open(
        folder / "truth.tif", "w", driver="GTiff", height=shape[0], width=shape[1], count=1, dtype="uint8", crs="EPSG:32631",
        transform=from_origin(574_680, 5_622_440, 10, 10),
    ) as out:  # fmt: skip
        out.write(codes, 1)
    (folder / "classes.csv").write_text(f"code,name,color\n1,{name},#112233\n2,water,\n3,town,\n")
    return f"compare: {{raster: {folder}/truth.tif, classes: {folder}/classes.csv, tiles_m: 80}}"


def test_two_runs_give_equal_bytes(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    scene = world.write_scene(tmp_path / "a.tif", 40, 40)
    made = []
    for _ in range(2):
        folder = world.map_prototypes(tmp_path, scene, more=land_cover(tmp_path, (40, 40)))
        made.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert made[0] == made[1]
    assert {"legend.html", "comparison.json", "comparison.png"} <= set(made[0])


def test_cells_of_a_sentinel_2_pixel_lie_on_its_grid(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()], cell_m=10.0)
    folder = world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 20, 36), more="patches: 0")
    with rasterio.open(tmp_path / "a.tif") as scene:
        for name in ("prototypes.tif", "prototypes_similarity.tif", "prototypes_region.tif"):
            with rasterio.open(folder / name) as file:
                assert (file.crs, file.transform, file.shape) == (scene.crs, scene.transform, scene.shape)


def test_the_legend_tells_hectares_similarity_and_typical_cells(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    folder = world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 50, 70))
    index, similarity, _ = world.open_all(folder)
    legend = json.loads((folder / "legend.json").read_text())
    for line in legend["prototypes"]:
        own = similarity[index == line["prototype"]]
        assert line["mean_similarity"] == pytest.approx(own.mean(), abs=1e-5)
        assert line["area_ha"] == pytest.approx(0.04 * own.size, rel=2e-3)
        best = line["typical"][0]
        assert best["similarity"] == pytest.approx(own.max(), abs=1e-4)
        assert index[best["row"], best["column"]] == line["prototype"]
        assert (best["x"], best["y"]) == (574_680 + 20 * (best["column"] + 0.5), 5_622_440 - 20 * (best["row"] + 0.5))
    (region,) = legend["regions"]
    assert region["region"] == world.here() and region["cells"] == index.size
    assert region["prototypes_in_use"] == len(legend["prototypes"]) and legend["maps"][0]["folder"] == "."


def test_a_comparison_is_written_and_said(world, tmp_path, capsys):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    folder = world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 48, 48), more=land_cover(tmp_path, (48, 48)))
    found = json.loads((folder / "comparison.json").read_text())
    index = world.open_all(folder)[0]
    assert found["fitted"]["cells"] + found["scored"]["cells"] == index.size
    assert np.sum(found["confusion"]) == found["scored"]["cells"]
    said = capsys.readouterr().out
    assert "compared with truth.tif" in said and f"{found['scored']['majority']['oa']:.3f}" in said and "chance" in said
    rows = list(csv.DictReader((folder / "legend.csv").open()))
    assert {row["class"] for row in rows} <= {"wood", "water", "town", ""}
    assert (folder / "comparison.png").stat().st_size > 1000


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_cannot_be_compared_is_said_before_anything_is_made(world, tmp_path, dry_run):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    scene = world.write_scene(tmp_path / "a.tif", 16, 16)
    more = land_cover(tmp_path, (16, 16)).replace("tiles_m: 80", "tiles_m: 9000")
    with pytest.raises(DataError, match="squares of 9000 m leave no labelled cell to .*; make compare.tiles_m smaller"):
        world.map_prototypes(tmp_path, scene, more=more, dry_run=dry_run)
    elsewhere = world.write_scene(tmp_path / "b.tif", 16, 16, left=world.LEFT + 5000)
    with pytest.raises(DataError, match=r"no cell of the map has a class in .*truth\.tif; does the raster cover it"):
        world.map_prototypes(tmp_path, elsewhere, more=more, dry_run=dry_run)
    assert not (tmp_path / "prototypes").exists()


def test_samples_are_compared_where_they_lie(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    more = land_cover(tmp_path, (64, 64))
    beside = [(world.LEFT + 3200, world.TOP), (world.LEFT - 3200, world.TOP)]  # the sheet covers the raster, the samples do not
    data = f"data: {{index: {world.write_samples(tmp_path / 'beside', beside)}, dates: {{s2: 2}}}}"
    with pytest.raises(DataError, match="no cell of the map has a class"):
        world.map_prototypes(tmp_path, data, more=more)
    data = f"data: {{index: {world.write_samples(tmp_path / 'data', [*beside, (world.LEFT, world.TOP)])}, dates: {{s2: 2}}}}"
    assert (world.map_prototypes(tmp_path, data, more=more) / "comparison.json").exists()


def test_a_map_without_prototypes_where_the_classes_are_is_whole_and_has_no_comparison(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    empty = np.zeros((32, 32), bool)
    empty[:, :16] = True
    more = land_cover(tmp_path, (32, 16))
    with pytest.raises(DataError, match="no cell of the map with a prototype has a class"):
        world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 32, 32, empty=empty), more=more)
    left = {path.name for path in (tmp_path / "prototypes").iterdir()}
    assert "prototypes.tif" in left and "comparison.json" not in left and not [name for name in left if name.endswith(".tmp")]
    more = more.replace("classes.csv", "none.csv")
    with pytest.raises(RecipeError, match=r"compare\.classes.*none\.csv"):
        world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 16, 16), name="b", more=more)


def test_a_region_without_prototypes_is_nodata_and_said_so(world, tmp_path, capsys):
    world.write_bundle(tmp_path / "bundle", [5, 9])
    folder = world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 16, 24))
    index, similarity, region = world.open_all(folder)
    assert (index == 65535).all() and np.isnan(similarity).all() and (region == world.here()).all()
    assert (folder / "legend.html").exists()  # an empty one
    said = capsys.readouterr()
    assert f"region {world.here()} has no prototypes, 96 cells are nodata (this bundle learned regions 5, 9)" in said.err
    assert "WITHOUT prototypes" in said.out
    (empty,) = json.loads((folder / "legend.json").read_text())["regions_without_prototypes"]
    assert empty == {"region": world.here(), "cells": 96, "area_ha": pytest.approx(96 * 0.04, rel=1e-3)}


def test_ground_without_data_is_nodata(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    empty = np.zeros((32, 32), bool)
    empty[:6, :10] = True
    index, similarity, region = world.open_all(world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 32, 32, empty=empty)))
    cells = empty[::2, ::2]
    for found in (index == 65535, np.isnan(similarity), region == -1):
        np.testing.assert_array_equal(found, cells)


def test_where_regions_meet_each_tile_uses_its_own(world, tmp_path):
    lefts = np.arange(400_000, 800_000, 160)
    numbers = [world.here(left) for left in lefts]
    border = int(lefts[next(k for k in range(1, len(numbers)) if numbers[k] != numbers[k - 1])])
    west, east = world.here(border - 320), world.here(border + 320)
    world.write_bundle(tmp_path / "bundle", [west, east])
    scene = world.write_scene(tmp_path / "a.tif", 16, 96, left=border - 480)
    index, _, region = world.open_all(world.map_prototypes(tmp_path, scene, tiles="{size_m: 160, overlap: 0}"))
    assert set(np.unique(region)) == {west, east} and (index < world.PER_REGION).all()
    assert (np.diff(region[0]) != 0).sum() == 1 and (region == region[0]).all()


def test_what_has_no_prototypes_or_no_place_is_refused(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [], prototypes=False)
    with pytest.raises(BundleError, match="has no prototypes"):
        world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 16, 16))
    world.write_bundle(tmp_path / "bundle", [world.here()])
    scene = world.write_scene(tmp_path / "b.tif", 16, 16, crs=None)
    with pytest.raises(GridError, match="no coordinate reference system"):
        world.map_prototypes(tmp_path, scene)


def test_a_spoiled_bundle_is_named_and_nothing_is_left(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()], spoiled=True)
    with pytest.raises(BundleError, match=r"bundle: the model gives features that are not finite"):
        world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 16, 16))
    assert not [path.name for path in (tmp_path / "prototypes").iterdir() if path.suffix in (".tif", ".tmp", ".html")]


def test_a_dry_run_names_the_regions_and_writes_nothing(world, tmp_path, capsys):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    folder = world.map_prototypes(tmp_path, world.write_scene(tmp_path / "a.tif", 16, 16), dry_run=True)
    assert f"region {world.here()}" in capsys.readouterr().out and not folder.exists()
