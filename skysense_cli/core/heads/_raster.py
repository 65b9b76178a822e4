"""What all heads share that label pixels: resizing, loss, and the convolution block."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skysense_cli.core.batch import IGNORE, Target
from skysense_cli.core.collective import mean_over_ranks, sum_ranks
from skysense_cli.core.heads import Head


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, *size), bilinear between the centres of the positions."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class RasterHead(Head):
    """A head whose raw scores (B, K, h, w) are a map of classes, coarser or finer than the labels.

    balance: how much rare classes count, 0 (each pixel the same) to 1 (each class of the batch the same)
    """

    output = "raster"
    balance: float = 0.0

    def loss(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        """Weighted mean cross entropy at the labels' own size; pixels with label 255 take no part."""
        if target.raster is None:
            raise ValueError("a raster head needs target.raster")
        scores = self.predict(raw, (target.raster.shape[-2], target.raster.shape[-1]))
        per_pixel = F.cross_entropy(scores, target.raster, ignore_index=IGNORE, reduction="none")
        return {"cross_entropy": mean_over_ranks(per_pixel.flatten(), self._weights(target.raster, scores.shape[1]).flatten())}

    def predict(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        return resized(raw.float(), size)

    def _weights(self, labels: Tensor, classes: int) -> Tensor:
        """What each pixel counts: 0 where ignored, else (1 / pixels of its class in the global batch) ** balance, up to a factor."""
        counts = sum_ranks(torch.bincount(labels.flatten(), minlength=IGNORE + 1)[:classes].float())
        weights = (counts.sum() / counts.clamp(min=1)).pow(self.balance)
        return torch.cat([weights, weights.new_zeros(IGNORE + 1 - classes)])[labels]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics where a batch has a single value per channel.

    One sample pooled to one position has no variance of its own; torch refuses such a batch in training.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps)
        return super().forward(x)


class ConvNorm(nn.Module):
    """Convolution without bias that keeps the size, batch norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        self.bn = BatchNorm(width)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))
