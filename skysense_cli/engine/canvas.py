"""What is drawn of a scene in one pass of the model: scores on the pixels of the map, features on the model's cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import numpy as np
from torch import Tensor

from skysense_cli.core.features import Features
from skysense_cli.core.heads import Head
from skysense_cli.engine.embed import Embedder, embedder
from skysense_cli.engine.feature_map import FeatureMap
from skysense_cli.engine.predict import Finished, Raster
from skysense_cli.engine.scene_cells import in_cells
from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.engine.score_map import ScoreMap, pixels_of


class Canvas(Protocol):
    """A raster that tiles are blended into, and the maps that are made of it."""

    @property
    def job(self) -> SceneJob:
        """The scene in this raster's pixels."""
        ...

    @property
    def maps(self) -> Sequence[ScoreMap | FeatureMap]:
        """What is written of it."""
        ...

    @property
    def raster(self) -> Raster:
        """What is blended."""
        ...

    def scores(self, features: Features, size: tuple[int, int]) -> Tensor:
        """(B, K, h, w) of tiles with `size` pixels of the map, as `raster` takes them."""
        ...

    def pixels(self, piece: Finished) -> dict[str, np.ndarray]:
        """What -> (bands, n, w) for each map, of a finished piece."""
        ...


@dataclass(frozen=True, eq=False)
class ScoreCanvas:
    """What the bundle's head says of every pixel."""

    job: SceneJob
    maps: tuple[ScoreMap, ...]

    @property
    def raster(self) -> Raster:
        """A score for each class."""
        return Raster(self.job.plan, len(self.job.bundle.classes))

    def scores(self, features: Features, size: tuple[int, int]) -> Tensor:
        """The head's scores."""
        head = cast(Head, self.job.bundle.head)
        return head.predict(head(features), size)

    def pixels(self, piece: Finished) -> dict[str, np.ndarray]:
        """Class numbers, probabilities and so on."""
        return dict(pixels_of(self.maps, piece.scores, piece.valid))


@dataclass(frozen=True, eq=False)
class FeatureCanvas:
    """The fused feature of every cell, blended like scores. job: in cells"""

    job: SceneJob
    maps: tuple[FeatureMap]

    @property
    def raster(self) -> Raster:
        """A channel of the feature each, and where it is seen."""
        return Raster(self.job.plan, self.maps[0].width, told=True)

    def scores(self, features: Features, size: tuple[int, int]) -> Tensor:
        """The features, at their own cells whatever the size."""
        return self._asked.told(features)

    def pixels(self, piece: Finished) -> dict[str, np.ndarray]:
        """NaN where no date sees the cell, or the area does not reach."""
        piece.scores[:, ~piece.valid] = np.nan
        return {self.maps[0].what: piece.scores}

    @cached_property
    def _asked(self) -> Embedder:
        return embedder(self.job.bundle, self.maps[0].feature)


def canvases_of(job: SceneJob, maps: Sequence[ScoreMap | FeatureMap]) -> list[Canvas]:
    """What these maps are made of; scores are left out where no map asks for them."""
    scored = tuple(kind for kind in maps if isinstance(kind, ScoreMap))
    found: list[Canvas] = [ScoreCanvas(job, scored)] if scored else []
    return [*found, *(FeatureCanvas(in_cells(job), (kind,)) for kind in maps if isinstance(kind, FeatureMap))]
