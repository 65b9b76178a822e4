"""Swin Transformer V2 with the released models' merging, norms and window rules, for images of high resolution."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skysense_cli.core.encoders import Encoder, drop_rates
from skysense_cli.core.encoders._windows import WindowAttention, Windows, crossings
from skysense_cli.core.transformer import DropPath, FeedForward, init_linear
from skysense_cli.errors import GridError, RecipeError


class SwinV2(Encoder):
    """Four (or any number of) stages of windowed cosine attention; stage i has `dim * 2^i` channels.

    window: side in positions, or one per stage; never shrunk      patch: px
    extra_norm_every: one more norm after every so many blocks of a stage (0: none)
    pad_small_map: maps smaller than the window are padded to it instead of refused; a map exactly as large is then shifted, too
    absolute_position: side in px, or (height, width), of the images that a learned position table is made for (0: no table)
    merge_norm: normalise after (as released) or before the linear step of patch merging
    levels: stages whose map is kept, all when None      interpolate: how the position table is resized
    pretrained_windows: per stage, the window that the relative offsets are scaled to (0: the stage's own)

    SkySense, sec. 3.2: dim 352, depths 2 2 18 2, heads 8 16 32 64, window 8, extra_norm_every 6. The units are the blocks
    and, between the stages, the merging steps. Parameter names are those of the released weights.
    """

    def __init__(
        self,
        *,
        channels: int,
        dim: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        window: int | tuple[int, ...] = 8,
        patch: int = 4,
        extra_norm_every: int = 0,
        drop_path: float = 0.0,
        pad_small_map: bool = True,
        absolute_position: int | tuple[int, int] = 0,
        merge_norm: Literal["post", "pre"] = "post",
        levels: tuple[int, ...] | None = None,
        interpolate: Literal["bicubic", "bilinear"] = "bicubic",
        pretrained_windows: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        count = len(depths)
        windows = (window,) * count if isinstance(window, int) else tuple(window)
        pretrained = (0,) * count if pretrained_windows is None else tuple(pretrained_windows)
        self.levels = tuple(range(count)) if levels is None else tuple(levels)
        _check(dim, depths, heads, windows, pretrained, self.levels)
        self.channels, self.patch, self.dim, self.interpolate = channels, patch, dim, interpolate
        self.tap_channels = tuple(dim * 2**level for level in self.levels)
        self.tap_strides = tuple(patch * 2**level for level in self.levels)
        self.stride = self.tap_strides[-1]
        self.ends = tuple(sum(depths[: level + 1]) + level for level in range(count))  # blocks, and a merging before each later stage
        self.end_channels = tuple(dim * 2**level for level in range(count))
        self.taps = tuple(self.ends[level] - 1 for level in self.levels)

        self.patch_embed = nn.ModuleDict({"projection": nn.Conv2d(channels, dim, patch, stride=patch), "norm": nn.LayerNorm(dim)})
        rates = iter(drop_rates(drop_path, sum(depths)))
        self.stages = nn.ModuleList()
        for level, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                attention = WindowAttention(dim * 2**level, heads[level], windows[level], pretrained[level])
                shifted = ShiftedWindows(attention, shift=windows[level] // 2 if index % 2 else 0, pad_small_map=pad_small_map)
                extra_norm = extra_norm_every > 0 and (index + 1) % extra_norm_every == 0
                blocks.append(Block(shifted, dim * 2**level, drop_path=next(rates), extra_norm=extra_norm))
            self.stages.append(Stage(PatchMerging(dim * 2 ** (level - 1), merge_norm) if level else None, blocks))
        for level, width in zip(self.levels, self.tap_channels, strict=True):
            self.add_module(f"norm{level}", nn.LayerNorm(width))
        self.apply(init_linear)
        if absolute_position:
            height, width = (absolute_position, absolute_position) if isinstance(absolute_position, int) else absolute_position
            self.grid = (height // patch, width // patch)
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    @property
    def units(self) -> Sequence[nn.Module]:
        """Merging (from the second stage on) and blocks, in order."""
        return [unit for stage in self.stages for unit in stage.units()]  # type: ignore[operator]

    @property
    def layer_numbers(self) -> Sequence[int]:
        """Blocks are counted; merging belongs to the block that follows."""
        blocks = [isinstance(unit, Block) for unit in self.units]
        return [sum(blocks[:index]) for index in range(len(blocks))]

    def embed(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, h, w, dim); sides are filled with zeros, right and below, to whole patches."""
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % self.patch, 0, -height % self.patch))
        return self.patch_embed["norm"](self.patch_embed["projection"](pixels).permute(0, 2, 3, 1))  # NCHW -> NHWC

    def position(self, grid: Tensor) -> Tensor:
        """`grid` plus the position table, if there is one, resized to it."""
        if not hasattr(self, "absolute_pos_embed"):
            return grid
        image = self.absolute_pos_embed.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (1, h0 * w0, C) -> (1, C, h0, w0)
        if grid.shape[1:3] != self.grid:
            image = F.interpolate(image, size=grid.shape[1:3], mode=self.interpolate, align_corners=False)
        return grid + image.permute(0, 2, 3, 1)

    def tap(self, number: int, grid: Tensor) -> Tensor:
        return self.get_submodule(f"norm{self.levels[number]}")(grid)


