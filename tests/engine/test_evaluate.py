"""Scores over a split: known answers for a head that copies a band and for maps on and off the label's grid."""

import json

import numpy as np
import pytest
import torch

from skysense_cli.cli.evaluate import run as evaluate_command
from skysense_cli.cli.finetune import run as finetune
from skysense_cli.cli.options import Options, load
from skysense_cli.core.heads import Head
from skysense_cli.data import npz
from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.evaluate import evaluate, fixed, score_map
from skysense_cli.engine.gather import gather_labelled
from skysense_cli.errors import DataError, RecipeError
from skysense_cli.geo.cog import write_geotiff
from skysense_cli.geo.grid import make_grid
from skysense_cli.recipe.schema.train import FinetuneData


class Always(Head):
    """Says class 1 everywhere."""

    output = "raster"

    def forward(self, features):
        return torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).expand(len(features.fused), 2, 1, 1)

    def predict(self, raw, size):
        return raw.expand(-1, -1, *size)


def gathered(dataset, **options):
    data = FinetuneData(index=dataset.index, split="train", dates={"s2": 4}, **options)
    return gather_labelled(data, ("s2",), None, "train")


def truth_of(dataset, data, on="raster"):
    return np.concatenate([getattr(npz.read_label(dataset.folder / row.path), on).ravel() for row in data.rows])


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory, write_finetune):
    """A bundle trained for a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = load(write_finetune(folder, dataset, "model: model.yaml", steps=30, lr=0.01, save_every=30), "finetune", Options())
    return finetune(recipe, Options())


@pytest.mark.parametrize("crop_m", [None, 40.0])
@pytest.mark.parametrize("on", ["label", "held_out"])
def test_every_labelled_pixel_is_scored_once(dataset, trained, crop_m, on):
    data = gathered(dataset, crop_m=crop_m)
    loaded = load_bundle(trained)
    confusion = evaluate(loaded.model, Always(), fixed(data, None, on), 2, batch=3)
    truth = truth_of(dataset, data, "raster" if on == "label" else "held_out")
    assert confusion.counts.tolist() == [[0, int((truth == 0).sum())], [0, int((truth == 1).sum())]]


def test_validation_while_training_improves(trained):
    lines = [json.loads(line) for line in (trained.parent / "metrics.jsonl").read_text().splitlines()]
    scores = [line["scores"]["oa"] for line in lines if "scores" in line]
    assert len(scores) == 15 and scores[-1] > 0.8


def test_the_command_writes_scores(dataset, trained, tmp_path, capsys):
    path = tmp_path / "evaluate.yaml"
    path.write_text(f"""
recipe: evaluate
version: 1
output: {tmp_path}/scores
bundle: {trained}
data: {{index: {dataset.index}, split: val, dates: {{s2: 4}}}}
""")
    recipe = load(path, "evaluate", Options())
    assert evaluate_command(recipe, Options(dry_run=True)) is None
    assert not (tmp_path / "scores").exists()
    scores = evaluate_command(recipe, Options())
    assert json.loads((tmp_path / "scores" / "scores.json").read_text()) == scores
    assert scores["oa"] > scores["majority"]["oa"] and list(scores["per_class"]) == ["dark", "bright"]
    assert "macro_f1" in capsys.readouterr().out


def test_a_bundle_without_head_is_refused(dataset, tmp_path, write_pretrain):
    from skysense_cli.cli.pretrain import run as pretrain

    pretrain(load(write_pretrain(tmp_path, dataset, steps=1), "pretrain", Options()), Options())
    (tmp_path / "e.yaml").write_text(f"""
recipe: evaluate
version: 1
output: {tmp_path}/scores
bundle: {tmp_path}/pretrain/bundle
data: {{index: {dataset.index}, dates: {{s2: 4, s1: 2}}}}
""")
    with pytest.raises(RecipeError, match=r"has no head \(stage pretrain\); fine-tune it first"):
        evaluate_command(load(tmp_path / "e.yaml", "evaluate", Options()), Options())


def whole_truth(dataset):
    """The labels of the training samples side by side, held-out rows included, and their grid."""
    data = gathered(dataset)
    parts = []
    for row in data.rows:
        label = npz.read_label(dataset.folder / row.path)
        parts.append(np.where(label.raster == 255, label.held_out, label.raster))
    left, _, _, top = data.rows[0].bounds
    return data, np.hstack(parts), make_grid(left, top, 10, 8, 8 * len(parts), data.rows[0].crs)


def test_a_map_that_agrees_scores_one(dataset, tmp_path):
    data, truth, grid = whole_truth(dataset)
    write_geotiff(tmp_path / "map.tif", truth[None], grid, nodata=255, names={0: "dark", 1: "bright"})
    for on in ("label", "held_out"):
        confusion, unmapped = score_map(tmp_path / "map.tif", data, on)
        assert confusion.oa == 1 and unmapped == 0
        assert confusion.total == (truth_of(dataset, data, "raster" if on == "label" else "held_out") != 255).sum()


def test_a_finer_map_is_read_at_the_label_pixels_and_gaps_are_counted(dataset, tmp_path):
    data, truth, _ = whole_truth(dataset)
    left, _, _, top = data.rows[0].bounds
    fine = np.kron(truth, np.ones((2, 2), np.uint8))
    fine[-2:, :6] = 255
    write_geotiff(tmp_path / "map.tif", fine[None], make_grid(left, top, 5, *fine.shape, data.rows[0].crs), nodata=255)
    confusion, unmapped = score_map(tmp_path / "map.tif", data, "label")
    assert confusion.oa == 1 and unmapped == 3


def test_maps_of_something_else_are_refused(dataset, tmp_path):
    data, truth, grid = whole_truth(dataset)
    write_geotiff(tmp_path / "names.tif", truth[None], grid, nodata=255, names={0: "sea", 1: "land"})
    with pytest.raises(DataError, match="its classes are sea, land, those of the labels dark, bright"):
        score_map(tmp_path / "names.tif", data)
    write_geotiff(tmp_path / "float.tif", truth[None].astype(np.float32), grid, nodata=np.nan, overviews="average")
    with pytest.raises(DataError, match="has 1 bands of float32, a class map is one band of whole numbers"):
        score_map(tmp_path / "float.tif", data)
    far = make_grid(700_000, 5_000_000, 10, *truth.shape, data.rows[0].crs)
    write_geotiff(tmp_path / "far.tif", truth[None], far, nodata=255)
    with pytest.raises(DataError, match="has no prediction where the samples of"):
        score_map(tmp_path / "far.tif", data)
