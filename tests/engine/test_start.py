"""Training that starts from bundles and from files made elsewhere: what is loaded, what is adapted, what is said."""

import dataclasses
import shutil

import pytest
import torch

from skysense_cli.cli.options import Options, load
from skysense_cli.cli.pretrain import run as pretrain
from skysense_cli.data import npz
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import assemble_finetuning, assemble_pretraining, load_bundle
from skysense_cli.errors import BundleError, RecipeError
from skysense_cli.files import sha256

FOUR = ("B02", "B03", "B04", "B08")


@pytest.fixture(scope="module")
def pretrained(dataset, tmp_path_factory, write_pretrain):
    """The bundle of a short pretraining run."""
    folder = tmp_path_factory.mktemp("pretrained")
    return pretrain(load(write_pretrain(folder, dataset, steps=2), "pretrain", Options()), Options())


@pytest.fixture(scope="module")
def published(pretrained, tmp_path_factory):
    """The encoders and the fusion in files as SkySense was published."""
    folder = tmp_path_factory.mktemp("published")
    tensors = bundle.read(pretrained).tensors

    def part(prefix):
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    fusion = part("model.fusion.")
    dates = fusion.pop("date_embedding")
    torch.save(part("model.encoders.s2.") | {"ctpe": dates.unsqueeze(0)}, folder / "skysense_model_backbone_s2.pth")
    torch.save(part("model.encoders.s1."), folder / "radar.pth")
    torch.save({f"backbone.{key}": tensor for key, tensor in fusion.items()}, folder / "skysense_model_fusion.pth")
    return folder


def weights(assembly):
    return assembly.objective.export()["model"].state_dict()


def finetuning(path, **options):
    return assemble_finetuning(load(path, "finetune", Options(**options)))


def test_files_made_elsewhere_start_a_model(published, pretrained, dataset, tmp_path, write_finetune, capsys):
    files = [published / "skysense_model_backbone_s2.pth", f"s1={published / 'radar.pth'}", published / "skysense_model_fusion.pth"]
    start = f"start_from: [{', '.join(map(str, files))}]\nmodel: model.yaml"
    assembly = finetuning(write_finetune(tmp_path, dataset, start, modalities="[s2, s1]", dates="{s2: 3, s1: 2}"))
    before = bundle.read(pretrained).tensors
    found = weights(assembly)
    names = [name for name in found if not name.startswith(("geo_context.", "lifts."))]
    assert names and all(torch.equal(found[name], before[f"model.{name}"]) for name in names)
    assert [(fact.name, fact.sha256) for fact in assembly.spec.sources][1] == ("radar.pth", sha256(published / "radar.pth"))
    out = capsys.readouterr().out
    assert "skysense_model_backbone_s2.pth: renamed: ctpe -> model.fusion.date_embedding" in out
    assert "in no file: model.geo_context (3 tensors); starts as: empty" in out and "in no file: model.lifts.s1" in out


def test_such_files_need_a_model(published, dataset, tmp_path, write_finetune):
    path = write_finetune(tmp_path, dataset, f"start_from: {published / 'skysense_model_backbone_s2.pth'}")
    with pytest.raises(RecipeError, match=r"files that do not say which model they belong to \(.*backbone_s2.pth\); add e.g. `model: "):
        finetuning(path)


def test_a_bundle_stands_alone(published, pretrained, dataset, tmp_path, write_finetune):
    path = write_finetune(tmp_path, dataset, f"start_from: [{pretrained}, {published / 'skysense_model_fusion.pth'}]")
    with pytest.raises(RecipeError, match="is a bundle and must stand alone"):
        finetuning(path)


def test_files_must_exist_whoever_owns_them(dataset, tmp_path, write_finetune):
    path = write_finetune(tmp_path, dataset, "start_from: [s2=nowhere.pth]\nmodel: model.yaml")
    with pytest.raises(RecipeError, match="start_from: nowhere.pth does not exist"):
        load(path, "finetune", Options())


