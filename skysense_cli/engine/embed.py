"""What a model makes of ground: the feature of every cell, and one vector for a whole sample.

From Python, for samples that lie in files or in memory:

    bundle = load_bundle("runs/pretrain/bundle")
    found = vectors(bundle, ["data/samples/a.npz", "data/samples/b.npz"])  # (2, d) float32
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skysense_cli.core.batch import Batch
from skysense_cli.core.features import Features
from skysense_cli.data.sample import Sample
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.errors import BundleError, RecipeError

FUSED, FUSED_MM = "fused", "fused_mm"


@dataclass(frozen=True, eq=False)
class Embedder:
    """A bundle's model, asked for one of its features. width: channels of the feature"""

    bundle: LoadedBundle
    feature: str
    width: int

    def cells(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, d, h, w) float32 features and (B, h, w) bool, where some date sees the cell; elsewhere features are 0.

        Of a modality: the mean over the dates that see the cell (Paper silent).
        Raises BundleError when a feature is not finite.
        """
        with torch.inference_mode():
            return self.of(self.bundle.model(batch.to(self.bundle.device)))

    def of(self, features: Features) -> tuple[Tensor, Tensor]:
        """As `cells`, of what the model makes of a batch."""
        if self.feature == FUSED:
            found, seen = features.fused, features.seen_any
        elif self.feature == FUSED_MM:
            found, seen = features.fused_mm, features.seen_any
        else:
            shown = features.seen[self.feature]
            weight = shown[:, :, None].to(features.modal[self.feature])  # (B, T, h, w) -> (B, T, 1, h, w)
            found = (features.modal[self.feature] * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
            seen = shown.any(dim=1)
        found = torch.where(seen[:, None], found.float(), 0)
        if not bool(torch.isfinite(found).all()):
            raise BundleError(f"{self.bundle.path}: the model gives features that are not finite; see with which data it was trained")
        return found, seen

    def told(self, features: Features) -> Tensor:
        """(B, d + 1, h, w) float32: the features and, last, 1 where some date sees the cell; what a `predict.Raster` that is told takes."""
        cells, seen = self.of(features)
        return torch.cat([cells, seen[:, None].to(cells)], dim=1)


def embedder(bundle: LoadedBundle, feature: str = FUSED) -> Embedder:
    """The bundle's model, asked for `feature`. Raises RecipeError for one it does not have."""
    widths = {FUSED: bundle.model.spec.fused, FUSED_MM: bundle.model.spec.fused_mm}
    widths |= dict.fromkeys(bundle.inputs, bundle.spec.model.width)
    if feature not in widths:
        raise RecipeError(f"feature: {bundle.path} has no {feature!r} (has: {', '.join(widths)})")
    return Embedder(bundle, feature, widths[feature])


def vectors(bundle: LoadedBundle, samples: Sequence[Sample | Path | str], *, feature: str = FUSED, batch: int = 8) -> np.ndarray:
    """(N, d) float32: for each sample the mean over the cells that some date sees; NaN where none does.

    samples: of one size, in memory or as paths of `.npz` files; all their dates are used
    Raises DataError for a sample that the model cannot read, RecipeError for an unknown feature.
    """
    asked = embedder(bundle, feature)
    found = [np.empty((0, asked.width), np.float32)]
    for first in range(0, len(samples), batch):
        cells, seen = asked.cells(bundle.batch(samples[first : first + batch]))
        found.append(np.stack([mean_vector(*pair) for pair in zip(cells.cpu().numpy(), seen.cpu().numpy(), strict=True)]))
    return np.concatenate(found)


def mean_vector(cells: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(d,) float32: the mean of cells (d, h, w) where `seen` (h, w); NaN where nothing is."""
    if not seen.any():
        return np.full(len(cells), np.nan, np.float32)
    return cells[:, seen].mean(axis=1, dtype=np.float64).astype(np.float32)
