"""Heads: Features to the prediction of one task, loss included. One kind per file.

To add one, write `core/heads/<kind>.py`:

    class MyHead(Head):
        output = "raster"
        def __init__(self, spec: FeatureSpec, classes: int, /, *, width: int = 256) -> None: ...
    build = MyHead

A raster or table head fills `predict`, a vector head (one that finds objects) `boxes`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from skysense_cli.core.batch import Target
from skysense_cli.core.features import Features


@dataclass(frozen=True, eq=False)
class Found:
    """What a vector head finds on one sample.

    boxes: (N, 4 or 5) as in `core/boxes.py`, in pixels of the asked size, whose corner is (0, 0)
    scores: (N,) in 0..1      ids: (N,) int64 classes
    """

    boxes: Tensor
    scores: Tensor
    ids: Tensor


class Head(nn.Module):
    """A task. `output` says which mosaic collects its predictions: raster, vector or table.

    values: of a raster head: what it gives are numbers to be kept as they are, e.g. heights, not scores of classes
    same_iou: of a vector head: two boxes of one class that overlap by more are the same object, seen by two tiles
    """

    output: ClassVar[Literal["raster", "vector", "table"]]
    values: ClassVar[bool] = False
    same_iou: float = 0.5

    def forward(self, features: Features) -> Tensor:
        """Raw scores at the head's own resolution: (B, K, h, w) for a raster, (B, K) for a table, any for boxes."""
        raise NotImplementedError

    def loss(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        """Named scalar losses; a batch in which every label is ignored gives zeros, not NaN."""
        raise NotImplementedError

    def predict(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores on the asked grid: (B, K, *size) logits for a raster head; a table head returns raw."""
        raise NotImplementedError

    def boxes(self, raw: Tensor, size: tuple[int, int]) -> list[Found]:
        """Of a vector head, instead of `predict`: what it finds on each sample, whose ground has `size` (h, w) pixels.

        What it gives for one sample must not depend on the others of the batch. Overlapping boxes of one object are
        its own matter within a sample; across samples the mosaic removes them.
        """
        raise NotImplementedError
