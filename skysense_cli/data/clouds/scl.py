"""The scene classification (SCL) that comes with Sentinel-2 Level-2A."""

import numpy as np

from skysense_cli.data.clouds import CloudMask
from skysense_cli.data.clouds._coarser import grown
from skysense_cli.errors import RecipeError
from skysense_cli.sensors import Sensor

UNUSABLE = (0, 1)  # no data; saturated or defective: never valid, and never grown


class Scl(CloudMask):
    """Pixels whose class is not rejected and that lie farther than `grow_m` from every rejected pixel.

    reject: classes to drop; 3 cloud shadow, 8 and 9 cloud, 10 cirrus, 11 snow. Snow is among them
        because opaque cloud is often called snow; leave 11 out for work on snow.
    Classes 2 (dark area) and 7 (unclassified) stay valid: both are mostly ordinary ground.
    grow_m: rejected pixels grow by this distance, since cloud edges are missed more often than cores.
    """

    extra_bands: tuple[str, ...] = ("SCL",)

    def __init__(self, sensor: Sensor, /, *, reject: tuple[int, ...] = (3, 8, 9, 10, 11), grow_m: float = 0.0) -> None:
        wrong = [number for number in reject if not 0 <= number <= 11]
        if wrong or grow_m < 0:
            raise RecipeError(f"cloud_mask scl: reject takes classes 0 to 11 and grow_m is not negative (found {list(reject)}, {grow_m:g})")
        self.reject = tuple(reject)
        self.grow_m = grow_m

    def valid(self, pixels: np.ndarray, extra: dict[str, np.ndarray], gsd_m: float) -> np.ndarray:
        classes = extra["SCL"]
        rejected = grown(np.isin(classes, self.reject), self.grow_m, gsd_m)
        return ~rejected & ~np.isin(classes, UNUSABLE)


build = Scl
