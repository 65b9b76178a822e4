"""What is written of blended scores: class numbers, probabilities or confidence, with what a file says about them."""

import colorsys
from dataclasses import dataclass
from typing import Literal

import numpy as np

Color = tuple[int, int, int]
What = Literal["class", "probability", "confidence"]

BYTE_STEPS = 200  # a uint8 probability p is stored as round(200 p), so 100 is exactly one half
BYTE_NODATA = 255
WORD_NODATA = 65535


@dataclass(frozen=True)
class ScoreMap:
    """The raster a recipe asks for. classes: names by number

    class: one band, uint8 (uint16 from 256 classes on), nodata 255 (65535)
    probability: one band per class; confidence: one band, the probability of the class;
        uint8 0-200 with nodata 255, or float32 0-1 with nodata NaN
    """

    what: What
    classes: tuple[str, ...]
    precision: Literal["uint8", "float32"] = "uint8"

    @property
    def dtype(self) -> str:
        """Of the raster's numbers."""
        if self.what == "class":
            return "uint8" if len(self.classes) <= BYTE_NODATA else "uint16"
        return self.precision

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
        return self.classes if self.what == "probability" else (self.what,)

    @property
    def scale(self) -> float:
        """What a stored number is multiplied by to become a probability; 1 for classes."""
        return 1 / BYTE_STEPS if self.what != "class" and self.dtype == "uint8" else 1.0

    def pixels(self, scores: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """(bands, n, W) of scores (K, n, W); nodata where not valid (n, W). Of equal scores the first class wins."""
        if self.what == "class":
            numbers = scores.argmax(axis=0)[None]
        else:
            shares = _softmax(scores)
            numbers = shares if self.what == "probability" else shares.max(axis=0, keepdims=True)
            if self.dtype == "uint8":
                numbers = np.rint(numbers * BYTE_STEPS)
        return np.where(valid, numbers, self.nodata).astype(self.dtype)


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


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=0, keepdims=True))
    return raised / raised.sum(axis=0, keepdims=True)
