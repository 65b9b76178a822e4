"""Each loss against a double loop, and what must not change it."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as functional

from skysense_cli.core import losses


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_contrast_agrees_with_the_double_loop():
    student, target = _numbers(2, 3, 5), torch.softmax(_numbers(2, 3, 5, seed=1), dim=-1)
    counted = torch.tensor([[True, False, True], [True, True, False]])
    total, count = 0.0, 0
    for b, n in itertools.product(range(2), range(3)):
        if counted[b, n]:
            norm = sum(math.exp(student[b, n, k] / 0.1) for k in range(5))
            total += sum(-float(target[b, n, k]) * math.log(math.exp(student[b, n, k] / 0.1) / norm) for k in range(5))
            count += 1
    assert losses.contrast(student, target, counted, 0.1).item() == pytest.approx(total / count, rel=1e-5)


def test_contrast_is_least_for_identical_answers():
    scores = _numbers(20, 8)
    target, counted = torch.softmax(scores / 0.1, dim=-1), torch.ones(20, dtype=torch.bool)
    least = losses.contrast(scores, target, counted, 0.1)
    entropy = -(target * target.clamp(min=1e-30).log()).sum(-1).mean()
    assert torch.allclose(least, entropy, atol=1e-5)
    for seed in range(5):
        assert losses.contrast(scores + 0.1 * _numbers(20, 8, seed=seed + 1), target, counted, 0.1) > least


def test_contrast_of_nothing_is_zero_with_a_zero_gradient():
    student = _numbers(3, 4).requires_grad_()
    loss = losses.contrast(student, torch.full((3, 4), 0.25), torch.zeros(3, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


def test_contrast_is_float32_under_autocast():
    student, target, counted = _numbers(6, 4), torch.softmax(_numbers(6, 4, seed=1), -1), torch.ones(6, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.contrast(student, target, counted, 0.1)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, losses.contrast(student, target, counted, 0.1))


def test_pool_averages_seen_cells_only():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 50.0]]]])
    assert losses.pool(maps, torch.tensor([[[True, True], [True, False]]])).tolist() == [[2.0]]
    assert losses.pool(maps, torch.zeros(1, 2, 2, dtype=torch.bool)).tolist() == [[0.0]]


def _slow_clusters(cells, seen, size, count, rounds):
    """One map: blocks, then rounds of cosine, Sinkhorn (three rounds of its own) and weighted mean, cell by cell."""
    h, w = size
    rows = max(r for r in range(1, count + 1) if count % r == 0 and r * r <= count)
    columns = count // rows
    mean = torch.stack([cells[n] for n in range(h * w) if seen[n]]).mean(0)
    assignment = torch.zeros(h * w, count)
    for y, x in itertools.product(range(h), range(w)):
        if seen[y * w + x]:
            assignment[y * w + x, (y * rows // h) * columns + x * columns // w] = 1
    for _ in range(rounds):
        centres = []
        for k in range(count):
            weight = sum(float(assignment[n, k]) for n in range(h * w))
            total = sum(
                (functional.normalize(cells[n] - mean, dim=0) * assignment[n, k] for n in range(h * w)), torch.zeros(cells.shape[1])
            )
            centres.append(total / weight if weight else total)
        s = torch.zeros(h * w, count)
        for n, k in itertools.product(range(h * w), range(count)):
            if seen[n]:
                s[n, k] = torch.exp(functional.cosine_similarity(cells[n] - mean, centres[k], dim=0) / 0.05)
        for _ in range(3):
            for k in range(count):
                s[:, k] /= s[:, k].sum()
            for n in range(h * w):
                s[n] = s[n] / s[n].sum() if seen[n] else 0
        assignment = s
    return assignment


def test_clusters_agree_with_the_double_loop():
    size, count = (4, 6), 6
    cells = _numbers(2, 24, 5) + 3
    seen = torch.rand(2, 24, generator=torch.Generator().manual_seed(3)) > 0.3
    fast = losses.clusters(cells, seen, size, count)
    for s in range(2):
        assert torch.allclose(fast[s], _slow_clusters(cells[s], seen[s], size, count, 3), atol=1e-4)


def test_clusters_find_two_textures_whatever_they_share():
    left = torch.arange(64) % 8 < 4
    cells = torch.where(left[:, None], torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])) + 20 + 0.05 * _numbers(64, 3)
    found = losses.clusters(cells[None], torch.ones(1, 64, dtype=torch.bool), (8, 8), 2)[0].argmax(-1)
    assert (found == found[0]).equal(left)


def test_clusters_of_a_map_without_seen_cells_are_empty():
    assert losses.clusters(_numbers(1, 16, 3), torch.zeros(1, 16, dtype=torch.bool), (4, 4), 3).abs().max() == 0


def _slow_align(vectors, have, place, temperature):
    count, modalities = have.shape
    total = 0.0
    for i, j in itertools.permutations(range(modalities), 2):
        values = []
        for b in range(count):
            if have[b, i] and have[b, j]:
                others = [c for c in range(count) if c == b or (have[c, j] and place[c] != place[b])]
                scores = {c: math.exp(float(vectors[b, i] @ vectors[c, j]) / temperature) for c in others}
                values.append(-math.log(scores[b] / sum(scores.values())))
        total += sum(values) / len(values) if values else 0
    return total


def test_alignment_agrees_with_the_double_loop():
    vectors = functional.normalize(_numbers(6, 3, 4), dim=-1)
    have = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1]]).bool()
    place = torch.tensor([0, 1, 2, 0, 4, 1])
    loss = losses.align(vectors, have, place, torch.tensor(0.1))
    assert loss.item() == pytest.approx(_slow_align(vectors, have, place, 0.1), rel=1e-5)


def test_alignment_has_no_negatives_in_one_place():
    vectors = functional.normalize(_numbers(4, 2, 3), dim=-1)
    assert losses.align(vectors, torch.ones(4, 2, dtype=torch.bool), torch.zeros(4), torch.tensor(0.1)).item() == 0


def test_alignment_is_least_when_modalities_agree_and_places_differ():
    vectors = torch.eye(4)[:, None].repeat(1, 2, 1)
    have, place = torch.ones(4, 2, dtype=torch.bool), torch.arange(4)
    assert losses.align(vectors, have, place, torch.tensor(0.05)).item() < 1e-6
    assert losses.align(torch.stack([torch.eye(4), torch.eye(4).roll(1, 0)], 1), have, place, torch.tensor(0.05)).item() > 10


def test_alignment_ignores_what_an_absent_modality_holds():
    vectors = functional.normalize(_numbers(4, 2, 3), dim=-1)
    have = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    other = vectors.clone()
    other[2, 1] = 1e3
    place = torch.arange(4)
    assert torch.equal(losses.align(vectors, have, place, torch.tensor(0.1)), losses.align(other, have, place, torch.tensor(0.1)))
