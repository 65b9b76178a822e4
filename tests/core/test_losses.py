"""Each loss against a double loop, and what must not change it."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as functional

from skysense_cli.core import losses
from skysense_cli.core.completion import Completed


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


def _slow_masked_label(scores, labels, counted, balance):
    """Pixel by pixel, each mean over its own weights."""
    sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
    for b, y, x in itertools.product(*(range(n) for n in labels.shape)):
        column = [float(value) for value in scores[b, :, y, x]]
        value = math.log(sum(math.exp(v) for v in column)) - column[int(labels[b, y, x])]
        part = sums[bool(labels[b, y, x] > 0)]
        part[0] += value * float(counted[b, y, x])
        part[1] += float(counted[b, y, x])
    if balance:
        return sum(0.5 * total / weight for total, weight in sums.values() if weight)
    return (sums[True][0] + sums[False][0]) / (sums[True][1] + sums[False][1])


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("weights", ["all", "some", "fractions", "background only"])
def test_masked_label_agrees_with_the_loop_over_pixels(balance, weights):
    generator = torch.Generator().manual_seed(5)
    scores, labels = _numbers(2, 4, 3, 5), torch.randint(0, 4, (2, 3, 5), generator=generator)
    counted = {
        "all": torch.ones(2, 3, 5, dtype=torch.bool),
        "some": torch.rand(2, 3, 5, generator=generator) > 0.5,
        "fractions": torch.rand(2, 3, 5, generator=generator),
        "background only": labels == 0,
    }[weights]
    loss = losses.masked_label(scores, labels, counted, balance=balance)
    assert loss.item() == pytest.approx(_slow_masked_label(scores, labels, counted, balance), rel=1e-5)


def test_balance_gives_one_labelled_pixel_the_weight_of_all_the_background():
    scores, labels = torch.zeros(1, 2, 1, 100), torch.zeros(1, 1, 100, dtype=torch.int64)
    labels[..., 0] = 1
    scores[:, 0] = math.log(9)  # nine to one for the background
    loss = losses.masked_label(scores, labels, torch.ones_like(labels), balance=True)
    assert loss.item() == pytest.approx(0.5 * (-math.log(0.9) - math.log(0.1)), rel=1e-5)


@pytest.mark.parametrize("balance", [True, False])
def test_masked_label_of_nothing_is_zero_with_a_zero_gradient(balance):
    scores = _numbers(1, 3, 2, 2).requires_grad_()
    loss = losses.masked_label(scores, torch.ones(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2), balance=balance)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.abs().max() == 0


def test_hidden_pixels_are_those_of_hidden_cells():
    hidden = torch.tensor([[[True, False], [False, True]]])
    assert losses.hidden_pixels(hidden, (2, 4)).int().tolist() == [[[1, 1, 0, 0], [0, 0, 1, 1]]]
    assert torch.equal(losses.hidden_pixels(hidden, (2, 2)), hidden)
    large = torch.rand(3, 8, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    assert torch.equal(losses.hidden_pixels(large, (32, 16)), large.repeat_interleave(4, 1).repeat_interleave(4, 2))


def test_token_spread_agrees_with_the_loop_over_pairs():
    tokens = _numbers(5, 7)
    pairs = [1 + functional.cosine_similarity(tokens[i], tokens[j], dim=0).item() for i, j in itertools.combinations(range(5), 2)]
    assert losses.token_spread(tokens).item() == pytest.approx(sum(pairs) / 10, rel=1e-5)


def test_token_spread_goes_from_opposite_to_alike():
    row = _numbers(1, 4)
    assert losses.token_spread(torch.cat([row, -2 * row])).item() == pytest.approx(0, abs=1e-6)
    assert losses.token_spread(torch.eye(4)).item() == pytest.approx(1)
    assert losses.token_spread(row.repeat(3, 1)).item() == pytest.approx(2)
    assert losses.token_spread(row).item() == 0


def _completed(names=("a", "b", "c"), count=4, **changes):
    """Random maps and logits; only the second sample has everything, and the third nothing."""
    rows = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]).bool()[:count]
    parts = {
        "features": {},
        "decoded": {name: _numbers(count, 3, 8, 4, seed=i) for i, name in enumerate(names)},
        "logits": {name: _numbers(count, 5, 2, 1, seed=10 + i) for i, name in enumerate(names)},
        "given": {name: _numbers(count, 3, 8, 4, seed=20 + i) for i, name in enumerate(names)},
        "present": {name: rows[:, i] for i, name in enumerate(names)},
    }
    return Completed(**(parts | changes))


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd"])
def test_reconstruction_agrees_with_the_loop_over_samples(names):
    completed = _completed(tuple(names))
    total = 0.0
    for name in names:
        values = [
            sum((x - y) ** 2 for x, y in zip(own.flatten().tolist(), made.flatten().tolist(), strict=True)) / own.numel()
            for own, made, there in zip(completed.given[name], completed.decoded[name], completed.present[name], strict=True)
            if there
        ]
        total += sum(values) / len(values) / len(names)
    assert losses.reconstruction(completed).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd"])
def test_agreement_agrees_with_the_loop_over_pairs_samples_and_cells(names):
    completed = _completed(tuple(names))
    total, pairs = 0.0, list(itertools.combinations(names, 2))
    for (one, other), b, y, x in itertools.product(pairs, range(4), range(2), range(1)):
        if completed.present[one][b] and completed.present[other][b]:
            p, q = (torch.softmax(completed.logits[name][b, :, y, x], dim=0).tolist() for name in (one, other))
            total += sum(p[k] * math.log(p[k] / q[k]) + q[k] * math.log(q[k] / p[k]) for k in range(5))
    expected = total / 4 / (2 * len(pairs)) if pairs else 0
    assert losses.agreement(completed).item() == pytest.approx(expected, rel=1e-5)


def test_modalities_that_choose_the_same_codes_agree():
    logits = _numbers(4, 5, 2, 1)
    assert losses.agreement(_completed(logits={"a": logits, "b": logits + 3, "c": logits})).item() == pytest.approx(0, abs=1e-6)


def test_absent_samples_do_not_count_in_the_losses_of_completion():
    completed = _completed()
    replaced = {
        part: {name: torch.where(completed.present[name][:, None, None, None], x, 9.0) for name, x in getattr(completed, part).items()}
        for part in ("given", "decoded", "logits")
    }
    other = _completed(**replaced)
    assert torch.equal(losses.reconstruction(completed), losses.reconstruction(other))
    assert torch.equal(losses.agreement(completed), losses.agreement(other))


def test_losses_of_completion_on_a_batch_with_nothing_are_zero():
    nowhere = {name: torch.zeros(4, dtype=torch.bool) for name in "abc"}
    for changes in ({}, {"decoded": {}, "logits": {}}):  # computed all the same, or left out
        completed = _completed(present=nowhere, **changes)
        assert losses.reconstruction(completed).item() == 0
        assert losses.agreement(completed).item() == 0


def test_reconstruction_pulls_own_features_too():
    completed = _completed()
    for maps in completed.given.values():
        maps.requires_grad_()
    losses.reconstruction(completed).backward()
    assert (completed.given["a"].grad.flatten(1).abs().amax(dim=1) > 0).tolist() == completed.present["a"].tolist()


@pytest.mark.parametrize("loss, part", [(losses.reconstruction, "decoded"), (losses.agreement, "logits")])
def test_losses_say_when_the_completion_was_not_computed(loss, part):
    with pytest.raises(ValueError, match="'a' was not computed: losses need the model in training, with gradients"):
        loss(_completed(**{part: {}}))


def test_losses_of_completion_and_labels_are_float32_under_autocast():
    completed, tokens = _completed(), _numbers(4, 6)
    scores, labels = _numbers(2, 3, 4, 4), torch.ones(2, 4, 4, dtype=torch.int64)
    asked = {
        "reconstruction": lambda: losses.reconstruction(completed),
        "agreement": lambda: losses.agreement(completed),
        "token_spread": lambda: losses.token_spread(tokens),
        "masked_label": lambda: losses.masked_label(scores, labels, labels, balance=True),
    }
    for name, loss in asked.items():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss()
        assert found.dtype == torch.float32, name
        assert torch.equal(found, loss()), name
