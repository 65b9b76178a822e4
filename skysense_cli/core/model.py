"""The whole encoder: the parts of SkySense in the order of Eq. 1-3."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from skysense_cli.core.batch import UNKNOWN_DAY, Batch, Prompt, SeriesBatch
from skysense_cli.core.cells import Dated, filled, join_dates, mean_over_dates, seen_cells
from skysense_cli.core.collective import any_rank
from skysense_cli.core.completion import Completed, Completion
from skysense_cli.core.encoders import Encoder
from skysense_cli.core.features import Features, FeatureSpec
from skysense_cli.core.fusions import Fusion
from skysense_cli.core.prompting import PromptedEncoder
from skysense_cli.errors import DataError, GridError


class Lift(nn.Module):
    """(N, channels, h, w) -> (N, width, scale * h, scale * w): 1x1 convolution and pixel shuffle.

    Nothing at all where both fit already: the released HR encoder, 2816 channels at 10 m, has no lift.
    """

    def __init__(self, channels: int, width: int, scale: int) -> None:
        super().__init__()
        self.width, self.scale = width, scale
        self.passes = channels == width and scale == 1
        self.decoder = nn.Sequential() if self.passes else nn.Sequential(nn.Conv2d(channels, width * scale**2, 1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x)


class NoGeoContext(nn.Module):
    """The fused feature as it is. A geo-context gives `widen` times its channels (SkySense Eq. 3)."""

    widen = 1

    def forward(self, fused_mm: Tensor, region: Tensor) -> Tensor:
        return fused_mm


class SkySense(nn.Module):
    """Factorized multi-modal spatiotemporal encoder with geo-context (SkySense, sec. 3.2), and what SkySense++ adds.

    Which part stands at a place varies, the order never. `lifts` bring the last map of each encoder to one grid of cells.
    anchor: the modality whose pyramid the heads see
    completion: imagines the features of modalities that a sample lacks (SkySense++); None: they stay absent
    dated: modalities whose dates the fusion is told; None: all (Eq. 2; the released weights date Sentinel-2 alone)
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder | PromptedEncoder],
        lifts: Mapping[str, Lift],
        fusion: Fusion,
        geo_context: nn.Module,
        *,
        anchor: str,
        completion: Completion | None = None,
        dated: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.lifts = nn.ModuleDict(lifts)
        self.completion = completion
        self.fusion = fusion
        self.geo_context = geo_context
        self.anchor = anchor
        self.dated = tuple(encoders if dated is None else dated)

    @property
    def spec(self) -> FeatureSpec:
        """What a head is built from."""
        encoder, lift = self.parts(self.anchor)
        return FeatureSpec(
            pyramid=encoder.tap_channels,
            strides=encoder.tap_strides,
            fused_mm=self.fusion.dim,
            fused=self.fusion.dim * int(self.geo_context.widen),  # type: ignore[arg-type]
            cell_px=encoder.stride / lift.scale,
        )

    def parts(self, m: str) -> tuple[Encoder | PromptedEncoder, Lift]:
        """The encoder and the lift of modality `m`."""
        return cast(Encoder | PromptedEncoder, self.encoders[m]), cast(Lift, self.lifts[m])

    def forward(self, batch: Batch) -> Features:
        """Features of the samples of `batch`; modalities that the model does not know are left alone.

        An absent modality is computed nowhere, or on every rank of a group in which one rank has it.
        """
        size = self.cells(batch)
        series = {m: batch.series.get(m) or self._absent(m, batch, size) for m in self.encoders}
        here, anywhere = agreed(series)
        levels = {m: self._encode(m, series[m], batch.prompt, size, anywhere[m]) for m in series}
        dated = {m: self._dated(m, series[m], levels[m].pop()) for m in series}  # Eq. 1: one (d, h, w) for all
        # zero; every rank must have a gradient for what another rank computes
        idle = [dated[m].features.mean() for m in series if anywhere[m] and not here[m]]
        dated, completed = self._complete(dated)
        if completed is not None and self.parts(self.anchor)[1].passes:
            levels[self.anchor][-1] = dated[self.anchor].features  # as released: the head sees the imagined map, too

        joined = [m for m in series if completed is not None or here[m]] or [self.anchor]
        columns = ([getattr(dated[m], name) for m in joined] for name in ("features", "days", "seen"))
        tokens, days, shown = join_dates(*columns)
        fused_mm = self.fusion(tokens, days, shown)  # Eq. 2, (B * h * w, d')
        fused_mm = fused_mm.unflatten(0, (-1, *size)).permute(0, 3, 1, 2)  # (B * h * w, d') -> (B, d', h, w)
        fused_mm = sum(idle, start=fused_mm)
        seen_any = shown.any(dim=1).unflatten(0, (-1, 1, *size))
        fused = self.geo_context(fused_mm, batch.region) * seen_any  # Eq. 3
        return Features(
            modal={m: part.features for m, part in dated.items()},
            fused_mm=fused_mm,
            fused=fused,
            pyramid=levels[self.anchor],
            present={m: part.present for m, part in dated.items()},
            seen={m: part.seen for m, part in dated.items()},
            anchor=self.anchor,
            completed=completed,
        )

    def cells(self, batch: Batch) -> tuple[int, int]:
        """(h, w) of the shared grid, the same from every modality; GridError where it is not."""
        found: dict[str, tuple[int, int]] = {}
        for m, series in batch.series.items():
            if m not in self.encoders:
                continue
            encoder, lift = self.parts(m)
            stride, scale = encoder.stride, lift.scale
            height, width = series.pixels.shape[-2:]
            if height % stride or width % stride:
                raise GridError(
                    f"{m}: {height} x {width} px is not a whole number of the encoder's {stride} px steps; crop or pad the images"
                )
            found[m] = (height // stride * scale, width // stride * scale)
        if not found:
            raise DataError(f"the batch holds {', '.join(batch.series) or 'nothing'}, the model reads {', '.join(self.encoders)}")
        if len(set(found.values())) > 1:
            sizes = ", ".join(f"{m} {h} x {w}" for m, (h, w) in found.items())
            raise GridError(f"the modalities do not cover the same ground: cells are {sizes}")
        return next(iter(found.values()))

    def _pixels(self, m: str, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in pixels of modality `m` for a grid of `size` cells."""
        encoder, lift = self.parts(m)
        return size[0] * encoder.stride // lift.scale, size[1] * encoder.stride // lift.scale

    def _absent(self, m: str, batch: Batch, size: tuple[int, int]) -> SeriesBatch:
        """One date of modality `m` that no sample has."""
        count, height, width = len(batch.region), *self._pixels(m, size)
        no = torch.zeros(count, 1, dtype=torch.bool, device=batch.region.device)
        like = next(iter(batch.series.values())).pixels
        return SeriesBatch(
            pixels=like.new_zeros(()).expand(count, 1, self.parts(m)[0].channels, height, width),
            days=torch.full_like(no, UNKNOWN_DAY, dtype=torch.int64),
            present=no,
            valid=no[..., None, None].expand(-1, -1, height, width),
        )

    def _encode(self, m: str, series: SeriesBatch, prompt: Prompt | None, size: tuple[int, int], wanted: bool) -> list[Tensor]:
        """The pyramid of modality `m` and, last, its lifted map; each (B, T, C_k, H_k, W_k), zeros where not present.

        Only dates that are present run through the encoder. Without any, and `wanted`, one image of zeros does, so that
        ranks stay in step.
        """
        encoder, lift = self.parts(m)
        folded = series.present.shape
        present = series.present.flatten()
        if not wanted:
            height, width = self._pixels(m, size)
            shapes = [(c, height // s, width // s) for c, s in zip(encoder.tap_channels, encoder.tap_strides, strict=True)]
            return [series.pixels.new_zeros(()).expand(*folded, *shape) for shape in (*shapes, (lift.width, *size))]
        pixels = series.pixels.flatten(0, 1)  # (B, T, C, H, W) -> (B * T, C, H, W)
        if not bool(present.any()):
            maps = _maps(encoder, torch.zeros_like(pixels[:1]), prompt, [0])
            return [(0 * level.mean()).expand(*folded, *level.shape[1:]) for level in (*maps, lift(maps[-1]))]
        full = bool(present.all())
        samples = torch.arange(folded[0], device=present.device).repeat_interleave(folded[1])
        maps = _maps(encoder, pixels if full else pixels[present], prompt, samples[present])
        return [(level if full else _placed(level, present)).unflatten(0, folded) for level in (*maps, lift(maps[-1]))]

    def _dated(self, m: str, series: SeriesBatch, features: Tensor) -> Dated:
        days = series.days if m in self.dated else torch.full_like(series.days, UNKNOWN_DAY)
        seen = seen_cells(series.valid, series.present, features.shape[-2], features.shape[-1])
        return Dated(features, days, series.present, seen)

    def _complete(self, dated: dict[str, Dated]) -> tuple[dict[str, Dated], Completed | None]:
        """With the imagined features of what a sample lacks (SkySense++, Methods); as it is without a completion.

        Paper silent: what is imagined and imagined from is the mean over a modality's dates; the paper has one date.
        """
        if self.completion is None:
            return dated, None
        given = {m: mean_over_dates(part.features, part.present) for m, part in dated.items()}
        have = {m: part.present.any(dim=1) for m, part in dated.items()}
        completed = self.completion(given, have)
        # in training always, so that every rank has a gradient for the same parameters
        if torch.is_grad_enabled() or not all(bool(flags.all()) for flags in have.values()):
            dated = filled(dated, completed.features)
        return dated, completed


def agreed(series: Mapping[str, SeriesBatch]) -> tuple[dict[str, bool], dict[str, bool]]:
    """Which modalities this rank has, and which some rank has. Every rank must call this in the same step."""
    flags = torch.stack([s.present.any() for s in series.values()])
    here, anywhere = torch.stack([flags, any_rank(flags)]).tolist()
    return dict(zip(series, here, strict=True)), dict(zip(series, anywhere, strict=True))


def _maps(encoder: Encoder | PromptedEncoder, pixels: Tensor, prompt: Prompt | None, samples: Tensor | list[int]) -> list[Tensor]:
    """The pyramid of images (N, C, H, W), beside the labels of the `samples` (N) that they belong to where the encoder reads them."""
    if prompt is None or not isinstance(encoder, PromptedEncoder):
        return encoder(pixels)
    height, width = pixels.shape[-2:]
    labels, hidden = prompt.on((height, width), (height // encoder.patch, width // encoder.patch))
    return encoder(pixels, labels[samples], hidden[samples])


def _placed(rows: Tensor, present: Tensor) -> Tensor:
    """Zeros with `rows` where `present` (B * T,) is True."""
    out = rows.new_zeros(len(present), *rows.shape[1:])
    out[present] = rows
    return out
