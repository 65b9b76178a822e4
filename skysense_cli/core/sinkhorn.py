"""Balanced soft assignment of cells to prototypes, clusters or outputs (Sinkhorn-Knopp, as SwAV uses it)."""

import torch
from torch import Tensor

from skysense_cli.core.collective import max_ranks, sum_ranks

TINY = 1e-35  # keeps a column that nobody wants, or a row without mass, from dividing by 0


def sinkhorn(
    similarity: Tensor,
    *,
    epsilon: float = 0.05,
    rounds: int = 3,
    seen: Tensor | None = None,
    groups: Tensor | None = None,
    gathered: bool = False,
) -> Tensor:
    """The assignment S (B, N, K) of N cells to K columns; rows sum to 1, columns to about N / K.

    similarity: (B, N, K), any float type; computed in float32 without gradient
    seen: (B, N) bool; rows that are False get zeros and count nowhere
    groups: (G, B) of 0 and 1, which of the B sets of cells are balanced together; without it each set for itself
    gathered: balance over the ranks as well; every rank then calls with the same G (its own B and N)

    S = diag(a) exp(M / epsilon) diag(b), each round sets b so that the columns are equal, then a so that rows sum to 1.
    In vector form: only a and b change. Each row is shifted by its maximum first, which the first a takes up again.
    """
    with torch.no_grad(), torch.autocast(similarity.device.type, enabled=False):
        scores = similarity.float() / epsilon
        highest = scores.amax(dim=-1)
        kernel = (scores - highest[..., None]).exp()
        counted = torch.ones_like(highest) if seen is None else seen.float()
        top = highest.masked_fill(counted == 0, torch.finfo(highest.dtype).min).amax()
        row = counted * (highest - (max_ranks(top) if gathered else top)).clamp(max=0).exp()
        for _ in range(rounds):
            mass = torch.einsum("bnk,bn->bk", kernel, row)
            if groups is not None:
                mass = groups.to(mass.dtype) @ mass  # (G, B) @ (B, K) -> (G, K)
            mass = sum_ranks(mass) if gathered else mass
            column = 1 / mass.clamp(min=TINY)
            column = column / column.amin(dim=-1, keepdim=True)  # the scale is free; left alone it drifts by N / K a round
            if groups is not None:
                column = groups.to(mass.dtype).T @ column  # (B, G) @ (G, K) -> (B, K)
            row = counted / torch.einsum("bnk,bk->bn", kernel, column).clamp(min=TINY)
        return kernel * row[..., None] * column[:, None, :] if rounds else torch.softmax(scores, dim=-1) * counted[..., None]


def weighted_means(features: Tensor, assignment: Tensor) -> Tensor:
    """(B, N, d) and S (B, N, K) -> (B, K, d), the mean of the features by each column of S; zeros for an empty column.

    Differentiable in the features. SkySense Eq. 12 writes the sum S^T F; see `GeoPrototypes.update`.
    """
    with torch.autocast(features.device.type, enabled=False):
        sums = assignment.float().transpose(-1, -2) @ features.float()
        return sums / assignment.float().sum(dim=-2)[..., None].clamp(min=TINY)
