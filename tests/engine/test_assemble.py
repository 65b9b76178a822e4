"""Models from recipes and bundles: the cell law, what fits together, what is refused and how it is said."""

import json

import numpy as np
import pytest
import torch

from skysense_cli.cli.finetune import run as finetune
from skysense_cli.cli.options import Options, load
from skysense_cli.cli.pretrain import run as pretrain
from skysense_cli.core.encoders.swin_v2 import SwinV2
from skysense_cli.data import index, npz
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import (
    assemble_finetuning,
    assemble_pretraining,
    check_cells,
    lift_scale,
    load_bundle,
    load_weights,
    unit_m,
)
from skysense_cli.errors import BundleError, DataError, GridError, RecipeError


def inputs(**gsds):
    return {name: Input("rgb", ("R",), gsd, (0.0,), (1.0,)) for name, gsd in gsds.items()}


CASES = [  # the table of the cell law: (cell_m, size_m, {modality: (gsd, stride, lift)}, cells)
    (10, (640, 640), {"hr": (0.3125, 32, 1), "s2": (10, 4, 4), "s1": (10, 4, 4)}, (64, 64)),
    (10, (160, 160), {"hr": (0.3125, 32, 1), "s2": (10, 4, 4)}, (16, 16)),
    (40, (640, 640), {"hr": (2.5, 32, 2), "s2": (10, 4, 1)}, (16, 16)),
    (10, (640, 640), {"hr": (2.5, 32, 8), "s2": (10, 4, 4)}, (64, 64)),
    (10, (640, 640), {"s2": (10, 4, 4), "s1": (20, 4, 8)}, (64, 64)),
    (40, (640, 640), {"s2": (10, 4, 1), "s1": (20, 4, 2)}, (16, 16)),
    (10, (60, 60), {"hr": (0.3125, 32, 1), "s2": (10, 2, 2)}, (6, 6)),
    (20, (80, 160), {"s2": (10, 2, 1)}, (4, 8)),
]


@pytest.mark.parametrize(("cell_m", "size_m", "modalities", "cells"), CASES)
def test_the_cell_law(cell_m, size_m, modalities, cells):
    facts = inputs(**{name: gsd for name, (gsd, _, _) in modalities.items()})
    strides = {name: stride for name, (_, stride, _) in modalities.items()}
    for name, (gsd, stride, lift) in modalities.items():
        assert lift_scale(name, stride, gsd, cell_m) == lift
    assert check_cells(size_m, facts, strides, cell_m) == cells


def test_units_hold_every_encoder_step():
    assert unit_m(inputs(hr=0.3125, s2=10, s1=20), {"hr": 32, "s2": 4, "s1": 4}) == 80
    assert unit_m(inputs(s2=10, s1=15), {"s2": 2, "s1": 2}) == 60
    assert unit_m(inputs(hr=0.1, s2=0.3), {"hr": 1, "s2": 1}) == pytest.approx(0.3)


def test_a_size_that_splits_encoder_steps_is_refused_with_the_nearest():
    with pytest.raises(GridError, match=r"views of 60 x 60 m .*s2 4 px x 10 m.* multiples of 40 m \(nearest: 40 or 80 m"):
        check_cells((60, 60), inputs(s2=10), {"s2": 4}, 10)


def test_a_lift_that_is_not_whole_is_refused_with_what_fits():
    with pytest.raises(
        RecipeError, match=r"model.encoders.s2: stride 4 x 10 m is 1.33333 cells of 30 m.*\(fits: a gsd of 7.5 m, or cell_m 40\)"
    ):
        lift_scale("s2", 4, 10, 30)
    with pytest.raises(RecipeError, match="is 0.5 cells"):
        lift_scale("s2", 4, 10, 80)


@pytest.fixture(scope="module")
def pretrained(dataset, tmp_path_factory, write_pretrain):
    """The bundle of a short pretraining run."""
    folder = tmp_path_factory.mktemp("pretrained")
    return pretrain(load(write_pretrain(folder, dataset), "pretrain", Options()), Options())


def test_a_bundle_gives_frozen_features_in_a_few_lines(pretrained, dataset):
    loaded = load_bundle(pretrained)
    batch = loaded.batch([dataset.folder / "samples" / "s000.npz", dataset.folder / "samples" / "s002.npz"])
    features = loaded.model(batch)
    assert features.fused.shape == (2, 32, 4, 4)
    assert features.seen_any.all() and not features.fused.requires_grad
    assert batch.series["s1"].present.tolist() == [[True] * 3, [False] * 3]
    assert loaded.unit_m == 40 and loaded.head is None and loaded.classes == ()


def test_a_bundle_holds_no_path_and_says_what_it_is(pretrained):
    spec = json.loads((pretrained / "bundle.json").read_text())
    assert spec["schema"] == 1 and spec["stage"] == "pretrain" and spec["step"] == 4
    assert spec["inputs"]["s2"]["gsd_m"] == 10 and list(spec["model"]["encoders"]) == ["s2", "s1"]
    assert str(pretrained.parent) not in (pretrained / "bundle.json").read_text()


