"""An encoder that sees labels beside its images: SkySense++'s modality-specific encoders."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from skysense_cli.core.encoders import Encoder
from skysense_cli.core.transformer import SelfAttention, init_linear
from skysense_cli.errors import DataError, GridError, RecipeError

TOKEN_STD = 0.5  # of fresh vocabulary and mask tokens: about that of an embedded image, so that both halves count from the start


class PromptedEncoder(nn.Module):
    """`encoder` on images and label maps; the label half of hidden positions is one learned mask token.

    Label tokens and image tokens stand side by side on one map, image left, and share the first units; then the halves are
    averaged and what is left is an encoder like any other. It has the attributes of an Encoder, but takes labels, too.

    encoder: any with `embed`      name: the key of its modality in the options
    vocabulary: ids 1..vocabulary stand for what a prompt names, id 0 for nothing
    merge_after: modality -> stages (of a ViT: layers) after which the halves are averaged; 0: before the first
    bridges: modality -> (width, heads) of global attention after the first, second, ... stage (layer); width 0: at the
        encoder's own width, without projections
    half_positions: before averaging, each half also gets the position table of a single map, beside that of the double map

    SkySense++, Methods: hr merges after 2 with bridges (256, 16), (512, 16), (1024, 16); s2 and s1 after 4 without. Parameter
    names are those of the released weights, with `encoder.` before what a plain encoder has.
    Paper silent: how the tokens start. The weights inside a patch start equal.
    """

    def __init__(
        self,
        encoder: Encoder,
        name: str,
        /,
        *,
        vocabulary: int = 64,
        merge_after: dict[str, int],
        bridges: dict[str, tuple[tuple[int, int], ...]] = {},  # noqa: B006  read only; a recipe shows it
        half_positions: bool = False,
    ) -> None:
        super().__init__()
        _check(encoder, name, vocabulary, merge_after, bridges.get(name, ()))
        self.vocabulary, self.half_positions = vocabulary, half_positions
        self.channels, self.stride, self.patch, self.dim = encoder.channels, encoder.stride, encoder.patch, encoder.dim
        self.ends, self.end_channels = encoder.ends, encoder.end_channels
        self.taps, self.tap_strides = encoder.taps, encoder.tap_strides
        self.merged = (0, *encoder.ends)[merge_after[name]]  # units that see both halves
        self.tap_channels = tuple(
            channels * (2 if tap + 1 < self.merged else 1) for tap, channels in zip(encoder.taps, encoder.tap_channels, strict=True)
        )

        self.encoder = encoder
        self.mask_token = nn.Parameter(torch.empty(1, 1, encoder.dim))
        self.vocabulary_token = nn.Parameter(torch.empty(vocabulary + 1, encoder.dim))
        self.vocabulary_weight = nn.Parameter(torch.zeros(1, encoder.patch**2))
        nn.init.trunc_normal_(self.mask_token, std=TOKEN_STD)
        nn.init.trunc_normal_(self.vocabulary_token, std=TOKEN_STD)
        self.bridged = len(bridges.get(name, ()))
        for index, (width, heads) in enumerate(bridges.get(name, ())):
            channels = encoder.end_channels[index]
            self.add_module(f"attn{index + 1}", NarrowBridge(channels, width, heads) if width else Bridge(channels, heads))
        if self.bridged:
            self.norm_attn = nn.LayerNorm(encoder.end_channels[self.bridged - 1])

    @property
    def units(self) -> Sequence[nn.Module]:
        """The encoder's units, then the bridges."""
        return [*self.encoder.units, *(module for _, module in self._bridges())]

    def forward(self, pixels: Tensor, labels: Tensor | None = None, hidden: Tensor | None = None) -> list[Tensor]:
        """(N, C, H, W) normalised pixels to the maps (N, C_k, H_k, W_k) of the taps, fine to coarse.

        labels: (N, H, W) int64 vocabulary ids; None: all hidden. Paper silent: how a prompted model reads an image without
            labels; the mask token everywhere is what it met in training where a label was hidden.
        hidden: (N, h, w) bool on the grid of `embed`'s map; None: nothing is, if there are labels.
        Maps that are tapped before the halves are averaged have twice the channels, those of the image first.
        Every rank must call this with labels, or every rank without.
        """
        image = self.encoder.embed(pixels)
        label = self._label_tokens(pixels, labels, hidden, image)
        grid = self._joined(image, label)
        bridges = {self.ends[index]: module for index, module in self._bridges()}
        maps = []
        for done, unit in enumerate(self.encoder.units, start=1):
            grid = unit(grid)
            if done == self.merged:
                left, right = _halves(grid)
                grid = (left + right) / 2
            if done in bridges:
                grid = grid + bridges[done](grid)
                if done == self.ends[self.bridged - 1]:
                    grid = self.norm_attn(grid)
            if done - 1 in self.taps:
                kept = self.encoder.tap(self.taps.index(done - 1), grid)
                kept = torch.cat(_halves(kept), dim=3) if done < self.merged else kept  # (N, h, 2 w, C) -> (N, h, w, 2 C)
                maps.append(kept.permute(0, 3, 1, 2))  # NHWC -> NCHW
        return maps

    def _joined(self, image: Tensor, label: Tensor) -> Tensor:
        """The first unit's input, with positions: the mean of both halves, or both side by side."""
        if not self.merged:
            return self.encoder.position((image + label) / 2)
        if self.half_positions:
            image, label = self.encoder.position(image), self.encoder.position(label)
        return self.encoder.position(torch.cat([image, label], dim=2))  # (N, h, w, C) twice -> (N, h, 2 w, C)

    def _label_tokens(self, pixels: Tensor, labels: Tensor | None, hidden: Tensor | None, image: Tensor) -> Tensor:
        """(N, h, w, C): per patch the weighted mean of its pixels' vocabulary tokens, or the mask token where hidden."""
        if labels is None:
            return self.mask_token.expand(image.shape).to(image.dtype)
        self._check_prompt(pixels, labels, hidden, image)
        ids = labels.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch)).transpose(2, 3).flatten(3)  # (N, h, w, p * p)
        # the share of every id in every patch, then the mean of the tokens: no map of pixels is ever this wide
        weight = torch.softmax(self.vocabulary_weight.float(), dim=1).expand(*ids.shape[:3], -1)
        shares = weight.new_zeros(*ids.shape[:3], self.vocabulary + 1).scatter_add(3, ids, weight)
        tokens = (shares.to(self.vocabulary_token.dtype) @ self.vocabulary_token).to(image.dtype)
        return tokens if hidden is None else torch.where(hidden[..., None], self.mask_token.to(image.dtype), tokens)

    def _check_prompt(self, pixels: Tensor, labels: Tensor, hidden: Tensor | None, image: Tensor) -> None:
        size, wanted = tuple(labels.shape), (len(pixels), *pixels.shape[2:])
        if size != wanted or size[1] % self.patch or size[2] % self.patch:
            raise GridError(
                f"labels of {' x '.join(map(str, size))} for images of {' x '.join(map(str, wanted))} (samples, rows, columns); "
                f"both must be equal, with sides in multiples of {self.patch} px"
            )
        if hidden is not None and hidden.shape != image.shape[:3]:
            raise GridError(
                f"hidden is {' x '.join(map(str, hidden.shape))}, but the labels make {' x '.join(map(str, image.shape[:3]))} patches "
                f"(samples, rows, columns) of {self.patch} px"
            )
        if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling():  # a GPU would stall for a look at values
            low, high = (int(value) for value in labels.aminmax())
            if low < 0 or high > self.vocabulary:
                raise DataError(f"labels hold ids {low}..{high}, the vocabulary has 0..{self.vocabulary}; map them with to_vocabulary")

    def _bridges(self) -> Iterator[tuple[int, nn.Module]]:
        """Number of the stage, and the bridge after it."""
        for index in range(self.bridged):
            yield index, self.get_submodule(f"attn{index + 1}")


