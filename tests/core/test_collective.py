"""Two gloo processes, each with its half of the batch, equal one process with all of it.

Run as a script, this file is one of the two processes: `test_collective.py RANK STORE OUTPUT`.
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from skysense_cli.core import collective, frames, losses
from skysense_cli.core.batch import Batch, SeriesBatch, Views
from skysense_cli.core.completion import Completion
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.model import Lift, SkySense
from skysense_cli.core.objectives.multi_granularity import MultiGranularity, Projection
from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.core.sinkhorn import sinkhorn

CHANNELS = {"a": 3, "b": 2}
COUNT, STEPS = 4, 3


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _batch(seed, part):
    """The samples `part` of a batch of four; in step 1 only the first half has modality b."""
    series = {}
    for m, channels in CHANNELS.items():
        present = torch.ones(COUNT, 2, dtype=torch.bool)
        present[1, 1] = False
        if m == "b" and seed % 10 == 1:
            present[2:] = False
        valid = (torch.rand(COUNT, 2, 8, 8, generator=torch.Generator().manual_seed(seed)) > 0.2) & present[..., None, None]
        pixels = _numbers(COUNT, 2, channels, 8, 8, seed=seed + len(m)) * present[..., None, None, None]
        series[m] = SeriesBatch(pixels[part], torch.tensor([[5, 90]] * COUNT)[part], present[part], valid[part])
    region, place = torch.tensor([7, 2, 2, 9 - seed % 3]), torch.tensor([0, 1, 1, 3])
    return Batch(series, region[part], place[part], frames.identity(COUNT)[part])


def _pretrain(part, centering):
    """Three steps of plain gradient descent with gradients averaged over ranks; the losses and the last state."""
    torch.manual_seed(0)
    encoders = {m: ViT(channels=c, dim=16, depth=1, heads=2, patch=2, size=4) for m, c in CHANNELS.items()}
    lifts = {m: Lift(16, 16, 1) for m in CHANNELS}
    model = SkySense(encoders, lifts, Temporal(16, depth=1, heads=2, dim=16), GeoPrototypes(16, per_region=3), anchor="a")
    small = Projection(hidden=16, bottleneck=8, outputs=12)
    objective = MultiGranularity(
        model, projection=small, clusters=4, cells=5, align_dim=8, centering=centering, momentum=(0.8, 1.0)
    ).train()
    found = {}
    for step in range(STEPS):
        named = objective(Views(_batch(step, part), _batch(step + 10, part)))
        sum(named.values()).backward()
        for name, value in named.items():
            found[f"{step}/{name}"] = collective.sum_ranks(value) / collective.ranks()
        with torch.no_grad():
            for parameter in objective.parameters():
                if parameter.grad is not None:
                    parameter -= 0.05 * collective.sum_ranks(parameter.grad) / collective.ranks()
                    parameter.grad = None
        objective.after_step(step / STEPS)
    return found | objective.state_dict()


def _complete(part):
    """Losses and gradients of SkySense++'s pretraining, averaged over ranks; the second half has no modality b."""
    torch.manual_seed(0)
    completion = Completion(6, tuple(CHANNELS), codes=7, dim=5, hidden=4).train()
    given = {m: _numbers(COUNT, 6, 4, 4, seed=i)[part] for i, m in enumerate(CHANNELS)}
    completed = completion(given, {"a": torch.tensor([True, False, True, True])[part], "b": torch.arange(COUNT)[part] < 2})
    labels = torch.tensor([[[3, 0]], [[0, 0]], [[0, 0]], [[1, 2]]])[part]
    scores = torch.stack([completed.features[m].mean(dim=2)[..., :2] for m in CHANNELS]).sum(dim=0)[:, :, None]  # (B, 6, 1, 2)
    counted = torch.tensor([[[1.0, 0]], [[1, 1]], [[0, 0.5]], [[1, 1]]])[part]
    named = {
        "reconstruction": losses.reconstruction(completed),
        "agreement": losses.agreement(completed),
        "balanced": losses.masked_label(scores, labels, counted, balance=True),
        "plain": losses.masked_label(scores, labels, counted, balance=False),
    }
    sum(named.values()).backward()
    named |= {name: parameter.grad for name, parameter in completion.named_parameters()}
    return {name: collective.sum_ranks(value) / collective.ranks() for name, value in named.items()}


