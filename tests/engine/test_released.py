"""Full-size stand-ins of every published file: each is known by its keys and every key has a fate; damaged ones are refused."""

import re

import pytest
import torch

from skysense_cli.engine.checkpoint_file import WeightsFile
from skysense_cli.engine.convert import inspect
from skysense_cli.engine.released import recognise, sources_of
from skysense_cli.errors import BundleError
from skysense_cli.recipe.load import load_model


def models(name):
    return load_model(f"models/{name}")


def looked(paths, **options):
    return inspect(paths, models, **options)


@pytest.fixture(scope="module")
def v1(stand_ins, tmp_path_factory):
    return stand_ins.write(tmp_path_factory.mktemp("v1"), stand_ins.v1(stand_ins.keys))


@pytest.fixture(scope="module")
def pp(stand_ins, tmp_path_factory):
    return stand_ins.write(tmp_path_factory.mktemp("pp"), stand_ins.pp(stand_ins.keys))


def total(group):
    return {word: sum(one.counts[word] for one in group.accounts) for word in group.accounts[0].counts}


def test_every_key_of_skysense_has_a_fate(v1):
    found = looked([v1])
    (group,) = found.groups
    assert group.model == "skysense_v1" and not found.problems
    assert {one.source.file.path.name: one.source.what for one in group.accounts} == {
        "skysense_model_backbone_hr.pth": "encoder of hr",
        "skysense_model_backbone_s1.pth": "encoder of s1",
        "skysense_model_backbone_s2.pth": "encoder of s2 + date table",
        "skysense_model_fusion.pth": "fusion",
        "skysense_model_head_s1.pth": "lift of s1",
        "skysense_model_head_s2.pth": "lift of s2",
    }
    counts = {"loaded": 1314, "renamed": 1, "recomputed": 48, "not used": 1, "reshaped": 0, "adapted": 0, "missing": 0, "wrong": 0}
    assert total(group) == counts
    for one in group.accounts:
        assert sorted(fate.key for fate in one.fates) == sorted(one.source.file.tensors)
    fates = {fate.key: fate for one in group.accounts for fate in one.fates}
    assert fates["backbone.mask_token"].word == "not used" and fates["backbone.mask_token"].note == "the plain encoder has no labels"
    assert fates["ctpe"].target == "model.fusion.date_embedding" and fates["ctpe"].note == "1 x 365 x 2816 -> 365 x 2816"
    assert {name.split(".")[1] for name in group.missing} == {"geo_context"}


def test_every_key_of_skysense_plus_plus_has_a_fate(pp):
    found = looked([pp])
    (group,) = found.groups
    assert group.model == "skysense_pp" and not found.problems and not group.missing
    (one,) = group.accounts
    assert len(one.source.file.tensors) == 1570
    assert total(group) == {
        "loaded": 1372,
        "renamed": 150,
        "recomputed": 48,
        "not used": 5,
        "reshaped": 0,
        "adapted": 0,
        "missing": 0,
        "wrong": 0,
    }
    targets = [fate.target for fate in one.fates if fate.target]
    assert len(targets) == len(set(targets)) == 1570
    assert {fate.key for fate in one.fates if fate.word == "not used"} == {
        "optimizer", "lr_scheduler", "current_iteration", "current_epoch", "best_metric_value",
    }  # fmt: skip


def test_one_file_per_part_of_skysense_plus_plus(stand_ins, tmp_path):
    found = looked([stand_ins.write(tmp_path / "parts", stand_ins.pp_parts(stand_ins.keys))])
    (group,) = found.groups
    assert group.model == "skysense_pp" and not found.problems and not group.missing
    assert total(group)["loaded"] + total(group)["renamed"] + total(group)["recomputed"] == 1570


def test_a_bare_checkpoint_under_the_plain_name_of_attention_weights(stand_ins, tmp_path):
    torch.save(stand_ins.assembled(stand_ins.keys), tmp_path / "a.ckpt")
    (group,) = looked([tmp_path / "a.ckpt"]).groups
    assert total(group)["loaded"] == 1522 and total(group)["renamed"] == 0


def test_a_prompted_checkpoint_in_the_plain_model(pp):
    found = looked([pp], model="skysense_v1")
    (group,) = found.groups
    assert not found.problems
    (one,) = group.accounts
    reasons = {fate.note for fate in one.fates if fate.word == "not used" and "beside" not in fate.note}
    assert reasons == {"the plain encoder has no labels", "the model is loaded without a head", "the model completes no absent modality"}
    reshaped = [fate for fate in one.fates if fate.word == "reshaped"]
    assert [fate.note for fate in reshaped] == ["4 x 4 -> 1 + 16 x 16 positions, bicubic; row 0, of the class token, is zero"] * 2
    assert group.missing["model.fusion.date_embedding"] == "waves of the year"


