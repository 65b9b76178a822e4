"""The teacher follows, its targets stay spread, the projector is bounded."""

import pytest
import torch
from torch import nn

from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.core.teacher import Projector, Targets, follow, momentum_at, teacher_of


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_teacher_is_a_frozen_copy_that_follows():
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    teacher = teacher_of(student)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
        student[1].running_mean.fill_(7.0)
    follow(teacher, student, 0.9)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    for old, new, target in zip(before, teacher.parameters(), student.parameters(), strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * target)
    assert teacher[1].running_mean[0] == 7.0


def test_a_part_that_both_share_is_left_alone():
    student = nn.ModuleDict({"geo": GeoPrototypes(2, per_region=2), "linear": nn.Linear(2, 2)})
    teacher = teacher_of(student)
    teacher["geo"] = student["geo"]
    student["geo"].update(_numbers(1, 2, 2, 2), torch.tensor([4]), torch.ones(1, 2, 2, dtype=torch.bool), momentum=1.0)
    follow(teacher, student, 0.5)
    assert teacher["geo"].slot_regions.tolist() == [4]


def test_momentum_rises_along_half_a_cosine():
    assert momentum_at(0.0, (0.9, 1.0)) == pytest.approx(0.9)
    assert momentum_at(0.5, (0.9, 1.0)) == pytest.approx(0.95)
    assert momentum_at(1.0, (0.9, 1.0)) == momentum_at(2.0, (0.9, 1.0)) == pytest.approx(1.0)


def test_scores_are_cosines():
    scores = Projector(6, hidden=8, bottleneck=4, outputs=10)(_numbers(5, 6) * 100)
    assert scores.shape == (5, 10)
    assert scores.abs().max() <= 1 + 1e-6


def test_mean_targets_are_the_softmax_of_centred_scores():
    targets = Targets(3, centering="mean", temperature=0.5, momentum=0.9)
    scores, counted = torch.tensor([[1.0, 2.0, 3.0], [5.0, 4.0, 3.0], [9.0, 9.0, 0.0]]), torch.tensor([True, True, False])
    assert torch.allclose(targets(scores, counted), torch.softmax(scores / 0.5, dim=-1))
    assert targets.center.abs().max() == 0  # nothing moves inside forward
    targets.after_step()
    assert torch.allclose(targets.center, torch.tensor([0.3, 0.3, 0.3]))
    assert torch.allclose(targets(scores, counted), torch.softmax((scores - 0.3) / 0.5, dim=-1))
    targets(scores, torch.zeros(3, dtype=torch.bool))
    targets.after_step()
    assert torch.allclose(targets.center, torch.tensor([0.3, 0.3, 0.3]))


@pytest.mark.parametrize("centering", ["mean", "sinkhorn"])
def test_scores_that_favour_one_output_do_not_collapse(centering):
    targets = Targets(4, centering=centering, temperature=0.04, momentum=0.0)
    scores, counted = 0.1 * torch.tanh(_numbers(8, 6, 4)), torch.ones(8, 6, dtype=torch.bool)
    scores[..., 2] += 0.5  # every vector likes output 2 most
    targets(scores, counted)
    targets.after_step()
    share = targets(scores, counted).flatten(0, 1).mean(dim=0)
    assert share.max() < 0.4
    assert torch.allclose(share.sum(), torch.tensor(1.0), atol=1e-5)


def test_sinkhorn_targets_have_no_state_and_skip_what_does_not_count():
    targets = Targets(4, centering="sinkhorn", temperature=0.05, momentum=0.9)
    scores, counted = torch.tanh(_numbers(6, 4)), torch.tensor([True, True, False, True, True, False])
    found = targets(scores, counted)
    targets.after_step()
    assert torch.allclose(found[counted], targets(scores[counted], counted[counted]), atol=1e-6)
    assert found[~counted].abs().max() == 0
