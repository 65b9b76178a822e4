"""How large a model is and what a sample costs, part by part. No memory is needed: nothing but shapes is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skysense_cli.core.completion import Completion
from skysense_cli.core.features import Features
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.model import SkySense
from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.data.dataset import Input
from skysense_cli.engine.assemble import build_head, build_model, check_cells, strides
from skysense_cli.engine.released import known_input
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.errors import RecipeError
from skysense_cli.recipe.schema.model import ModelSection

SERIES_M = (640.0, 640.0)  # of the samples of SkySense
CANVAS_M = (320.0, 160.0)  # of SkySense++: example above query
DATES = {"hr": 1, "s2": 20, "s1": 10}  # SkySense, sec. 3: what a training sample shows; SkySense++ shows one of each


@dataclass(frozen=True)
class Size:
    """One part: its weights, and what it does for one sample.

    entries: of the state dict, buffers too, but not those that grow in training      bytes: of parameters and buffers,
    float32; prototypes as if every region had been seen      flops: two per multiplication, forward only
    """

    name: str
    parameters: int
    entries: int
    bytes: int
    flops: int


@dataclass(frozen=True)
class Sizes:
    """A model at one geometry. pixels: modality -> (dates, height, width)      cells: (h, w) of the shared grid"""

    parts: tuple[Size, ...]
    size_m: tuple[float, float]
    pixels: dict[str, tuple[int, int, int]]
    cells: tuple[int, int]

    @property
    def total(self) -> Size:
        """The sum of the parts."""
        sums = (sum(getattr(part, key) for part in self.parts) for key in ("parameters", "entries", "bytes", "flops"))
        return Size("total", *sums)


def measure(section: ModelSection, *, size_m: tuple[float, float] | None = None, dates: Mapping[str, int] | None = None) -> Sizes:
    """Parameters, memory and work of the model of a recipe, on the sensors of the released weights.

    size_m: height and width of the ground; by default 640 m, with prompting a canvas of 320 x 160 m
    dates: per modality, by default 20 of s2 and 10 of s1 (with prompting 1 of each), of others 1
    A modality's pixels are as large as the sensor's, or as large as the cells need them.
    The work is that of a sample without gaps: every date is there, every cell is seen; completion encodes and decodes
    every modality, as in training.
    Raises RecipeError for dates of an unknown modality, GridError for a size that is not whole encoder steps.
    """
    inputs = _inputs(section)
    with torch.device("meta"):
        model = build_model(section, inputs)
        spec = BundleSpec(stage="pretrain", model=section, inputs=inputs, dates=dict.fromkeys(inputs, 1), size_m=SERIES_M)
        head = build_head(spec, model)
    model.eval()
    prompted = section.prompting is not None
    size_m = size_m or (CANVAS_M if prompted else SERIES_M)
    shown = {m: 1 if prompted else DATES.get(m, 1) for m in inputs} | dict(dates or {})
    for m, count in shown.items():
        if m not in inputs or count < 1:
            raise RecipeError(f"--dates {m}={count}: the model has {', '.join(inputs)}, each with 1 date or more")
    cells = check_cells(size_m, inputs, strides(model), section.cell_m)
    pixels = {m: (shown[m], *(round(side / inputs[m].gsd_m) for side in size_m)) for m in inputs}

    parts, pyramids = [], {}
    for m, (count, height, width) in pixels.items():
        encoder, lift = model.parts(m)
        image = torch.empty(1, encoder.channels, height, width, device="meta")
        maps, work = _run(encoder, image)
        lifted, more = _run(lift, maps[-1])
        assert tuple(lifted.shape[2:]) == cells, "every modality meets the others on the cells"
        parts += [_size(f"encoders.{m}", encoder, work * count), _size(f"lifts.{m}", lift, more * count)]
        pyramids[m] = maps
    parts += _shared(model, section, sum(shown.values()), cells)
    if head is not None:
        parts.append(_size("head", head, _head_work(head, model, pyramids[model.anchor], cells)))
    return Sizes(tuple(part for part in parts if part.entries or part.bytes), size_m, pixels, cells)  # type: ignore[arg-type]


def _inputs(section: ModelSection) -> dict[str, Input]:
    """The released sensors; a gsd that makes no whole cells becomes the one that makes an encoder's last map the cells."""
    found = {}
    for m, part in section.encoders.items():
        known = known_input(m, part.options["channels"], f"model.encoders.{m}")
        with torch.device("meta"):
            stride = part.build().stride
        scale = stride * known.gsd_m / section.cell_m
        found[m] = known if scale >= 1 and math.isclose(scale, round(scale)) else replace(known, gsd_m=section.cell_m / stride)
    return found


def _shared(model: SkySense, section: ModelSection, tokens: int, cells: tuple[int, int]) -> list[Size]:
    """The parts after the encoders. tokens: of each cell"""
    count = cells[0] * cells[1]
    parts = []
    if isinstance(model.completion, Completion):
        maps = torch.empty(1, section.width, *cells, device="meta")
        work = sum(_run(vae, maps)[1] for vae in model.completion.vaes.values())
        parts.append(_size("completion", model.completion, work))
    parts.append(_size("fusion", model.fusion, _fusion_work(model.fusion, count, tokens, section.width)))
    bank = model.geo_context
    if isinstance(bank, GeoPrototypes):
        full = bank.regions * bank.per_region * bank.dim
        parts.append(Size("prototypes", 0, len(bank.state_dict()), 4 * full, 4 * count * bank.per_region * bank.dim))
    return parts


def _fusion_work(fusion: nn.Module, cells: int, tokens: int, width: int) -> int:
    """As `Temporal.forward` does it: the last layer computes the extra token alone. What else there is has no products."""
    if not isinstance(fusion, Temporal):
        return 0
    x = torch.empty(cells, 1 + tokens, fusion.dim, device="meta")
    _, work = _run(fusion.porj_linear, torch.empty(cells * tokens, width, device="meta"))
    for layer in fusion.layers[:-1]:
        work += _run(layer, x)[1]
    return work + _run(lambda given: fusion.layers[-1](given, None, queries=1), x)[1]


def _head_work(head: nn.Module, model: SkySense, maps: list[Tensor], cells: tuple[int, int]) -> int:
    spec = model.spec
    fused_mm, fused = (torch.empty(1, width, *cells, device="meta") for width in (spec.fused_mm, spec.fused))
    here = torch.ones(1, 1, dtype=torch.bool, device="meta")
    seen = here[..., None, None].expand(1, 1, *cells)
    pyramid = [level.unsqueeze(1) for level in maps]  # (1, C, h, w) -> (1, T, C, h, w)
    anchor = model.anchor
    return _run(head, Features({}, fused_mm, fused, pyramid, {anchor: here}, {anchor: seen}, anchor))[1]


def _run(part: Callable, given: object) -> tuple:
    """What `part` makes, and its floating-point operations."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made = part(given)
    return made, counter.get_total_flops()


def _size(name: str, part: nn.Module, work: int) -> Size:
    state = part.state_dict()
    parameters = sum(parameter.numel() for parameter in part.parameters())
    return Size(name, parameters, len(state), sum(tensor.nbytes for tensor in state.values()), work)
