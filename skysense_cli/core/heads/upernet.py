"""Pyramid pooling on the fused feature and a feature pyramid on the anchor's maps (UPerNet)."""

import torch
from torch import Tensor, nn

from skysense_cli.core.cells import mean_over_dates
from skysense_cli.core.features import Features, FeatureSpec
from skysense_cli.core.heads._raster import ConvNorm, RasterHead, resized


class UPerNet(RasterHead):
    """Labels every position of the finest map, from all levels of the anchor's pyramid and the fused feature.

    SkySense++'s head: the last input, pooled at several scales, is the fused feature. Parameter names are those of the
    released weights. Differs from the released code: the output has the size of the finest input, which need not be the
    first (a plain ViT's maps can be coarser than the cells).
    rounded: round the pooled maps to bfloat16, as the released code does whatever the precision; for comparisons with it
    """

    def __init__(
        self,
        spec: FeatureSpec,
        classes: int,
        /,
        *,
        width: int = 512,
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.1,
        balance: float = 0.0,
        rounded: bool = False,
    ) -> None:
        super().__init__()
        self.balance, self.rounded = balance, rounded
        pooled = [nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvNorm(spec.fused, width, 1)) for scale in pool_scales]
        self.psp_modules = nn.ModuleList(pooled)
        self.bottleneck = ConvNorm(spec.fused + len(pool_scales) * width, width, 3)
        self.lateral_convs = nn.ModuleList(ConvNorm(channels, width, 1) for channels in spec.pyramid)
        self.fpn_convs = nn.ModuleList(ConvNorm(width, width, 3) for _ in spec.pyramid)
        self.fpn_bottleneck = ConvNorm((len(spec.pyramid) + 1) * width, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)

    def forward(self, features: Features) -> Tensor:
        present = features.present[features.anchor]
        return self.decode([*(mean_over_dates(level, present) for level in features.pyramid), features.fused])

    def decode(self, levels: list[Tensor]) -> Tensor:
        """Scores (B, K, h, w) at the finest size, from maps (B, C_k, h_k, w_k), fine to coarse, and last the one to pool."""
        deepest = levels[-1]
        pooled = [resized(module(deepest), _size(deepest)) for module in self.psp_modules]
        if self.rounded:
            pooled = [level.bfloat16().to(deepest.dtype) for level in pooled]
        context = self.bottleneck(torch.cat([deepest, *pooled], dim=1))

        # from coarse to fine, each level is added to the next finer one
        merged = [context]
        for conv, level in zip(reversed(self.lateral_convs), reversed(levels[:-1]), strict=True):
            lateral = conv(level)
            merged.insert(0, lateral + resized(merged[0], _size(lateral)))

        finest = max((_size(level) for level in levels), key=lambda size: size[0] * size[1])
        out = [conv(level) for conv, level in zip(self.fpn_convs, merged[:-1], strict=True)]
        out = [resized(level, finest) for level in [*out, context]]
        return self.conv_seg(self.dropout(self.fpn_bottleneck(torch.cat(out, dim=1))))


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


build = UPerNet
