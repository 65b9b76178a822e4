"""Views of samples, in numpy, to the tensors of one step: dates padded to the longest, absent modalities marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skysense_cli.core.batch import IGNORE, UNKNOWN_DAY, Batch, SeriesBatch, Target, Views
from skysense_cli.errors import DataError


@dataclass(frozen=True, eq=False)
class SeriesView:
    """One modality of a view.

    pixels: (T, C, H, W) float32, normalised, nodata 0      days: (T,) int64, -1 = unknown      valid: (T, H, W) bool
    """

    pixels: np.ndarray
    days: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True, eq=False)
class View:
    """A sample as one model input.

    series: modality -> SeriesView; an absent modality is an absent key, or one without dates
    frame: (2, 3) map from view to footprint      region, place: see core.batch.Batch
    raster: (H, W) class ids, 255 = ignore, or None      scene_class: one id, or None
    """

    id: str
    series: dict[str, SeriesView]
    frame: np.ndarray
    region: int
    place: int
    raster: np.ndarray | None = None
    scene_class: int | None = None


def collate(views: Sequence[View]) -> Batch:
    """The views as one Batch. Raises DataError when their sizes differ, naming two samples."""
    modalities = sorted({name for view in views for name, series in view.series.items() if len(series.days)})
    return Batch(
        series={name: _stack_series(name, views) for name in modalities},
        region=torch.tensor([view.region for view in views]),
        place=torch.tensor([view.place for view in views]),
        frame=torch.from_numpy(np.stack([view.frame for view in views]).astype(np.float32)),
        target=_target(views),
    )


def collate_pairs(pairs: Sequence[tuple[View, View]]) -> Views:
    """(u, v) of each sample as `Views`."""
    return Views(u=collate([u for u, _ in pairs]), v=collate([v for _, v in pairs]))


def _stack_series(name: str, views: Sequence[View]) -> SeriesBatch:
    """The series `name` of all views, padded with dates that are not present."""
    having = [view for view in views if name in view.series and len(view.series[name].days)]
    shape = having[0].series[name].pixels.shape[1:]
    for view in having:
        if view.series[name].pixels.shape[1:] != shape:
            found = view.series[name].pixels.shape[1:]
            raise DataError(f"{view.id}: {name} is (C, H, W) = {found}, {having[0].id} has {shape}; samples of a batch share a size")
    count = max(len(view.series[name].days) for view in having)
    pixels = torch.zeros(len(views), count, *shape)
    days = torch.full((len(views), count), UNKNOWN_DAY)
    present = torch.zeros(len(views), count, dtype=torch.bool)
    valid = torch.zeros(len(views), count, *shape[1:], dtype=torch.bool)
    for row, view in enumerate(views):
        if name in view.series:
            series, length = view.series[name], len(view.series[name].days)
            pixels[row, :length] = _tensor(series.pixels)
            days[row, :length] = _tensor(series.days)
            present[row, :length] = True
            valid[row, :length] = _tensor(series.valid)
    return SeriesBatch(pixels, days, present, valid)


def _target(views: Sequence[View]) -> Target | None:
    """What is known of the labels; a sample without one is ignored."""
    rasters = [view.raster for view in views if view.raster is not None]
    raster = classes = None
    if rasters:
        if len({known.shape for known in rasters}) > 1:
            raise DataError(f"{views[0].id}: labels of a batch have several shapes ({sorted({known.shape for known in rasters})})")
        ignored = np.full(rasters[0].shape, IGNORE, np.int64)
        raster = torch.from_numpy(np.stack([ignored if view.raster is None else view.raster.astype(np.int64) for view in views]))
    if any(view.scene_class is not None for view in views):
        classes = torch.tensor([IGNORE if view.scene_class is None else view.scene_class for view in views])
    return Target(raster, classes) if rasters or classes is not None else None


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
