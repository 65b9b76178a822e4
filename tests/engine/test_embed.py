"""Embeddings of scenes and samples: values, place, dates, tables, and every refusal, through the command itself."""

import json
import shutil
from contextlib import nullcontext

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_validate
from shapely.geometry import Point

from skysense_cli import sensors
from skysense_cli.cli.embed import run
from skysense_cli.cli.options import Options
from skysense_cli.data import index, npz
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import build_model, load_bundle
from skysense_cli.engine.embed import vectors
from skysense_cli.engine.feature_map import principal_colors
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.errors import BundleError, DataError, GridError, RecipeError
from skysense_cli.geo.crs import transformed
from skysense_cli.geo.grid import lonlat
from skysense_cli.recipe.load import load_recipe
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.model import ModelSection

S2, S1 = sensors.get("sentinel2_l2a"), sensors.get("sentinel1_grd")
CRS, LEFT, TOP = "EPSG:32631", 574_680, 5_622_440
CELL_M, WIDTH = 20, 16


def write_bundle(folder, *, constant=False, prototypes=False, cell_m=CELL_M):
    """A bundle with random weights: patches of 4 and 2 px of 40 m, cells of 20 m. constant: features are 0, 1, 2, ... everywhere."""
    torch.manual_seed(0)
    encoders = {
        "s2": bind("core/encoders", "vit", {"channels": 10, "dim": 16, "depth": 1, "heads": 2, "patch": 4}),
        "s1": bind("core/encoders", "vit", {"channels": 2, "dim": 16, "depth": 1, "heads": 2, "patch": 2}),
    }
    inputs = {
        "s2": Input(S2.name, S2.band_names, 10.0, S2.mean, S2.std),
        "s1": Input(S1.name, S1.band_names, 20.0, S1.mean, S1.std),
    }
    section = ModelSection(
        cell_m=cell_m, width=WIDTH, anchor="s2", encoders=encoders, fusion=bind("core/fusions", "mean", {}),
        prototypes={"regions": 64, "per_region": 4} if prototypes else None,
    )  # fmt: skip
    model = build_model(section, inputs)
    if constant:
        for _, lift in model.lifts.items():
            scale = int(lift.scale)
            torch.nn.init.zeros_(lift.decoder[0].weight)
            with torch.no_grad():
                lift.decoder[0].bias.copy_(torch.arange(WIDTH).repeat_interleave(scale**2))
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    spec = BundleSpec(stage="pretrain", model=section, inputs=inputs, dates={"s2": 3, "s1": 3}, size_m=(160.0, 160.0))
    bundle.save(folder, spec.to_plain(), tensors)
    return folder


def write_scene(path, height, width, *, empty=None, seed=0, crs=CRS):
    pixels = np.random.default_rng(seed).integers(500, 3000, (10, height, width)).astype(np.uint16)
    if empty is not None:
        pixels[:, empty] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    where = from_origin(LEFT, TOP, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=10, dtype="uint16", crs=crs, transform=where, nodata=0
    ) as out:
        out.write(pixels)
        out.descriptions = S2.band_names
    return path


def embed(home, text, *sets, dry_run=False, overwrite=False):
    """Run the command on a recipe of these lines; its output folder."""
    path = home / "embed.yaml"
    path.write_text(f"recipe: embed\nversion: 1\nbundle: {home}/bundle\noutput: {home}/out\n{text}\n")
    options = Options(tuple(sets), device="cpu", dry_run=dry_run, overwrite=overwrite)
    run(load_recipe(path, "embed", options.sets, inputs=True), options)
    return home / "out"


def scene_text(*paths, tiles="{size_m: 160, overlap: 0.25, batch: 3}"):
    return f"scene: {{s2: [{', '.join(repr(str(path)) for path in paths)}]}}\ntiles: {tiles}"


def sample_text(data, more=""):
    return f"data: {{index: {data.index}, dates: {{s2: 4, s1: 2}}, batch: 4{more}}}"


@pytest.fixture
def home(tmp_path):
    write_bundle(tmp_path / "bundle")
    return tmp_path


