"""A task is trained end to end."""

import pytest
import torch

from skysense_cli.core import frames
from skysense_cli.core.batch import Batch, SeriesBatch, Target
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.heads import Head
from skysense_cli.core.model import Lift, NoGeoContext, SkySense
from skysense_cli.core.objectives.supervised import Supervised


class CellHead(Head):
    """The least a head can be: one class per cell."""

    output = "raster"

    def __init__(self, spec, classes, /):
        super().__init__()
        self.classify = torch.nn.Conv2d(spec.fused, classes, 1)

    def forward(self, features):
        return self.classify(features.fused)

    def loss(self, raw, target):
        return {"cross_entropy": torch.nn.functional.cross_entropy(raw, target.raster, ignore_index=255)}


def _objective():
    torch.manual_seed(0)
    encoder = ViT(channels=2, dim=16, depth=1, heads=2, patch=2, size=4)
    model = SkySense({"a": encoder}, {"a": Lift(16, 16, 1)}, Temporal(16, depth=1, heads=2, dim=16), NoGeoContext(), anchor="a")
    return Supervised(model, CellHead(model.spec, 3))


def _batch(target):
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(3, (4, 4, 4), generator=generator)
    pixels = torch.stack([kinds == 1, kinds == 2], dim=1).float().repeat_interleave(2, 2).repeat_interleave(2, 3)[:, None]
    present = torch.ones(4, 1, dtype=torch.bool)
    series = SeriesBatch(pixels, torch.zeros(4, 1, dtype=torch.int64), present, torch.ones(4, 1, 8, 8, dtype=torch.bool))
    found = Target(raster=kinds) if target else None
    return Batch({"a": series}, torch.full((4,), -1), torch.arange(4), frames.identity(4), found)


def test_twenty_steps_on_four_samples_lower_the_loss():
    objective, batch, history = _objective(), _batch(target=True), []
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    for _ in range(20):
        loss = sum(objective(batch).values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(0.0)
        history.append(loss.item())
    assert history[-1] < 0.3 * history[0]


def test_it_exports_model_and_head():
    objective = _objective()
    assert objective.export() == {"model": objective.model, "head": objective.head}


def test_a_batch_without_labels_is_a_bug_with_a_name():
    with pytest.raises(ValueError, match="needs a batch with a target"):
        _objective()(_batch(target=False))
