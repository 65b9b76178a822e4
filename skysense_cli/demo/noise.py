"""Random fields and shapes on a grid: what a landscape and a sky are drawn with."""

import numpy as np
from scipy import fft, ndimage


def fractal(shape: tuple[int, int], scale_px: float, rng: np.random.Generator, roughness: float = 2.0) -> np.ndarray:
    """(H, W) float32 noise with mean 0 and deviation 1; no structure above `scale_px`, power ~ frequency^-2*roughness below."""
    white = rng.standard_normal(shape, dtype=np.float32)
    frequency = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None, :]).astype(np.float32)
    power = (frequency**2 + (1 / scale_px) ** 2) ** (-roughness / 2)
    power[0, 0] = 0
    noise = fft.irfft2(fft.rfft2(white, workers=2) * power, s=shape, workers=2)
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def hashed(*keys: np.ndarray, seed: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on the integer `keys` (arrays of one shape) and nothing else."""
    mixed = np.full(keys[0].shape, seed * 0x9E3779B9 + 1, dtype=np.uint64)
    for key in keys:
        mixed = (mixed ^ key.astype(np.int64).astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(32)
    return (mixed >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def distance_to(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Distance in pixels of every pixel to a line through `points` (N, 2) of x, y in pixels, smoothed by a spline."""
    steps = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    fine = np.linspace(0, steps[-1], int(steps[-1] * 2))
    x, y = (ndimage.gaussian_filter1d(np.interp(fine, steps, points[:, axis]), 60, mode="nearest") for axis in (0, 1))
    free = np.ones(shape, dtype=bool)
    inside = (x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0])
    free[y[inside].astype(int), x[inside].astype(int)] = False
    return ndimage.distance_transform_edt(free).astype(np.float32)


def turned(x: np.ndarray, y: np.ndarray, angle_rad: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across a direction."""
    cosine, sine = np.cos(angle_rad, dtype=np.float32), np.sin(angle_rad, dtype=np.float32)
    return x * cosine + y * sine, y * cosine - x * sine


def borders(labels: np.ndarray) -> np.ndarray:
    """True on the pixels whose right or lower neighbour has another label."""
    found = np.zeros(labels.shape, dtype=bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    return found


def near(flags: np.ndarray, radius_px: float) -> np.ndarray:
    """`flags` grown by a disc."""
    return ndimage.distance_transform_edt(~flags) <= radius_px


def numbered(*keys: np.ndarray) -> np.ndarray:
    """One dense number 0..N-1 per distinct combination of integer keys."""
    combined = np.zeros(keys[0].shape, dtype=np.int64)
    for key in keys:
        whole = key.astype(np.int64)
        combined = combined * (int(whole.max() - whole.min()) + 1) + whole - whole.min()
    return np.unique(combined, return_inverse=True)[1].reshape(combined.shape).astype(np.int32)