# scenes


def test_the_cells_of_a_scene_lie_where_it_lies(home):
    empty = np.zeros((36, 52), bool)
    empty[8:16, 20:28] = True
    out = embed(home, scene_text(write_scene(home / "20210401.tif", 36, 52, empty=empty)))
    with rasterio.open(out / "embedding.tif") as made:
        cells, tags = made.read(), made.tags()
        assert (made.count, made.shape, made.dtypes[0]) == (WIDTH, (18, 26), "float32")
        assert made.crs == CRS and made.transform == from_origin(LEFT, TOP, CELL_M, CELL_M) and np.isnan(made.nodata)
        assert made.descriptions[:2] == ("fused 0", "fused 1")
        hole = made.index(LEFT + 10 * 20 + 1, TOP - 10 * 8 - 1)
    unseen = np.isnan(cells).all(axis=0)
    assert hole == (4, 10) and unseen[4:8, 10:14].all() and unseen.sum() == 16 and np.isnan(cells).any(axis=0).sum() == 16
    assert tags["SKYSENSE_FEATURE"] == "fused" and tags["SKYSENSE_WIDTH"] == str(WIDTH) and tags["SKYSENSE_SCENES_S2"] == "20210401"
    assert len(tags["SKYSENSE_BUNDLE_SHA256"]) == 64 and len(tags["SKYSENSE_RECIPE_SHA256"]) == 64
    valid, errors, warnings = cog_validate(out / "embedding.tif", strict=True, quiet=True)
    assert valid and not errors and not warnings
    names = {"embedding.tif", "embedding.png", "vectors.parquet", "recipe.yaml", "environment.json"}
    assert {path.name for path in out.iterdir()} == names


def test_a_scene_in_one_tile_gives_what_the_model_gives(home):
    scene = write_scene(home / "20210401.tif", 32, 32)
    out = embed(home, scene_text(scene, tiles="{size_m: 320}"))
    from skysense_cli.core.batch import Batch, SeriesBatch

    with rasterio.open(scene) as file:
        normal = (file.read().astype(np.float32) - np.array(S2.mean)[:, None, None]) / np.array(S2.std)[:, None, None]
    series = SeriesBatch(
        torch.from_numpy(normal.astype(np.float32))[None, None], torch.tensor([[90]]), torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 1, 32, 32, dtype=torch.bool),
    )  # fmt: skip
    with torch.inference_mode():
        expected = load_bundle(home / "bundle").model(Batch({"s2": series}, torch.tensor([-1]), torch.tensor([0]), torch.eye(3)[None, :2]))
    with rasterio.open(out / "embedding.tif") as made:
        np.testing.assert_allclose(made.read(), expected.fused[0].numpy(), rtol=0, atol=1e-5)


def test_where_features_are_constant_tiles_do_not_show(tmp_path):
    write_bundle(tmp_path / "bundle", constant=True)
    empty = np.zeros((50, 70), bool)
    empty[:20, :24] = True
    out = embed(tmp_path, scene_text(write_scene(tmp_path / "20210401.tif", 50, 70, empty=empty)))
    with rasterio.open(out / "embedding.tif") as made:
        cells = made.read()
    unseen = np.isnan(cells[0])
    assert unseen.sum() == 10 * 12 and unseen[:10, :12].all()
    assert (cells[:, ~unseen] == np.arange(WIDTH, dtype=np.float32)[:, None]).all()
    table = geopandas.read_parquet(out / "vectors.parquet")
    assert (np.stack(table.embedding) == np.arange(WIDTH)).all()


