"""Pretraining as a whole: what meets what, what must not matter, and that it learns."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from skysense_cli.core import frames
from skysense_cli.core.batch import Batch, SeriesBatch, Views
from skysense_cli.core.encoders import Encoder
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.model import Lift, NoGeoContext, SkySense
from skysense_cli.core.objectives.multi_granularity import MultiGranularity, Projection, Temperature, paired_dates
from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.errors import RecipeError

SMALL = Projection(hidden=32, bottleneck=16, outputs=24)
CHANNELS = {"a": 3, "b": 2}


class Pointwise(Encoder):
    """One pixel is one cell, so that a turned image has turned features."""

    stride, taps, tap_strides = 1, (0,), (1,)

    def __init__(self, channels, dim):
        super().__init__()
        self.channels, self.tap_channels = channels, (dim,)
        self.first, self.second = torch.nn.Linear(channels, dim), torch.nn.Sequential(torch.nn.GELU(), torch.nn.Linear(dim, dim))

    @property
    def units(self):
        return [self.second]

    def embed(self, pixels):
        return self.first(pixels.permute(0, 2, 3, 1))


def _model(*, pointwise=False, per_region=4, width=16, depth=1):
    torch.manual_seed(0)
    encoders = {
        m: Pointwise(c, width) if pointwise else ViT(channels=c, dim=width, depth=depth, heads=2, patch=2, size=8)
        for m, c in CHANNELS.items()
    }
    geo_context = GeoPrototypes(width, per_region=per_region) if per_region else NoGeoContext()
    lifts = {m: Lift(width, width, 1) for m in CHANNELS}
    return SkySense(encoders, lifts, Temporal(width, depth=1, heads=2, dim=width), geo_context, anchor="a")


def _batch(count=3, dates=(3, 2), side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    series = {}
    for (m, channels), t in zip(CHANNELS.items(), dates, strict=True):
        series[m] = SeriesBatch(
            pixels=torch.randn(count, t, channels, side, side, generator=generator),
            days=torch.arange(t).repeat(count, 1) * 60,
            present=torch.ones(count, t, dtype=torch.bool),
            valid=torch.ones(count, t, side, side, dtype=torch.bool),
        )
    return Batch(series=series, region=torch.tensor([3] * count), place=torch.arange(count), frame=frames.identity(count))


def _objective(model=None, **options):
    torch.manual_seed(1)
    objective = MultiGranularity(model or _model(), projection=SMALL, clusters=4, cells=6, align_dim=8, **options)
    return objective.eval() if not options.pop("training", False) else objective


def _values(objective, u, v):
    with torch.no_grad():
        return {name: value.item() for name, value in objective(Views(u, v)).items()}


def _with(batch, modality, **changes):
    return dataclasses.replace(batch, series=batch.series | {modality: dataclasses.replace(batch.series[modality], **changes)})


def _shuffled(batch):
    order = torch.roll(torch.arange(len(batch.region)), 1)
    series = {m: SeriesBatch(s.pixels[order], s.days, s.present, s.valid) for m, s in batch.series.items()}
    return dataclasses.replace(batch, series=series)


@pytest.mark.parametrize("centering", ["mean", "sinkhorn"])
def test_there_is_a_loss_for_each_stream_and_granularity_and_all_are_finite(centering):
    found = _values(_objective(centering=centering), _batch(), _batch(seed=1))
    expected = {f"{g}/{stream}" for g in ("pixel", "object", "image") for stream in ("a", "b", "fused")} | {"align"}
    assert set(found) == expected
    assert all(np.isfinite(value) and value >= 0 for value in found.values())


def test_identical_views_give_the_least_loss():
    objective = _objective(centering="mean", temperature=Temperature(student=0.04, teacher=0.04))
    v = _batch()
    same = _values(objective, v, v)
    for other in (_shuffled(v), _batch(seed=5)):
        found = _values(objective, other, v)  # the same targets
        for name in same:
            if name != "align":  # made of the student alone
                assert same[name] < found[name], name


def test_identical_views_cost_no_more_than_the_targets_own_entropy():
    objective = _objective(centering="mean", temperature=Temperature(student=0.04, teacher=0.04))
    u = _batch()
    found = objective(Views(u, u))
    total = sum(value for name, value in found.items() if name != "align")
    total.backward()
    steepest = max(p.grad.abs().max() for p in objective.projectors.parameters())
    assert steepest < 1e-4  # the student says what the teacher says: no way is down


@pytest.mark.parametrize(("flip", "quarters"), [(False, 1), (True, 0), (True, 3), (False, 2)])
def test_turned_views_meet_cell_on_cell(flip, quarters):
    objective = _objective(_model(pointwise=True), centering="mean")
    u = _batch()

    def turned(x):
        return torch.rot90(torch.flip(x, (-1,)) if flip else x, quarters, (-2, -1))

    series = {m: SeriesBatch(turned(s.pixels), s.days, s.present, turned(s.valid)) for m, s in u.series.items()}
    frame = frames.view_frame(flip=flip, quarters=quarters).repeat(3, 1, 1)
    straight, found = _values(objective, u, u), _values(objective, u, dataclasses.replace(u, series=series, frame=frame))
    wrong = _values(objective, u, dataclasses.replace(u, series=series))
    for name in straight:
        assert found[name] == pytest.approx(straight[name], abs=1e-4), name
    assert wrong["pixel/a"] > straight["pixel/a"]


def test_what_a_view_does_not_see_has_no_loss():
    """Pixels under cloud in either view may hold anything."""
    objective = _objective(_model(pointwise=True))
    u, v = _batch(), _batch(seed=1)
    cloudy = v.series["a"].valid.clone()
    cloudy[:, 0, :4] = False
    v = _with(v, "a", valid=cloudy)
    before = _values(objective, u, v)
    bright = v.series["a"].pixels.clone()
    bright[:, 0, :, :4] = 50.0
    assert _values(objective, u, _with(v, "a", pixels=bright)) == pytest.approx(before, abs=1e-6)


def test_padding_and_absent_modalities_change_nothing():
    objective = _objective()
    u, v = _batch(), _batch(seed=1)
    before = _values(objective, u, v)

    def padded(series):
        def more(x, value):
            return torch.cat([x, torch.full_like(x[:, :1], value)], dim=1)

        return SeriesBatch(more(series.pixels, 9.0), more(series.days, -1), more(series.present, False), more(series.valid, False))

    padded_u = dataclasses.replace(u, series={m: padded(s) for m, s in u.series.items()})
    assert _values(objective, padded_u, v) == pytest.approx(before, abs=1e-6)
    assert _values(objective, u, dataclasses.replace(v, series={m: padded(s) for m, s in v.series.items()})) == pytest.approx(
        before, abs=1e-6
    )

    alone = [dataclasses.replace(x, series={"a": x.series["a"]}) for x in (u, v)]
    empty = [_with(x, "b", present=torch.zeros(3, 2, dtype=torch.bool), valid=torch.zeros(3, 2, 8, 8, dtype=torch.bool)) for x in (u, v)]
    missing = _values(objective, *alone)
    assert _values(objective, *empty) == pytest.approx(missing, abs=1e-6)
    assert missing["pixel/a"] == pytest.approx(before["pixel/a"], abs=1e-6)
    assert missing["pixel/b"] == missing["align"] == 0


def test_views_of_different_ground_share_only_images_and_places():
    objective = _objective()
    left, right = frames.view_frame((0, 0, 0.5, 1)).repeat(3, 1, 1), frames.view_frame((0.5, 0, 1, 1)).repeat(3, 1, 1)
    found = _values(objective, dataclasses.replace(_batch(), frame=left), dataclasses.replace(_batch(seed=1), frame=right))
    assert found["pixel/a"] == found["object/fused"] == 0
    assert found["image/a"] > 0
    assert found["align"] > 0


def test_dates_are_paired_by_rank():
    def rows(*counts, length):
        return torch.tensor([[n < count for n in range(length)] for count in counts])

    index, paired = paired_dates(rows(3, 2, 4, 1, 2, length=4), rows(3, 4, 2, 3, 0, length=5))
    assert index[0, :3].tolist() == [0, 1, 2]
    assert index[1, :2].tolist() == [1, 3]
    assert index[2].tolist() == [0, 0, 1, 1]
    assert index[3, :1].tolist() == [1]
    assert paired.tolist() == rows(3, 2, 4, 1, 0, length=4).tolist()


def test_dates_in_the_middle_of_padding_are_found():
    index, paired = paired_dates(torch.tensor([[False, True, True]]), torch.tensor([[True, False, False, True]]))
    assert index[0, 1:].tolist() == [0, 3]
    assert paired.tolist() == [[False, True, True]]


def test_only_the_student_learns_and_the_teacher_follows():
    objective = _objective(momentum=(0.5, 0.5))
    objective.train()
    assert not objective.teacher.training
    sum(objective(Views(_batch(), _batch(seed=1))).values()).backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    without = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert all(name.endswith("cls_token") for name in without)  # kept for released weights, not used
    before = copy.deepcopy(objective.teacher["model"].state_dict())
    with torch.no_grad():
        objective.model.encoders["a"].embed(torch.zeros(1, 3, 8, 8))
        for parameter in objective.model.parameters():
            parameter.add_(0.1)
    objective.after_step(0.0)
    for name, parameter in objective.teacher["model"].named_parameters():
        assert torch.allclose(parameter, before[name] + 0.05, atol=1e-6), name
    assert objective.step == 1


def test_the_export_is_the_teacher_with_the_students_prototypes():
    objective = _objective()
    u = _batch()
    _values(objective, u, _batch(seed=1))
    objective.after_step(0.0)
    exported = objective.export()["model"]
    assert exported is objective.teacher["model"]
    assert exported.geo_context.slot_regions.tolist() == [3]
    student = objective.model(u)
    expected = GeoPrototypes(16, per_region=4)
    expected.update(student.fused_mm, u.region, student.seen_any, momentum=0.99)
    assert torch.allclose(exported.geo_context.prototypes, expected.prototypes, atol=1e-6)


def test_a_saved_objective_goes_on_as_if_never_stopped():
    def steps(objective, numbers):
        for number in numbers:
            _values(objective, _batch(seed=number), _batch(seed=number + 50))
            objective.after_step(number / 4)
        return _values(objective, _batch(seed=9), _batch(seed=8))

    straight = steps(_objective(centering="mean"), range(4))
    first = _objective(centering="mean")
    steps(first, range(2))
    second = _objective(centering="mean")
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert steps(second, range(2, 4)) == straight


def test_both_directions_are_averaged():
    u, v = _batch(), _batch(seed=1)
    there, back = _values(_objective(), u, v), _values(_objective(), v, u)
    both = _values(_objective(swap=True), u, v)
    for name in both:
        assert both[name] == pytest.approx((there[name] + back[name]) / 2, abs=1e-6)


def test_alpha_and_beta_weigh_and_prototypes_are_optional():
    u, v = _batch(), _batch(seed=1)
    plain, weighed = _values(_objective(), u, v), _values(_objective(alpha=2.0, beta=3.0), u, v)
    for name in plain:
        assert weighed[name] == pytest.approx(plain[name] * (3 if name == "align" else 2), rel=1e-5)
    objective = _objective(_model(per_region=0))
    assert np.isfinite(sum(_values(objective, u, v).values()))
    objective.after_step(0.0)


def test_a_modality_named_as_the_fused_stream_is_refused():
    encoder = ViT(channels=3, dim=16, depth=1, heads=2, patch=2, size=8)
    model = SkySense({"fused": encoder}, {"fused": Lift(16, 16, 1)}, Temporal(16, depth=1, heads=2, dim=16), NoGeoContext(), anchor="fused")
    with pytest.raises(RecipeError, match="a modality cannot be named 'fused'.*rename it"):
        MultiGranularity(model)


def test_losses_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _objective()(Views(_batch(), _batch(seed=1)))
    assert all(value.dtype == torch.float32 for value in found.values())


# it learns


KINDS, SIDE = 5, 16


def _world(seed=0):
    """64 samples of 16 x 16 px in patches of 4 px; each of five kinds has its own mean and texture, under strong common variation."""
    random = np.random.default_rng(seed)
    kinds = np.kron(random.integers(KINDS, size=(64, 4, 4)), np.ones((4, 4), int))
    signatures = {m: random.normal(0, 1, (KINDS, c)) for m, c in CHANNELS.items()}
    stripes = (np.indices((SIDE, SIDE)).sum(0) % 2) * 2.0 - 1
    return kinds, signatures, stripes


def _views_of(world, samples, random):
    kinds, signatures, stripes = world
    series = {}
    for m, t in zip(CHANNELS, (3, 2), strict=True):
        clean = signatures[m][kinds[samples]].transpose(0, 3, 1, 2)[:, None] + 0.8 * stripes * (kinds[samples] % 2)[:, None, None]
        haze = random.normal(0, 1.0, (len(samples), t, CHANNELS[m], 1, 1))  # each date, as a whole: tells nothing about kinds
        pixels = clean + haze + random.normal(0, 1.0, (len(samples), t, CHANNELS[m], SIDE, SIDE))
        shape = (len(samples), t)
        series[m] = SeriesBatch(
            pixels=torch.from_numpy(pixels).float(),
            days=torch.arange(t).repeat(len(samples), 1),
            present=torch.ones(shape, dtype=torch.bool),
            valid=torch.ones(*shape, SIDE, SIDE, dtype=torch.bool),
        )
    count = len(samples)
    return Batch(series=series, region=torch.full((count,), 1), place=torch.from_numpy(samples), frame=frames.identity(count))


def _agreement(found, truth):
    """Normalised mutual information of two labellings, 0..1."""
    table = np.zeros((found.max() + 1, truth.max() + 1))
    np.add.at(table, (found, truth), 1)
    p = table / table.sum()
    rows, columns = p.sum(1), p.sum(0)
    information = (p[p > 0] * np.log(p[p > 0] / np.outer(rows, columns)[p > 0])).sum()
    entropy = [-(x[x > 0] * np.log(x[x > 0])).sum() for x in (rows, columns)]
    return 2 * information / sum(entropy)


@torch.no_grad()
def _score(model, world):
    """NMI of the prototype map against the kinds, and the share of prototypes it uses."""
    batch = _views_of(world, np.arange(64), np.random.default_rng(99))
    features = model.eval()(batch)
    index, _ = model.geo_context.nearest(features.fused_mm, batch.region)
    truth = world[0][:, ::2, ::2]
    return _agreement(index.flatten().numpy(), truth.flatten()), len(index.unique()) / model.geo_context.per_region


@pytest.mark.parametrize("centering", ["sinkhorn", "mean"])
def test_it_gets_better(centering):
    torch.manual_seed(0)
    world, random, steps = _world(), np.random.default_rng(1), 60
    model = _model(per_region=8, width=32)
    untrained = copy.deepcopy(model)
    for _ in range(15):
        batch = _views_of(world, random.choice(64, 8, replace=False), random)
        with torch.no_grad():
            features = untrained(batch)
        untrained.geo_context.update(features.fused_mm, batch.region, features.seen_any, momentum=0.8)
    objective = MultiGranularity(model, clusters=4, momentum=(0.9, 1.0), prototype_momentum=0.8, centering=centering).train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=2e-3)
    history = []
    for step in range(steps):
        samples = random.choice(64, 8, replace=False)
        total = sum(objective(Views(_views_of(world, samples, random), _views_of(world, samples, random))).values())
        total.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad()
        objective.after_step(step / steps)
        history.append(total.item())
    before, _ = _score(untrained, world)
    after, used = _score(objective.export()["model"], world)
    print(f"{centering}: NMI {before:.3f} -> {after:.3f}, used {used:.2f}, loss {history[0]:.2f} -> {history[-1]:.2f}")
    assert history[-1] < history[0]
    assert after > before + 0.1
    assert used >= 0.8
