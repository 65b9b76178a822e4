"""From a recipe or a bundle to a model, a head and an objective, with every check that needs more than one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from skysense_cli import console
from skysense_cli.core.batch import Batch
from skysense_cli.core.completion import SHRINK
from skysense_cli.core.encoders import TABLES, Encoder
from skysense_cli.core.heads import Head
from skysense_cli.core.model import Lift, NoGeoContext, SkySense
from skysense_cli.core.objectives import Objective
from skysense_cli.core.objectives.supervised import Supervised
from skysense_cli.core.prompting import PromptedEncoder
from skysense_cli.data import npz
from skysense_cli.data.dataset import Input, batch_of
from skysense_cli.data.sample import Sample
from skysense_cli.engine import bundle
from skysense_cli.engine.gather import Gathered, gather, gather_labelled
from skysense_cli.engine.parameters import freeze, parameter_places
from skysense_cli.engine.spec import BundleSpec, read_spec
from skysense_cli.engine.start import Start, load_start, open_start
from skysense_cli.errors import BundleError, GridError, RecipeError
from skysense_cli.recipe.schema.model import ModelSection
from skysense_cli.recipe.schema.train import FinetuneRecipe, PretrainRecipe

SHARP = 10**6  # metres are compared in millionths


@dataclass(frozen=True, eq=False)
class Assembly:
    """What a training command needs. spec: of the bundle it will end with      data: the samples it learns from"""

    objective: Objective
    spec: BundleSpec
    data: Gathered
    val: Gathered | None = None


@dataclass(frozen=True, eq=False)
class LoadedBundle:
    """A trained model, in eval mode, and what it was trained on.

    loaded = load_bundle("runs/pretrain/bundle")
    features = loaded.model(loaded.batch(["data/samples/a.npz"]))
    features.fused          # (B, d'', h, w)
    """

    path: Path
    spec: BundleSpec
    model: SkySense
    head: Head | None
    manifest: dict[str, dict[str, Any]]
    device: str = "cpu"

    @property
    def inputs(self) -> dict[str, Input]:
        """Modality -> what the model sees in it."""
        return dict(self.spec.inputs)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by class id; empty without a head."""
        return tuple(fact.name for fact in self.spec.classes)

    @property
    def colors(self) -> tuple[tuple[int, int, int], ...]:
        """Red, green and blue by class id."""
        return tuple(fact.color for fact in self.spec.classes)

    @property
    def without_task(self) -> str | None:
        """Why no task can be asked of it, as the rest of a sentence; None when it has the head of a task."""
        if self.spec.head is not None:
            return None
        return f"has no head (stage {self.spec.stage})" if self.head is None else "has a head that answers prompts and knows no classes"

    @property
    def finds_objects(self) -> bool:
        """Whether its head finds boxes; else what it says of a scene is a map, or nothing without a head."""
        return self.head is not None and self.head.output == "vector"

    @property
    def unit_m(self) -> float:
        """Sides of what the model sees are multiples of it."""
        return unit_m(self.inputs, strides(self.model))

    def batch(self, samples: Sequence[Sample | Path | str]) -> Batch:
        """Samples, or paths of `.npz` files, with all their dates, as the model sees them, on its device."""
        read = [sample if isinstance(sample, Sample) else npz.read(Path(sample)) for sample in samples]
        return batch_of(read, self.inputs, self.spec.regions).to(self.device)


def load_bundle(path: str | Path, device: str = "cpu") -> LoadedBundle:
    """The model of a bundle, its files verified. Raises BundleError that names what is damaged or does not fit."""
    stored = bundle.read(Path(path))
    spec = read_spec(stored.spec, stored.path)
    model = build_model(spec.model, spec.inputs)
    load_weights(model, stored.tensors, "model", stored.path)
    head = build_head(spec, model)
    if head is not None:
        load_weights(head, stored.tensors, "head", stored.path)
    for part in (model, head):
        if part is not None:
            part.to(device).eval().requires_grad_(False)
    return LoadedBundle(stored.path, spec, model, head, stored.manifest, device)


def assemble_pretraining(recipe: PretrainRecipe) -> Assembly:
    """Model, objective and samples of a pretraining recipe, checked against each other."""
    data = gather(recipe.data, tuple(recipe.model.encoders), "pretrain: model.encoders")
    if recipe.model.prompting is not None:
        console.warn(f"pretrain: {recipe.objective.kind} shows the model no labels; model.prompting and model.head are left out")
    spec = BundleSpec(
        stage="pretrain", model=without_prompts(recipe.model), inputs=data.inputs, dates=recipe.data.dates, size_m=data.size_m
    )
    model = _seeded_model(spec, recipe.train.seed)
    check_cells(data.size_m, data.inputs, strides(model), recipe.model.cell_m)
    if recipe.start_from is not None:
        spec = load_start(open_start(recipe.start_from), model, spec)
    objective = recipe.objective.build(model)
    freeze(objective, parameter_places(objective, rule=recipe.train.groups), recipe.train.freeze)
    return Assembly(objective, spec, data)


