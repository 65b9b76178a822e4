"""Vision transformer on small patches, for series of medium resolution."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skysense_cli.core.encoders import Encoder, drop_rates
from skysense_cli.core.transformer import Layer, init_linear
from skysense_cli.errors import RecipeError


class ViT(Encoder):
    """Plain ViT without a hierarchy: every map has the stride of a patch.

    size: side in px, or (height, width), of the images that the position table is made for; other sizes resize the table
    taps: layers whose output is kept, the last one included by default; four spread evenly when None
    final_norm: normalise the output of the last layer
    class_token: one more token that takes part in every layer; its output is left out of the maps
    class_position: the position table has a row for the class token, used or not (the prompted release has none)
    resize: `grid` resizes the position table whenever the grid differs. `length` is the released code's rule, which
        resizes only when the number of positions differs (and so reads a 4 x 4 table in the wrong order on a 2 x 8 grid)

    SkySense, sec. 3.2: 24 layers of 1024 channels, 16 heads, patch 4. Layer names are those of the released weights;
    `cls_token` always exists there, used or not.
    """

    def __init__(
        self,
        *,
        channels: int,
        dim: int,
        depth: int,
        heads: int,
        patch: int = 4,
        size: int | tuple[int, int] = 16,
        taps: tuple[int, ...] | None = None,
        mlp: float = 4.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
        final_norm: bool = False,
        class_token: bool = False,
        class_position: bool = True,
        interpolate: Literal["bicubic", "bilinear"] = "bicubic",
        resize: Literal["grid", "length"] = "grid",
    ) -> None:
        super().__init__()
        if dim % heads:
            raise RecipeError(f"vit: dim {dim} is not a multiple of heads {heads}")
        self.taps = tuple(sorted({((i + 1) * depth + 3) // 4 - 1 for i in range(4)})) if taps is None else taps
        if not self.taps or list(self.taps) != sorted(set(self.taps)) or not 0 <= self.taps[0] <= self.taps[-1] < depth:
            raise RecipeError(f"vit: taps {list(self.taps)} must be ascending layer numbers in 0..{depth - 1}")
        if class_token and not class_position:
            raise RecipeError("vit: class_token needs a row of the position table; set class_position: true")
        self.channels, self.stride, self.patch, self.dim = channels, patch, patch, dim
        self.tap_channels = (dim,) * len(self.taps)
        self.tap_strides = (patch,) * len(self.taps)
        self.ends, self.end_channels = tuple(range(1, depth + 1)), (dim,) * depth
        self.interpolate, self.resize, self.class_token, self.final_norm = interpolate, resize, class_token, final_norm
        height, width = (size, size) if isinstance(size, int) else size
        self.grid = (height // patch, width // patch)

        self.patch_embed = nn.ModuleDict({"projection": nn.Conv2d(channels, dim, patch, stride=patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.before = 1 if class_position else 0  # rows of the table that belong to no place
        self.pos_embed = nn.Parameter(torch.zeros(1, self.before + self.grid[0] * self.grid[1], dim))
        rates = drop_rates(drop_path, depth)
        self.layers = nn.ModuleList(GridLayer(dim, heads, mlp=mlp, drop_path=rate, norm_eps=norm_eps) for rate in rates)
        if final_norm:
            self.ln1 = nn.LayerNorm(dim, eps=norm_eps)
        self.apply(init_linear)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    @property
    def units(self) -> Sequence[nn.Module]:
        """The layers."""
        return list(self.layers)

    def embed(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, h, w, dim); sides are filled with zeros, right and below, to whole patches."""
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % self.stride, 0, -height % self.stride))
        return self.patch_embed["projection"](pixels).permute(0, 2, 3, 1)  # NCHW -> NHWC

    def position(self, grid: Tensor) -> Tensor:
        """`grid` (N, h, w, dim) plus the position table, resized to h x w where needed."""
        size = grid.shape[1:3]
        table = self.pos_embed[:, self.before :]
        fits = size == self.grid if self.resize == "grid" else size.numel() == table.shape[1]
        if not fits:
            image = table.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (1, h0 * w0, C) -> (1, C, h0, w0)
            image = F.interpolate(image, size=size, mode=self.interpolate, align_corners=False)
            table = image.flatten(2).transpose(1, 2)  # (1, C, h, w) -> (1, h * w, C)
        return grid + table.unflatten(1, size)

    def tap(self, number: int, grid: Tensor) -> Tensor:
        last = self.taps[number] == len(self.layers) - 1
        return self.ln1(grid) if last and hasattr(self, "ln1") else grid

    def forward(self, pixels: Tensor) -> list[Tensor]:
        if not self.class_token:
            return super().forward(pixels)
        return [kept for kept, _ in self.with_class(pixels)]

    def with_class(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per tap the map (N, dim, h, w) and the class vector (N, dim); needs `class_token`."""
        grid = self.position(self.embed(pixels))
        size = grid.shape[1:3]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(grid), -1, -1)
        row = torch.cat([first, grid.flatten(1, 2)], dim=1).unsqueeze(1)  # a layer sees no positions: (N, 1, 1 + h * w, C)
        kept = []
        for index, unit in enumerate(self.units):
            row = unit(row)
            if index in self.taps:
                tokens = self.tap(self.taps.index(index), row).squeeze(1)
                kept.append((tokens[:, 1:].unflatten(1, size).permute(0, 3, 1, 2), tokens[:, 0]))  # NHWC -> NCHW
        return kept


class GridLayer(Layer):
    """A transformer layer over all positions of a map, (N, h, w, C) -> the same shape."""

    def forward(self, grid: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(grid.flatten(1, 2)).view(grid.shape)


build = ViT
