"""A few convolutions on the fused feature: the plainest head that labels pixels."""

from itertools import pairwise

from torch import Tensor, nn

from skysense_cli.core.features import Features, FeatureSpec
from skysense_cli.core.heads._raster import ConvNorm, RasterHead


class Fcn(RasterHead):
    """`depth` blocks of 3x3 convolution, norm and ReLU, then a class per cell. balance: see `RasterHead`."""

    def __init__(
        self,
        spec: FeatureSpec,
        classes: int,
        /,
        *,
        width: int = 256,
        depth: int = 2,
        dropout: float = 0.1,
        balance: float = 0.0,
    ) -> None:
        super().__init__()
        self.balance = balance
        widths = [spec.fused, *[width] * depth]
        self.convs = nn.Sequential(*(ConvNorm(before, after, 3) for before, after in pairwise(widths)))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(widths[-1], classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)

    def forward(self, features: Features) -> Tensor:
        return self.conv_seg(self.dropout(self.convs(features.fused)))


build = Fcn