def assemble_finetuning(recipe: FinetuneRecipe) -> Assembly:
    """Encoder (from a bundle or fresh), new head, objective and labelled samples, checked against each other."""
    start = None if recipe.start_from is None else open_start(recipe.start_from)
    section = _section(recipe, start)
    section = without_prompts(section)
    data = gather_labelled(recipe.data, recipe.modalities, recipe.classes, recipe.data.split)
    if start is not None:
        data = data.as_trained(start.seen_as(section, data.inputs), start.shown)
    facts = {"stage": "finetune", "inputs": data.inputs, "dates": recipe.data.dates, "size_m": data.size_m}
    spec = BundleSpec(model=section, classes=data.classes, head=recipe.head, **facts)  # type: ignore[arg-type]
    model = _seeded_model(spec, recipe.train.seed)
    check_cells(data.size_m, data.inputs, strides(model), section.cell_m)
    if start is not None:
        spec = load_start(start, model, spec)
    head = recipe.head.build(model.spec, len(data.classes))
    objective = Supervised(model, head)
    freeze(objective, parameter_places(objective, rule=recipe.train.groups), recipe.train.freeze)
    return Assembly(objective, spec, data, _validation(recipe, data))


def build_model(section: ModelSection, inputs: Mapping[str, Input]) -> SkySense:
    """A model with fresh weights whose modalities meet on cells of `cell_m`.

    Raises RecipeError when an encoder's channels are not the bands of its input, or a lift is not a whole number.
    """
    encoders: dict[str, Encoder | PromptedEncoder] = {}
    for name, part in section.encoders.items():
        channels, bands = part.options.get("channels"), inputs[name].bands
        if channels is not None and channels != len(bands):
            raise RecipeError(f"model.encoders.{name}.channels is {channels}, but {name} has {len(bands)} bands ({', '.join(bands)})")
        encoder = part.build()
        encoders[name] = encoder if section.prompting is None else section.prompting.build(encoder, name)
    lifts = {}
    for name, tower in encoders.items():
        scale = lift_scale(name, tower.stride, inputs[name].gsd_m, section.cell_m)
        lifts[name] = Lift(tower.tap_channels[-1], section.width, scale)
    completion = None if section.completion is None else section.completion.build(section.width, tuple(encoders))
    fusion = section.fusion.build(section.width)
    geo_context = NoGeoContext() if section.prototypes is None else section.prototypes.build(fusion.dim)
    return SkySense(encoders, lifts, fusion, geo_context, anchor=section.anchor, completion=completion, dated=section.date_modalities)


def build_head(spec: BundleSpec, model: SkySense) -> Head | None:
    """The head of a task, or the one that belongs to the model, over its vocabulary; None without either. Fresh weights."""
    if spec.head is not None:
        return cast(Head, spec.head.build(model.spec, len(spec.classes)))
    section = spec.model
    if section.head is None or section.prompting is None:
        return None
    return cast(Head, section.head.build(model.spec, section.prompting.options["vocabulary"] + 1))


def lift_scale(name: str, stride: int, gsd_m: float, cell_m: float) -> int:
    """How many cells lie along one position of the encoder's last map: stride x gsd / cell_m, a whole number."""
    scale = Fraction(stride) * _metres(gsd_m) / _metres(cell_m)
    if scale.denominator != 1 or scale < 1:
        fits = max(round(scale), 1)
        raise RecipeError(
            f"model.encoders.{name}: stride {stride} x {gsd_m:g} m is {float(scale):g} cells of {cell_m:g} m, not a whole number "
            f"(fits: a gsd of {fits * cell_m / stride:g} m, or cell_m {stride * gsd_m / fits:g})"
        )
    return int(scale)


