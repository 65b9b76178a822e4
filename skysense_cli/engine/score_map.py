"""What is written of blended scores: class numbers, probabilities and what follows from them, with what a file says about them."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from skysense_cli.recipe.schema.maps import What

Color = tuple[int, int, int]

BYTE_STEPS = 200  # a uint8 probability p is stored as round(200 p), so 100 is exactly one half
BYTE_NODATA = 255
WORD_NODATA = 65535
CHUNK = 1 << 20  # scores that are ranked at once


@dataclass(frozen=True)
class ScoreMap:
    """A raster a recipe asks for. classes: names by number; of a head that gives values, the names of its bands

    class: one band, uint8 (uint16 from 256 classes on), nodata 255 (65535)
    probability: one band per class      confidence: one band, the probability of the class
    margin: the probability of the class less that of the second      entropy: of the probabilities, over the
        logarithm of their number, so 0 is certain and 1 is all alike
        all four uint8 0-200 with nodata 255, or float32 0-1 with nodata NaN
    value: what the head says, blended, float32 with nodata NaN
    """

    what: What
    classes: tuple[str, ...]
    precision: Literal["uint8", "float32"] = "uint8"

    @property
    def dtype(self) -> str:
        """Of the raster's numbers."""
        if self.what == "class":
            return "uint8" if len(self.classes) <= BYTE_NODATA else "uint16"
        return "float32" if self.what == "value" else self.precision

    @property
    def nodata(self) -> float:
        """The number that means no data."""
        return {"uint8": BYTE_NODATA, "uint16": WORD_NODATA, "float32": np.nan}[self.dtype]

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return self.classes if self.what in ("probability", "value") else (self.what,)

    @property
    def scale(self) -> float:
        """What a stored number is multiplied by to become a share; 1 for classes and values."""
        return 1 / BYTE_STEPS if self.what not in ("class", "value") and self.dtype == "uint8" else 1.0

    def pixels(self, scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """(bands, n, W) of scores (K, n, W); nodata where not valid (n, W). Of equal scores the first class wins."""
        return pixels_of([self], scores, valid)[self.what]

    def stored(self, ranked: "Ranked") -> np.ndarray:
        """(bands, n, W) in the raster's numbers, nodata not yet put in."""
        if self.what == "value":
            return ranked.scores
        if self.what == "class":
            return ranked.winner[None].astype(self.dtype)
        numbers = ranked.shares if self.what == "probability" else getattr(ranked, self.what)[None]
        return (np.rint(numbers * np.float32(BYTE_STEPS)) if self.dtype == "uint8" else numbers).astype(self.dtype)


class Ranked:
    """What can be said of scores (K, n, W) float32, each thing made once."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores

    @cached_property
    def winner(self) -> np.ndarray:
        """(n, W) uint16: the first of the classes with the highest score, by a running maximum."""
        best, winner = self.scores[0].copy(), np.zeros(self.scores.shape[1:], np.uint16)
        for number, score in enumerate(self.scores[1:], start=1):
            better = score > best
            np.copyto(best, score, where=better)
            np.copyto(winner, np.uint16(number), where=better)
        return winner

    @cached_property
    def shares(self) -> np.ndarray:
        """(K, n, W): probabilities, the softmax of the scores."""
        return self._raised / self._total

    @cached_property
    def confidence(self) -> np.ndarray:
        """(n, W): the highest probability."""
        return 1 / self._total

    @cached_property
    def margin(self) -> np.ndarray:
        """(n, W): the highest probability less the second; 1 with one class."""
        if len(self.scores) == 1:
            return np.ones_like(self._total)
        return (1 - np.partition(self._raised, -2, axis=0)[-2]) / self._total

    @cached_property
    def entropy(self) -> np.ndarray:
        """(n, W): of the probabilities, in 0..1."""
        if len(self.scores) == 1:
            return np.zeros_like(self._total)
        lowered = (self._raised * self._lowered).sum(axis=0)
        return np.clip((np.log(self._total) - lowered / self._total) / np.float32(np.log(len(self.scores))), 0, 1)

    @cached_property
    def _lowered(self) -> np.ndarray:
        return self.scores - self.scores.max(axis=0)

    @cached_property
    def _raised(self) -> np.ndarray:
        return np.exp(self._lowered)

    @cached_property
    def _total(self) -> np.ndarray:
        return self._raised.sum(axis=0)


def pixels_of(maps: Sequence[ScoreMap], scores: np.ndarray, valid: np.ndarray) -> dict[str, np.ndarray]:
    """What -> (bands, n, W) for each map, of scores (K, n, W) float32 and valid (n, W); a few rows at a time, in cache."""
    found: dict[str, np.ndarray] = {one.what: np.empty((len(one.bands), *valid.shape), one.dtype) for one in maps}
    step = max(CHUNK // max(scores.shape[0] * scores.shape[2], 1), 1)
    for top in range(0, valid.shape[0], step):
        rows = slice(top, top + step)
        ranked = Ranked(scores[:, rows])
        for one in maps:
            found[one.what][:, rows] = np.where(valid[rows], one.stored(ranked), np.array(one.nodata, one.dtype))
    return found


def class_colors(count: int) -> list[Color]:
    """`count` colours told apart well, the same on every machine: hues a golden ratio apart, three depths."""
    return [hue_color(number, depth=number % 3) for number in range(count)]


def hue_color(number: int, depth: int = 0) -> Color:
    """Red, green and blue of the `number`-th hue; hues of near numbers lie far apart."""
    hue = (number * 0.6180339887498949) % 1
    saturation, value = ((0.65, 0.90), (0.85, 0.65), (0.40, 0.97))[depth]
    return _rgb(hue, saturation, value)


def _rgb(hue: float, saturation: float, value: float) -> Color:
    parts = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(parts[0] * 255), round(parts[1] * 255), round(parts[2] * 255)