def four_bands(dataset, folder):
    """A copy of the data set whose Sentinel-2 has four bands."""
    shutil.copytree(dataset.folder, folder)
    for path in (folder / "samples").glob("*.npz"):
        sample = npz.read(path)
        series = sample.series["s2"]
        places = [series.bands.index(band) for band in FOUR]
        less = dataclasses.replace(series, bands=FOUR, pixels=series.pixels[:, places])
        npz.write(dataclasses.replace(sample, series=sample.series | {"s2": less}), path)
    return dataclasses.replace(dataset, folder=folder, index=folder / "index")


def test_a_model_of_four_bands_starts_from_one_of_ten(pretrained, dataset, tmp_path, write_finetune, capsys):
    data = four_bands(dataset, tmp_path / "four")
    path = write_finetune(tmp_path, data, f"start_from: {pretrained}\nmodel: model.yaml")
    (tmp_path / "model.yaml").write_text((tmp_path / "model.yaml").read_text().replace("channels: 10", "channels: 4"))
    assembly = finetuning(path)
    old = bundle.read(pretrained).tensors["model.encoders.s2.patch_embed.projection.weight"]
    assert torch.equal(weights(assembly)["encoders.s2.patch_embed.projection.weight"], old[:, [0, 1, 2, 6]] * 2.5)
    assert assembly.spec.inputs["s2"].bands == FOUR
    assert "B02 B03 B04 B08 by name, times 10/4" in capsys.readouterr().out


def test_a_bundle_with_the_model_beside_it_is_seen_as_it_was_trained(pretrained, dataset, tmp_path, write_finetune):
    assembly = finetuning(write_finetune(tmp_path, dataset, f"start_from: {pretrained}\nmodel: model.yaml"))
    assert assembly.spec.inputs["s2"] == load_bundle(pretrained).inputs["s2"] and assembly.spec.parent


def test_parts_that_are_new_in_the_model_start_fresh(pretrained, dataset, tmp_path, write_pretrain, capsys):
    path = write_pretrain(tmp_path, dataset)
    (tmp_path / "model.yaml").write_text((tmp_path / "model.yaml").read_text() + "completion: {codes: 8, dim: 4, hidden: 4}\n")
    path.write_text(path.read_text().replace("crop_m: 40", "crop_m: 80") + f"start_from: {pretrained}\n")
    found = weights(assemble_pretraining(load(path, "pretrain", Options())))
    before = bundle.read(pretrained).tensors
    assert all(torch.equal(tensor, before[f"model.{name}"]) for name, tensor in found.items() if not name.startswith("completion."))
    assert "in no file: model.completion" in capsys.readouterr().out


def test_a_bundle_that_lost_a_part_is_refused(pretrained, dataset, tmp_path, write_finetune):
    stored = bundle.read(pretrained)
    kept = {name: tensor for name, tensor in stored.tensors.items() if not name.startswith("model.fusion.")}
    bundle.save(tmp_path / "less", stored.spec, kept)
    with pytest.raises(BundleError, match=r"less: model.fusion.\S+ is missing in the bundle, whose model has that part \(and \d+ more\)"):
        finetuning(write_finetune(tmp_path, dataset, f"start_from: {tmp_path / 'less'}"))


def test_a_model_of_another_size_is_refused(pretrained, dataset, tmp_path, write_pretrain):
    path = write_pretrain(tmp_path, dataset)
    (tmp_path / "model.yaml").write_text((tmp_path / "model.yaml").read_text().replace("depth: 2", "depth: 3"))
    path.write_text(path.read_text() + f"start_from: {pretrained}\n")
    with pytest.raises(BundleError, match=r"model.encoders.s2.layers.2.ln1.weight is missing in the file \(16\)"):
        assemble_pretraining(load(path, "pretrain", Options()))


def test_the_prototypes_of_a_bundle_come_along(pretrained, dataset, tmp_path, write_finetune):
    before = bundle.read(pretrained).tensors["model.geo_context.slot_regions"]
    assert len(before)
    found = weights(finetuning(write_finetune(tmp_path, dataset, f"start_from: {pretrained}")))
    assert torch.equal(found["geo_context.slot_regions"], before)
