"""What is done per unit changes nothing: compilation, recomputation; and bfloat16 changes little."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.engine.assemble import build_model
from skysense_cli.engine.distributed import shard
from skysense_cli.engine.released import known_input
from skysense_cli.recipe.schema.model import ModelSection
from skysense_cli.recipe.schema.train import TrainSection

SHAPES = {"hr": (1, 3, 128), "s2": (3, 10, 32), "s1": (2, 2, 32)}  # dates, channels, pixels; 2.5 m, 10 m, 10 m
MODEL = {  # as SkySense, but small: shifted windows, an extra norm, lifts, dates, prototypes
    "cell_m": 20.0,
    "width": 24,
    "anchor": "hr",
    "encoders": {
        "hr": {
            "kind": "swin_v2",
            "channels": 3,
            "dim": 16,
            "depths": [2, 2],
            "heads": [2, 4],
            "window": 4,
            "patch": 4,
            "extra_norm_every": 2,
        },
        "s2": {"kind": "vit", "channels": 10, "dim": 24, "depth": 2, "heads": 2, "patch": 4, "size": 32},
        "s1": {"kind": "vit", "channels": 2, "dim": 24, "depth": 2, "heads": 2, "patch": 4, "size": 32},
    },
    "fusion": {"kind": "temporal", "depth": 2, "heads": 2, "dim": 24},
    "prototypes": {"regions": 64, "per_region": 4},
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    section = ModelSection.model_validate(MODEL, strict=False)
    inputs = {m: known_input(m, channels, "") for m, (_, channels, _) in SHAPES.items()}
    inputs["hr"] = replace(inputs["hr"], gsd_m=2.5)
    return build_model(section, inputs)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    series = {}
    for m, (dates, channels, size) in SHAPES.items():
        present = torch.ones(2, dates, dtype=torch.bool)
        present[1, 1:] = False
        valid = present[..., None, None].expand(-1, -1, size, size)
        days = torch.randint(0, 365, (2, dates)).sort(dim=1).values
        series[m] = SeriesBatch(torch.randn(2, dates, channels, size, size), days, present, valid)
    return Batch(series, torch.zeros(2, dtype=torch.int64), torch.arange(2), torch.eye(2, 3).expand(2, -1, -1))


def step(model, batch):
    """The loss and the gradients of all parameters."""
    features = model(batch)
    loss = features.fused.square().mean() + sum(level.square().mean() for level in features.pyramid)
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_recomputed_units_have_the_same_loss_and_gradients(model, batch):
    recomputed = copy.deepcopy(model)
    shard(nn.ModuleList([recomputed]), TrainSection(steps=1, batch=1, lr=0.1, checkpoint_activations=True))
    loss, gradients = step(model, batch)
    again, others = step(recomputed, batch)
    torch.testing.assert_close(again, loss)
    unused = {name for name, gradient in gradients.items() if gradient is None}
    assert unused == {"encoders.s2.cls_token", "encoders.s1.cls_token"}
    for name in gradients.keys() - unused:
        torch.testing.assert_close(others[name], gradients[name])


@pytest.mark.parametrize(("m", "number"), [("s2", 0), ("hr", 1)])  # a ViT layer, and a Swin block with shifted windows
def test_a_unit_is_one_graph(model, m, number):
    torch._dynamo.reset()
    unit = model.encoders[m].units[number]
    grid = torch.randn(2, 8, 8, 24 if m == "s2" else 16)
    plain = unit(grid)
    unit.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(unit(grid), plain)


@pytest.mark.slow
def test_compiled_and_recomputed_units_train_as_plain_ones(model):
    torch._dynamo.reset()
    encoder = model.encoders["s2"]
    other = copy.deepcopy(encoder)
    shard(nn.ModuleList([other]), TrainSection(steps=1, batch=1, lr=0.1, checkpoint_activations=True, compile=True))
    pixels = torch.randn(2, 10, 32, 32)
    for trained in (encoder, other):  # the second with inductor, which needs a C++ compiler on a CPU
        trained(pixels)[-1].square().mean().backward()
    for name, parameter in encoder.named_parameters():
        if name != "cls_token":
            torch.testing.assert_close(dict(other.named_parameters())[name].grad, parameter.grad, atol=1e-5, rtol=1e-4)


def test_bfloat16_stays_near_full_precision_in_the_whole_model(model, batch):
    model.eval()
    with torch.no_grad():
        full = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(batch)
    for ours, theirs in ((half.fused, full.fused), (half.fused_mm, full.fused_mm), *zip(half.pyramid, full.pyramid, strict=True)):
        assert ours.isfinite().all()
        assert (ours.float() - theirs).norm() / theirs.norm() < 0.05
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = step(model.train(), batch)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)