def test_the_vector_of_a_tile_is_the_mean_of_the_cells_of_its_core(home):
    empty = np.zeros((50, 70), bool)
    empty[:17, :37] = True
    write_scene(home / "scenes" / "20210401.tif", 50, 70, empty=empty)
    write_scene(home / "scenes" / "20210411.tif", 50, 70, seed=1)
    out = embed(home, f"scene: {{s2: {{path: '{home}/scenes', pattern: '(?P<date>\\d{{8}}).tif'}}}}\ntiles: {{size_m: 160}}")
    table = geopandas.read_parquet(out / "vectors.parquet")
    assert table.crs.to_epsg() == 4326 and list(table.columns) == [
        "id",
        "split",
        "first",
        "last",
        "dates",
        "cells",
        "geometry",
        "embedding",
    ]
    with rasterio.open(out / "embedding.tif") as made:
        cells, transform = made.read(), made.transform
    rows, columns = np.mgrid[0 : cells.shape[1], 0 : cells.shape[2]]
    x, y = transform * (columns.ravel() + 0.5, rows.ravel() + 0.5)
    centres = geopandas.points_from_xy(*transformed(CRS, "EPSG:4326", x, y))
    owners = np.zeros(len(centres), int)
    for row in table.itertuples():
        inside = np.asarray(centres.within(row.geometry)).reshape(rows.shape)
        owners += inside.ravel()
        known = inside & ~np.isnan(cells[0])
        assert row.cells == known.sum()
        np.testing.assert_allclose(row.embedding, cells[:, known].mean(axis=1), rtol=0, atol=1e-5)
    assert (owners == 1).all()  # every cell lies in exactly one core
    assert set(table["last"]) == {"2021-04-11"}
    assert table["first"][0] == "2021-04-11"  # the first date is empty there
    assert json.loads(table.dates[len(table) - 1]) == {"s2": ["2021-04-01T00:00:00", "2021-04-11T00:00:00"]}


def test_a_tile_without_data_has_no_row(home):
    empty = np.zeros((16, 96), bool)
    empty[:, 40:] = True
    out = embed(home, scene_text(write_scene(home / "20210401.tif", 16, 96, empty=empty)))
    table = geopandas.read_parquet(out / "vectors.parquet")
    assert 0 < len(table) < 8 and table.cells.sum() == 8 * 20
    assert table.geometry.total_bounds[2] < transformed(CRS, "EPSG:4326", np.array([LEFT + 960.0]), np.array([TOP - 80.0]))[0][0]


def test_an_embedding_that_is_complete_is_left_alone_until_a_scene_is_added(home, capsys):
    text = f"scene: {{s2: {{path: '{home}/scenes', pattern: '(?P<date>\\d{{8}}).tif'}}}}\ntiles: {{size_m: 160}}"
    write_scene(home / "scenes" / "20210401.tif", 32, 32)
    out = embed(home, text)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    embed(home, text)
    assert "already complete" in capsys.readouterr().out
    (out / "vectors.parquet").unlink()
    embed(home, text)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first  # equal runs leave equal bytes
    write_scene(home / "scenes" / "20210501.tif", 32, 32, seed=1)
    embed(home, text)
    assert geopandas.read_parquet(out / "vectors.parquet")["last"][0] == "2021-05-01"


def test_an_embedding_that_was_stopped_goes_on_to_the_same_bytes(home, monkeypatch, stopping, capsys):
    empty = np.zeros((70, 52), bool)
    empty[8:26, 20:38] = True
    path = write_scene(home / "20210401.tif", 70, 52, empty=empty)

    def made(stop=None):
        """The names of the strips that a run keeps."""
        with monkeypatch.context() as watched:
            names = stopping.after(stop, watched)
            with nullcontext() if stop is None else pytest.raises(stopping.error):
                embed(home, scene_text(path))
        return names

    every = made()
    whole = {file.name: file.read_bytes() for file in (home / "out").iterdir()}
    assert len(every) > 4 and not any("parts" in name for name in whole)
    for stop in (1, len(every) - 1):
        shutil.rmtree(home / "out")
        assert made(stop) == every[:stop]
        assert made() == every[stop:], "what was kept is not made again"
        assert {file.name: file.read_bytes() for file in (home / "out").iterdir()} == whole
    shutil.rmtree(home / "out")
    made(2)
    write_scene(path, 70, 52, seed=3)
    assert made() == every and "is made again, since scene: " in capsys.readouterr().err


