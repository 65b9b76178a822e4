"""`weights inspect` and `weights convert`: accounts of released files, and one bundle made from several of them."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from skysense_cli.core.encoders import TABLES
from skysense_cli.core.model import Lift, SkySense
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.account import TAKEN, Account, Target, account_all, collision, require, target_of, unfilled, value
from skysense_cli.engine.assemble import build_head, build_model, keep_modalities
from skysense_cli.engine.checkpoint_file import open_weights
from skysense_cli.engine.released import DATES, Address, Recognised, known_input, ours, recognise, sources_of
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.engine.start import GROWS, fact_of
from skysense_cli.errors import BundleError
from skysense_cli.recipe.schema.model import ModelSection

DEFAULT = "skysense_v1"  # for files that the published models share
DATES_V1 = {"hr": 1, "s2": 20, "s1": 10}  # most dates a sample had in the published training; SkySense++ saw one of each
SIZE_V1, SIZE_PP = (640.0, 640.0), (320.0, 160.0)  # metres; of SkySense++ the canvas of two squares
SEED = 0  # of what no file gives

Models = Callable[[str], ModelSection]  # from the name of a shipped model to its section


@dataclass(frozen=True, eq=False)
class Group:
    """Files that are measured against one model. missing: tensors of the model that none of them gives -> what they start as"""

    model: str
    accounts: tuple[Account, ...]
    missing: dict[str, str]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found. problems: one line for each file that cannot be used as it is"""

    groups: tuple[Group, ...]
    problems: tuple[str, ...] = field(default=())


def inspect(paths: Iterable[str | Path], models: Models, model: str | None = None) -> Inspection:
    """The accounts of all files; none of them is read beyond its description. A file that is damaged does not stop the others.

    model: what they are measured against; by default the published model that each belongs to, and for a bundle its own.
    """
    problems, grouped = [], defaultdict(list)
    for path, modality in sources_of(paths):
        try:
            source = recognise(open_weights(path, values=False), modality)
        except BundleError as error:
            problems.append(str(error))
            continue
        grouped[_model_of(source) if model is None else model].append(source)
    _join_shared(grouped)
    groups = []
    for name, sources in grouped.items():
        own = sources[0].file.spec if model is None else None
        target = meta_target(_spec(models(name), []) if own is None else own)
        accounts = account_all(sources, target)
        problems += [problem for problem in (*(one.problem for one in accounts), collision(accounts)) if problem is not None]
        groups.append(Group(name, tuple(accounts), unfilled(accounts, target)))
    return Inspection(tuple(groups), tuple(problems))


def convert(paths: Sequence[str | Path], out: Path, models: Models, model: str | None = None, *, only: bool = False) -> Group:
    """Write the bundle `out` from one or several files; what the files do not give starts fresh.

    only: leave out the modalities without an encoder among the files, and the optional parts (prototypes, completion,
    head) that none of them gives.
    Raises BundleError before anything is written when a key has no explanation.
    """
    sources = [recognise(open_weights(path), modality) for path, modality in sources_of(paths)]
    for source in sources:
        _check_sums(source.file.path)
    name = model or _model_of_all(sources)
    own = next((source.file.spec for source in sources if source.file.spec is not None), None) if model is None else None
    section = models(name) if own is None else own.model
    spec = _spec(section if not only else _only(section, sources), sources)
    if own is not None:  # what a bundle says beside its model stays
        dates = {name: own.dates[name] for name in spec.inputs}
        spec = spec.model_copy(update={"dates": dates, "size_m": own.size_m, "head": own.head, "classes": own.classes})
    target = meta_target(spec)
    accounts = account_all(sources, target)
    require(accounts)
    spec = spec.model_copy(update={"model": _with_dates(spec.model, accounts), "sources": tuple(fact_of(source) for source in sources)})
    missing = unfilled(accounts, target)
    _save(out, spec, target, accounts, _fresh(spec, missing))
    return Group(name, tuple(accounts), missing)


def meta_target(spec: BundleSpec) -> Target:
    """The model that `spec` describes, its head too, without memory for its tensors."""
    with torch.device("meta"):
        model = build_model(spec.model, spec.inputs)
        head = build_head(spec, model)
    return target_of(spec.model, spec.inputs, model, head)


def _model_of(source: Recognised) -> str:
    if source.file.spec is not None:
        return str(source.file.path)
    return source.family or ""


def _join_shared(grouped: dict[str, list[Recognised]]) -> None:
    """Files that the published models share go with the one model that the others belong to."""
    shared = grouped.pop("", [])
    families = [name for name in grouped if name in ("skysense_v1", "skysense_pp")]
    if shared:
        grouped.setdefault(families[0] if len(families) == 1 else DEFAULT, []).extend(shared)


def _model_of_all(sources: Sequence[Recognised]) -> str:
    """The one model that the files of a bundle belong to."""
    named = {_model_of(source): source for source in sources if _model_of(source)}
    if len(named) > 1:
        held = ", ".join(f"{source.file.path} to {name}" for name, source in named.items())
        raise BundleError(f"the files belong to different models ({held}); choose one with --model")
    return next(iter(named), DEFAULT)


