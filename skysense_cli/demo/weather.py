"""Clouds, their shadows and a scene classification that errs as the real one does.

All arrays are on the 10 m grid of one acquisition, row 0 in the north.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from skysense_cli.demo.noise import fractal

Kind = Literal["clear", "cumulus", "broken", "thin", "overcast"]
PIXEL_M = 10.0
REACH_PX = 140  # clouds outside the scene whose shadows may fall into it
CLOUDY, SHADED = 0.15, 0.30  # from which share of cloud, or of sunlight taken, a pixel counts as not clear
SCL_SHADOW, SCL_VEGETATION, SCL_BARE, SCL_WATER, SCL_UNCLASSIFIED, SCL_MEDIUM, SCL_HIGH, SCL_CIRRUS = 3, 4, 5, 6, 7, 8, 9, 10


@dataclass(frozen=True)
class Sky:
    """What hangs over one date. `cover`: share of clouds (not of their shadows); `base_m`: their height."""

    kind: Kind
    cover: float = 0.0
    base_m: float = 800.0


@dataclass(frozen=True, eq=False)
class Weather:
    """alpha: (H, W) share of the signal that comes from cloud     shade: (H, W) share of sunlight taken by cloud

    assumed_shade: where a classification would look for shadow, with its mistaken cloud height
    """

    alpha: np.ndarray
    shade: np.ndarray
    assumed_shade: np.ndarray

    @property
    def clear(self) -> np.ndarray:
        """(H, W) bool: neither cloud nor shadow. The truth of the cloud filter."""
        return (self.alpha < CLOUDY) & (self.shade < SHADED)


def make_weather(sky: Sky, shape: tuple[int, int], sun_azimuth_deg: float, sun_elevation_deg: float, seed: int) -> Weather:
    """Clouds of one date and the shadows they throw away from the sun."""
    rng = np.random.default_rng(seed)
    wide = (shape[0] + 2 * REACH_PX, shape[1] + 2 * REACH_PX)
    alpha = _alpha(sky, wide, rng)
    length_px = sky.base_m / np.tan(np.radians(sun_elevation_deg)) / PIXEL_M
    azimuth = np.radians(sun_azimuth_deg)
    away = np.array([np.cos(azimuth), -np.sin(azimuth)]) * length_px  # rows, columns; the sun's side is minus this
    middle = (slice(REACH_PX, -REACH_PX),) * 2
    shade = ndimage.shift(alpha, away, order=1)
    assumed = ndimage.shift(alpha, away * rng.uniform(0.75, 1.25), order=1)
    return Weather(alpha[middle], (0.92 * shade)[middle], assumed[middle])


def _alpha(sky: Sky, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W) share of cloud in the signal, 0..1."""
    if sky.kind == "clear" or sky.cover <= 0:
        return np.zeros(shape, dtype=np.float32)
    if sky.kind == "overcast":  # one even layer: nothing of the ground, nothing to match
        return np.full(shape, 0.985, dtype=np.float32)
    scale, softness, top = {"cumulus": (38, 0.30, 5.0), "broken": (240, 0.28, 6.0), "thin": (200, 0.8, 0.55)}[sky.kind]
    noise = fractal(shape, scale, rng, 2.3)
    middle = noise[REACH_PX:-REACH_PX, REACH_PX:-REACH_PX]
    depth = np.clip((noise - np.quantile(middle, 1 - sky.cover)) / softness, 0, 1)
    billows = 1 + 0.25 * fractal(shape, 30, rng, 2.2)
    return (1 - np.exp(-depth * top * np.clip(billows, 0.3, 2))).astype(np.float32)


def cover_with(pixels: np.ndarray, weather: Weather, cloud: np.ndarray) -> np.ndarray:
    """Reflectance (C, H, W) as seen through the weather; `cloud`: (C,) reflectance of an opaque cloud.

    Shadow takes direct light only, of which there is less in the blue: three quarters of it, nine tenths in the infrared.
    """
    direct = np.linspace(0.72, 0.9, len(pixels)).reshape(-1, 1, 1)
    billows = 0.86 + 0.14 * weather.alpha
    return pixels * (1 - direct * weather.shade) * (1 - weather.alpha) + cloud.reshape(-1, 1, 1) * billows * weather.alpha


def classify(weather: Weather, sky: Sky, bright: np.ndarray, ndvi: np.ndarray, water: np.ndarray, seed: int) -> np.ndarray:
    """Scene classification (H, W) uint8 in the codes of Level-2A, with its known faults.

    bright: (H, W) share of bright roofs      ndvi, water: of the clear ground
    Thin cloud and cloud edges are missed, edges of thick cloud are overdone, shadows are sought at a mistaken
    cloud height, bright roofs are called cloud, dark water is called shadow at times, an even overcast is left unclassified.
    Inputs are on the classification's own grid.
    """
    rng = np.random.default_rng(seed)
    codes = np.where(ndvi > 0.35, SCL_VEGETATION, SCL_BARE).astype(np.uint8)
    codes[water > 0.5] = SCL_WATER
    codes[rng.random(codes.shape) < 0.004] = SCL_UNCLASSIFIED
    if sky.kind == "overcast":
        patches = fractal(codes.shape, 12, rng, 2.0)
        codes[...] = np.where(patches > 2.2, SCL_MEDIUM, SCL_UNCLASSIFIED)
        return codes
    doubt = 0.10 * fractal(codes.shape, 10, rng, 1.8)
    shadow = (weather.assumed_shade + doubt > 0.42) & (water < 0.5)
    codes[shadow | ((water > 0.8) & (doubt > 0.22))] = SCL_SHADOW
    sure = weather.alpha + doubt > 0.62
    overdone = ndimage.distance_transform_edt(~sure) <= 2.6 + 8 * doubt
    codes[overdone | (weather.alpha + doubt > 0.42)] = SCL_MEDIUM
    codes[sure] = SCL_HIGH
    codes[(weather.alpha > 0.16) & (weather.alpha < 0.5) & (doubt > 0.08) & ~overdone] = SCL_CIRRUS
    codes[(bright > 0.35) & (codes < SCL_UNCLASSIFIED)] = SCL_MEDIUM
    return codes