def test_vectors_alone_need_no_raster_and_cells_alone_no_table(home):
    scene = write_scene(home / "20210401.tif", 32, 32)
    out = embed(home, scene_text(scene), "cells=false")
    assert (out / "vectors.parquet").exists() and not (out / "embedding.tif").exists()
    out = embed(home, scene_text(scene), "vectors=false", overwrite=True)
    assert (out / "embedding.tif").exists() and not (out / "vectors.parquet").exists()


def test_a_scene_without_a_place_has_vectors_without_geometry(home, capsys):
    scene = write_scene(home / "20210401.tif", 32, 32, crs=None)
    out = embed(home, scene_text(scene), "scene_gsd=as_is")
    assert "not georeferenced: the rows of vectors.parquet have no geometry" in capsys.readouterr().err
    table = geopandas.read_parquet(out / "vectors.parquet")
    assert len(table) and table.geometry.isna().all()


def test_the_plan_says_how_much_will_be_written(home, capsys):
    scene = write_scene(home / "20210401.tif", 32, 32)
    out = embed(home, scene_text(scene), dry_run=True)
    said = capsys.readouterr().out
    assert "fused, 16 channels, float32" in said and "map" in said and "disk" in said and "at most 9 rows" in said
    assert not out.exists()


# samples


def test_a_row_for_each_sample_where_it_lies(home, dataset):
    out = embed(home, sample_text(dataset), "cells=false")
    table, rows = geopandas.read_parquet(out / "vectors.parquet"), index.read(dataset.index)
    assert list(table.id) == [row.id for row in rows] and list(table.split) == [row.split for row in rows]
    for ground, row in zip(table.geometry, rows, strict=True):
        assert ground.contains(Point(row.lonlat))
    assert table["first"][0] == "2019-02-01" and table["last"][0] == "2019-12-01"
    assert (table.cells == 16).all() and json.loads(table.dates[0])["s1"] == list(rows[0].dates["s1"])[::2]
    assert np.stack(table.embedding).shape == (6, WIDTH) and np.stack(table.embedding).dtype == np.float32
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(out / "vectors.parquet")
    assert str(schema.field("embedding").type).startswith("list<") and schema.field("embedding").type.value_type == "float"
    facts = json.loads(schema.metadata[b"skysense"])
    assert facts["SKYSENSE_FEATURE"] == "fused" and facts["SKYSENSE_WIDTH"] == "16" and len(facts["SKYSENSE_BUNDLE_SHA256"]) == 64
    assert not (out / "cells").exists()


def test_the_vectors_of_files_are_those_of_the_python_function(home, dataset):
    out = embed(home, f"data: {{index: {dataset.index}, dates: {{s2: 9, s1: 9}}}}\ncells: false")
    paths = [dataset.folder / row.path for row in index.read(dataset.index)]
    loaded = load_bundle(home / "bundle")
    found = vectors(loaded, paths, batch=4)
    np.testing.assert_allclose(np.stack(geopandas.read_parquet(out / "vectors.parquet").embedding), found, rtol=0, atol=1e-6)
    with torch.inference_mode():
        alone = loaded.model(loaded.batch(paths[:1])).fused[0]
    np.testing.assert_allclose(found[0], alone.mean(dim=(1, 2)).numpy(), rtol=0, atol=1e-6)
    assert vectors(loaded, []).shape == (0, WIDTH)


def test_the_cells_of_a_sample_lie_where_it_lies(home, dataset):
    out = embed(home, sample_text(dataset))
    table = geopandas.read_parquet(out / "vectors.parquet").set_index("id")
    row = index.read(dataset.index)[3]
    with rasterio.open(out / "cells" / f"{row.id}.tif") as made:
        cells = made.read()
        assert made.crs == row.crs and tuple(made.bounds) == row.bounds and made.res == (20, 20)
        assert made.tags()["SKYSENSE_SAMPLE"] == row.id and json.loads(made.tags()["SKYSENSE_DATES"])["s2"][0] == "2019-02-01T10:30:00"
    np.testing.assert_allclose(cells.mean(axis=(1, 2)), table.embedding[row.id], rtol=0, atol=1e-6)
    assert len(list((out / "cells").iterdir())) == 6


