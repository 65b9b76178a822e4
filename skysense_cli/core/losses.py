"""What pretraining compares, as pure functions of matched vectors; all in float32, whatever the autocast.

First the contrasts of SkySense (Eq. 5-10), then what SkySense++ learns from hidden labels and absent modalities (Methods).
Of every mean here, the average of the ranks' results is the mean over the global batch.
"""

import itertools
import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from skysense_cli.core.collective import gather_ranks, mean_over_ranks, rank, sum_ranks
from skysense_cli.core.completion import Completed
from skysense_cli.core.sinkhorn import sinkhorn, weighted_means


def contrast(student: Tensor, target: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """The mean cross entropy between what the teacher says of a vector and what the student says: the DINO loss, L_CL of Eq. 6-8.

    student: (..., K) scores      target: (..., K) probabilities, without gradient      counted: (...) bool
    The average over ranks of the result is the mean over all counted vectors of the global batch; 0 when there are none.
    """
    with torch.autocast(student.device.type, enabled=False):
        likelihood = functional.log_softmax(student.float() / temperature, dim=-1)
        values = -(target.float() * likelihood).sum(dim=-1)
        return mean_over_ranks(values.flatten(), counted.flatten())


def pool(maps: Tensor, seen: Tensor) -> Tensor:
    """(..., d, h, w) and (..., h, w) bool -> (..., d): the average over seen cells, F_img of Eq. 8; zeros where there are none."""
    with torch.autocast(maps.device.type, enabled=False):
        flags = seen[..., None, :, :].float()
        return (maps.float() * flags).sum(dim=(-2, -1)) / flags.sum(dim=(-2, -1)).clamp(min=1)


def clusters(cells: Tensor, seen: Tensor, size: tuple[int, int], count: int, *, epsilon: float = 0.05, rounds: int = 3) -> Tensor:
    """The soft objects of each map: the assignment (S, h*w, N_C) of its cells to `count` clusters (Eq. 7), without gradient.

    cells: (S, h*w, d) of S maps of `size` (h, w)      seen: (S, h*w) bool; other cells belong to no cluster
    Paper silent: centres start as the means of a grid of blocks, then three rounds of cosine, Sinkhorn and weighted mean.
    Cells are compared after their map's mean is taken off: features share a large part that would make all cosines equal.
    """
    with torch.no_grad(), torch.autocast(cells.device.type, enabled=False):
        flags = seen.float()[..., None]
        mean = (cells.float() * flags).sum(dim=1, keepdim=True) / flags.sum(dim=1, keepdim=True).clamp(min=1)
        spread = functional.normalize(cells.float() - mean, dim=-1)
        assignment = _blocks(size, count).to(cells.device) * flags
        for _ in range(rounds):
            centres = functional.normalize(weighted_means(spread, assignment), dim=-1)
            assignment = sinkhorn(spread @ centres.transpose(1, 2), epsilon=epsilon, seen=seen)
        return assignment


def align(vectors: Tensor, have: Tensor, place: Tensor, temperature: Tensor) -> Tensor:
    """Cross-modal alignment, the sum over ordered pairs of modalities of InfoNCE from one to the other (Eq. 10).

    vectors: (B, M, k) of length 1      have: (B, M) bool      place: (B,)      temperature: scalar
    A sample's own vector of the other modality is the positive, those of the global batch's other places are the
    negatives; samples of its own place and those that lack the modality are neither. A pair is averaged over the samples
    that have both. (SkySense writes no negatives down; the student branch has no queue, so they come from the batch.)
    """
    with torch.autocast(vectors.device.type, enabled=False):
        keys, keys_have, keys_place = gather_ranks(vectors.float()), gather_ranks(have), gather_ranks(place)
        counts = gather_ranks(torch.tensor([len(place)], device=place.device))
        own = torch.arange(len(place), device=place.device) + counts[: rank()].sum()  # where this rank's rows lie among the keys
        positive = torch.arange(len(keys_place), device=place.device)[None, :] == own[:, None]
        allowed = (place[:, None] != keys_place[None, :]) | positive
        total = vectors.new_zeros((), dtype=torch.float32)
        for i in range(vectors.shape[1]):
            for j in range(vectors.shape[1]):
                if i == j:
                    continue
                scores = vectors[:, i].float() @ keys[:, j].T / temperature.float()
                scores = scores.masked_fill(~(allowed & keys_have[None, :, j]) & ~positive, -math.inf)
                values = functional.cross_entropy(scores, own, reduction="none")
                total = total + mean_over_ranks(values, have[:, i] & have[:, j])
        return total


def teacher_mean(scores: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of `scores` (N, K) over the counted vectors (N,) of the global batch, and how many there are."""
    flags = counted.float()[:, None]
    total = sum_ranks(torch.cat([(scores.float() * flags).sum(dim=0), flags.sum(dim=0)]))
    return total[:-1] / total[-1].clamp(min=1), total[-1]


def masked_label(scores: Tensor, labels: Tensor, counted: Tensor, *, balance: bool) -> Tensor:
    """The mean cross entropy of the labels at the counted positions: masked semantic learning of SkySense++.

    scores: (B, K, H, W)      labels: (B, H, W) int64 in 0..K-1      counted: (B, H, W) bool, or weights in float
    balance: half the mean over labels above 0, half the mean over label 0 (the background), however rare either is.
    A mean over no position is 0.
    """
    with torch.autocast(scores.device.type, enabled=False):
        values = functional.cross_entropy(scores.float(), labels, reduction="none").flatten()
        weight = counted.float().flatten()
        if not balance:
            return mean_over_ranks(values, weight)
        labelled = (labels > 0).float().flatten()
        return 0.5 * (mean_over_ranks(values, weight * labelled) + mean_over_ranks(values, weight * (1 - labelled)))


def hidden_pixels(hidden: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) bool by cell -> (B, H, W) bool: each pixel as the cell that it lies in; `size` is (H, W)."""
    (h, w), (height, width) = hidden.shape[1:], size
    row = torch.arange(height, device=hidden.device) * h // height
    column = torch.arange(width, device=hidden.device) * w // width
    return hidden[:, row[:, None], column[None, :]]


def token_spread(tokens: Tensor) -> Tensor:
    """How alike the rows of (N, C) are: the mean of 1 + cosine over all pairs, 0 (all opposite) to 2 (all alike).

    SkySense++'s regularisation of the vocabulary, there with the weight 0.05. 0 for fewer than two rows.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        one, other = torch.triu_indices(len(tokens), len(tokens), 1, device=tokens.device)
        unit = functional.normalize(tokens.float(), dim=-1)
        values = 1 + (unit @ unit.T)[one, other]
        return values.sum() / max(len(values), 1)


def reconstruction(completed: Completed) -> Tensor:
    """The mean square difference between decoded and own features of the samples that have them, averaged over modalities.

    The gradient reaches the own features too, as in the released code.
    """
    with torch.autocast(_device(completed), enabled=False):
        means = []
        for name, own in completed.given.items():
            present = completed.present[name]
            if _computed(name, completed.decoded, present):
                values = (completed.decoded[name].float() - own.float()).square().flatten(1).mean(dim=1)
            else:
                values = own.new_zeros(len(own), dtype=torch.float32)
            means.append(mean_over_ranks(values, present))
        return torch.stack(means).mean()


def agreement(completed: Completed) -> Tensor:
    """How much the modalities of a sample differ in the codes they choose: symmetric KL divergence, averaged over pairs.

    KL(p || q) + KL(q || p), summed over codes and cells, is 0 for a sample that lacks one of the two; the mean is over all
    samples. The sum over pairs is divided by twice their number, as in the released code (by 6 for three modalities).
    """
    names = list(completed.given)
    with torch.autocast(_device(completed), enabled=False):
        first = completed.given[names[0]]
        total = first.new_zeros(len(first), dtype=torch.float32)
        computed = [name for name in names if _computed(name, completed.logits, completed.present[name])]
        chosen = {name: functional.log_softmax(completed.logits[name].float(), dim=1) for name in computed}
        for one, other in itertools.combinations(computed, 2):
            values = (chosen[one].exp() - chosen[other].exp()) * (chosen[one] - chosen[other])
            both = completed.present[one] & completed.present[other]
            total = total + values.flatten(1).sum(dim=1) * both
        return mean_over_ranks(total) / max(len(names) * (len(names) - 1), 1)


def _blocks(size: tuple[int, int], count: int) -> Tensor:
    """(h*w, count) of 0 and 1: the map cut into rows x columns blocks, as square a grid as `count` allows."""
    h, w = size
    rows = max(r for r in range(1, math.isqrt(count) + 1) if count % r == 0)
    columns = count // rows
    row = torch.arange(h) * rows // h
    column = torch.arange(w) * columns // w
    return functional.one_hot((row[:, None] * columns + column[None, :]).flatten(), count).float()


def _device(completed: Completed) -> str:
    return next(iter(completed.given.values())).device.type


def _computed(name: str, values: dict[str, Tensor], present: Tensor) -> bool:
    """Whether `values` holds the modality. Raises ValueError if it was left out although samples have it, as outside training."""
    if name not in values and present.any():
        raise ValueError(f"the completion of {name!r} was not computed: losses need the model in training, with gradients")
    return name in values
