"""The shared grid of cells: what the dates of each modality say about a cell, joined for the fusion."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skysense_cli.core.batch import UNKNOWN_DAY

SEEN_SHARE = (1, 4)  # a cell is seen on a date if at least this fraction of it is valid


@dataclass(frozen=True, eq=False)
class Dated:
    """All dates of one modality on the shared cells.

    features: (B, T, d, h, w), F_i of Eq. 1      days: (B, T) int64, -1 = unknown
    present: (B, T) bool                         seen: (B, T, h, w) bool, cells whose feature counts
    """

    features: Tensor
    days: Tensor
    present: Tensor
    seen: Tensor


def seen_cells(valid: Tensor, present: Tensor, h: int, w: int) -> Tensor:
    """(B, T, h, w) bool: present, and at least a quarter of the cell's area is valid.

    valid: (B, T, H, W) bool.   present: (B, T) bool. A cell may be larger or smaller than a pixel.
    """
    for axis, cells in ((2, h), (3, w)):
        pixels = valid.shape[axis]
        if pixels != cells:
            valid = valid.repeat_interleave(math.lcm(pixels, cells) // pixels, dim=axis)  # pixels, cut where cells are
    pieces = valid.unflatten(3, (w, -1)).unflatten(2, (h, -1))  # (B, T, h, y, w, x)
    counts = pieces.sum(dim=(3, 5))
    least, whole = SEEN_SHARE
    return (counts * whole >= least * pieces.shape[3] * pieces.shape[5]) & present[..., None, None]


def join_dates(modal: Sequence[Tensor], days: Sequence[Tensor], seen: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The token sequence of every cell: (B * h * w, N_T, d), its days and whether each token is seen, (B * h * w, N_T).

    Per modality: modal (B, T, d, h, w), days (B, T), seen (B, T, h, w); all dates of the first come first.
    """
    shown = torch.cat(list(seen), dim=1).permute(0, 2, 3, 1)  # (B, N_T, h, w) -> (B, h, w, N_T)
    tokens = torch.cat(list(modal), dim=1).permute(0, 3, 4, 1, 2)  # (B, N_T, d, h, w) -> (B, h, w, N_T, d)
    dated = torch.cat(list(days), dim=1)[:, None, None].expand(shown.shape)
    return tokens.flatten(0, 2), dated.flatten(0, 2), shown.flatten(0, 2)


def mean_over_dates(level: Tensor, present: Tensor) -> Tensor:
    """(B, T, C, H, W) -> (B, C, H, W), the mean over the dates that are present; zeros where none is."""
    weights = present.to(level.dtype)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("btchw,bt->bchw", level, weights)


def filled(dated: Mapping[str, Dated], imagined: Mapping[str, Tensor]) -> dict[str, Dated]:
    """`dated`, in which a sample without any date of a modality has the imagined feature (B, d, h, w) as its only one.

    That date has no day, and is seen where some other modality is.
    """
    somewhere = torch.stack([part.seen.any(dim=1) for part in dated.values()]).any(dim=0)  # (B, h, w)
    full = {}
    for m, part in dated.items():
        first = torch.zeros_like(part.present)
        first[:, 0] = ~part.present.any(dim=1)
        places = first[..., None, None]
        full[m] = Dated(
            features=torch.where(places[..., None], imagined[m].unsqueeze(1), part.features),
            days=part.days.masked_fill(first, UNKNOWN_DAY),
            present=part.present | first,
            seen=part.seen | (places & somewhere.unsqueeze(1)),
        )
    return full
