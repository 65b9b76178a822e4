"""What pretraining compares, as pure functions of matched vectors; all in float32, whatever the autocast (SkySense Eq. 5-10)."""

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

from skysense_cli.core.collective import gather_ranks, mean_over_ranks, rank, sum_ranks
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


def _blocks(size: tuple[int, int], count: int) -> Tensor:
    """(h*w, count) of 0 and 1: the map cut into rows x columns blocks, as square a grid as `count` allows."""
    h, w = size
    rows = max(r for r in range(1, math.isqrt(count) + 1) if count % r == 0)
    columns = count // rows
    row = torch.arange(h) * rows // h
    column = torch.arange(w) * columns // w
    return functional.one_hot((row[:, None] * columns + column[None, :]).flatten(), count).float()
