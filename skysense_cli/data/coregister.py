"""The shift of one image against another, to a fraction of a pixel, and what is done about it.

What is matched is edge strength, not brightness: fields change their order of brightness with the season
and from sensor to sensor, their borders stay. The start is the best whole-pixel position of the masked
normalised correlation (exact with holes, where phase correlation sees the holes' outline), the fine
step is masked ECC (Evangelidis and Psarakis 2008).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import fft, ndimage

SMOOTHING_PX = 1.0  # of the image before its gradient is taken
NOISE_PX = 2  # pixels next to invalid ground that carry an edge which is none
REACH_PX = 10  # how far around the search a second peak is looked for
PEAK_PX = 3.0  # a second peak nearer than this belongs to the first
LEAST_COMMON = 400  # pixels that must be valid in both images
LEAST_SHARE = 0.25  # and this share of what the best offset has in common
GRAIN_PX = 4 * np.pi * SMOOTHING_PX**2  # pixels of smoothed edges that tell one independent thing
CHANCE = 4.0  # standard errors that the best of all offsets of unrelated ground may reach
MOST_STEPS = 100


@dataclass(frozen=True)
class Shift:
    """How far an image must be moved to lie on the reference, metres east and north.

    score: how far the match stands above the best one elsewhere, 0 (not at all) to 1
    correlation: of the edges at the match, -1..1
    chance: the correlation that unrelated pictures may reach on as much common ground
    """

    dx_m: float
    dy_m: float
    score: float
    correlation: float = 1.0
    chance: float = 0.0

    @property
    def length_m(self) -> float:
        """Length of the shift in metres."""
        return float(np.hypot(self.dx_m, self.dy_m))


@dataclass(frozen=True)
class Limits:
    """Shifts above max_shift_m or with less than min_score are refused; below min_shift_m nothing is moved.

    min_correlation: of the edges; its square is the share of a date's edges that the ground explains. On much ground even what
        shines through an overcast of 98.5 % makes a peak that stands alone, with a correlation of 0.03; clear dates have 0.35 to 0.9
    """

    max_shift_m: float
    min_shift_m: float
    min_score: float
    min_correlation: float = 0.2

    def decide(self, shift: Shift) -> str:
        """`refused`, `below min_shift` or `moved`."""
        if shift.score < self.min_score or shift.length_m > self.max_shift_m or not self.shows_ground(shift):
            return "refused"
        return "below min_shift" if shift.length_m < self.min_shift_m else "moved"

    def shows_ground(self, shift: Shift) -> bool:
        """Whether so much of the reference is seen that neither chance nor a hole in the cloud explains it."""
        return shift.correlation >= max(self.min_correlation, shift.chance)

    def is_clear(self, shift: Shift) -> bool:
        """Whether a match stands alone and is no chance, however little of the picture it explains: that of a mean of radar dates."""
        return shift.score >= self.min_score and shift.correlation >= shift.chance


@dataclass(frozen=True, eq=False)
class Edges:
    """Edge strength (H, W) float32 and where it can be trusted, (H, W) bool."""

    strength: np.ndarray
    valid: np.ndarray


def edges(image: np.ndarray, valid: np.ndarray) -> Edges:
    """Edge strength of an image (C, H, W), its bands brought to one scale; invalid ground is filled from around.

    valid: (H, W) bool
    """
    total = np.zeros(valid.shape, np.float32)
    near = ndimage.gaussian_filter(valid.astype(np.float32), SMOOTHING_PX)
    for band in image.astype(np.float32):
        if not valid.any():
            break
        middle = np.median(band[valid])
        spread = 1.4826 * np.median(np.abs(band[valid] - middle))
        flat = np.where(valid, np.clip((band - middle) / max(float(spread), 1e-6), -4, 4), 0).astype(np.float32)
        smooth = ndimage.gaussian_filter(flat, SMOOTHING_PX) / np.maximum(near, 1e-3)
        total += (ndimage.sobel(smooth, 0) / 8) ** 2 + (ndimage.sobel(smooth, 1) / 8) ** 2
    return Edges(np.sqrt(total), ndimage.binary_erosion(valid, iterations=NOISE_PX, border_value=1))


def estimate(moving: Edges, reference: Edges, *, gsd_m: float, max_shift_m: float) -> Shift | None:
    """The shift that lays `moving` on `reference`; both on one grid of `gsd_m` pixels.

    A shift a pixel beyond max_shift_m is still found, so that the caller can refuse it by its length.
    Without a peak: score 0. Without enough common ground to tell: None.
    """
    search = int(np.ceil(max_shift_m / gsd_m)) + 1
    reach = search + REACH_PX
    moving, reference = _trimmed(moving, reference, reach)
    small = min(moving.valid.shape) // 2
    surface = _correlation(reference, moving, min(reach, small))
    if surface is None:
        return None
    centre = surface.shape[0] // 2
    search = min(search, centre)
    inside = surface[centre - search : centre + search + 1, centre - search : centre + search + 1]
    row, col = (int(k) - search for k in np.unravel_index(int(np.nanargmax(inside)), inside.shape))
    peak = float(np.nanmax(inside))
    rows, columns = np.ogrid[-centre : centre + 1, -centre : centre + 1]
    elsewhere = surface[np.hypot(rows - row, columns - col) > PEAK_PX]
    if np.isnan(elsewhere).mean() > 0.5:
        return None
    score = 0.0 if peak <= 0 else float(np.clip(1 - max(np.nanmax(elsewhere), 0.0) / peak, 0, 1))
    chance = CHANCE * float(np.sqrt(GRAIN_PX / _common(reference.valid, moving.valid, row, col)))
    facts = round(peak, 4), round(chance, 4)
    fine = _refined(moving, reference, (row, col))
    if fine is None or max(abs(fine[0] - row), abs(fine[1] - col)) > 1.5:
        return Shift(-col * gsd_m, row * gsd_m, 0.0, *facts)
    return Shift(round(-fine[1] * gsd_m, 4), round(fine[0] * gsd_m, 4), round(score, 4), *facts)


def _trimmed(moving: Edges, reference: Edges, reach: int) -> tuple[Edges, Edges]:
    """Both without the rows and columns farther than `reach` from what either shows: where scenes end they carry nothing."""
    seen = moving.valid | reference.valid
    spans = []
    for axis in (1, 0):
        places = np.flatnonzero(seen.any(axis=axis))
        spans.append(slice(max(places[0] - reach, 0), places[-1] + reach + 1) if len(places) else slice(None))
    place = (spans[0], spans[1])
    first, second = (
        Edges(np.ascontiguousarray(one.strength[place]), np.ascontiguousarray(one.valid[place])) for one in (moving, reference)
    )
    return first, second


def _correlation(reference: Edges, moving: Edges, reach: int) -> np.ndarray | None:
    """Masked normalised correlation for offsets of -reach..reach rows and columns (Padfield 2012).

    Entry (r, c) compares reference[y, x] with moving[y + r - reach, x + c - reach].
    NaN where the common ground is too little, None if it is so without an offset.
    """
    if reference.valid.sum() < LEAST_COMMON or moving.valid.sum() < LEAST_COMMON:
        return None
    height, width = reference.valid.shape
    size = (fft.next_fast_len(height + reach, real=True), fft.next_fast_len(width + reach, real=True))

    def transform(values: np.ndarray) -> np.ndarray:
        return fft.rfft2(values, size)

    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.roll(fft.irfft2(np.conj(a) * b, size), (reach, reach), (0, 1))[: 2 * reach + 1, : 2 * reach + 1]

    u = np.where(reference.valid, reference.strength - reference.strength[reference.valid].mean(), 0).astype(np.float64)
    v = np.where(moving.valid, moving.strength - moving.strength[moving.valid].mean(), 0).astype(np.float64)
    in_u, in_v = transform(reference.valid.astype(np.float64)), transform(moving.valid.astype(np.float64))
    count = np.maximum(compare(in_u, in_v), 1)
    sum_u, sum_v = compare(transform(u), in_v), compare(in_u, transform(v))
    covariance = compare(transform(u), transform(v)) - sum_u * sum_v / count
    variance_u = np.maximum(compare(transform(u * u), in_v) - sum_u**2 / count, 0)
    variance_v = np.maximum(compare(in_u, transform(v * v)) - sum_v**2 / count, 0)
    product = np.sqrt(variance_u * variance_v)
    surface = np.divide(covariance, product, out=np.zeros_like(product), where=product > 1e-9 * max(float(product.max()), 1e-30))
    surface[count < max(LEAST_SHARE * float(count.max()), LEAST_COMMON)] = np.nan
    return None if np.isnan(surface[reach, reach]) else surface


def _common(reference: np.ndarray, moving: np.ndarray, row: int, col: int) -> int:
    """Pixels that are True in both when reference[y, x] is laid on moving[y + row, x + col]."""
    spans = [(slice(max(-k, 0), n - max(k, 0)), slice(max(k, 0), n + min(k, 0))) for k, n in zip((row, col), reference.shape, strict=True)]
    return int((reference[spans[0][0], spans[1][0]] & moving[spans[0][1], spans[1][1]]).sum())


def _refined(moving: Edges, reference: Edges, start: tuple[int, int]) -> tuple[float, float] | None:
    """(rows, columns) at which `moving` shows what `reference` shows at 0; None when ECC finds no way up."""
    warp = np.array([[1, 0, start[1]], [0, 1, start[0]]], np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, MOST_STEPS, 1e-7)
    masks = [image.valid.astype(np.uint8) * 255 for image in (reference, moving)]
    try:
        _, found = cv2.findTransformECCWithMask(
            reference.strength, moving.strength, masks[0], masks[1], warp, cv2.MOTION_TRANSLATION, criteria, 1
        )  # fmt: skip
    except cv2.error:  # it is how ECC says that it does not converge
        return None
    return float(found[1, 2]), float(found[0, 2])


def build_reference(images: Sequence[np.ndarray], valids: Sequence[np.ndarray], *, gsd_m: float, limits: Limits) -> Edges:
    """Edges of the median of the clearest dates, first moved onto each other.

    images: each (C, H, W)     valids: each (H, W) bool, clearest first
    The median of images that lie a pixel apart is blurred, so each is laid on the plain median first,
    and all are moved back by their mean shift: the reference lies at the mean place of its dates. Dates that show
    too little of it (an overcast that is called clear) are left out.
    """
    stack = _holed(images, valids)
    first = _edges_of_median(stack)
    if len(stack) < 3:
        return first
    shifts = [
        estimate(edges(image, valid), first, gsd_m=gsd_m, max_shift_m=limits.max_shift_m)
        for image, valid in zip(images, valids, strict=True)
    ]
    found = [
        (k, shift) for k, shift in enumerate(shifts)
        if shift and shift.score > 0 and limits.shows_ground(shift) and shift.length_m <= limits.max_shift_m
    ]  # fmt: skip
    if len(found) < 3:
        return first
    mean = np.mean([(shift.dx_m, shift.dy_m) for _, shift in found], axis=0)
    moved = [_moved(stack[k], (shift.dx_m - mean[0]) / gsd_m, (shift.dy_m - mean[1]) / gsd_m) for k, shift in found]
    return _edges_of_median(np.stack(moved))


def median_edges(images: Sequence[np.ndarray], valids: Sequence[np.ndarray]) -> Edges:
    """Edges of the median over dates that lie on each other already; a pixel that no date sees is invalid."""
    return _edges_of_median(_holed(images, valids))


def _holed(images: Sequence[np.ndarray], valids: Sequence[np.ndarray]) -> np.ndarray:
    """(T, C, H, W) float32 with NaN where invalid."""
    return np.stack([np.where(valid, image, np.nan).astype(np.float32) for image, valid in zip(images, valids, strict=True)])


def _edges_of_median(stack: np.ndarray) -> Edges:
    """Edges of the median over dates of (T, C, H, W) with NaN where invalid."""
    seen = np.isfinite(stack).all(axis=1).any(axis=0)
    filled = np.where(seen, stack, 0)
    return edges(np.nan_to_num(np.nanmedian(filled, axis=0)), seen)


def _moved(image: np.ndarray, right_px: float, up_px: float) -> np.ndarray:
    """`image` (C, H, W) moved by a fraction of a pixel; NaN where the source is invalid or outside."""
    valid = np.isfinite(image).all(axis=0)
    warp = np.array([[1, 0, right_px], [0, 1, -up_px]], np.float32)
    size = image.shape[:0:-1]
    kept = cv2.warpAffine(valid.astype(np.float32), warp, size, flags=cv2.INTER_LINEAR, borderValue=0) > 0.999
    bands = [cv2.warpAffine(np.nan_to_num(band), warp, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE) for band in image]
    return np.where(kept, np.stack(bands), np.nan).astype(np.float32)
