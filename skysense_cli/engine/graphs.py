"""What can be exported of a bundle: one encoder, or one encoder with lift, fusion and head, as modules with static control flow.

A graph takes pixels in the units that samples are stored in; mean, standard deviation and nodata value are inside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from skysense_cli import __version__, sensors
from skysense_cli.core.batch import UNKNOWN_DAY, Batch, SeriesBatch
from skysense_cli.core.cells import join_dates, seen_cells
from skysense_cli.core.encoders import Encoder
from skysense_cli.core.features import Features
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.heads import Head
from skysense_cli.core.model import SkySense
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.errors import RecipeError

BATCH, DATES = "batch", "dates"  # names of the axes that may stay open
Tensors = tuple[Tensor, ...]
Shape = tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """module: what is exported; tensors in, tuple of tensors out      reference: the same by the product's own forward

    inputs: name -> shape, open axes by name      outputs: names      contract: what the file says of itself
    example: (axes, seed) -> random inputs, a corner of them without data
    """

    module: nn.Module
    inputs: dict[str, Shape]
    outputs: tuple[str, ...]
    reference: Callable[..., Tensors]
    example: Callable[[dict[str, int], int], Tensors]
    contract: dict[str, Any]


class Normalise(nn.Module):
    """(..., C, H, W) float32 in stored units to what the model sees; a pixel whose every band is `nodata` becomes 0.

    nodata NaN: each missing value becomes 0 on its own. As `data.dataset.Input.normalise` does with samples.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, seen: Input) -> None:
        super().__init__()
        self.nodata = sensors.get(seen.sensor).nodata
        self.register_buffer("mean", torch.tensor(seen.mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(seen.std, dtype=torch.float32)[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        normal = (pixels - self.mean) / self.std
        empty = torch.isnan(pixels) if np.isnan(self.nodata) else (pixels == self.nodata).all(dim=-3, keepdim=True)
        return torch.where(empty, torch.zeros_like(normal), normal)


class EncoderGraph(nn.Module):
    """(N, C, H, W) pixels to the encoder's maps, fine to coarse."""

    def __init__(self, normalise: nn.Module, encoder: Encoder) -> None:
        super().__init__()
        self.normalise, self.encoder = normalise, encoder

    def forward(self, pixels: Tensor) -> Tensors:
        return tuple(self.encoder(self.normalise(pixels)))


class DenseTemporal(nn.Module):
    """`Temporal` without packing: tokens that are not seen are computed and then not attended to.

    Packing makes shapes that depend on the values of `seen`, which no graph can hold. The result is the same, to rounding;
    the cost is that of all dates.
    """

    def __init__(self, fusion: Temporal) -> None:
        super().__init__()
        self.fusion = fusion

    def forward(self, tokens: Tensor, days: Tensor, seen: Tensor) -> Tensor:
        own = self.fusion
        if own.date_embedding is not None:
            tokens = tokens + own.date_embedding[days.clamp(min=0)] * (days >= 0).unsqueeze(-1)
        x = torch.cat([own.cls_token.expand(tokens.shape[0], -1, -1), own.porj_linear(tokens)], dim=1)  # (N, 1 + T, d')
        allowed = torch.cat([torch.ones_like(seen[:, :1]), seen], dim=1)
        for layer in own.layers[:-1]:
            x = layer(x, allowed)
        x = own.layers[-1](x, allowed, queries=1).squeeze(1)  # only the extra token is read
        return x * seen.any(dim=1, keepdim=True)


class ModelGraph(nn.Module):
    """All dates of the anchor modality to class scores (B, K, H, W) at its pixels; every date given counts as present."""

    def __init__(self, normalise: nn.Module, model: SkySense, head: Head) -> None:
        super().__init__()
        self.anchor, self.dated = model.anchor, model.anchor in model.dated
        self.normalise, self.head, self.geo_context = normalise, head, model.geo_context
        encoder, self.lift = model.parts(model.anchor)
        self.encoder = cast(Encoder, encoder)
        self.fusion = DenseTemporal(model.fusion) if isinstance(model.fusion, Temporal) else model.fusion

    def forward(self, pixels: Tensor, days: Tensor, valid: Tensor, region: Tensor | None = None) -> Tensors:
        batch, dates, _, height, width = pixels.shape
        present = torch.ones_like(days, dtype=torch.bool)
        maps = self.encoder(self.normalise(pixels).flatten(0, 1))  # (B, T, C, H, W) -> (B * T, C, H, W)
        modal, *pyramid = (level.unflatten(0, (batch, dates)) for level in (self.lift(maps[-1]), *maps))
        size = (modal.shape[-2], modal.shape[-1])
        seen = seen_cells(valid, present, *size)
        tokens, dated, shown = join_dates([modal], [days if self.dated else torch.full_like(days, UNKNOWN_DAY)], [seen])
        fused_mm = self.fusion(tokens, dated, shown).unflatten(0, (batch, *size)).permute(0, 3, 1, 2)  # (B * h * w, d') -> (B, d', h, w)
        fused = self.geo_context(fused_mm, region) * shown.any(dim=1).unflatten(0, (batch, 1, *size))
        features = Features(
            modal={self.anchor: modal}, fused_mm=fused_mm, fused=fused, pyramid=pyramid,
            present={self.anchor: present}, seen={self.anchor: seen}, anchor=self.anchor,
        )  # fmt: skip
        return (self.head.predict(self.head(features), (height, width)),)


def encoder_graph(loaded: LoadedBundle, modality: str, size: tuple[int, int], *, batch: int | None, normalised: bool) -> Graph:
    """The encoder of `modality` for images of `size` (height, width); any number of them when `batch` is None.

    normalised: the graph takes what the model sees, (pixel - mean) / std, instead of stored units.
    Of a prompted encoder the plain one inside it is taken. Raises RecipeError for what does not fit.
    """
    _require_known(loaded, modality)
    seen = loaded.inputs[modality]
    part = loaded.model.encoders[modality]
    encoder = part if isinstance(part, Encoder) else cast(Encoder, part.encoder)
    _require_steps(modality, encoder.stride, size)
    shape: Shape = (batch or BATCH, len(seen.bands), *size)

    def example(axes: dict[str, int], seed: int) -> Tensors:
        return (_pixels(seen, _filled(shape, axes), seed, normalised),)

    def reference(pixels: Tensor) -> Tensors:
        return tuple(encoder(_as_seen(seen, pixels, normalised)))

    outputs = tuple(f"map_{number}" for number in range(1, len(encoder.tap_channels) + 1))
    what = "encoder" if part is encoder else "encoder, without its prompting"
    contract = _contract(loaded, modality, what, size, normalised) | {"strides": list(encoder.tap_strides)}
    module = EncoderGraph(nn.Identity() if normalised else Normalise(seen), encoder).eval()
    return Graph(module, {"pixels": shape}, outputs, reference, example, contract)


def model_graph(
    loaded: LoadedBundle, modality: str, size: tuple[int, int], *, batch: int | None, dates: int | None, normalised: bool
) -> Graph:
    """The encoder of the anchor `modality`, lift, fusion, geo-context and raster head, to scores at the pixels.

    batch, dates: fixed numbers of samples and dates, any when None. Raises RecipeError for what a graph cannot hold.
    """
    _require_known(loaded, modality)
    _require_plain(loaded, modality)
    model, head, seen = loaded.model, cast(Head, loaded.head), loaded.inputs[modality]
    _require_steps(modality, model.parts(modality)[0].stride, size)
    rows: Shape = (batch or BATCH, dates or DATES)
    inputs = {"pixels": (*rows, len(seen.bands), *size), "days": rows, "valid": (*rows, *size)}
    if loaded.spec.regions is not None:
        inputs["region"] = rows[:1]

    def example(axes: dict[str, int], seed: int) -> Tensors:
        random = np.random.default_rng(seed)
        pixels = _pixels(seen, _filled(inputs["pixels"], axes), seed, normalised)
        days = torch.from_numpy(np.sort(random.integers(-1, 365, _filled(rows, axes)), axis=1))
        valid = torch.from_numpy(random.random(_filled(inputs["valid"], axes)) > 0.2)
        valid[..., : size[0] // 2, : size[1] // 2] = False
        regions = getattr(model.geo_context, "slot_regions", None)
        choices = [-1, *([] if regions is None else regions.tolist())]
        region = torch.from_numpy(random.choice(choices, _filled(rows[:1], axes)))
        return (pixels, days, valid, region)[: len(inputs)]

    def reference(pixels: Tensor, days: Tensor, valid: Tensor, region: Tensor | None = None) -> Tensors:
        present = torch.ones_like(days, dtype=torch.bool)
        series = SeriesBatch(_as_seen(seen, pixels, normalised), days, present, valid)
        place = torch.arange(len(pixels))
        frame = torch.eye(2, 3).expand(len(pixels), -1, -1)
        features = model(Batch({modality: series}, torch.full_like(place, -1) if region is None else region, place, frame))
        return (head.predict(head(features), size),)

    contract = _contract(loaded, modality, "encoder and head", size, normalised) | {"classes": list(loaded.classes)}
    module = ModelGraph(nn.Identity() if normalised else Normalise(seen), model, head).eval()
    return Graph(module, inputs, ("logits",), reference, example, contract)


def _require_known(loaded: LoadedBundle, modality: str) -> None:
    if modality not in loaded.inputs:
        raise RecipeError(f"--modality {modality}: {loaded.path} has {', '.join(loaded.inputs)}")


def _require_plain(loaded: LoadedBundle, modality: str) -> None:
    """A raster head on the plain features of the anchor, or one line that says what stands in the way."""
    where = f"--with-head: {loaded.path}"
    if loaded.head is None:
        raise RecipeError(f"{where} has no head (it was made by {loaded.spec.stage}); leave --with-head out to export an encoder")
    if loaded.head.output != "raster":
        raise RecipeError(f"{where} has a {loaded.head.output} head; only heads that label pixels can be exported")
    if modality != loaded.model.anchor:
        raise RecipeError(f"{where} has a head that reads {loaded.model.anchor}, not {modality}")
    for name in ("prompting", "completion"):
        if getattr(loaded.spec.model, name, None) is not None:
            raise RecipeError(f"{where} has a model with {name}, which cannot be exported; leave --with-head out to export an encoder")


def _require_steps(modality: str, stride: int, size: tuple[int, int]) -> None:
    if min(size) < 1 or size[0] % stride or size[1] % stride:
        fits = "x".join(str(max(round(side / stride), 1) * stride) for side in size)
        raise RecipeError(f"--size {size[0]}x{size[1]}: the {modality} encoder takes whole steps of {stride} px (nearest: {fits})")


def _contract(loaded: LoadedBundle, modality: str, what: str, size: tuple[int, int], normalised: bool) -> dict[str, Any]:
    """What a user of the file must know; `engine/export.py` adds the shapes."""
    seen = loaded.inputs[modality]
    sensor = sensors.get(seen.sensor)
    facts = {
        "skysense": __version__, "what": what, "modality": modality, "sensor": seen.sensor, "bands": list(seen.bands),
        "gsd_m": seen.gsd_m, "size_px": list(size), "weights_sha256": loaded.manifest[bundle.WEIGHTS]["sha256"],
        "units": "(stored - mean) / std, 0 where there is no data" if normalised else f"stored units: {sensor.units}",
        "mean": list(seen.mean), "std": list(seen.std),
    }  # fmt: skip
    return facts if normalised else facts | {"nodata": str(sensor.nodata)}


def _filled(shape: Shape, axes: dict[str, int]) -> tuple[int, ...]:
    return tuple(axes[side] if isinstance(side, str) else side for side in shape)


def _pixels(seen: Input, shape: tuple[int, ...], seed: int, normalised: bool) -> Tensor:
    """Random pixels of `shape` as the graph takes them, drawn with the bands' own mean and deviation; the first 2 x 3 hold no data."""
    normal = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if normalised:
        normal[..., :2, :3] = 0
        return torch.from_numpy(normal)
    sensor = sensors.get(seen.sensor)
    stored = normal * np.asarray(seen.std, np.float32)[:, None, None] + np.asarray(seen.mean, np.float32)[:, None, None]
    if np.issubdtype(np.dtype(sensor.dtype), np.integer):
        stored = np.clip(np.rint(stored), 1, np.iinfo(sensor.dtype).max)
    stored[..., :2, :3] = sensor.nodata
    return torch.from_numpy(stored.astype(np.float32))


def _as_seen(seen: Input, pixels: Tensor, normalised: bool) -> Tensor:
    """Stored pixels as a sample of them would be read; independent of `Normalise`, which it is compared with."""
    if normalised:
        return pixels
    nodata = sensors.get(seen.sensor).nodata
    stored = pixels.numpy()
    normal = sensors.to_model(stored, seen.mean, seen.std)
    empty = np.isnan(stored) if np.isnan(nodata) else np.broadcast_to((stored == nodata).all(axis=-3, keepdims=True), stored.shape)
    normal[empty] = 0
    return torch.from_numpy(normal)
