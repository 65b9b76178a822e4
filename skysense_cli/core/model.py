"""The whole encoder: the parts of SkySense in the order of Eq. 1-3."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from skysense_cli.core.batch import UNKNOWN_DAY, Batch, SeriesBatch
from skysense_cli.core.cells import join_dates, seen_cells
from skysense_cli.core.collective import any_rank
from skysense_cli.core.encoders import Encoder
from skysense_cli.core.features import Features, FeatureSpec
from skysense_cli.core.fusions import Fusion
from skysense_cli.errors import DataError, GridError


class Lift(nn.Module):
    """(N, channels, h, w) -> (N, width, scale * h, scale * w): 1x1 convolution and pixel shuffle.

    Nothing at all where both fit already: the released HR encoder, 2816 channels at 10 m, has no lift.
    """

    def __init__(self, channels: int, width: int, scale: int) -> None:
        super().__init__()
        self.width, self.scale = width, scale
        fits = channels == width and scale == 1
        self.decoder = nn.Sequential() if fits else nn.Sequential(nn.Conv2d(channels, width * scale**2, 1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x)


class NoGeoContext(nn.Module):
    """The fused feature as it is. A geo-context gives `widen` times its channels (SkySense Eq. 3)."""

    widen = 1

    def forward(self, fused_mm: Tensor, region: Tensor) -> Tensor:
        return fused_mm


class SkySense(nn.Module):
    """Factorized multi-modal spatiotemporal encoder with geo-context (SkySense, sec. 3.2).

    Which part stands at a place varies, the order never: a model without a stage has a part that passes its input on.
    anchor: the modality whose pyramid the heads see. `lifts` bring the last map of each encoder to one grid of cells.
    """

    def __init__(
        self, encoders: Mapping[str, Encoder], lifts: Mapping[str, Lift], fusion: Fusion, geo_context: nn.Module, *, anchor: str
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.lifts = nn.ModuleDict(lifts)
        self.fusion = fusion
        self.geo_context = geo_context
        self.anchor = anchor

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

    def parts(self, m: str) -> tuple[Encoder, Lift]:
        """The encoder and the lift of modality `m`."""
        return cast(Encoder, self.encoders[m]), cast(Lift, self.lifts[m])

    def forward(self, batch: Batch) -> Features:
        """Features of the samples of `batch`; modalities that the model does not know are left alone.

        An absent modality is computed nowhere, or on every rank of a group in which one rank has it.
        """
        size = self.cells(batch)
        series = {m: batch.series.get(m) or self._absent(m, batch, size) for m in self.encoders}
        here, anywhere = agreed(series)
        levels = {m: self._encode(m, series[m], size, anywhere[m]) for m in series}
        modal = {m: levels[m].pop() for m in levels}  # Eq. 1: one (d, h, w) for all
        present = {m: s.present for m, s in series.items()}
        seen = {m: seen_cells(s.valid, s.present, *size) for m, s in series.items()}

        joined = [m for m in series if here[m]] or [self.anchor]
        tokens, days, shown = join_dates([modal[m] for m in joined], [series[m].days for m in joined], [seen[m] for m in joined])
        fused_mm = self.fusion(tokens, days, shown)  # Eq. 2, (B * h * w, d')
        fused_mm = fused_mm.unflatten(0, (-1, *size)).permute(0, 3, 1, 2)  # (B * h * w, d') -> (B, d', h, w)
        for m in series:
            if anywhere[m] and not here[m]:
                fused_mm = fused_mm + modal[m].mean()  # zero; every rank must have a gradient for what another rank computes
        seen_any = shown.any(dim=1).unflatten(0, (-1, 1, *size))
        fused = self.geo_context(fused_mm, batch.region) * seen_any  # Eq. 3
        return Features(
            modal=modal, fused_mm=fused_mm, fused=fused, pyramid=levels[self.anchor], present=present, seen=seen, anchor=self.anchor
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

    def _encode(self, m: str, series: SeriesBatch, size: tuple[int, int], wanted: bool) -> list[Tensor]:
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
            maps = encoder(torch.zeros_like(pixels[:1]))
            return [(0 * level.mean()).expand(*folded, *level.shape[1:]) for level in (*maps, lift(maps[-1]))]
        full = bool(present.all())
        maps = encoder(pixels if full else pixels[present])
        return [(level if full else _placed(level, present)).unflatten(0, folded) for level in (*maps, lift(maps[-1]))]


def agreed(series: Mapping[str, SeriesBatch]) -> tuple[dict[str, bool], dict[str, bool]]:
    """Which modalities this rank has, and which some rank has. Every rank must call this in the same step."""
    flags = torch.stack([s.present.any() for s in series.values()])
    here, anywhere = torch.stack([flags, any_rank(flags)]).tolist()
    return dict(zip(series, here, strict=True)), dict(zip(series, anywhere, strict=True))


def _placed(rows: Tensor, present: Tensor) -> Tensor:
    """Zeros with `rows` where `present` (B * T,) is True."""
    out = rows.new_zeros(len(present), *rows.shape[1:])
    out[present] = rows
    return out
