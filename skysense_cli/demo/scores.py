"""How far the chain's results are from the truth of the landscape: numbers only, no files."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.vq import kmeans2, vq

CLOUD_CODES = (3, 8, 9, 10, 11)  # what the scene classification calls cloud, shadow or snow


@dataclass(frozen=True)
class CloudScores:
    """raw: of the classification alone, over all pixels of all dates, true cloud and shadow being what is sought.

    clear_share_of_kept: of the pixels the samples call valid, those that are clear
    kept_share_of_clear: of all clear pixels of the samples' ground on all dates, those that the samples call valid
    """

    raw_recall: float
    raw_precision: float
    clear_share_of_kept: float
    kept_share_of_clear: float


@dataclass
class CloudCounts:
    """Counts that add up to CloudScores."""

    hit: int = 0
    missed: int = 0
    false: int = 0
    kept: int = 0
    kept_clear: int = 0
    clear: int = 0

    def add_raw(self, codes: np.ndarray, clear: np.ndarray) -> None:
        """Count one date: codes and truth on one grid."""
        called = np.isin(codes, CLOUD_CODES)
        self.hit += int((called & ~clear).sum())
        self.missed += int((~called & ~clear).sum())
        self.false += int((called & clear).sum())

    def add_kept(self, valid: np.ndarray, clear: np.ndarray) -> None:
        """Count the valid pixels of one sample and date against the truth at the same places."""
        self.kept += int(valid.sum())
        self.kept_clear += int((valid & clear).sum())

    def scores(self) -> CloudScores:
        """The shares so far."""
        return CloudScores(
            raw_recall=self.hit / max(self.hit + self.missed, 1),
            raw_precision=self.hit / max(self.hit + self.false, 1),
            clear_share_of_kept=self.kept_clear / max(self.kept, 1),
            kept_share_of_clear=self.kept_clear / max(self.clear, 1),
        )


@dataclass(frozen=True, eq=False)
class ShiftScores:
    """In pixels of 10 m. before: median distance of the images from the reference; median, p90: of what is left

    refused: share of the measurements that were refused
    between_blocks: largest distance between the places of two blocks' references
    left: (N, 2) right and up, what is left of every accepted measurement; before_each: (M, 2), as it was
    """

    before: float
    median: float
    p90: float
    refused: float
    between_blocks: float
    left: np.ndarray
    before_each: np.ndarray


def shift_scores(true_m: np.ndarray, measured_m: np.ndarray, accepted: np.ndarray, block: np.ndarray, gsd_m: float = 10.0) -> ShiftScores:
    """Measured shifts (N, 2) against the true ones.

    accepted: (N,) bool      block: (N,) number of the block that was measured
    A measurement is relative to its block's reference, which is made of the images themselves; where that lies
    on the ground no image can tell. So the median difference of a block, its reference's own place, is taken out on both sides.
    """
    difference = measured_m - true_m
    places = np.zeros_like(difference)
    for number in np.unique(block[accepted]):
        places[block == number] = np.median(difference[accepted & (block == number)], axis=0)
    known = np.isin(block, block[accepted])
    before = (true_m + places)[known] / gsd_m
    left = (difference - places)[accepted] / gsd_m
    distance = np.hypot(*left.T) if len(left) else np.full(1, np.nan)
    apart = places[known][:, None] - places[known][None]
    return ShiftScores(
        before=float(np.median(np.hypot(*before.T))), median=float(np.median(distance)), p90=float(np.percentile(distance, 90)),
        refused=float(1 - accepted.mean()), between_blocks=float(np.hypot(apart[..., 0], apart[..., 1]).max(initial=0) / gsd_m),
        left=left, before_each=before,
    )  # fmt: skip


def clusters(features: np.ndarray, count: int, seed: int, sample: int = 20000, starts: int = 3) -> np.ndarray:
    """k-means labels (N,) of rows (N, D): fitted on `sample` of them from several starts, the tightest kept."""
    rng = np.random.default_rng(seed)
    chosen = features[rng.permutation(len(features))[:sample]].astype(np.float64)
    best, spread = None, np.inf
    for start in range(starts):
        centres, _ = kmeans2(chosen, count, iter=25, minit="++", seed=seed + start, missing="warn")
        distance = float((vq(chosen, centres)[1] ** 2).mean())
        if distance < spread:
            best, spread = centres, distance
    return vq(features.astype(np.float64), best)[0]


def filled(pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(T, C, H, W) with the invalid pixels replaced by the mean of the valid dates of their place, or of the whole date."""
    counted = np.where(valid[:, None], pixels, 0).sum(axis=0) / np.maximum(valid.sum(axis=0), 1)  # (C, H, W)
    return np.where(valid[:, None], pixels, counted[None])


def matched_colors(clusters_map: np.ndarray, truth: np.ndarray, colors: Sequence[Sequence[int]], ignore: int) -> np.ndarray:
    """(H, W, 3) uint8: every cluster in the colour of the class it shares most pixels with; ignored pixels white."""
    known = clusters_map != ignore
    table = np.zeros((int(clusters_map[known].max()) + 1, len(colors)))
    np.add.at(table, (clusters_map[known].astype(int), truth[known].astype(int)), 1)
    picture = np.full((*truth.shape, 3), 255, dtype=np.uint8)
    picture[known] = np.asarray(colors, dtype=np.uint8)[table.argmax(axis=1)][clusters_map[known].astype(int)]
    return picture
