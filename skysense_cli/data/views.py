"""Augmented views of a sample: where they are cut, how they are turned, and what is changed in their pixels and dates.

SkySense, 4.1: sequences are sub-sampled in time and their dates disturbed; colour imagery is also jittered and
blurred; optical and radar counts keep their physics. Paper silent: all figures, and that crops, flips and quarter
turns are shared by all modalities of a view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skysense_cli.core.batch import IGNORE
from skysense_cli.core.frames import view_frame
from skysense_cli.errors import DataError

JITTER_CHANCE = 0.8  # of a view's colours being jittered at all (DINO)
BLUR_SIGMA_PX = (0.1, 2.0)
GREY = np.array([0.299, 0.587, 0.114], np.float32)
DAYS = 365
WHOLE = 1e-6  # of a pixel: how far from a whole number a window may lie by rounding


@dataclass(frozen=True)
class Cut:
    """The part of a footprint that a view shows, in metres from its top left corner, then mirrored and turned.

    flip: mirrored left to right first      quarters: then so many counter-clockwise quarter turns
    """

    top_m: float
    left_m: float
    height_m: float
    width_m: float
    flip: bool = False
    quarters: int = 0

    def window(self, gsd_m: float) -> tuple[slice, slice]:
        """Rows and columns of a raster of the footprint. Raises DataError when the cut splits a pixel."""
        edges = [self.top_m / gsd_m, (self.top_m + self.height_m) / gsd_m, self.left_m / gsd_m, (self.left_m + self.width_m) / gsd_m]
        if any(abs(edge - round(edge)) > WHOLE * max(1, edge) for edge in edges):
            raise DataError(f"a crop of {self.height_m:g} x {self.width_m:g} m splits pixels of {gsd_m:g} m; crops must be whole pixels")
        top, bottom, left, right = (round(edge) for edge in edges)
        return slice(top, bottom), slice(left, right)

    def turn(self, pixels: np.ndarray) -> np.ndarray:
        """`pixels` (..., H, W) of the window, mirrored and turned; a view of the same memory where numpy can."""
        mirrored = pixels[..., ::-1] if self.flip else pixels
        return np.rot90(mirrored, self.quarters, axes=(-2, -1))

    def frame(self, size_m: tuple[float, float]) -> np.ndarray:
        """(2, 3) float32 map from view to footprint coordinates of a footprint of `size_m` (height, width)."""
        height, width = size_m
        box = (self.left_m / width, self.top_m / height, (self.left_m + self.width_m) / width, (self.top_m + self.height_m) / height)
        return view_frame(box, flip=self.flip, quarters=self.quarters).numpy()


@dataclass(frozen=True)
class Cutter:
    """How views are cut: `crop_m` square pieces (None: the whole footprint) at multiples of `unit_m`, turned or not."""

    crop_m: float | None
    unit_m: float
    turn: bool = True

    def draw(self, rng: np.random.Generator, size_m: tuple[float, float], near: Cut | None = None) -> Cut:
        """A random cut; with `near`, one that shares at least half its height and width with that cut."""
        height, width = (self.crop_m, self.crop_m) if self.crop_m else size_m
        if height > size_m[0] + WHOLE or width > size_m[1] + WHOLE:
            raise DataError(f"data.crop_m {height:g} is more than the sample's {size_m[0]:g} x {size_m[1]:g} m")
        top = self._offset(rng, size_m[0] - height, height, None if near is None else near.top_m)
        left = self._offset(rng, size_m[1] - width, width, None if near is None else near.left_m)
        if not self.turn:
            return Cut(top, left, height, width)
        quarters = int(rng.integers(4))
        if height != width:
            quarters -= quarters % 2  # a quarter turn would swap the sides, and samples of a batch share them
        return Cut(top, left, height, width, flip=bool(rng.integers(2)), quarters=quarters)

    def _offset(self, rng: np.random.Generator, room: float, side: float, near: float | None) -> float:
        """A multiple of the unit in 0..room, at most half a side from `near`."""
        low, high = (0.0, room) if near is None else (max(0.0, near - side / 2), min(room, near + side / 2))
        first, last = int(np.ceil(low / self.unit_m - WHOLE)), int(np.floor(high / self.unit_m + WHOLE))
        return float(rng.integers(first, last + 1)) * self.unit_m


@dataclass(frozen=True)
class Piece:
    """One of the cuts that cover a footprint. skip_m: rows above and columns to the left that an earlier piece covers."""

    cut: Cut
    skip_m: tuple[float, float] = (0, 0)

    def only_new(self, raster: np.ndarray, gsd_m: float) -> np.ndarray:
        """`raster` (H, W) of the cut with 255 where an earlier piece lies."""
        rows, columns = (round(side / gsd_m) for side in self.skip_m)
        if rows or columns:
            raster = raster.copy()
            raster[:rows] = IGNORE
            raster[:, :columns] = IGNORE
        return raster


def pieces(size_m: tuple[float, float], crop_m: float | None) -> list[Piece]:
    """Cuts that cover a footprint, not turned; the last row and column are moved back inside, so that all are full."""
    if crop_m is None:
        return [Piece(Cut(0, 0, *size_m))]
    rows, columns = _starts(size_m[0], crop_m), _starts(size_m[1], crop_m)
    return [Piece(Cut(top, left, crop_m, crop_m), (above, before)) for top, above in rows for left, before in columns]


def day_of_year(times: np.ndarray) -> np.ndarray:
    """(T,) int64 day of year 0..364 of datetimes; 31 December of a leap year is 364 too; NaT is -1."""
    dates = times.astype("datetime64[D]")
    days = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
    return np.where(np.isnat(dates), -1, np.minimum(days, DAYS - 1))


def draw_dates(rng: np.random.Generator, choice: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices in `choice`, drawn without replacement, ascending."""
    return choice if len(choice) <= count else np.sort(rng.choice(choice, count, replace=False))