def check_cells(size_m: tuple[float, float], inputs: Mapping[str, Input], stride: Mapping[str, int], cell_m: float) -> tuple[int, int]:
    """(h, w) cells of views of `size_m`. The law: for every modality stride x gsd / lift = cell_m.

    Raises GridError that names the modality and the nearest sizes that fit.
    """
    unit = Fraction(unit_m(inputs, stride)).limit_denominator(SHARP)
    for side in size_m:
        if _metres(side) % unit:
            below = float(_metres(side) // unit * unit)
            detail = ", ".join(f"{name} {stride[name]} px x {inputs[name].gsd_m:g} m" for name in inputs)
            fits = f"{below:g} or {below + float(unit):g} m" if below else f"{float(unit):g} m"
            raise GridError(
                f"views of {size_m[0]:g} x {size_m[1]:g} m do not hold whole encoder steps ({detail}); sides must be multiples "
                f"of {float(unit):g} m (nearest: {fits}; set data.crop_m, or a smaller patch)"
            )
    return tuple(int(_metres(side) / _metres(cell_m)) for side in size_m)  # type: ignore[return-value]


def unit_m(inputs: Mapping[str, Input], stride: Mapping[str, int]) -> float:
    """The smallest length that every modality's encoder steps divide: lcm(stride x gsd)."""
    steps = [stride[name] * _metres(inputs[name].gsd_m) for name in inputs]
    denominator = math.lcm(*(step.denominator for step in steps))
    return math.lcm(*(int(step * denominator) for step in steps)) / denominator


def strides(model: SkySense) -> dict[str, int]:
    """Modality -> pixels that an image's sides must be multiples of: one step of its encoder.

    With a completion so many steps that the cells along them are whole squares of its code book.
    """
    square = 1 if model.completion is None else SHRINK
    steps = {}
    for name in model.encoders:
        encoder, lift = model.parts(name)
        steps[name] = encoder.stride * square // math.gcd(square, lift.scale)
    return steps


def keep_modalities(section: ModelSection, modalities: Sequence[str], has: str) -> ModelSection:
    """The part of a model that sees `modalities`, the first of them its anchor.

    has: how the message begins what is there, e.g. "runs/pretrain/bundle was trained on".
    """
    for name in modalities:
        if name not in section.encoders:
            raise RecipeError(f"recipe finetune: modalities asks for {name!r}, but {has} {', '.join(section.encoders)}")
    encoders = {name: part for name, part in section.encoders.items() if name in modalities}
    update: dict[str, Any] = {"encoders": encoders, "anchor": modalities[0]}
    if section.date_modalities is not None:
        update["date_modalities"] = tuple(name for name in section.date_modalities if name in encoders)
    if section.prompting is not None:
        options = dict(section.prompting.options)
        for key in ("merge_after", "bridges"):
            options[key] = {name: value for name, value in options[key].items() if name in encoders}
        update["prompting"] = replace(section.prompting, options=options)
    if len(encoders) == 1:
        update["completion"] = None  # nothing left to imagine from
    return section.model_copy(update=update)


def without_prompts(section: ModelSection) -> ModelSection:
    """The model without what reads or speaks labels, as it is fine-tuned and as its first stage is pretrained."""
    return section.model_copy(update={"prompting": None, "head": None})


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], name: str, path: Path) -> None:
    """Load the tensors called `<name>.<key>` into `module`. Raises BundleError naming the first that does not fit.

    Tables that encoders build for themselves may be missing, and are not read.
    """
    own = {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    wanted = module.state_dict()
    missing = sorted(key for key in set(wanted) - set(own) if not key.endswith(TABLES))
    unknown = sorted(set(own) - set(wanted))
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]}, which this {name} has not"
        raise BundleError(f"{path}: {bundle.WEIGHTS} {what} ({len(missing)} missing, {len(unknown)} unknown)")
    try:
        module.load_state_dict(own)
    except RuntimeError as error:  # torch names every tensor of another shape
        raise BundleError(f"{path}: weights do not fit: {' '.join(str(error).split())}") from error


def _seeded_model(spec: BundleSpec, seed: int) -> SkySense:
    torch.manual_seed(seed)
    return build_model(spec.model, spec.inputs)


def _section(recipe: FinetuneRecipe, start: Start | None) -> ModelSection:
    """The model that is fine-tuned: the recipe's, else the one that the bundle was trained as; of either, `modalities`."""
    if recipe.model is not None:
        return keep_modalities(recipe.model, recipe.modalities, "model has")
    if start is None or start.spec is None:
        raise RecipeError(
            f"finetune: start_from names files that do not say which model they belong to ({start.shown if start else ''}); "
            "add e.g. `model: ../models/skysense_v1.yaml`, or make a bundle of them with `skysense weights convert`"
        )
    return keep_modalities(start.spec.model, recipe.modalities, f"{start.shown} was trained on")


def _validation(recipe: FinetuneRecipe, data: Gathered) -> Gathered | None:
    """The samples that are evaluated while training, seen as the training samples are."""
    if recipe.data.val is None:
        if recipe.evaluate is not None:
            raise RecipeError("finetune: evaluate needs data.val, the split to evaluate")
        return None
    names = tuple(fact.name for fact in data.classes)
    found = gather_labelled(recipe.data, recipe.modalities, names, recipe.data.val)
    return found.as_trained(data.inputs, "the training split")


def _metres(value: float) -> Fraction:
    return Fraction(value).limit_denominator(SHARP)
