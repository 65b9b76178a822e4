"""Heads: Features to the prediction of one task, loss included. One kind per file.

To add one, write `core/heads/<kind>.py`:

    class MyHead(Head):
        output = "raster"
        def __init__(self, spec: FeatureSpec, classes: int, /, *, width: int = 256) -> None: ...
    build = MyHead
"""

from typing import ClassVar, Literal

from torch import Tensor, nn

from skysense_cli.core.batch import Target
from skysense_cli.core.features import Features


class Head(nn.Module):
    """A task. `output` says which mosaic collects its predictions: raster, vector or table."""

    output: ClassVar[Literal["raster", "vector", "table"]]

    def forward(self, features: Features) -> Tensor:
        """Raw scores at the head's own resolution: (B, K, h, w) for a raster, (B, K) for a table."""
        raise NotImplementedError

    def loss(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        """Named scalar losses; a batch in which every label is ignored gives zeros, not NaN."""
        raise NotImplementedError

    def predict(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores on the asked grid: (B, K, *size) logits for a raster head; a table head returns raw."""
        raise NotImplementedError