def _all(part):
    """Everything that adds up over ranks, on the rows `part` of four."""
    scores = torch.tanh(_numbers(COUNT, 6, 5))[part]
    groups = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]])[:, part]
    rows = _numbers(COUNT, 3)[part].requires_grad_()
    weights = torch.tensor([1.0, 0, 2, 0.5])[part]
    (collective.gather_ranks(rows) ** 2).sum().backward()
    vectors, have = (
        torch.nn.functional.normalize(_numbers(COUNT, 2, 3), dim=-1)[part],
        torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1]]).bool()[part],
    )
    total = {
        "mean": collective.sum_ranks(collective.mean_over_ranks(_numbers(COUNT)[part], weights)) / collective.ranks(),
        "any": collective.any_rank(torch.tensor([[0, 1], [0, 0], [1, 0], [0, 0]]).bool()[part].any(dim=0)),
        "max": collective.max_ranks(scores.amax()),
        "align": collective.sum_ranks(losses.align(vectors, have, torch.tensor([0, 1, 1, 3])[part], torch.tensor(0.1)))
        / collective.ranks(),
        "joint": collective.gather_ranks(sinkhorn(scores.flatten(0, 1)[None], gathered=True)[0]),
        "groups": collective.gather_ranks(sinkhorn(scores, groups=groups, gathered=True)),
        "gradient": collective.gather_ranks(rows.grad) / collective.ranks(),  # every rank asks for every row
        "uneven": collective.gather_ranks(rows.detach()[: len(rows) - collective.rank()])[: COUNT - 1],
        "empty": collective.gather_ranks(rows[:0]).sum(),
    }
    total |= {f"completion/{name}": value for name, value in _complete(part).items()}
    for centering in ("sinkhorn", "mean"):
        total |= {f"{centering}/{name}": value for name, value in _pretrain(part, centering).items()}
    return total


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(Path(__file__).resolve())]
    started = [subprocess.Popen([*command, str(r), str(folder / "store"), str(folder / f"{r}.pt")]) for r in range(2)]
    try:
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(2)]


@pytest.fixture(scope="module")
def one():
    return _all(slice(None))


def test_both_ranks_hold_the_same(two):
    assert two[0].keys() == two[1].keys()
    for name, value in two[0].items():
        assert torch.equal(value, two[1][name]), name


def test_two_processes_equal_one(one, two):
    assert one.keys() == two[0].keys()
    for name, value in one.items():
        assert torch.allclose(value.float(), two[0][name].float(), atol=2e-5), (name, (value - two[0][name]).abs().max())


def test_the_steps_did_something(one):
    prototypes = one["sinkhorn/model.geo_context.prototypes"]
    assert one["sinkhorn/model.geo_context.slot_regions"].tolist() == [2, 7, 9, 8]
    assert prototypes.abs().max() > 0
    assert one["sinkhorn/2/pixel/a"] > 0


def test_the_completion_learned_from_every_loss(one):
    assert all(one[f"completion/{name}"] > 0 for name in ("reconstruction", "agreement", "balanced", "plain"))
    assert one["completion/vaes.b.conv1.weight"].abs().max() > 0


def test_without_a_group_everything_is_returned_as_it_is():
    rows = _numbers(3, 2)
    assert collective.ranks() == 1
    assert collective.rank() == 0
    assert collective.gather_ranks(rows) is rows
    assert torch.equal(collective.sum_ranks(rows), rows)
    assert torch.equal(collective.max_ranks(rows), rows)


def test_a_weighted_mean_of_nothing_is_zero():
    values = _numbers(3).requires_grad_()
    mean = collective.mean_over_ranks(values, torch.zeros(3))
    mean.backward()
    assert mean.item() == 0
    assert values.grad.abs().max() == 0
    assert collective.mean_over_ranks(values[:0]).item() == 0
    assert collective.mean_over_ranks(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0])).item() == 2


def _main(number, store, output):
    torch.set_num_threads(1)
    files = dist.FileStore(store, 2)
    dist.init_process_group("gloo", store=files, rank=number, world_size=2, timeout=timedelta(seconds=60))
    torch.save(_all(slice(2 * number, 2 * number + 2)), output)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
