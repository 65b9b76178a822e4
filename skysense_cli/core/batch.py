"""The tensors of one step. `data/collate.py` makes them, every model reads them."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Self

import torch
from torch import Tensor

IGNORE = 255  # label value that takes no part in any loss or score
UNKNOWN_DAY = -1  # day of year of a date that is not known: no date term is added


class Movable:
    """A dataclass of tensors, of dicts of tensors, or of its own kind, that moves as one."""

    def to(self, device: torch.device | str) -> Self:
        """The same content on `device`."""
        return type(self)(**{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})  # type: ignore[arg-type]


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, Tensor) or is_dataclass(value):
        return value.to(device)  # type: ignore[union-attr]
    return value


def _below_centres(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) -> (B, *size)."""
    for axis, want in ((1, size[0]), (2, size[1])):
        have = values.shape[axis]
        if have != want:
            place = torch.arange(want, device=values.device)
            values = values.index_select(axis, ((2 * place + 1) * have + 2 * want - 1) // (2 * want) - 1)  # ceil of the centre, less 1
    return values


@dataclass(frozen=True, eq=False)
class SeriesBatch(Movable):
    """All dates of one modality for the samples of a batch.

    pixels: (B, T, C, H, W) float32, normalised; nodata pixels are 0
    days: (B, T) int64, day of year 0..364 in ascending date order; -1 = unknown
    present: (B, T) bool; False is padding. All False: this sample lacks the modality
    valid: (B, T, H, W) bool; data present and neither cloud nor shadow; False where not present
    """

    pixels: Tensor
    days: Tensor
    present: Tensor
    valid: Tensor


@dataclass(frozen=True, eq=False)
class Target(Movable):
    """What a head should say.

    raster: (B, H, W) int64 class ids, 255 = ignore     classes: (B,) int64 scene classes
    """

    raster: Tensor | None = None
    classes: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Prompt(Movable):
    """Labels that a prompted model sees beside the images (SkySense++, Methods).

    labels: (B, H, W) int64 vocabulary ids, 0 = none; over the same ground as the images, at any resolution
    hidden: (B, h, w) bool; places whose label the model must fill in, as coarse as one likes
    """

    labels: Tensor
    hidden: Tensor

    def on(self, pixels: tuple[int, int], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(labels (B, *pixels), hidden (B, *grid)): every position takes the value below its centre.

        Where the centre is a corner of four values it is the upper left one, as in the released code (15 of 32).
        """
        return _below_centres(self.labels, pixels), _below_centres(self.hidden, grid)


@dataclass(frozen=True, eq=False)
class Batch(Movable):
    """The samples of one step.

    series: modality -> SeriesBatch; a modality that no sample has may be missing
    region: (B,) int64, region of the globe; -1 = not georeferenced
    place: (B,) int64, equal for samples of one footprint (they are no negatives of each other)
    frame: (B, 2, 3) float32, affine map from view to footprint coordinates, both with corners
        (0, 0) and (1, 1), x right and y down; identity outside pretraining
    """

    series: dict[str, SeriesBatch]
    region: Tensor
    place: Tensor
    frame: Tensor
    target: Target | None = None
    prompt: Prompt | None = None


@dataclass(frozen=True, eq=False)
class Views(Movable):
    """Two augmented views of the same samples: u for the student, v for the teacher."""

    u: Batch
    v: Batch