def test_plain_files_in_the_prompted_model(v1):
    found = looked([v1], model="skysense_pp")
    (group,) = found.groups
    assert not found.problems
    fates = {fate.key: fate for one in group.accounts for fate in one.fates}
    assert fates["backbone.mask_token"].target == "model.encoders.hr.mask_token"
    assert fates["ctpe"].word == "not used" and fates["ctpe"].note == "the model has no date table"
    assert fates["pos_embed"].note == "1 + 16 x 16 -> 4 x 4 positions, bicubic"
    assert group.missing["model.encoders.s2.vocabulary_token"] == "random"
    assert group.missing["model.encoders.s2.vocabulary_weight"] == "zero" and group.missing["model.encoders.hr.norm_attn.weight"] == "one"


def test_half_precision_is_said(stand_ins, tmp_path):
    lift = stand_ins.module(stand_ins.keys, "head_s2")
    torch.save({key: stand_ins.stand_in(tensor.shape, "float16") for key, tensor in lift.items()}, tmp_path / "head_s2.pth")
    (group,) = looked([tmp_path / "head_s2.pth"]).groups
    assert [fate.note for fate in group.accounts[0].fates] == ["float16 -> float32"] * 2


def changed(stand_ins, tmp_path, change, module="backbone_s2", name="x_s2.pth"):
    """A file of one published module after `change` on its state dict."""
    source = stand_ins.PLAIN["s2"] if module == "backbone_s2" else stand_ins.PLAIN["hr"] if module == "backbone_hr" else module
    state = stand_ins.module(stand_ins.keys, source)
    change(state, stand_ins.stand_in)
    torch.save(state, tmp_path / name)
    return tmp_path / name


DAMAGED = [
    (lambda s, t: s.pop("layers.3.ln1.weight"), r"model.encoders.s2.layers.3.ln1.weight is missing in the file \(1024\)"),
    (lambda s, t: s.update({"layers.24.ln1.weight": t((1024,))}), "layers.24.ln1.weight is unexplained: the model has no encoders.s2.lay"),
    (
        lambda s, t: s.update({"layers.3.ln1.weight": t((1023,))}),
        "layers.3.ln1.weight has shape 1023, model.encoders.s2.layers.3.ln1.weight is 1024",
    ),
    (lambda s, t: s.update({"layers.3.ln1.weight": t((1024,), "int64")}), "layers.3.ln1.weight is int64, .* is float32"),
    (lambda s, t: s.update({"pos_embed": t((1, 250, 1024))}), "pos_embed has shape 1 x 250 x 1024, .* is 1 x 257 x 1024"),
    (lambda s, t: s.update({"pos_embed": t((1, 10**9, 1024))}), "pos_embed has shape 1 x 1000000000 x 1024"),
    (lambda s, t: s.update({"layers.0.ln1.weight": t((10**6, 10**6))}), "layers.0.ln1.weight has shape 1000000 x 1000000"),
    (lambda s, t: s.update({"patch_embed.projection.weight": t((512, 10, 4, 4))}), "projection.weight has shape 512 x 10 x 4 x 4"),
    (lambda s, t: s.update({"module.cls_token": s["cls_token"]}), "cls_token and module.cls_token are the same tensor, cls_token"),
    (lambda s, t: s.update({"ctpe": t((1, 365, 256))}), "ctpe has shape 1 x 365 x 256, model.fusion.date_embedding is 365 x 2816"),
    (lambda s, t: s.update({"ctpe": t((1, 366, 2816))}), "ctpe has shape 1 x 366 x 2816"),
]  # fmt: skip


@pytest.fixture(scope="module")
def problems(stand_ins, tmp_path_factory):
    """Number in DAMAGED -> the line on that file; all are looked at together."""
    folder = tmp_path_factory.mktemp("damaged")
    paths = [changed(stand_ins, folder, change, name=f"{number}_s2.pth") for number, (change, _) in enumerate(DAMAGED)]
    found = looked(paths).problems
    return {number: line for number, path in enumerate(paths) for line in found if line.startswith(f"{path}: ") and "so does" not in line}


