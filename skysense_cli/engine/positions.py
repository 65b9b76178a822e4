"""Learned position tables for another grid than they were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ROWS = 65_536  # 256 x 256 positions; a larger claim is a damaged file


@dataclass(frozen=True)
class Table:
    """The table an encoder wants. grid: (h, w)      class_row: row 0 belongs to the class token      mode: how it is resized"""

    grid: tuple[int, int]
    class_row: bool
    mode: str

    def resize(self, rows: Tensor) -> Tensor:
        """(1, rows, C) of a square grid, with or without a class row -> (1, [1 +] h * w, C), float32.

        Without a class row to take, that row is zero: the released models that lack it do not use it.
        """
        side, first = square(rows.shape[1]) or (0, False)
        rows = rows.float()
        image = rows[:, int(first) :].unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, h0 * w0, C) -> (1, C, h0, w0)
        if (side, side) != self.grid:
            image = F.interpolate(image, size=self.grid, mode=self.mode, align_corners=False)
        table = image.flatten(2).transpose(1, 2)  # (1, C, h, w) -> (1, h * w, C)
        if not self.class_row:
            return table.contiguous()
        return torch.cat([rows[:, :1] if first else torch.zeros_like(rows[:, :1]), table], dim=1)


def square(rows: int) -> tuple[int, bool] | None:
    """(side, whether there is a class row before the grid) of a table with so many rows; None if it is no square."""
    if not 1 <= rows <= MAX_ROWS + 1:
        return None
    for first in (False, True):
        side = isqrt(rows - first)
        if side and side * side == rows - first:
            return side, first
    return None