class NarrowBridge(nn.Module):
    """Global attention with a residual, between two projections; (N, h, w, C) -> what to add to the map."""

    def __init__(self, dim: int, width: int, heads: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, width)
        self.attn = nn.ModuleDict({"attn": SelfAttention(width, heads)})
        self.proj_out = nn.Linear(width, dim)
        self.apply(init_linear)

    def forward(self, grid: Tensor) -> Tensor:
        tokens = self.proj_in(grid).flatten(1, 2)  # (N, h, w, C) -> (N, h * w, width)
        return self.proj_out(tokens + self.attn["attn"](tokens)).view(grid.shape)


class Bridge(nn.Module):
    """Global attention with a residual at the map's own width; (N, h, w, C) -> what to add to the map."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(dim, heads)
        self.apply(init_linear)

    def forward(self, grid: Tensor) -> Tensor:
        tokens = grid.flatten(1, 2)  # (N, h, w, C) -> (N, h * w, C)
        return (tokens + self.attn(tokens)).view(grid.shape)


def _halves(grid: Tensor) -> tuple[Tensor, ...]:
    """The image half and the label half of (N, h, 2 w, C)."""
    if grid.shape[2] % 2:
        raise GridError(f"a map of image and label side by side is {grid.shape[2]} positions wide; the images must be wider or narrower")
    return grid.chunk(2, dim=2)


def _check(encoder: Encoder, name: str, vocabulary: int, merge_after: dict[str, int], bridges: Sequence[tuple[int, int]]) -> None:
    if type(encoder).embed is Encoder.embed:
        raise RecipeError(f"prompting: the encoder of {name} has no map of positions before its units; choose swin_v2 or vit")
    if getattr(encoder, "class_token", False):
        raise RecipeError(f"prompting: the encoder of {name} has a class token, which has no place on a map of two halves; set it to false")
    if vocabulary < 1:
        raise RecipeError(f"prompting: vocabulary {vocabulary} must be 1 or more")
    if name not in merge_after:
        raise RecipeError(f"prompting: merge_after has no entry for {name} (has: {', '.join(merge_after) or 'none'})")
    if not 0 <= merge_after[name] <= len(encoder.ends):
        raise RecipeError(f"prompting: merge_after.{name} is {merge_after[name]}, its encoder has 0..{len(encoder.ends)}")
    if len(bridges) > len(encoder.ends):
        raise RecipeError(f"prompting: bridges.{name} has {len(bridges)} entries, its encoder has {len(encoder.ends)} stages or layers")
    for (width, heads), channels in zip(bridges, encoder.end_channels, strict=False):
        if width < 0 or heads < 1 or (width or channels) % heads:
            raise RecipeError(
                f"prompting: bridges.{name} has ({width}, {heads}): {width or channels} channels do not split into {heads} heads"
            )
    if bridges and getattr(encoder, "final_norm", False):
        raise RecipeError(f"prompting: the encoder of {name} has both final_norm and bridges, which end in a norm; set final_norm: false")


build = PromptedEncoder
