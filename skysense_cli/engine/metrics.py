"""Scores of class maps, all from one confusion matrix over everything that was scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skysense_cli.core.batch import IGNORE
from skysense_cli.errors import DataError


@dataclass(eq=False)
class Confusion:
    """Counts of (true class, predicted class), rows true.

    A class that occurs neither in the truth nor in the prediction takes no part in a mean (its score is NaN).
    """

    classes: int
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        if self.counts.size == 0:
            self.counts = np.zeros((self.classes, self.classes), np.int64)

    def update(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count the pairs of two integer arrays of one shape; truth 255 is left out.

        A prediction outside 0..K-1 (e.g. nodata) where the truth is known is refused with DataError.
        """
        known = truth != IGNORE
        truth, predicted = truth[known].astype(np.int64), predicted[known].astype(np.int64)
        for name, values in (("true", truth), ("predicted", predicted)):
            if values.size and (values.min() < 0 or values.max() >= self.classes):
                raise DataError(
                    f"{name} class {values.max() if values.max() >= self.classes else values.min()} is not in 0..{self.classes - 1}"
                )
        self.counts += np.bincount(truth * self.classes + predicted, minlength=self.classes**2).reshape(self.classes, self.classes)

    @property
    def total(self) -> int:
        """Scored pixels."""
        return int(self.counts.sum())

    @property
    def oa(self) -> float:
        """Overall accuracy: correct / scored; NaN when nothing was scored."""
        return _ratio(np.trace(self.counts), self.counts.sum())

    @property
    def f1(self) -> np.ndarray:
        """(K,) 2 TP / (2 TP + FP + FN)."""
        return _ratios(2 * np.diag(self.counts), self.counts.sum(0) + self.counts.sum(1))

    @property
    def iou(self) -> np.ndarray:
        """(K,) TP / (TP + FP + FN)."""
        hits = np.diag(self.counts)
        return _ratios(hits, self.counts.sum(0) + self.counts.sum(1) - hits)

    @property
    def macro_f1(self) -> float:
        """Mean F1 over the classes that occur."""
        return _mean(self.f1)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur."""
        return _mean(self.iou)

    def majority(self) -> Confusion:
        """The confusion of a map that says the most frequent true class everywhere (ties: the lowest id)."""
        counts = np.zeros_like(self.counts)
        totals = self.counts.sum(1)
        counts[:, int(totals.argmax())] = totals
        return Confusion(self.classes, counts)

    def scores(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """Plain data for `scores.json`: oa, macro_f1, miou, pixels, per class, the majority baseline; NaN is null."""
        names = list(names) or [str(i) for i in range(self.classes)]
        per_class = {
            name: {"f1": _plain(self.f1[i]), "iou": _plain(self.iou[i]), "precision": _plain(precision), "recall": _plain(recall),
                   "pixels": int(self.counts[i].sum())}
            for i, (name, precision, recall) in enumerate(zip(names, *self._precision_recall(), strict=True))
        }  # fmt: skip
        baseline = self.majority()
        return {
            "oa": _plain(self.oa), "macro_f1": _plain(self.macro_f1), "miou": _plain(self.miou), "pixels": self.total,
            "per_class": per_class,
            "majority": {"oa": _plain(baseline.oa), "macro_f1": _plain(baseline.macro_f1), "miou": _plain(baseline.miou)},
            "confusion": self.counts.tolist(),
        }  # fmt: skip

    def _precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        hits = np.diag(self.counts)
        return _ratios(hits, self.counts.sum(0)), _ratios(hits, self.counts.sum(1))


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _ratios(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
