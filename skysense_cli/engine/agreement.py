"""How well clusters agree with classes, all from one table of counts: rows are clusters, columns are classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from skysense_cli.engine.metrics import Confusion

NO_CLASS = -1
MOST_DRAWN = 500_000_000  # of a larger table a smaller one with the same shares is shuffled


def contingency(clusters: np.ndarray, classes: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
    """(P, C) int64: how often each cluster meets each class in two arrays of whole numbers of one shape. shape: (P, C), if given"""
    clusters, classes = clusters.astype(np.int64).ravel(), classes.astype(np.int64).ravel()
    rows, columns = shape or (int(clusters.max(initial=-1)) + 1, int(classes.max(initial=-1)) + 1)
    codes = clusters * columns + classes
    return np.bincount(codes, minlength=rows * columns).reshape(rows, columns)


def nmi(table: np.ndarray) -> float:
    """Normalised mutual information, 0..1, by the arithmetic mean of the entropies; 1 where neither side tells anything apart."""
    joint = table / max(table.sum(), 1)
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    some = joint > 0
    information = float((joint[some] * np.log(joint[some] / np.outer(rows, columns)[some])).sum())
    mean = (entropy(rows) + entropy(columns)) / 2
    return max(information, 0.0) / mean if mean > 0 else 1.0


def ari(table: np.ndarray) -> float:
    """Adjusted Rand index: 1 for equal partitions, about 0 for independent ones (Hubert and Arabie, 1985)."""
    counts = table.astype(np.float64)
    together, rows, columns = (float((part * (part - 1) / 2).sum()) for part in (counts, counts.sum(axis=1), counts.sum(axis=0)))
    pairs = counts.sum() * (counts.sum() - 1) / 2
    expected = rows * columns / pairs if pairs else 0.0
    most = (rows + columns) / 2
    return (together - expected) / (most - expected) if most != expected else 1.0


def entropy(counts: np.ndarray) -> float:
    """Of the shares that the counts are, in nats."""
    some = counts[counts > 0] / max(counts.sum(), 1e-300)
    return float(-(some * np.log(some)).sum())


def majority(table: np.ndarray) -> np.ndarray:
    """(P,) the class that each cluster meets most (ties: the lowest); of a cluster without cells the commonest class of all."""
    return np.where(table.sum(axis=1) > 0, table.argmax(axis=1), int(table.sum(axis=0).argmax()))


def hungarian(table: np.ndarray) -> np.ndarray:
    """(P,) at most one cluster for each class and the other way round, with the most cells in common; -1 = none.

    Rows are put in order first, so that the order of the clusters does not decide between equal solutions.
    """
    order = np.lexsort(table.T)
    rows, columns = linear_sum_assignment(table[order], maximize=True)
    found = np.full(len(table), NO_CLASS)
    some = table[order][rows, columns] > 0
    found[order[rows[some]]] = columns[some]
    return found


def shuffled(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A table as it would be with the clusters dealt out anew to the same cells: the same sums along rows and columns."""
    table = table // (int(table.sum()) // MOST_DRAWN + 1)
    left, drawn = table.sum(axis=0), np.zeros_like(table)
    for row, count in enumerate(table.sum(axis=1)):
        drawn[row] = rng.multivariate_hypergeometric(left, int(count), method="marginals")
        left = left - drawn[row]
    return drawn


@dataclass(frozen=True, eq=False)
class Mapped:
    """Classes in the place of clusters, scored. counts: (C, C + 1), rows true; the last column holds cells without a class"""

    counts: np.ndarray

    @classmethod
    def of(cls, table: np.ndarray, mapping: np.ndarray) -> Mapped:
        """The cells of a table (P, C) when cluster p is called mapping[p], -1 = no class."""
        counts = np.zeros((table.shape[1], table.shape[1] + 1), np.int64)
        np.add.at(counts.T, mapping, table)  # -1 is the last column
        return cls(counts)

    @property
    def oa(self) -> float:
        """Overall accuracy; a cell without a class is wrong."""
        return self._square.oa

    @property
    def iou(self) -> np.ndarray:
        """(C,) intersection over union; NaN for a class that occurs neither in the truth nor in the map."""
        return self._square.iou[: len(self.counts)]

    @property
    def miou(self) -> float:
        """Mean over the classes that occur; cells without a class count as missed."""
        known = self.iou[~np.isnan(self.iou)]
        return float(known.mean()) if len(known) else float("nan")

    @property
    def covered(self) -> float:
        """Share of the cells that get a class."""
        return 1 - float(self.counts[:, -1].sum()) / max(int(self.counts.sum()), 1)

    @property
    def _square(self) -> Confusion:
        return Confusion(len(self.counts) + 1, np.vstack([self.counts, np.zeros((1, len(self.counts) + 1), np.int64)]))
