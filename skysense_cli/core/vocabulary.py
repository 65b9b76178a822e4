"""Colours and classes to vocabulary ids and back: what a prompt calls the things that it names."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from skysense_cli.errors import DataError


def pack_rgb(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 colours -> (B, H, W) int64 codes, red * 65536 + green * 256 + blue."""
    red, green, blue = rgb.long().unbind(1)
    return (red << 16) + (green << 8) + blue


def unpack_rgb(codes: Tensor) -> Tensor:
    """(B, H, W) codes of `pack_rgb` -> (B, 3, H, W) uint8 colours."""
    return torch.stack([codes >> 16 & 255, codes >> 8 & 255, codes & 255], dim=1).to(torch.uint8)


def to_vocabulary(codes: Tensor, size: int, *, background: int = 0, order: Tensor | None = None) -> tuple[Tensor, list[dict[int, int]]]:
    """Vocabulary ids (B, H, W) int64 in 0..size, and per sample id -> code.

    codes: (B, H, W) int64, any numbers     background: the code that becomes id 0, and only it
    order: a permutation of 1..size: of a sample's codes without background, ascending, number r becomes order[r]. Draw it
        anew for every step, so that no id comes to mean a class. None: 1, 2, ...

    SkySense++, Methods: random colours. Differs from the released code: codes are ranked per sample, not over the batch, so
    that a sample's ids do not depend on its neighbours; one sample that holds the whole batch gives the released ids.
    Waits for the device. Raises DataError when a sample has more than `size` codes, and when `order` is no permutation.
    """
    ids = torch.arange(1, size + 1, device=codes.device) if order is None else order.to(codes.device)
    if sorted(ids.tolist()) != list(range(1, size + 1)):
        raise DataError(f"vocabulary: order holds {ids.numel()} numbers that are no permutation of 1..{size}")
    mapped, tables = [], []
    for number, sample in enumerate(codes):
        found, place = torch.unique(sample, return_inverse=True)  # ascending
        named = found != background
        count = int(named.sum())
        if count > size:
            raise DataError(f"sample {number} has {count} different labels, the vocabulary has {size}; merge classes or enlarge it")
        own = torch.zeros_like(found)
        own[named] = ids[:count]
        mapped.append(own[place])
        tables.append(dict(zip(own.tolist(), found.tolist(), strict=True)))
    return torch.stack(mapped), tables


def from_vocabulary(ids: Tensor, tables: Sequence[Mapping[int, int]], *, background: int = 0) -> Tensor:
    """Codes (B, H, W) int64 of `ids`, by each sample's table; ids that it does not hold become `background`."""
    codes = torch.full_like(ids, background)
    for row, own, table in zip(codes, ids, tables, strict=True):
        for number, code in table.items():
            row[own == number] = code
    return codes
