"""Places with heights to lines and samples, by the orbit: the range-Doppler equations of a zero-Doppler image.

The line is the time at which the satellite passes abreast of the point; the sample follows from the
distance then, through the product's own slant-to-ground-range polynomials.
"""

import numpy as np
from scipy import interpolate

from skysense_cli.data.products.sentinel1 import Annotation, GroundRange
from skysense_cli.errors import DataError
from skysense_cli.geo.crs import transformer

GEODETIC, EARTH_FIXED = "EPSG:4979", "EPSG:4978"  # WGS 84: lon, lat, ellipsoidal height; x, y, z
MOST_STEPS = 10
CLOSE_S = 1e-8  # of flight: less than a tenth of a millimetre on the ground


def places(annotation: Annotation, lon: np.ndarray, lat: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(line, sample) of points (any shape): degrees and metres above the ellipsoid; NaN where a coordinate is.

    Raises DataError when the orbit of the annotation does not reach the points.
    """
    shape = np.shape(lon)
    x, y, z = transformer(GEODETIC, EARTH_FIXED).transform(np.ravel(lon), np.ravel(lat), np.ravel(height))
    points = np.stack([x, y, z], axis=-1)
    known = np.isfinite(points).all(axis=1)
    line, sample = np.full(len(points), np.nan), np.full(len(points), np.nan)
    times, slant = _abreast(annotation, points[known])
    line[known] = times / annotation.line_interval_s
    sample[known] = _ground(annotation.ground_range, times, slant) / annotation.sample_spacing_m
    return line.reshape(shape), sample.reshape(shape)


def _abreast(annotation: Annotation, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Time (s after the first line) at which the satellite's velocity is square to the line of sight, and the distance then."""
    orbit = annotation.orbit
    path = interpolate.CubicHermiteSpline(orbit.times_s, orbit.positions, orbit.velocities)
    speed, force = path.derivative(), path.derivative(2)
    times = np.full(len(points), annotation.line_interval_s * annotation.shape[0] / 2)
    for _ in range(MOST_STEPS):
        sight, along = points - path(times), speed(times)
        slope = np.einsum("nk,nk->n", force(times), sight) - np.einsum("nk,nk->n", along, along)
        step = np.einsum("nk,nk->n", along, sight) / slope
        times = times - step
        if np.abs(step).max(initial=0) < CLOSE_S:
            break
    first, last = orbit.times_s[[0, -1]]
    if times.size and not first <= times.min() <= times.max() <= last:
        raise DataError(
            f"{annotation.name}: its orbit runs from {first:.0f} to {last:.0f} s around the image, a place needs {times.max():.0f} s"
        )
    return times, np.linalg.norm(points - path(times), axis=1)


def _ground(records: GroundRange, times: np.ndarray, slant: np.ndarray) -> np.ndarray:
    """Ground range in metres; between two records of the annotation the two results are mixed by time.

    The points of the geolocation grid alone fit the nearest record better (0.01 samples instead of 0.36 at most), but
    records differ by up to 7 samples at far range, and an image made by the nearest would be torn where they change.
    """
    last = len(records.times_s) - 1
    before = np.clip(np.searchsorted(records.times_s, times, side="right") - 1, 0, max(last - 1, 0))
    after = np.minimum(before + 1, last)
    span = np.where(after > before, records.times_s[after] - records.times_s[before], 1.0)
    share = np.clip((times - records.times_s[before]) / span, 0, 1)
    return (1 - share) * _polynomial(records, before, slant) + share * _polynomial(records, after, slant)


def _polynomial(records: GroundRange, record: np.ndarray, slant: np.ndarray) -> np.ndarray:
    total = np.zeros(len(slant))
    for power in range(records.coefficients.shape[1] - 1, -1, -1):
        total = total * (slant - records.origins_m[record]) + records.coefficients[record, power]
    return total
