"""A whole scene through a model: strips of tiles in, rows of blended scores out."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from skysense_cli import console
from skysense_cli.core.batch import Batch
from skysense_cli.data.sample import Sample, Series
from skysense_cli.engine.mosaic import Axis, RasterMosaic
from skysense_cli.errors import BundleError, GridError
from skysense_cli.geo.grid import tiles

Forward = Callable[[Batch, tuple[int, int]], Tensor]  # (batch, (h, w)) -> (B, K, h, w) scores
ToBatch = Callable[[Sequence[Sample]], Batch]


class Scene(Protocol):
    """What is predicted on; `data.scenes.SceneStack` is one. units: rows, columns of the extended scene."""

    @property
    def units(self) -> tuple[int, int]: ...

    def strip(self, top: int, height: int) -> Mapping[str, Series]: ...

    def tile(self, strip: Mapping[str, Series], left: int, width: int) -> Sample | None: ...


@dataclass(frozen=True)
class Plan:
    """How a scene is cut. rows, columns: tiles, in units      unit_px: map pixels along a unit

    shape: of the map in pixels, the extension cropped off     batch: tiles per step
    cores: for each tile row by row, the (rows, columns) in units that it alone decides
    """

    rows: Axis
    columns: Axis
    unit_px: int
    shape: tuple[int, int]
    batch: int
    cores: tuple[tuple[slice, slice], ...]

    @property
    def tile_px(self) -> tuple[int, int]:
        """Map pixels of a tile."""
        return self.rows.size * self.unit_px, self.columns.size * self.unit_px

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows.starts) * len(self.columns.starts)


@dataclass(frozen=True)
class Rows:
    """Finished rows of a map. top: of the first one      scores: (K, n, W) float32      valid: (n, W) bool"""

    top: int
    scores: np.ndarray
    valid: np.ndarray


def make_plan(units: tuple[int, int], *, size: int, overlap: float, batch: int, unit_px: int, shape: tuple[int, int]) -> Plan:
    """Tiles of `size` units (smaller where the scene is smaller) over a scene of `units`."""
    cut = tiles(units, size, overlap)
    rows = Axis(tuple(sorted({tile.row for tile in cut})), cut[0].height)
    columns = Axis(tuple(sorted({tile.col for tile in cut})), cut[0].width)
    return Plan(rows, columns, unit_px, shape, batch, tuple(tile.core for tile in cut))


def size_in_units(size_m: float, unit_m: float) -> int:
    """The largest whole number of units not above `size_m`. Raises GridError when not even one fits."""
    units = math.floor(size_m / unit_m + 1e-6)
    if units < 1:
        raise GridError(f"tiles.size_m is {size_m:g} m, the smallest tile of this bundle has {unit_m:g} m")
    return units


def predict_scene(forward: Forward, to_batch: ToBatch, scene: Scene, plan: Plan, channels: int) -> Iterator[Rows]:
    """The blended scores of a scene from top to bottom, each row of the map once.

    channels: K of the scores that `forward` gives. A pixel is valid where some date of some modality is;
    a tile without any valid pixel is not computed. Raises BundleError when a score is not finite.
    """
    scaled = plan.rows.scaled(plan.unit_px), plan.columns.scaled(plan.unit_px)
    mosaic = RasterMosaic(channels, *scaled)
    for top in console.progress(plan.rows.starts, "rows of tiles"):
        strip = scene.strip(top, plan.rows.size)
        valid = valid_pixels(strip, (plan.tile_px[0], scaled[1].length))
        for scores in _scores(forward, to_batch, scene, strip, plan):
            mosaic.add(scores)
        first, finished = top * plan.unit_px, mosaic.finish_row()
        count = min(finished.shape[1], plan.shape[0] - first)
        if count > 0:  # the extension below the scene may hold whole rows of its own
            yield Rows(first, finished[:, :count, : plan.shape[1]], valid[:count, : plan.shape[1]])


def valid_pixels(strip: Mapping[str, Series], shape: tuple[int, int]) -> np.ndarray:
    """`shape` bool: pixels of a map over the strip that hold a valid pixel of some date of some modality."""
    total = np.zeros(shape, bool)
    for series in strip.values():
        total |= _resized(np.any(series.valid, axis=0), shape)
    return total


def batches(scene: Scene, strip: Mapping[str, Series], plan: Plan) -> Iterator[tuple[list[int], list[Sample]]]:
    """(numbers of tiles of this row, their samples) per step; tiles without any valid pixel are left out."""
    tiles_here = ((number, scene.tile(strip, left, plan.columns.size)) for number, left in enumerate(plan.columns.starts))
    found = ((number, sample) for number, sample in tiles_here if sample is not None)
    while step := list(itertools.islice(found, plan.batch)):
        yield [number for number, _ in step], [sample for _, sample in step]


def _scores(forward: Forward, to_batch: ToBatch, scene: Scene, strip: Mapping[str, Series], plan: Plan) -> Iterator[np.ndarray | None]:
    """The scores of each tile of a row from left to right; None for one without any valid pixel."""
    done = 0
    for numbers, samples in batches(scene, strip, plan):
        with torch.inference_mode():
            scores = forward(to_batch(samples), plan.tile_px).float().cpu()
        if not bool(torch.isfinite(scores).all()):
            raise BundleError(f"the model gives scores that are not finite ({samples[0].id} and the {len(samples) - 1} tiles after it)")
        for number, tile in zip(numbers, scores.numpy(), strict=True):
            yield from [None] * (number - done)
            yield tile
            done = number + 1
    yield from [None] * (len(plan.columns.starts) - done)


def _resized(valid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool to `shape`: a coarser pixel is valid where any of its own is, a finer one where the one below its centre is."""
    for axis, (have, want) in enumerate(zip(valid.shape, shape, strict=True)):
        if have > want:
            first = np.arange(want) * have // want
            valid = np.logical_or.reduceat(valid, first, axis=axis)
        elif have < want:
            valid = valid.take(((np.arange(want) + 0.5) * have / want).astype(int), axis=axis)
    return valid
