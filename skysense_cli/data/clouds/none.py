"""No cloud mask: every pixel with data is clear (radar, aerial imagery, ready composites)."""

import numpy as np

from skysense_cli.data.clouds import CloudMask
from skysense_cli.sensors import Sensor


class NoMask(CloudMask):
    """Everything is clear."""

    def __init__(self, sensor: Sensor, /) -> None:
        self.sensor = sensor

    def valid(self, pixels: np.ndarray, extra: dict[str, np.ndarray], gsd_m: float) -> np.ndarray:
        return np.ones(pixels.shape[-2:], dtype=bool)


build = NoMask
