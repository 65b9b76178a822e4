"""Test-time flips: what a model says of a tile as it is and flipped, put together, as is usual at the end of a benchmark."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.core.boxes import nms
from skysense_cli.core.heads import Found
from skysense_cli.engine.predict import Forward

Finder = Callable[[Batch, tuple[int, int]], list[Found]]
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))  # axes


def averaged(forward: Forward) -> Forward:
    """The mean of the scores of each raster over the four flips, each flipped back; so the flipped scene gives the flipped map."""

    def scores(batch: Batch, size: tuple[int, int]) -> list[Tensor]:
        found = [[one.float().flip(axes) for one in forward(flipped(batch, axes), size)] for axes in FLIPS]
        return [torch.stack(same).mean(dim=0) for same in zip(*found, strict=True)]

    return scores


def pooled(find: Finder, *, same_iou: float) -> Finder:
    """What is found on the four flips, laid back on the tile; of those that are the same object the one that scores best.

    same_iou: of the head
    """

    def boxes(batch: Batch, size: tuple[int, int]) -> list[Found]:
        found = [[flipped_boxes(one, axes, size) for one in find(flipped(batch, axes), size)] for axes in FLIPS]
        return [_best(together, same_iou) for together in zip(*found, strict=True)]

    return boxes


def flipped_boxes(found: Found, axes: tuple[int, ...], size: tuple[int, int]) -> Found:
    """Where the same objects lie on an image of `size` (h, w) that is flipped along `axes`; twice is where they were.

    A flip turns the direction (cos, -sin) of a side into one of the opposite angle; of a box, whose sides have no front, that
    is all. Two flips are half a turn and leave it as it is.
    """
    boxes, horizontal = found.boxes.clone(), found.boxes.shape[1] == 4
    for axis in axes:
        place = -1 - axis  # 0: x, 1: y
        boxes[:, place] = size[axis] - found.boxes[:, place + 2 if horizontal else place]
        if horizontal:
            boxes[:, place + 2] = size[axis] - found.boxes[:, place]
        else:
            boxes[:, 4] *= -1
    return replace(found, boxes=boxes)


def _best(together: Sequence[Found], same_iou: float) -> Found:
    boxes, scores, ids = (torch.cat([getattr(one, name).detach().cpu() for one in together]) for name in ("boxes", "scores", "ids"))
    kept = nms(boxes, scores, ids, threshold=same_iou)
    return Found(boxes[kept], scores[kept], ids[kept])


def flipped(batch: Batch, axes: tuple[int, ...]) -> Batch:
    """The batch with all its images flipped along `axes` (-1: left to right, -2: top to bottom)."""
    series = {
        name: SeriesBatch(part.pixels.flip(axes), part.days, part.present, part.valid.flip(axes)) for name, part in batch.series.items()
    }
    return replace(batch, series=series)
