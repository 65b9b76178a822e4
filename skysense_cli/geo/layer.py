"""One band on a grid whose pixels come by rows, so that a band of coarser pixels need not be held in fine ones."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from skysense_cli.geo.axes import TIE, Steps


class Layer(Protocol):
    """A band on a grid.   known: (H, W) bool, where it has data"""

    known: np.ndarray

    def __getitem__(self, rows: slice) -> np.ndarray:
        """(n, W) of these rows; what they hold without data is said by whoever made the layer."""
        ...


class Whole:
    """A band that is held as it is."""

    def __init__(self, values: np.ndarray, known: np.ndarray) -> None:
        self._values, self.known = values, everywhere(known)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._values[rows]


class Doubled:
    """A band of whole numbers without holes whose pixels are halved along both axes, bilinear between centres; float32.

    Three quarters of the pixel, one of the neighbour on that side (of itself at an edge): quarters of quarters are exact in float32.
    """

    def __init__(self, values: np.ndarray, steps: tuple[Steps, Steps], shape: tuple[int, int]) -> None:
        self._values, self._steps, self._shape = values, steps, shape
        self.known = np.broadcast_to(np.True_, shape)

    @staticmethod
    def can(values: np.ndarray, known: np.ndarray, steps: tuple[Steps, Steps], shape: tuple[int, int]) -> bool:
        """Whether pixels are halved exactly, from an edge or a middle of one, all lie inside and none is missing."""
        whole = values.dtype in (np.uint8, np.int16, np.uint16)
        halves = (
            s.step == 0.5 and (2 * s.start).is_integer() and s.start >= 0 and s.start + n / 2 <= m
            for s, n, m in zip(steps, shape, values.shape, strict=True)
        )
        return whole and all(halves) and bool(known.all())

    def __getitem__(self, rows: slice) -> np.ndarray:
        pixel, side = np.divmod(int(2 * self._steps[0].start) + np.arange(self._shape[0])[rows], 2)  # in half pixels
        other = np.clip(pixel + 2 * side - 1, 0, len(self._values) - 1)
        down = self._values[pixel] * np.float32(0.75)
        down += self._values[other] * np.float32(0.25)
        most, least = down * np.float32(0.75), down * np.float32(0.25)
        out = np.empty((len(pixel), self._shape[1]), np.float32)
        first = int(2 * self._steps[1].start)
        for start in range(min(self._shape[1], 2)):
            place, side_of = divmod(first + start, 2)
            _add_runs(most, place, least, place + 2 * side_of - 1, out[:, start::2])
        return out


class Interpolated:
    """A band brought to finer or moved pixels, bilinear between centres; float32, NaN without data.

    A pixel has data where the source pixel around its centre has. Missing neighbours are left out and the other weights scaled up.
    """

    def __init__(self, values: np.ndarray, known: np.ndarray, steps: tuple[Steps, Steps], shape: tuple[int, int]) -> None:
        self._values, self._given, self._steps, self._shape = values, known, steps, shape
        (rows, rows_in), (columns, columns_in) = (s.nearest(np.arange(n), m) for s, n, m in zip(steps, shape, known.shape, strict=True))
        self.known = known[rows[:, None], columns] & (rows_in[:, None] & columns_in)

    def __getitem__(self, rows: slice) -> np.ndarray:
        found, out = self.known[rows], np.full((len(self.known[rows]), self._shape[1]), np.nan, np.float32)
        if not found.any():
            return out
        places = np.arange(self._shape[0])[rows], np.arange(self._shape[1])
        down, across = (_Pair(s, at, m) for s, at, m in zip(self._steps, places, self._given.shape, strict=True))
        part = np.s_[down.reach, across.reach]
        known, values = self._given[part], self._values[part]
        weight = across.between(down.between(known.astype(np.float64), 0), 1)
        total = across.between(down.between(np.where(known, values, 0).astype(np.float64), 0), 1)
        np.divide(total, weight, out=out, where=found, casting="same_kind")
        return out


class _Pair:
    """Along one axis, the two source pixels on either side of each of some places, and their shares."""

    def __init__(self, steps: Steps, places: np.ndarray, available: int) -> None:
        place = steps.centres(places) - 0.5
        low = np.floor(place + TIE).astype(np.int64)
        share = np.clip(place - low, 0, 1)
        self._sides = [
            (np.clip(index, 0, available - 1), part * ((index >= 0) & (index < available)))
            for index, part in ((low, 1 - share), (low + 1, share))
        ]
        self._first = int(self._sides[0][0].min())
        self.reach = slice(self._first, int(self._sides[1][0].max()) + 1)

    def between(self, values: np.ndarray, axis: int) -> np.ndarray:
        """Linear interpolation of `values`, the source's `reach` along `axis`; what lies outside the source counts as 0."""
        shape = (-1, 1) if axis == 0 else (1, -1)
        (low, low_share), (high, high_share) = self._sides
        total = np.take(values, low - self._first, axis) * low_share.reshape(shape)
        total += np.take(values, high - self._first, axis) * high_share.reshape(shape)
        return total


def _add_runs(a: np.ndarray, a_first: int, b: np.ndarray, b_first: int, out: np.ndarray) -> None:
    """out[:, k] = a[:, a_first + k] + b[:, b_first + k]; a column of `b` beyond its ends is its last one there."""
    count, width = out.shape[1], b.shape[1]
    low, high = max(-b_first, 0), min(width - b_first, count)
    np.add(a[:, a_first + low : a_first + high], b[:, b_first + low : b_first + high], out=out[:, low:high])
    for k in (*range(low), *range(high, count)):
        out[:, k] = a[:, a_first + k] + b[:, min(max(b_first + k, 0), width - 1)]


def everywhere(known: np.ndarray) -> np.ndarray:
    """`known` (H, W), without memory of its own where all of it is True."""
    return np.broadcast_to(np.True_, known.shape) if known.all() else known


def stacked(layers: Sequence[Layer]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (C, H, W) and where they are data (C, H, W)."""
    return np.stack([layer[:] for layer in layers]), np.stack([layer.known for layer in layers])
