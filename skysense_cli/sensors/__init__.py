"""Sensors: instrument products with bands, units and statistics. One product per file.

To add one, write `sensors/<name>.py` that ends with `sensor = Sensor(...)`; then `sensor: <name>`
works in every recipe.
"""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np

from skysense_cli.errors import DataError


@dataclass(frozen=True)
class Band:
    """One band: its name as stored, other names seen in the wild (matched without case), wavelength, native gsd."""

    name: str
    aliases: tuple[str, ...] = ()
    wavelength_nm: float | None = None
    native_gsd_m: float | None = None


@dataclass(frozen=True)
class Sensor:
    """An instrument product as it is stored in a sample.

    dtype, units: of the stored pixels        nodata: the stored value that means no data (NaN for SAR)
    mean, std: per band, in stored units; what a model sees is (pixel - mean) / std
    typical: (low, high) between which the median of a usable band lies, in stored units
    kind: optical pixels carry reflectance counts, sar pixels dB, rgb pixels display counts
    """

    name: str
    kind: Literal["optical", "sar", "rgb"]
    bands: tuple[Band, ...]
    dtype: str
    nodata: float
    units: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    typical: tuple[float, float]
    gsd_m: float

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in stored order."""
        return tuple(band.name for band in self.bands)

    def find(self, name: str) -> str | None:
        """The stored name of the band that `name` means (name or alias, any case), or None."""
        for band in self.bands:
            if name.casefold() in {band.name.casefold(), *(alias.casefold() for alias in band.aliases)}:
                return band.name
        return None

    def statistics(self, bands: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) of the named bands in that order. Raises DataError for a band the sensor lacks."""
        unknown = [band for band in bands if band not in self.band_names]
        if unknown:
            raise DataError(f"sensor {self.name} has no band {unknown[0]!r} (known: {', '.join(self.band_names)})")
        order = [self.band_names.index(band) for band in bands]
        return tuple(self.mean[i] for i in order), tuple(self.std[i] for i in order)


def names() -> list[str]:
    """Names of all sensors, sorted; reads the folder, imports nothing."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


@cache
def get(name: str) -> Sensor:
    """The sensor called `name`. Raises DataError that lists the known ones."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name not in names():
        raise DataError(f"unknown sensor {name!r} (known: {', '.join(names())})")
    return importlib.import_module(f"skysense_cli.sensors.{name}").sensor


def to_model(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalised float32 of stored `pixels` (..., C, H, W)."""
    shape = (len(mean), 1, 1)
    return (pixels.astype(np.float32) - np.asarray(mean, np.float32).reshape(shape)) / np.asarray(std, np.float32).reshape(shape)
