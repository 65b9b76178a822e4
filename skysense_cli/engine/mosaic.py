"""Score maps put together from overlapping tiles, row by row: memory is a strip, never the scene."""

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

    Give tiles from left to right with `add`, close each row of tiles with `finish_row`; that returns
    the rows which no later tile can touch. The result equals a blend of the whole scene at once: where
    tiles overlap, the mean of their scores weighted by the product of the ramps of both axes.
    """

    def __init__(self, channels: int, rows: Axis, columns: Axis) -> None:
        self._rows, self._columns = rows, columns
        self._row_shares, self._column_shares = rows.shares(), columns.shares()
        shape = (channels, rows.size, columns.length)
        self._strip = np.zeros(shape, np.float32)  # the row of tiles at work
        self._blend = np.zeros(shape, np.float32)  # all rows of tiles so far, from the top of the one at work
        self._row = 0
        self._column = 0

    def add(self, scores: np.ndarray | None) -> None:
        """Take the next tile of the row, (K, size, size) float32; None: a tile nobody will read, zeros."""
        start, old = self._columns.starts[self._column], self._columns.before(self._column)
        share = self._column_shares[self._column]
        part = self._strip[:, :, start : start + self._columns.size]
        if scores is None:
            part[:, :, old:] = 0
        else:
            part[:, :, :old] += share[:old] * (scores[:, :, :old] - part[:, :, :old])
            part[:, :, old:] = scores[:, :, old:]
        self._column += 1

    def finish_row(self) -> np.ndarray:
        """Close a row of tiles; the finished rows (K, n, W) that follow those returned before, as a copy."""
        assert self._column == len(self._columns.starts), "a row of tiles is closed when all its tiles are there"
        old = self._rows.before(self._row)
        share = self._row_shares[self._row][:old, None]
        self._blend[:, :old] += share * (self._strip[:, :old] - self._blend[:, :old])
        self._blend[:, old:] = self._strip[:, old:]
        last = self._row + 1 == len(self._rows.starts)
        count = self._rows.size if last else self._rows.starts[self._row + 1] - self._rows.starts[self._row]
        finished = self._blend[:, :count].copy()
        kept = self._rows.size - count
        self._blend[:, :kept] = self._blend[:, count:].copy()
        self._row += 1
        self._column = 0
        return finished
