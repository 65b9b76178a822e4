"""Coordinates of Chinese maps (GCJ-02) and WGS 84.

Map tiles of Chinese services show ground that is shifted by 50 to 750 m. The published series is an offset in
degrees that grows smoothly with the place; there is no official definition. It applies inside a plain box around
China only, so neighbours (Korea, Mongolia, northern India ...) inside of the box are shifted as well, and the
shift jumps to zero at its edge, which is how the published tools behave.
"""

import numpy as np

A_M, E2 = 6378245.0, 0.00669342162296594323  # Krassowsky's ellipsoid, as the published series has it
BOX = (72.004, 0.8293, 137.8347, 55.8271)  # west, south, east, north, degrees
ROUNDS = 10  # each leaves about a thousandth of the error of the one before
CLOSE_DEG = 1e-10


def inside(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(N,) bool: within the box where the shift applies."""
    west, south, east, north = BOX
    return np.asarray((lon >= west) & (lon <= east) & (lat >= south) & (lat <= north))


def to_gcj02(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """GCJ-02 of WGS 84 degrees (N,); places outside of the box stay."""
    lon, lat = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    east, north = _offset(lon, lat)
    shifted = inside(lon, lat)
    return np.where(shifted, lon + east, lon), np.where(shifted, lat + north, lat)


def from_gcj02(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """WGS 84 of GCJ-02 degrees (N,), by iteration: back and forth is exact to 1e-9 degrees, away from the edge of the box."""
    lon, lat = np.asarray(lon, np.float64), np.asarray(lat, np.float64)
    x, y = lon.copy(), lat.copy()
    shifted = inside(lon, lat)
    for _ in range(ROUNDS):
        east, north = _offset(x, y)
        step = np.where(shifted, lon - east - x, 0), np.where(shifted, lat - north - y, 0)
        x, y = x + step[0], y + step[1]
        if max(np.abs(step[0]).max(initial=0), np.abs(step[1]).max(initial=0)) < CLOSE_DEG:
            break
    return x, y


def _offset(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Degrees east and north that the published series adds to WGS 84."""
    x, y = lon - 105.0, lat - 35.0
    root, both = np.sqrt(np.abs(x)), 20 * _sine(x, 6) + 20 * _sine(x, 2)
    north_m = -100 + 2 * x + 3 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * root
    north_m += 2 / 3 * (both + 20 * _sine(y, 1) + 40 * _sine(y, 1 / 3) + 160 * _sine(y, 1 / 12) + 320 * _sine(y, 1 / 30))
    east_m = 300 + x + 2 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * root
    east_m += 2 / 3 * (both + 20 * _sine(x, 1) + 40 * _sine(x, 1 / 3) + 150 * _sine(x, 1 / 12) + 300 * _sine(x, 1 / 30))
    phi = np.radians(lat)
    magic = 1 - E2 * np.sin(phi) ** 2
    meridian, parallel = A_M * (1 - E2) / magic**1.5, A_M / np.sqrt(magic) * np.cos(phi)
    return np.degrees(east_m / parallel), np.degrees(north_m / meridian)


def _sine(degrees: np.ndarray, frequency: float) -> np.ndarray:
    return np.asarray(np.sin(np.pi * frequency * degrees))
