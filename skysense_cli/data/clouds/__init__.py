"""Cloud masks: which pixels of one optical date are clear. One kind per file.

To add one, write `data/clouds/<kind>.py` with a `CloudMask` and `build = <TheClass>`.
Positional-only arguments come from the program: `(sensor, /)`.
"""

import numpy as np


class CloudMask:
    """`extra_bands`: names of the assets the mask reads beside the bands it is given, e.g. ("SCL",), or bands the recipe leaves out."""

    extra_bands: tuple[str, ...] = ()

    def valid(self, pixels: np.ndarray, extra: dict[str, np.ndarray], gsd_m: float) -> np.ndarray:
        """(H, W) bool: clear pixels.

        pixels: (C, H, W) in stored units      extra: name -> (H, W), resampled nearest to the same grid
        """
        raise NotImplementedError
