"""What cloud masks that look at coarser pixels have in common."""

import importlib
import importlib.util
from types import ModuleType

import numpy as np
from scipy import ndimage

from skysense_cli.errors import RecipeError

COUNTS = 10_000  # of a reflectance of 1


def averaged(counts: np.ndarray, factor: int) -> np.ndarray:
    """Reflectance (C, h, w) float32, each pixel the mean of `factor` x `factor` stored ones (C, H, W) that hold data.

    h and w are rounded up. Zeros in all bands are no data; where nothing else is, the result is 0.
    """
    bands, height, width = counts.shape
    if factor == 1:
        return counts.astype(np.float32) / COUNTS
    some = (counts != 0).any(axis=0)
    margins = ((0, -height % factor), (0, -width % factor))
    blocks = np.pad(counts, ((0, 0), *margins)).reshape(bands, -(-height // factor), factor, -(-width // factor), factor)
    number = np.pad(some, margins).reshape(blocks.shape[1:]).sum(axis=(1, 3))
    return (blocks.sum(axis=(2, 4), dtype=np.float64) / np.maximum(number, 1) / COUNTS).astype(np.float32)


def spread(coarse: np.ndarray, factor: int, shape: tuple[int, ...]) -> np.ndarray:
    """(H, W) of (h, w): each pixel repeated, cut to `shape`."""
    return coarse.repeat(factor, axis=0).repeat(factor, axis=1)[: shape[0], : shape[1]]


def grown(rejected: np.ndarray, grow_m: float, gsd_m: float) -> np.ndarray:
    """Rejected pixels (H, W) and all within `grow_m` of one."""
    if grow_m <= 0 or not rejected.any():
        return rejected
    return np.asarray(ndimage.distance_transform_edt(~rejected, sampling=gsd_m) <= grow_m)


def factor_of(at_m: float, gsd_m: float) -> int:
    """How many pixels of `gsd_m` make one of about `at_m`; at least one."""
    return max(1, round(at_m / gsd_m))


def load(kind: str, module: str) -> ModuleType:
    """A module of the extra `clouds`. Raises RecipeError when it is not installed."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        raise missing(kind, module)
    return importlib.import_module(module)


def missing(kind: str, module: str) -> RecipeError:
    """What is said where the extra is not installed."""
    return RecipeError(f"cloud_mask {kind}: {module} is not installed; get it with: pip install 'skysense-cli[clouds]'")
