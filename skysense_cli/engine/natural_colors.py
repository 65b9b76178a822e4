"""Which bands are shown as red, green and blue, and how light their numbers are on a picture."""

from collections.abc import Mapping

import numpy as np

from skysense_cli.data.dataset import Input

TRUE_COLORS = (("R", "G", "B"), ("B04", "B03", "B02"))
STRETCH = (1, 99)  # percentiles that become black and white
GAMMA = 0.7

Limits = tuple[np.ndarray, np.ndarray]  # what is black, and how far from it white is; each (3,)


def color_bands(inputs: Mapping[str, Input]) -> tuple[str, tuple[str, ...]]:
    """(modality, the bands that are shown as red, green and blue): true colours if there are some, else what there is first."""
    for bands in TRUE_COLORS:
        for name, wanted in inputs.items():
            if set(bands) <= set(wanted.bands):
                return name, bands
    name, wanted = next(iter(inputs.items()))
    return name, (wanted.bands * 3)[:3] if len(wanted.bands) != 2 else (wanted.bands[0], wanted.bands[1], wanted.bands[0])


def limits_of(kind: str, pixels: np.ndarray) -> Limits:
    """What is black and white of pixels (..., 3) in stored units, NaN = not seen.   kind: of the sensor

    Photographs stay as they are. Reflectance: each band begins at its own dark end, which takes out haze, and all bands
    reach equally far, which keeps colours natural. Radar: each band from its own dark to its own bright end.
    """
    values = pixels.reshape(-1, 3)
    values = values[~np.isnan(values).any(axis=1)]
    if kind == "rgb" or not len(values):
        return np.zeros(3), np.full(3, 255.0)
    low, high = np.percentile(values, STRETCH, axis=0)
    reach = np.maximum(high - low, 1e-6)
    return low, np.full(3, reach.max()) if kind == "optical" else reach


def lit(kind: str, pixels: np.ndarray, limits: Limits, empty: int) -> np.ndarray:
    """Display colours (..., 3) uint8 between two limits.   empty: grey of what is not seen"""
    share = np.clip((pixels - limits[0]) / limits[1], 0, 1)
    light = np.nan_to_num(share) ** (GAMMA if kind == "optical" else 1)
    return np.where(np.isnan(share), empty, np.round(255 * light)).astype(np.uint8)
