"""Sums and rows over all ranks; in one process every function returns its input.

A process group is used when `torch.distributed` is initialised, else nothing is called. Every rank must call
the same functions in the same order; a rank without rows passes an empty tensor of the right width.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """How many processes train together; 1 without a process group."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """The number of this process, 0 without a process group."""
    return dist.get_rank() if _grouped() else 0


def any_rank(flags: Tensor) -> Tensor:
    """`flags` (bool, any shape), True where any rank has True."""
    if ranks() == 1:
        return flags
    counts = flags.to(torch.int32)
    dist.all_reduce(counts, op=dist.ReduceOp.MAX)
    return counts.bool()


def sum_ranks(values: Tensor) -> Tensor:
    """The sum of `values` over the ranks, same shape on each. Without gradient; the input is not changed."""
    if ranks() == 1:
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def max_ranks(values: Tensor) -> Tensor:
    """The maximum of `values` over the ranks, element by element. Without gradient; the input is not changed."""
    if ranks() == 1:
        return values.detach()
    most = values.detach().clone()
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return most


def gather_ranks(rows: Tensor) -> Tensor:
    """(N, ...) -> the rows of rank 0, rank 1, ... one after the other; N may differ between ranks.

    Differentiable: the gradient of a row is the sum of what all ranks ask of it.
    """
    return rows if ranks() == 1 else _Gather.apply(rows)  # type: ignore[no-any-return]


def mean_over_ranks(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean of `values` (N,) weighted by `weight` (N,), so scaled that the *average of the ranks' results* is the global mean.

    Data parallel training averages gradients over ranks, so ranks with unequal counts still train on the mean of all.
    No weight anywhere gives 0 with a gradient of 0, not NaN.
    """
    weight = torch.ones_like(values) if weight is None else weight.to(values.dtype)
    total = sum_ranks(weight.sum())
    return (values * weight).sum() * ranks() / total.clamp(min=torch.finfo(values.dtype).tiny)


class _Gather(torch.autograd.Function):
    """All rows of all ranks, padded to the longest for the transport."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:  # type: ignore[override]
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(ranks())]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        lengths = [int(count) for count in counts]
        padded = rows.new_zeros(max(lengths), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
        ctx.start, ctx.count = sum(lengths[: rank()]), len(rows)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.start : ctx.start + ctx.count]


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