def test_finetuning_keeps_a_part_of_the_encoder(pretrained, dataset, tmp_path, write_finetune):
    recipe = load(write_finetune(tmp_path, dataset, f"start_from: {pretrained}"), "finetune", Options())
    assembly = assemble_finetuning(recipe)
    names = set(assembly.objective.export()["model"].state_dict())
    assert not any(name.startswith(("encoders.s1", "lifts.s1")) for name in names)
    before = bundle.read(pretrained).tensors
    assert all(torch.equal(tensor, before[f"model.{name}"]) for name, tensor in assembly.objective.export()["model"].state_dict().items())
    assert assembly.spec.parent == bundle.read(pretrained).manifest["weights.safetensors"]["sha256"]
    folder = finetune(recipe, Options())
    loaded = load_bundle(folder)
    assert loaded.classes == ("dark", "bright") and loaded.colors == ((0, 0, 0), (255, 255, 0))
    assert loaded.spec.model.anchor == "s2" and list(loaded.inputs) == ["s2"]


def test_both_modalities_with_another_anchor(pretrained, dataset, tmp_path, write_finetune):
    path = write_finetune(tmp_path, dataset, f"start_from: {pretrained}", modalities="[s1, s2]", dates="{s1: 2, s2: 3}")
    assembly = assemble_finetuning(load(path, "finetune", Options()))
    assert assembly.objective.export()["model"].anchor == "s1"


@pytest.mark.parametrize(
    ("modalities", "dates", "message"),
    [
        ("[hr]", "{hr: 1}", "modalities asks for 'hr', but .*bundle was trained on s2, s1"),
        ("[s2, s1]", "{s2: 1}", "data.dates says nothing of 's1', which modalities has"),
        ("[s2]", "{s2: 1, s1: 1}", "data.dates.s1: 's1' is none of the modalities"),
    ],
)
def test_modalities_that_do_not_fit_are_refused(pretrained, dataset, tmp_path, write_finetune, modalities, dates, message):
    path = write_finetune(tmp_path, dataset, f"start_from: {pretrained}", modalities=modalities, dates=dates)
    with pytest.raises(RecipeError, match=message):
        assemble_finetuning(load(path, "finetune", Options()))


def test_class_names_must_be_those_of_the_labels(pretrained, dataset, tmp_path, write_finetune):
    path = write_finetune(tmp_path, dataset, f"start_from: {pretrained}")
    path.write_text(path.read_text() + "classes: [bright, dark]\n")
    with pytest.raises(RecipeError, match=r"classes are bright, dark, but the labels of .* are dark, bright"):
        assemble_finetuning(load(path, "finetune", Options()))


def test_wrong_channels_are_refused(dataset, tmp_path, write_pretrain):
    path = write_pretrain(tmp_path, dataset)
    (tmp_path / "model.yaml").write_text((tmp_path / "model.yaml").read_text().replace("channels: 10", "channels: 4"))
    with pytest.raises(RecipeError, match=r"model.encoders.s2.channels is 4, but s2 has 10 bands \(B02, B03"):
        assemble_pretraining(load(path, "pretrain", Options()))


def test_a_modality_the_data_lacks_is_refused(dataset, tmp_path, write_pretrain):
    path = write_pretrain(tmp_path, dataset)
    path.write_text(path.read_text().replace("s1: 2", "hr: 1"))
    (tmp_path / "model.yaml").write_text((tmp_path / "model.yaml").read_text().replace("  s1:", "  hr:"))
    with pytest.raises(RecipeError, match="pretrain: model.encoders has 'hr', but .*index holds s1, s2"):
        assemble_pretraining(load(path, "pretrain", Options()))


def test_a_period_without_dates_is_refused(dataset, tmp_path, write_pretrain):
    path = write_pretrain(tmp_path, dataset)
    path.write_text(path.read_text().replace("crop_m: 40", "crop_m: 40, period: {start: 2001-01-01, end: 2001-12-31}"))
    with pytest.raises(DataError, match="none of the 4 samples has a date of s2, s1 within data.period"):
        assemble_pretraining(load(path, "pretrain", Options()))


def test_samples_of_two_sizes_need_crops(tmp_path, write_samples, write_pretrain):
    data = write_samples(tmp_path / "data")
    rows = list(index.read(data.index))
    left, bottom, right, top = rows[0].bounds
    rows[0] = index.Row(**{**rows[0].__dict__, "bounds": (left, bottom - 80, right, top)})
    index.write_part(data.index, "0", rows)
    path = write_pretrain(tmp_path, data)
    path.write_text(path.read_text().replace(", crop_m: 40", ""))
    with pytest.raises(DataError, match=r"s000 is 160 x 80 m and s001 is 80 x 80 m; set data.crop_m"):
        assemble_pretraining(load(path, "pretrain", Options()))


