"""Labels, layers, weight decay and freezing of parameters; for SkySense++ exactly as published."""

import json

import pytest
import torch
from torch import nn

from skysense_cli import sensors
from skysense_cli.core.encoders.swin_v2 import SwinV2
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.heads.fcn import Fcn
from skysense_cli.core.model import Lift, NoGeoContext, SkySense
from skysense_cli.core.objectives.supervised import Supervised
from skysense_cli.core.prompting import PromptedEncoder
from skysense_cli.data.dataset import Input
from skysense_cli.engine import optim
from skysense_cli.engine.assemble import build_head, build_model
from skysense_cli.engine.parameters import Place, freeze, is_decayed, parameter_places
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.errors import RecipeError
from skysense_cli.recipe.load import load_model
from skysense_cli.recipe.schema.train import TrainSection

FREEZE = ("encoders.*.patch_embed", "encoders.*.units.0-11", "fusion.layers.2-23")  # the published second stage
OURS = {"head_rec_hr.": "head.", "head_s2.": "model.lifts.s2.", "head_s1.": "model.lifts.s1.", "fusion.": "model.fusion."}
OURS |= {"modality_vae.vae_": "model.completion.vaes."}
WRAPPER = ("mask_token", "vocabulary_", "attn1.", "attn2.", "attn3.", "norm_attn.")


def make_objective():
    encoder = ViT(channels=10, dim=8, depth=3, heads=2, patch=2, size=8, final_norm=True)
    model = SkySense({"s2": encoder}, {"s2": Lift(8, 8, 2)}, Temporal(8, depth=1, heads=2, dim=8), NoGeoContext(), anchor="s2")
    return Supervised(model, Fcn(model.spec, 3, width=8, depth=1))


def make_prompted():
    encoder = SwinV2(channels=3, dim=8, depths=(1, 2), heads=(2, 2), window=4)
    prompted = PromptedEncoder(encoder, "hr", vocabulary=4, merge_after={"hr": 1}, bridges={"hr": ((4, 2),)})
    model = SkySense({"hr": prompted}, {"hr": Lift(16, 16, 1)}, Temporal(16, depth=2, heads=2, dim=8), NoGeoContext(), anchor="hr")
    return Supervised(model, Fcn(model.spec, 3, width=8, depth=1))


def plan(**options):
    return TrainSection(**({"steps": 10, "batch": 1, "lr": 0.1, "weight_decay": 0.5} | options))


def our_name(name):
    """Our name of a parameter of the published SkySense++."""
    module, _, leaf = name.partition(".")
    if module.startswith("backbone_"):
        return f"model.encoders.{module.removeprefix('backbone_')}.{leaf if leaf.startswith(WRAPPER) else 'encoder.' + leaf}"
    return next(ours + name.removeprefix(theirs) for theirs, ours in OURS.items() if name.startswith(theirs))


@pytest.fixture(scope="module")
def skysense_pp():
    """The published model on the meta device."""
    section = load_model("recipes/models/skysense_pp.yaml")
    inputs = {}
    for name, sensor, gsd_m in (("hr", "rgb", 0.3125), ("s2", "sentinel2_l2a", 10.0), ("s1", "sentinel1_grd", 10.0)):
        bands = sensors.get(sensor).band_names
        inputs[name] = Input(sensor, bands, gsd_m, *sensors.get(sensor).statistics(bands))
    with torch.device("meta"):
        model = build_model(section, inputs)
        spec = BundleSpec(stage="pretrain", model=section, inputs=inputs, dates={}, size_m=(320, 160))
        return Supervised(model, build_head(spec, model))


def test_every_published_parameter_learns_decays_and_rests_as_published(skysense_pp, parity_dir):
    published = json.loads((parity_dir.parent / "upstream_param_groups.json").read_text())["params"]
    names = {our_name(name): facts for name, facts in published.items()}
    parameters = dict(skysense_pp.named_parameters())
    assert len(names) == len(published) == 1480
    assert set(names) == set(parameters)
    places = parameter_places(skysense_pp, layer_decay=0.7, rule="published")
    freeze(skysense_pp, places, FREEZE)
    for name, facts in names.items():
        assert parameters[name].requires_grad != facts.get("frozen", False), name
        if parameters[name].requires_grad:
            assert places[name].scale == pytest.approx(facts["lr_scale"], rel=1e-9), name
            assert is_decayed(name, parameters[name], "published") == (facts["weight_decay"] > 0), name
    trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    assert (len(trained), sum(parameter.numel() for parameter in trained)) == (711, 1_023_296_977)


def test_the_corrected_rule_decays_matrices_only_and_scales_no_fusion(skysense_pp):
    places = parameter_places(skysense_pp, layer_decay=0.7)
    decayed = {name for name, parameter in skysense_pp.named_parameters() if is_decayed(name, parameter)}
    for word in ("ln1", "ln2", "norm", "bias", "token", "pos_embed", "logit_scale", "gamma_"):
        assert not any(word in name for name in decayed), word
    assert {"model.completion.vaes.hr.codebook.weight", "model.fusion.layers.0.attn.attn.in_proj_weight"} <= decayed
    assert {place.scale for name, place in places.items() if name.startswith(("model.fusion", "head", "model.lifts"))} == {1.0}
    swin = "model.encoders.hr.encoder"
    assert places[f"{swin}.stages.2.downsample.reduction.weight"].label == "encoders.hr.units.4.reduction.weight"
    assert places[f"{swin}.stages.2.downsample.reduction.weight"].scale == pytest.approx(0.7 ** (24 - 4))
    assert places[f"{swin}.stages.2.blocks.0.norm1.weight"].scale == pytest.approx(0.7 ** (24 - 4))
    assert places["model.encoders.hr.mask_token"].scale == places[f"{swin}.patch_embed.norm.bias"].scale == pytest.approx(0.7**25)
    assert places["model.encoders.hr.vocabulary_token"].scale == places["model.encoders.hr.attn1.proj_in.weight"].scale == 1


def test_what_a_prompted_encoder_wraps_keeps_its_label():
    places = parameter_places(make_prompted(), layer_decay=0.5)
    labels = {place.label for place in places.values()}
    assert {"encoders.hr.units.0.norm1.weight", "encoders.hr.units.1.reduction.weight", "encoders.hr.mask_token"} <= labels
    assert not any(".encoder." in label for label in labels)


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [
        ("encoders.*.units.0-1", {"model.encoders.s2.layers.0.", "model.encoders.s2.layers.1."}),
        ("encoders", {"model.encoders."}),
        ("fusion", {"model.fusion."}),
        ("head.conv_seg", {"head.conv_seg."}),
        ("prototypes", set()),
        ("*pos_embed", {"model.encoders.s2.pos_embed"}),
    ],
)
def test_patterns_freeze_what_they_name(pattern, frozen):
    objective = make_objective()
    optim.build(objective, plan(freeze=(pattern,)))
    found = {name for name, parameter in objective.named_parameters() if not parameter.requires_grad}
    assert found == {name for name, _ in objective.named_parameters() if any(name.startswith(prefix) for prefix in frozen)}


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(RecipeError, match=r"train.freeze: 'encoder' matches no parameter \(known: encoders.s2, fusion.*head"):
        optim.build(make_objective(), plan(freeze=("encoder",)))


def test_freezing_everything_is_refused():
    with pytest.raises(RecipeError, match="leaves no parameter to train"):
        optim.build(make_objective(), plan(freeze=("*",)))


def test_a_plain_module_has_no_units():
    assert parameter_places(nn.Linear(2, 2))["weight"] == Place("weight")
    assert is_decayed("weight", torch.zeros(2, 2))