class Stage(nn.Module):
    """The blocks of one size, and the merging that leads to it (none in the first stage)."""

    def __init__(self, downsample: "PatchMerging | None", blocks: Sequence["Block"]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def units(self) -> list[nn.Module]:
        return [*([] if self.downsample is None else [self.downsample]), *self.blocks]


class PatchMerging(nn.Module):
    """(N, h, w, C) -> (N, ceil(h / 2), ceil(w / 2), 2 C).

    The four positions of a square are stacked channel by channel: input c * 4 + y * 2 + x of the linear step is channel c
    at row y, column x (other implementations stack position by position).
    """

    def __init__(self, dim: int, norm: Literal["post", "pre"]) -> None:
        super().__init__()
        self.before = norm == "pre"
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim if self.before else 2 * dim)

    def forward(self, grid: Tensor) -> Tensor:
        n, height, width, dim = grid.shape
        grid = F.pad(grid, (0, 0, 0, width % 2, 0, height % 2))
        squares = grid.view(n, (height + 1) // 2, 2, (width + 1) // 2, 2, dim)
        stacked = squares.permute(0, 1, 3, 5, 2, 4).flatten(3)  # (N, h, y, w, x, C) -> (N, h, w, C * y * x)
        return self.reduction(self.norm(stacked)) if self.before else self.norm(self.reduction(stacked))


class Block(nn.Module):
    """Attention and feed-forward, each normalised *after* it and then added.

    Stochastic depth stands before the norm, as released: a dropped branch still adds the norm's bias.
    """

    def __init__(self, attention: "ShiftedWindows", dim: int, *, drop_path: float, extra_norm: bool) -> None:
        super().__init__()
        self.attn = attention
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim) if extra_norm else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, grid: Tensor) -> Tensor:
        grid = grid + self.norm1(self.drop_path(self.attn(grid)))
        return self.norm3(grid + self.norm2(self.drop_path(self.ffn(grid))))


class ShiftedWindows(nn.Module):
    """Cuts a map into windows, lets each attend to itself and puts them back; (N, h, w, C) -> the same shape.

    Zeros pad the map, right and below, to whole windows; padded positions take part like any other.
    """

    crossings: Tensor

    def __init__(self, attention: WindowAttention, *, shift: int, pad_small_map: bool) -> None:
        super().__init__()
        self.w_msa = attention
        self.shift, self.pad_small_map = shift, pad_small_map
        self.register_buffer("crossings", crossings(attention.window, shift), persistent=False)

    def forward(self, grid: Tensor) -> Tensor:
        n, height, width, _ = grid.shape
        window = self.w_msa.window
        if min(height, width) < window and not self.pad_small_map:
            raise GridError(f"swin_v2: a map of {height} x {width} positions is smaller than the window {window}; set pad_small_map: true")
        # one side as large as the window stops the shift along both, as in the released code
        shift = 0 if min(height, width) == window and not self.pad_small_map else self.shift
        grid = F.pad(grid, (0, 0, 0, -width % window, 0, -height % window))
        windows = Windows((n, grid.shape[1], grid.shape[2]), window, shift)
        grid = windows.join(self.w_msa(windows.cut(grid), windows.counts, self.crossings if shift else None))
        return grid[:, :height, :width]


def _check(dim: int, depths: Sequence[int], heads: Sequence[int], windows: Sequence[int], pretrained: Sequence[int], levels: Sequence[int]):
    for name, values in (("heads", heads), ("window", windows), ("pretrained_windows", pretrained)):
        if len(values) != len(depths):
            raise RecipeError(f"swin_v2: {name} {list(values)} must have one entry per stage, as depths {list(depths)}")
    for level, count in enumerate(heads):
        if dim * 2**level % count:
            raise RecipeError(f"swin_v2: stage {level} has {dim * 2**level} channels, not a multiple of its {count} heads")
    if min(windows) < 2:
        raise RecipeError(f"swin_v2: window {list(windows)} must be 2 or more")
    if not levels or list(levels) != sorted(set(levels)) or not 0 <= levels[0] <= levels[-1] < len(depths):
        raise RecipeError(f"swin_v2: levels {list(levels)} must be ascending stage numbers in 0..{len(depths) - 1}")


build = SwinV2
