"""Which samples each step sees: a function of the seed and the step, whatever was loaded before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from skysense_cli.core.batch import Batch, Views


class Key(NamedTuple):
    """What a dataset is asked for. position: in the whole batch of the step, over all ranks      row: number of the sample"""

    step: int
    position: int
    row: int


class StepSampler(Sampler[list[Key]]):
    """The keys of step `start`, `start + 1`, ... without end; set `start` before iterating to resume.

    All samples are seen once, in an order drawn from (seed, epoch), before any is seen again. Every rank takes
    its own consecutive part of each batch, so the batches of R ranks together are the batch of one process.
    """

    def __init__(self, count: int, batch: int, seed: int, *, rank: int = 0, ranks: int = 1) -> None:
        self.count, self.batch, self.seed, self.start = count, batch, seed, 0
        self.first, self.last = rank * batch // ranks, (rank + 1) * batch // ranks

    def __iter__(self) -> Iterator[list[Key]]:
        step = self.start
        while True:
            yield self.keys(step)
            step += 1

    def keys(self, step: int) -> list[Key]:
        """The keys of one step for this rank."""
        return [Key(step, position, self._row(step * self.batch + position)) for position in range(self.first, self.last)]

    def _row(self, number: int) -> int:
        """The sample that is seen as the `number`-th of the whole run."""
        epoch, place = divmod(number, self.count)
        return int(_permutation(self.seed, epoch, self.count)[place])


def step_loader(
    dataset: Dataset, sampler: StepSampler, stack: Callable[[Sequence[Any]], Batch | Views], *, workers: int, pin: bool = False
) -> DataLoader:
    """An endless loader of the batches of `sampler`, with its own generator; `workers` processes, or none."""
    return DataLoader(
        dataset, batch_sampler=sampler, collate_fn=stack, num_workers=workers, pin_memory=pin,
        # without a generator of its own, iter(loader) draws from the global one and a resumed run diverges
        generator=torch.Generator().manual_seed(sampler.seed),
        prefetch_factor=2 if workers else None,
    )  # fmt: skip


def once_loader(dataset: Dataset, batch: int, stack: Callable[[Sequence[Any]], Batch], *, rank: int = 0, ranks: int = 1) -> DataLoader:
    """A loader that gives every item of `dataset` once, in order; the ranks share the batches out."""
    count = len(dataset)  # type: ignore[arg-type]
    batches = [list(range(first, min(first + batch, count))) for first in range(0, count, batch)]
    return DataLoader(dataset, batch_sampler=batches[rank::ranks], collate_fn=stack, generator=torch.Generator().manual_seed(0))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)