def test_samples_without_labels_are_refused(tmp_path, write_samples, write_finetune):
    data = write_samples(tmp_path / "data")
    for path in (data.folder / "samples").glob("*.npz"):
        sample = npz.read(path)
        npz.write(type(sample)(**{**sample.__dict__, "label": None}), path)
    with pytest.raises(DataError, match="s000.npz: has no label; build-data with a `label:` section makes them"):
        assemble_finetuning(load(write_finetune(tmp_path, data, "model: model.yaml"), "finetune", Options()))


def test_evaluation_needs_a_split(dataset, tmp_path, write_finetune):
    path = write_finetune(tmp_path, dataset, "model: model.yaml")
    path.write_text(path.read_text().replace("val: val, ", ""))
    with pytest.raises(RecipeError, match=r"evaluate needs data.val, the split to evaluate"):
        assemble_finetuning(load(path, "finetune", Options()))


def changed(folder, pretrained, change):
    stored = bundle.read(pretrained)
    spec, tensors = json.loads(json.dumps(stored.spec)), dict(stored.tensors)
    change(spec, tensors)
    bundle.save(folder, spec, tensors)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec, tensors: spec.update(schema=7), r"bundle schema 7 is not known \(known: 1\)"),
        (lambda spec, tensors: spec.update(colour=1), "bundle.json: colour: Extra inputs are not permitted"),
        (lambda spec, tensors: spec["model"]["fusion"].update(kind="magic"), r"bundle.json: model.fusion"),
        (lambda spec, tensors: spec["inputs"].pop("s1"), "inputs are s2, encoders s2, s1"),
        (lambda spec, tensors: tensors.pop("model.fusion.cls_token"), r"lacks fusion.cls_token \(1 missing, 0 unknown\)"),
        (lambda spec, tensors: tensors.update({"model.more": torch.zeros(1)}), "holds more, which this model has not"),
        (lambda spec, tensors: tensors.update({"model.fusion.cls_token": torch.zeros(1, 1, 3)}), "weights do not fit: .*cls_token"),
    ],
)
def test_bundles_that_do_not_fit_are_refused(pretrained, tmp_path, change, message):
    with pytest.raises(BundleError, match=message):
        load_bundle(changed(tmp_path / "bundle", pretrained, change))


def test_tables_that_encoders_build_may_be_missing_or_of_another_window(tmp_path):
    def swin(window):
        return SwinV2(channels=2, dim=4, depths=(1, 1), heads=(1, 2), window=window, patch=2)

    table = "stages.0.blocks.0.attn.w_msa.relative_coords_table"
    weights = {f"model.{name}": tensor for name, tensor in swin(4).state_dict().items()}
    lacking = {name: tensor for name, tensor in weights.items() if "relative" not in name}
    assert len(weights) == len(lacking) + 4
    for tensors in (weights, lacking):
        model = swin(2)
        load_weights(model, tensors, "model", tmp_path)
        assert torch.equal(model.norm1.weight, weights["model.norm1.weight"])
        assert torch.equal(model.state_dict()[table], swin(2).state_dict()[table])
    del lacking["model.norm1.weight"]
    with pytest.raises(BundleError, match=r"lacks norm1.weight \(1 missing, 0 unknown\)"):
        load_weights(swin(2), lacking, "model", tmp_path)


def test_prototypes_of_any_number_of_regions_come_back(pretrained):
    loaded = load_bundle(pretrained)
    assert len(loaded.model.geo_context.slot_regions) == 1  # all samples lie in one region
    assert np.isfinite(loaded.model.geo_context.prototypes.numpy()).all()
    assert loaded.spec.regions == (64, "equal_area")


def test_pretraining_can_start_from_a_bundle(pretrained, dataset, tmp_path, write_pretrain):
    path = write_pretrain(tmp_path, dataset)
    path.write_text(path.read_text() + f"start_from: {pretrained}\n")
    assembly = assemble_pretraining(load(path, "pretrain", Options()))
    stored = bundle.read(pretrained)
    assert torch.equal(assembly.objective.model.fusion.cls_token, stored.tensors["model.fusion.cls_token"])
    assert assembly.spec.parent == stored.manifest["weights.safetensors"]["sha256"]


def test_a_dry_run_prints_the_plan_and_writes_nothing(dataset, tmp_path, write_pretrain, capsys):
    assert pretrain(load(write_pretrain(tmp_path, dataset), "pretrain", Options()), Options(dry_run=True)) is None
    shown = capsys.readouterr().out
    for text in ("4 in", "3x10x4x4 at 10 m", "16x2x2", "encoders.s2", "teacher", "memory on cpu", "disk: 1 checkpoints"):
        assert text in shown
    assert not (tmp_path / "pretrain").exists()
