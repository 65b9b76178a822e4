"""Score maps put together from overlapping tiles, row by row: memory is a strip, never the scene."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """The tiles along one axis: ascending `starts`, all `size` positions long, without gaps."""

    starts: tuple[int, ...]
    size: int

    @property
    def length(self) -> int:
        """Positions that the tiles cover together."""
        return self.starts[-1] + self.size

    def before(self, number: int) -> int:
        """How many positions of tile `number` an earlier tile has covered."""
        return max(self.starts[number - 1] + self.size - self.starts[number], 0) if number else 0

    def scaled(self, factor: int) -> "Axis":
        """The same tiles counted in positions that are `factor` times smaller."""
        return Axis(tuple(start * factor for start in self.starts), self.size * factor)

    def shares(self) -> list[np.ndarray]:
        """For each tile its share (size,) of the running blend, float32; 1 where it is the first to arrive.

        A tile weighs a linear ramp over what it shares with each neighbour, 1 elsewhere. Its share is
        its weight over the sum of its own and all earlier weights, so blending the tiles in order with
        `blend += share * (tile - blend)` gives their weighted mean, and equal values stay exactly equal.
        """
        total = np.zeros(self.length)
        shares = []
        for number, start in enumerate(self.starts):
            weight = self._ramp(number)
            total[start : start + self.size] += weight
            share = (weight / total[start : start + self.size]).astype(np.float32)
            share[self.before(number) :] = 1
            shares.append(share)
        return shares

    def _ramp(self, number: int) -> np.ndarray:
        after = self.before(number + 1) if number + 1 < len(self.starts) else 0
        position = np.arange(self.size) + 0.5
        rise = position / max(self.before(number), 1e-9)
        fall = position[::-1] / max(after, 1e-9)
        return np.minimum(1, np.minimum(rise, fall))


class RasterMosaic:
    """Blends the scores of tiles with separable linear ramps.

    Give the tiles of a window with `add`, close it with `finish`; that returns the pixels which no later tile can touch.
    Windows come from left to right and from top to bottom; one that is left out leaves what it shares with others
    undefined. The result equals a blend of the whole scene at once: where tiles overlap, the mean of their scores weighted
    by the product of the ramps of both axes. The inside of a tile is copied. Memory: the tiles of one window, and
    the rows that windows share with those below.

    Beginning at a later row gives the same numbers, to the last bit, from the first row on that no earlier tile reaches.
    """

    def __init__(self, channels: int, rows: Axis, columns: Axis, blocks: Sequence[int] = (0,)) -> None:
        self._channels, self._rows, self._columns = channels, rows, columns
        self._edges = (*blocks, len(columns.starts))
        self._row_shares, self._column_shares = rows.shares(), columns.shares()
        self._strip: np.ndarray | None = None  # the tiles of the window at work
        self._place = (-1, -1)  # row, block of the window at work
        self._next = 0  # column of the next tile
        self._carried: tuple[tuple[int, int], np.ndarray] | None = None  # (row, block), columns shared with the next block
        self._below: dict[int, tuple[int, np.ndarray]] = {}  # block -> row, blended rows shared with the next row

    def add(self, row: int, block: int, scores: np.ndarray | None) -> None:
        """Take the next tile of a window, (K, size, size) float32; None: a tile nobody will read, zeros."""
        if self._strip is None:
            self._begin(row, block)
        assert self._strip is not None and self._place == (row, block), "a window is closed before the next one begins"
        start = self._columns.starts[self._next] - self._columns.starts[self._edges[block]]
        share = self._column_shares[self._next]
        part = self._strip[:, :, start : start + self._columns.size]
        old = self._columns.before(self._next) if start or self._has_carried(row, block) else 0
        if scores is None:
            part[:, :, old:] = 0
        else:
            part[:, :, :old] += share[:old] * (scores[:, :, :old] - part[:, :, :old])
            part[:, :, old:] = scores[:, :, old:]
        self._next += 1

    def finish(self, row: int, block: int) -> np.ndarray:
        """Close a window; its finished pixels (K, n, w), which the caller may keep and change."""
        last_column = self._edges[block + 1]
        assert self._strip is not None and self._next == last_column, "a window is closed when all its tiles are there"
        strip, self._strip = self._strip, None
        starts = self._columns.starts
        width = (starts[last_column] if last_column < len(starts) else self._columns.length) - starts[self._edges[block]]
        if width < strip.shape[2]:
            self._carried = (row, block), strip[:, :, width:].copy()
            strip = strip[:, :, :width]
        above = self._below.pop(block, None)
        old = self._rows.before(row)
        if old and above is not None and above[0] == row - 1:
            blend, share = strip[:, :old], self._row_shares[row][:old, None]
            blend -= above[1]
            blend *= share
            blend += above[1]
        last = row + 1 == len(self._rows.starts)
        count = self._rows.size if last else self._rows.starts[row + 1] - self._rows.starts[row]
        if count < self._rows.size:
            self._below[block] = row, strip[:, count:].copy()
        return strip[:, :count]

    def _begin(self, row: int, block: int) -> None:
        first, stop = self._edges[block : block + 2]
        width = self._columns.starts[stop - 1] + self._columns.size - self._columns.starts[first]
        self._strip = np.empty((self._channels, self._rows.size, width), np.float32)
        self._place, self._next = (row, block), first
        if self._has_carried(row, block):
            assert self._carried is not None, "asked just now"
            carried = self._carried[1]
            self._strip[:, :, : carried.shape[2]] = carried

    def _has_carried(self, row: int, block: int) -> bool:
        return self._carried is not None and self._carried[0] == (row, block - 1)
