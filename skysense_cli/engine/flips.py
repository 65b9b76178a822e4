"""Test-time flips: what a model says of a tile, averaged over the tile as it is and flipped, as is usual at the end of a benchmark."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from skysense_cli.core.batch import Batch, SeriesBatch

Forward = Callable[[Batch, tuple[int, int]], Tensor]
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))  # axes


def averaged(forward: Forward) -> Forward:
    """The mean of the scores over the four flips, each flipped back; so the flipped scene gives the flipped map."""

    def scores(batch: Batch, size: tuple[int, int]) -> Tensor:
        found = [forward(flipped(batch, axes), size).float().flip(axes) for axes in FLIPS]
        return torch.stack(found).mean(dim=0)

    return scores


def flipped(batch: Batch, axes: tuple[int, ...]) -> Batch:
    """The batch with all its images flipped along `axes` (-1: left to right, -2: top to bottom)."""
    series = {
        name: SeriesBatch(part.pixels.flip(axes), part.days, part.present, part.valid.flip(axes)) for name, part in batch.series.items()
    }
    return replace(batch, series=series)