def spread_dates(choice: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the indices in `choice`, evenly spread from the first to the last; always the same."""
    return choice if len(choice) <= count else choice[np.round(np.linspace(0, len(choice) - 1, count)).astype(int)]


def jitter_days(rng: np.random.Generator, days: np.ndarray, most: int) -> np.ndarray:
    """`days` moved by up to `most` each, over New Year where need be; unknown days stay unknown."""
    moved = (days + rng.integers(-most, most + 1, len(days))) % DAYS
    return np.where(days < 0, days, moved)


def jitter_colors(rng: np.random.Generator, pixels: np.ndarray, strength: float) -> np.ndarray:
    """(T, C, H, W) display counts with brightness, contrast and saturation changed by factors of 1 +- `strength`; float32, 0..255.

    Saturation concerns the first three bands.
    """
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    changed = pixels.astype(np.float32) * brightness
    mean = changed.mean(axis=(1, 2, 3), keepdims=True)
    changed = mean + (changed - mean) * contrast
    colors = changed[:, :3]
    grey = np.tensordot(colors, GREY[: colors.shape[1]], axes=(1, 0))[:, None]
    changed[:, :3] = grey + (colors - grey) * saturation
    return np.clip(changed, 0, 255)


def blur(pixels: np.ndarray, sigma_px: float) -> np.ndarray:
    """(..., H, W) float32, smoothed by a Gaussian; edges are repeated."""
    radius = max(1, int(np.ceil(2.5 * sigma_px)))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma_px) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    smooth = pixels.astype(np.float32)
    for axis in (-2, -1):
        padding = [(0, 0)] * smooth.ndim
        padding[axis] = (radius, radius)
        padded = np.pad(smooth, padding, mode="edge")
        size = smooth.shape[axis]
        smooth = sum(weight * padded.take(range(start, start + size), axis=axis) for start, weight in enumerate(kernel))
    return smooth


def change_colors(rng: np.random.Generator, pixels: np.ndarray, strength: float, blur_chance: float) -> np.ndarray:
    """Colour jitter with a chance of 0.8 and blur with `blur_chance`; the same draws are made either way."""
    jittered, blurred, sigma = rng.random() < JITTER_CHANCE, rng.random() < blur_chance, rng.uniform(*BLUR_SIGMA_PX)
    seed = rng.integers(2**63)
    if jittered and strength > 0:
        pixels = jitter_colors(np.random.default_rng(seed), pixels, strength)
    return blur(pixels, sigma) if blurred else pixels


def _starts(size_m: float, crop_m: float) -> list[tuple[float, float]]:
    """(start, how much of it an earlier one covers) of cuts of `crop_m` along a side."""
    if crop_m > size_m + WHOLE:
        raise DataError(f"data.crop_m {crop_m:g} is more than the sample's {size_m:g} m")
    count = int(np.ceil(size_m / crop_m - WHOLE))
    starts = [min(index * crop_m, size_m - crop_m) for index in range(count)]
    return [(start, index * crop_m - start) for index, start in enumerate(starts)]
