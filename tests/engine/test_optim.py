"""Groups, layer decay, freezing and the learning rate: known answers."""

import math

import pytest

from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.heads.fcn import Fcn
from skysense_cli.core.model import Lift, SkySense
from skysense_cli.core.objectives.multi_granularity import MultiGranularity
from skysense_cli.core.objectives.supervised import Supervised
from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.engine import optim
from skysense_cli.recipe.schema.train import TrainSection


def make_objective():
    encoder = ViT(channels=10, dim=8, depth=3, heads=2, patch=2, size=8, final_norm=True)
    model = SkySense(
        {"s2": encoder}, {"s2": Lift(8, 8, 2)}, Temporal(8, depth=1, heads=2, dim=8), GeoPrototypes(8, regions=4, per_region=2), anchor="s2"
    )
    return Supervised(model, Fcn(model.spec, 3, width=8, depth=1))


def plan(**options):
    return TrainSection(**({"steps": 10, "batch": 1, "lr": 0.1, "weight_decay": 0.5} | options))


def groups_of(objective, **options):
    """Parameter name -> (scale, weight decay)."""
    optimizer = optim.build(objective, plan(**options))
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    return {names[id(p)]: (group["scale"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}


def test_every_trainable_parameter_is_in_one_group():
    objective = make_objective()
    assert set(groups_of(objective)) == {name for name, _ in objective.named_parameters()}


def test_layers_below_the_last_learn_more_slowly():
    groups = groups_of(make_objective(), layer_decay=0.5)
    scales = {name: scale for name, (scale, _) in groups.items()}
    assert scales["model.encoders.s2.pos_embed"] == 0.5**4
    assert scales["model.encoders.s2.patch_embed.projection.weight"] == 0.5**4
    assert {scales[name] for name in scales if "encoders.s2.layers.0." in name} == {0.5**3}
    assert {scales[name] for name in scales if "encoders.s2.layers.2." in name} == {0.5}
    assert scales["model.encoders.s2.ln1.weight"] == 1
    assert scales["model.fusion.cls_token"] == scales["head.conv_seg.weight"] == scales["model.lifts.s2.decoder.0.weight"] == 1


def test_norms_biases_tokens_and_tables_are_not_decayed():
    groups = groups_of(make_objective())
    undecayed = {name for name, (_, decay) in groups.items() if decay == 0}
    for name in (
        "model.encoders.s2.pos_embed",
        "model.encoders.s2.cls_token",
        "model.fusion.date_embedding",
        "model.fusion.cls_token",
        "head.conv_seg.bias",
        "head.convs.0.bn.weight",
    ):
        assert name in undecayed
    for name in ("model.encoders.s2.patch_embed.projection.weight", "head.conv_seg.weight", "model.fusion.porj_linear.weight"):
        assert name not in undecayed


def test_the_teacher_is_not_trained():
    objective = MultiGranularity(make_objective().model)
    names = set(groups_of(objective))
    assert not any(name.startswith("teacher") for name in names)
    assert any(name.startswith("model.encoders") for name in names)
    assert any(name.startswith("projectors") for name in names)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    options = plan(lr=1.0, min_lr=0.1, warmup=4, steps=12)
    rates = [optim.learning_rate(step, options) for step in range(12)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[8] == pytest.approx(0.55)
    assert rates[11] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 7 / 8)))
    assert optim.learning_rate(12, options) == pytest.approx(0.1)


def test_each_group_gets_its_share_of_the_rate():
    optimizer = optim.build(make_objective(), plan(layer_decay=0.5))
    optim.set_learning_rate(optimizer, 0, plan(layer_decay=0.5))
    assert {group["lr"] / group["scale"] for group in optimizer.param_groups} == {0.1}