def _spec(section: ModelSection, sources: Sequence[Recognised]) -> BundleSpec:
    """What the bundle will say. Bands are those that a known sensor has; of a bundle its own, where their number fits."""
    trained = {name: given for source in sources if source.file.spec is not None for name, given in source.inputs.items()}
    inputs: dict[str, Input] = {}
    for name, part in section.encoders.items():
        channels = part.options.get("channels")
        own = trained.get(name)
        inputs[name] = own if own and len(own.bands) == channels else known_input(name, cast(int, channels), "the model")
    plain = section.prompting is None
    dates = {name: DATES_V1.get(name, 1) if plain else 1 for name in section.encoders}
    return BundleSpec(stage="released", model=section, inputs=inputs, dates=dates, size_m=SIZE_V1 if plain else SIZE_PP)


def _only(section: ModelSection, sources: Sequence[Recognised]) -> ModelSection:
    """The part of the model that the files give: its modalities, and the optional parts among them."""
    held = {place for source in sources for place in source.places}
    modalities = [name for name in section.encoders if f"encoders.{name}" in held]
    if not modalities:
        raise BundleError(f"--only: none of the files holds an encoder ({', '.join(sorted(held))}); a model needs one")
    modalities.sort(key=lambda name: name != section.anchor)  # the anchor first, if it is there
    kept = keep_modalities(section, modalities, "the model has")
    optional = {"prototypes": "geo_context", "completion": "completion", "head": "head"}
    gone = {key: None for key, place in optional.items() if place not in held}
    return kept.model_copy(update=gone)


def _with_dates(section: ModelSection, accounts: Sequence[Account]) -> ModelSection:
    """With the published date table, the dates of Sentinel-2 alone are told, as they were when it was trained."""
    published = any(fate.word == "renamed" and ours(fate.target) == DATES for one in accounts for fate in one.fates)
    if published and section.date_modalities is None and "s2" in section.encoders:
        return section.model_copy(update={"date_modalities": ("s2",)})
    return section


def _check_sums(path: Path) -> None:
    """Raise BundleError when the content of a zip archive differs from its own checksums; torch does not look at them."""
    if path.is_dir() or not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        try:
            damaged = archive.testzip()
        except zipfile.BadZipFile as error:
            raise BundleError(f"{path}: damaged ({error}); fetch it again") from error
    if damaged is not None:
        raise BundleError(f"{path}: damaged: {damaged} inside it differs from its checksum; fetch it again")


def _fresh(spec: BundleSpec, missing: Iterable[str]) -> dict[str, Tensor]:
    """Fresh values of the `missing` tensors; one part of the model is in memory at a time."""
    wanted = defaultdict(list)
    for name in missing:
        wanted[cast(Address, ours(name))[0]].append(name)
    with torch.device("meta"):
        outline = build_model(spec.model, spec.inputs)
    fresh: dict[str, Tensor] = {}
    torch.manual_seed(SEED)
    for place, names in wanted.items():
        prefix = f"{place}." if place == "head" else f"model.{place}."
        state = _part(place, spec, outline).state_dict()
        fresh |= {name: state[name.removeprefix(prefix)] for name in names}
    return fresh


def _part(place: str, spec: BundleSpec, outline: SkySense) -> nn.Module:
    """One part of the model with fresh weights. outline: the model on the meta device"""
    section = spec.model
    kind, _, name = place.partition(".")
    if kind == "encoders":
        encoder = section.encoders[name].build()
        return cast(nn.Module, encoder if section.prompting is None else section.prompting.build(encoder, name))
    if kind == "lifts":
        lift = outline.parts(name)[1]
        return Lift(cast(nn.Conv2d, lift.decoder[0]).in_channels, lift.width, lift.scale)
    if kind == "fusion":
        return cast(nn.Module, section.fusion.build(section.width))
    if kind == "completion" and section.completion is not None:
        return cast(nn.Module, section.completion.build(section.width, tuple(section.encoders)))
    if kind == "geo_context" and section.prototypes is not None:
        return cast(nn.Module, section.prototypes.build(outline.fusion.dim))
    return cast(nn.Module, build_head(spec, outline))


def _save(out: Path, spec: BundleSpec, target: Target, accounts: Sequence[Account], fresh: dict[str, Tensor]) -> None:
    """Write the bundle, every tensor read from its file when its turn comes."""
    fates = {fate.target: (fate, one.source) for one in accounts for fate in one.fates if fate.word in TAKEN}
    tensors = {name: tensor for name, tensor in target.tensors.items() if not name.endswith(TABLES)}
    for name, (fate, source) in fates.items():
        if name.startswith(f"model.{GROWS}."):  # as many rows as there are regions
            tensors[name] = source.file.tensors[fate.key]

    def content(name: str) -> Tensor:
        return fresh[name] if name in fresh else value(*fates[name], target)

    bundle.save(out, spec.to_plain(), tensors, value=content)