@pytest.mark.parametrize("number", range(len(DAMAGED)))
def test_damage_is_named_in_one_line(problems, number):
    assert re.search(DAMAGED[number][1], problems[number]) and "\n" not in problems[number]


def test_a_wrong_prefix_matches_nothing_and_is_refused(stand_ins, tmp_path):
    path = changed(stand_ins, tmp_path, lambda s, t: [s.update({f"net.{key}": s.pop(key)}) for key in list(s)])
    (problem,) = looked([path]).problems
    assert "none of its 292 keys is known (it begins with net.cls_token, net.pos_embed, net.patch_embed" in problem


def test_a_file_for_another_model_matches_nothing(stand_ins, tmp_path):
    path = changed(stand_ins, tmp_path, lambda s, t: None)
    (problem,) = looked([path], model="nano").problems
    assert re.search("has shape .* model.encoders.s2", problem)
    hr = changed(stand_ins, tmp_path, lambda s, t: None, "backbone_hr", "x_hr.pth")
    (problem,) = looked([hr], model="nano").problems
    assert "none of its 483 keys is in the model, which has encoders.s2, lifts.s2" in problem


def test_more_mistakes_are_counted_and_the_others_go_on(stand_ins, tmp_path, v1):
    path = changed(stand_ins, tmp_path, lambda s, t: [s.pop(f"layers.{i}.ln1.bias") for i in range(5)])
    found = looked([path, v1 / "skysense_model_backbone_s2.pth"])
    first, second = found.problems
    assert first.endswith("(and 4 more)") and [len(group.accounts) for group in found.groups] == [2]
    assert re.search(r"skysense_model_backbone_s2.pth: gives model.encoders.s2.\S+, and so does .*x_s2.pth; name only one", second)


def test_a_lift_needs_a_name_or_a_word(stand_ins, tmp_path):
    path = changed(stand_ins, tmp_path, lambda s, t: None, "head_s2", "lift.pth")
    (problem,) = looked([path]).problems
    assert problem.endswith(f"lift.pth: holds a lift, which is alike for s2 and s1; say whose it is, e.g. s2={path}")
    (group,) = looked([f"s1={path}"]).groups
    assert group.accounts[0].source.what == "lift of s1"


def test_an_encoder_of_unknown_bands(stand_ins, tmp_path):
    path = changed(stand_ins, tmp_path, lambda s, t: s.update({"patch_embed.projection.weight": t((1024, 7, 4, 4))}), name="a.pth")
    (problem,) = looked([path]).problems
    assert "holds a patch embedding of 7 channels; say whose it is, e.g. s2=" in problem
    (problem,) = looked([f"s2={path}"]).problems
    assert "s2 has 7 channels, and no rule says which bands they are" in problem


def test_four_bands_of_sentinel_2_adapt(stand_ins, tmp_path, v1):
    text = "cell_m: 10\nwidth: 2816\nanchor: s2\nencoders:\n"
    text += "  s2: {kind: vit, channels: 4, dim: 1024, depth: 24, heads: 16, patch: 4, size: 64}\n"
    (tmp_path / "four.yaml").write_text(text + "fusion: {kind: temporal, depth: 24, heads: 16, dim: 1024}\n")
    found = inspect([v1 / "skysense_model_backbone_s2.pth"], load_model, str(tmp_path / "four.yaml"))
    assert not found.problems
    (fate,) = [fate for fate in found.groups[0].accounts[0].fates if fate.word == "adapted"]
    assert fate.note.endswith("B02 B03 B04 B08 by name, times 10/4")


def test_folders_bundles_and_words_before_files(tmp_path):
    (tmp_path / "a.pth").touch()
    (tmp_path / "b.txt").touch()
    assert sources_of([tmp_path]) == [(tmp_path / "a.pth", None)]
    assert sources_of([f"s2={tmp_path / 'a.pth'}", tmp_path / "a.pth"]) == [(tmp_path / "a.pth", "s2"), (tmp_path / "a.pth", None)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="neither a bundle nor a folder with files of weights"):
        sources_of([tmp_path / "empty"])


def test_keys_that_only_differ_in_attention_names_are_the_same(tmp_path):
    one = {
        "porj_linear.bias": torch.ones(1),
        "layers.0.attn.attn.Wqkv.bias": torch.ones(1),
        "layers.0.attn.attn.in_proj_bias": torch.ones(1),
    }
    with pytest.raises(BundleError, match=r"Wqkv.bias and .*in_proj_bias are the same tensor"):
        recognise(WeightsFile(tmp_path, "torch", one))