def test_finished_cells_are_read_and_damaged_ones_made_again(home, dataset, capsys):
    out = embed(home, sample_text(dataset))
    first = {path: path.read_bytes() for path in [*(out / "cells").iterdir(), out / "vectors.parquet"]}
    (out / "cells" / "s001.tif").unlink()
    (out / "cells" / "s002.tif").write_bytes(first[out / "cells" / "s002.tif"][:700])
    (out / "cells" / "s003.tif.tmp").write_bytes(b"left by a kill")
    (out / "vectors.parquet").unlink()
    capsys.readouterr()
    embed(home, sample_text(dataset))
    assert "6 files, 2 of them from an earlier run" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in [*(out / "cells").iterdir(), out / "vectors.parquet"]} == first


def test_cells_of_another_bundle_are_made_again(home, dataset, capsys):
    embed(home, sample_text(dataset))
    write_bundle(home / "bundle", constant=True)
    out = embed(home, sample_text(dataset))
    assert "0 of them from an earlier run" in capsys.readouterr().out
    assert (np.stack(geopandas.read_parquet(out / "vectors.parquet").embedding) == np.arange(WIDTH)).all()


def test_the_feature_is_chosen(home, dataset):
    write_bundle(home / "bundle", prototypes=True)
    loaded = load_bundle(home / "bundle")
    row = next(row for row in index.read(dataset.index) if "s1" in row.modalities)
    with torch.inference_mode():
        features = loaded.model(loaded.batch([dataset.folder / row.path]))
    given = {name: vectors(loaded, [dataset.folder / row.path], feature=name)[0] for name in ("fused", "fused_mm", "s2", "s1")}
    assert given["fused"].shape == (2 * WIDTH,)
    np.testing.assert_allclose(given["fused_mm"], features.fused_mm[0].mean(dim=(1, 2)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(given["s1"], features.modal["s1"][0].mean(dim=(0, 2, 3)), rtol=0, atol=1e-6)


def test_a_modality_that_a_sample_lacks_leaves_it_without_a_row(home, dataset, capsys):
    out = embed(home, sample_text(dataset), "feature=s1", "cells=false")
    assert list(geopandas.read_parquet(out / "vectors.parquet").id) == ["s000", "s001", "s003", "s004"]
    assert "2 samples have no cell that a date sees, and no row (s002, s005)" in capsys.readouterr().err


def test_samples_may_have_several_sizes_or_no_place(home, write_samples, tmp_path, capsys):
    from dataclasses import replace

    data = write_samples(tmp_path / "data", 3)
    rows = index.read(data.index)
    small = npz.read(data.folder / rows[0].path)
    half = {
        name: replace(s, pixels=s.pixels[:, :, : s.pixels.shape[2] // 2], valid=s.valid[:, : s.valid.shape[1] // 2],
                      grid=s.grid[: s.grid.shape[0] // 2, :])
        for name, s in small.series.items()
    }  # fmt: skip
    left, bottom, right, top = small.bounds
    bounds = (left, bottom + 40, right, top)
    npz.write(replace(small, series=half, bounds=bounds, lonlat=lonlat(bounds, small.crs), label=None), data.folder / rows[0].path)
    from odc.geo.geobox import GeoBox

    lost = npz.read(data.folder / rows[1].path)
    series = {name: replace(s, grid=GeoBox(s.grid.shape, s.grid.affine, None)) for name, s in lost.series.items()}
    npz.write(replace(lost, crs="", lonlat=(float("nan"),) * 2, series=series, label=None), data.folder / rows[1].path)
    index.write_part(data.index, "0", [replace(rows[0], bounds=bounds), replace(rows[1], crs="", lonlat=(float("nan"),) * 2), rows[2]])
    out = embed(home, sample_text(data))
    table = geopandas.read_parquet(out / "vectors.parquet")
    assert list(table.cells) == [8, 16, 16] and list(table.geometry.isna()) == [False, True, False]
    assert "1 samples are not georeferenced; their rows have no geometry (s001)" in capsys.readouterr().err
    with rasterio.open(out / "cells" / "s000.tif") as made:
        assert made.shape == (2, 4) and tuple(made.bounds) == bounds


def test_the_plan_of_samples_says_how_much_will_be_written(home, dataset, capsys):
    out = embed(home, sample_text(dataset, ", split: val"), dry_run=True)
    said = capsys.readouterr().out
    assert "2 of split 'val'" in said and "16 cells of 20 m a sample" in said and "2 files, at most" in said
    assert not out.exists()


# refusals


@pytest.mark.parametrize(
    ("sets", "error", "message"),
    [
        (["feature=fuse"], RecipeError, r"feature: .*bundle has no 'fuse' \(has: fused, fused_mm, s2, s1\)"),
        (["data.dates={s2: 3}", "feature=s1"], RecipeError, r"feature is 's1', but data.dates has s2"),
        (["data.dates={hr: 3}"], RecipeError, r"data.dates has 'hr', but .*bundle was trained on s2, s1"),
        (["data.split=test"], DataError, r"no sample in split 'test'"),
        (["data.period={start: 2001-01-01, end: 2001-02-01}"], DataError, r"none of the 6 samples has a date of s2, s1 within data.period"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(home, dataset, sets, error, message):
    with pytest.raises(error, match=message):
        embed(home, sample_text(dataset), *sets)
    assert not (home / "out").exists()


def test_a_feature_of_a_modality_that_the_scene_lacks_is_refused(home):
    with pytest.raises(RecipeError, match="embed: feature is 's1', but scene has s2"):
        embed(home, scene_text(write_scene(home / "20210401.tif", 32, 32)), "feature=s1")


def test_a_scene_with_a_modality_that_the_bundle_lacks_is_refused(home):
    with pytest.raises(RecipeError, match="embed: scene has 'hr'"):
        embed(home, f"scene: {{hr: ['{write_scene(home / '20210401.tif', 32, 32)}']}}")


def test_samples_that_the_model_cannot_divide_are_refused(tmp_path, dataset):
    torch.manual_seed(0)
    folder = write_bundle(tmp_path / "bundle")
    content = json.loads((folder / "bundle.json").read_text())
    content["inputs"]["s2"]["gsd_m"], content["inputs"]["s1"]["gsd_m"] = 15.0, 30.0
    content["model"]["cell_m"] = 30.0
    stored = bundle.read(folder)
    bundle.save(folder, content, stored.tensors)
    with pytest.raises(GridError, match=r"s000.npz: the sample is 80 x 80 m, this bundle reads multiples of 60 m"):
        embed(tmp_path, sample_text(dataset))


def test_features_that_are_not_finite_are_refused(home, dataset):
    stored = bundle.read(home / "bundle")
    tensors = {name: torch.full_like(tensor, torch.nan) for name, tensor in stored.tensors.items()}
    bundle.save(home / "bundle", stored.spec, tensors)
    with pytest.raises(BundleError, match="features that are not finite"):
        embed(home, sample_text(dataset))
    assert not (home / "out" / "vectors.parquet").exists()


# pictures


def test_principal_components_become_colours():
    random = np.random.default_rng(0)
    share = np.linspace(0, 1, 400).reshape(20, 20)
    cells = (share[..., None] * np.array([3.0, 0, 0, 0, 0]) + 0.01 * random.normal(size=(20, 20, 5))).astype(np.float32)
    cells[0, 0] = np.nan
    colors = principal_colors(cells)
    assert (colors[0, 0] == 255).all()
    assert np.corrcoef(colors[1:, :, 0].ravel(), share[1:].ravel())[0, 1] > 0.99  # positive: the largest loading is
    assert (principal_colors(np.full((4, 4, 5), 2, np.float32)) == 128).all()
    assert principal_colors(np.full((4, 4, 5), np.nan, np.float32)).min() == 255
    wide = principal_colors(random.normal(size=(6, 6, 80)).astype(np.float32))
    assert wide.std(axis=(0, 1)).min() > 20
