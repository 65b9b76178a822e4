"""Sinkhorn-Knopp against a double loop in float64."""

import math

import pytest
import torch

from skysense_cli.core.sinkhorn import sinkhorn, weighted_means


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _slow(similarity, epsilon, rounds):
    """SwAV's pseudo code on lists: Q = exp(M / epsilon)^T, then columns of S equal, then rows of S one."""
    rows, columns = len(similarity), len(similarity[0])
    s = [[math.exp(value / epsilon) for value in row] for row in similarity]
    for _ in range(rounds):
        for k in range(columns):
            total = sum(s[n][k] for n in range(rows))
            for n in range(rows):
                s[n][k] /= total * columns
        for n in range(rows):
            total = sum(s[n])
            for k in range(columns):
                s[n][k] /= total * rows
    return torch.tensor([[value * rows for value in row] for row in s])


@pytest.mark.parametrize("rounds", [1, 3, 7])
def test_it_agrees_with_the_double_loop(rounds):
    similarity = torch.tanh(_numbers(2, 12, 5))
    fast = sinkhorn(similarity, epsilon=0.05, rounds=rounds)
    for b in range(2):
        assert torch.allclose(fast[b], _slow(similarity[b].tolist(), 0.05, rounds), atol=1e-5)


def test_rows_sum_to_one_and_columns_become_equal():
    assignment = sinkhorn(torch.tanh(_numbers(1, 256, 16)), epsilon=0.2, rounds=100)
    assert torch.allclose(assignment.sum(-1), torch.ones(1, 256), atol=1e-5)
    assert torch.allclose(assignment.sum(1), torch.full((1, 16), 16.0), rtol=5e-3)


def test_the_known_answer_of_two_by_two():
    # both cells prefer column 0, the first one more: balanced, each column gets the one that loses less
    assignment = sinkhorn(torch.tensor([[[1.0, 0.0], [0.5, 0.0]]]), epsilon=0.25, rounds=50)[0]
    side = 1 / (1 + math.exp(-1))  # the odds ratio exp((1 - 0.5) / 0.25) = exp(2), split evenly
    assert torch.allclose(assignment, torch.tensor([[side, 1 - side], [1 - side, side]]), atol=1e-4)


def test_unseen_rows_get_nothing_and_count_nowhere():
    similarity = torch.tanh(_numbers(1, 9, 4))
    seen = torch.tensor([[True, False, True, True, False, True, True, True, False]])
    assignment = sinkhorn(similarity, seen=seen)
    assert assignment[~seen].abs().max() == 0
    assert torch.allclose(assignment[seen], sinkhorn(similarity[:, seen[0]])[0], atol=1e-6)


def test_sets_of_a_group_are_balanced_together():
    similarity = torch.tanh(_numbers(3, 6, 4))
    groups = torch.tensor([[1, 0, 1], [0, 1, 0]])
    assignment = sinkhorn(similarity, groups=groups)
    joint = sinkhorn(torch.cat([similarity[0], similarity[2]])[None])[0]
    assert torch.allclose(torch.cat([assignment[0], assignment[2]]), joint, atol=1e-6)
    assert torch.allclose(assignment[1], sinkhorn(similarity[1:2])[0], atol=1e-6)


@pytest.mark.parametrize("case", ["equal", "far apart", "one cell", "nothing seen"])
def test_extreme_scores_stay_finite(case):
    similarity = {"equal": torch.ones(1, 5, 3), "one cell": _numbers(1, 1, 7)}.get(case, _numbers(1, 5, 3) * 40)
    seen = torch.zeros(1, 5, dtype=torch.bool) if case == "nothing seen" else None
    assignment = sinkhorn(similarity, seen=seen)
    assert torch.isfinite(assignment).all()
    assert torch.allclose(assignment.sum(-1), torch.zeros(1, 5) if case == "nothing seen" else torch.ones(similarity.shape[:2]), atol=1e-4)


def test_it_computes_in_float32_under_autocast_and_gives_no_gradient():
    similarity = torch.tanh(_numbers(1, 8, 4)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assignment = sinkhorn(similarity)
    assert assignment.dtype == torch.float32
    assert not assignment.requires_grad
    assert torch.equal(assignment, sinkhorn(similarity))


def test_weighted_means_are_means_not_sums():
    features = torch.tensor([[[2.0], [4.0], [100.0]]])
    assignment = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.5, 0.0]]])
    assert weighted_means(features, assignment)[0, :, 0].tolist() == [3.0, 52.0, 0.0]
