"""Weights from files into a model, with a word on every key of the files and every tensor of the model.

First the account: names, shapes and types alone, so nothing of the files' content is read. Then, tensor by tensor, the
values. A file with a key that has no explanation, a tensor of another shape, or one that is missing, is refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn

from skysense_cli.core.encoders import TABLES
from skysense_cli.core.model import SkySense
from skysense_cli.data.dataset import Input
from skysense_cli.engine.bands import plan_bands
from skysense_cli.engine.positions import Table, square
from skysense_cli.engine.released import DATES, PROJECTION, VOCABULARY, WRAPPER, Address, Named, Recognised, ours
from skysense_cli.errors import BundleError
from skysense_cli.recipe.schema.model import ModelSection

Word = Literal["loaded", "renamed", "reshaped", "adapted", "recomputed", "not used", "missing", "wrong"]
WORDS: tuple[Word, ...] = get_args(Word)
POSITIONS = ("pos_embed", "absolute_pos_embed")
TAKEN = ("loaded", "renamed", "reshaped", "adapted")  # their values come from the file


@dataclass(frozen=True)
class Fate:
    """What becomes of one tensor. key: in the file, "" for what is missing      target: in our model, "" for what is not used"""

    key: str
    word: Word
    target: str
    note: str = ""


@dataclass(frozen=True, eq=False)
class Account:
    """The fates of all keys of one file, and of the model's tensors in the parts that the file holds."""

    source: Recognised
    fates: tuple[Fate, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Tensors per word, zeros included."""
        found = Counter(fate.word for fate in self.fates)
        return {word: found[word] for word in WORDS}

    @property
    def problem(self) -> str | None:
        """One line on the first key without an explanation; None when every key has one."""
        wrong = [fate for fate in self.fates if fate.word == "wrong"]
        if not wrong:
            return None
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        first = wrong[0]
        return f"{self.source.file.path}: {first.key or first.target} {first.note}{more}"


@dataclass(frozen=True, eq=False)
class Target:
    """The model that is filled. tensors: by name, with `model.` or `head.` before it; the meta device will do

    inputs: modality -> the bands it sees      tables: place -> the position table its encoder wants
    """

    section: ModelSection
    inputs: Mapping[str, Input]
    tensors: Mapping[str, Tensor]
    tables: Mapping[str, Table]
    index: Mapping[Address, str] = field(default_factory=dict)

    def prompted(self, place: str) -> bool:
        """Whether the encoder there has a label vocabulary."""
        return (place, VOCABULARY) in self.index


def target_of(section: ModelSection, inputs: Mapping[str, Input], model: SkySense, head: nn.Module | None = None) -> Target:
    """The tensors of a model, and of a head, as a target."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()} if head is not None else {}
    tables = {}
    for name, encoder in model.encoders.items():
        inner: Any = getattr(encoder, "encoder", encoder)
        for leaf in POSITIONS:
            if hasattr(inner, leaf):
                height, width = inner.grid
                tables[f"encoders.{name}"] = Table((height, width), getattr(inner, leaf).shape[1] > height * width, inner.interpolate)
    return Target(section, inputs, tensors, tables, {cast(Address, ours(name)): name for name in tensors})


def account(source: Recognised, target: Target) -> Account:
    """The fate of every key of `source`, and of every tensor of `target` in the places that `source` holds."""
    fates = [Fate(key, "wrong", "", "is unexplained: it belongs to no part of the model") for key in source.strange]
    fates += [_fate(named, source, target) for named in source.names]
    given = {fate.target for fate in fates}
    for address, name in target.index.items():
        if address[0] in source.places and name not in given:
            fates.append(_missing(address, name, source, target))
        elif _lacks(source, address[0]):
            fates.append(Fate("", "wrong", name, "is missing in the bundle, whose model has that part"))
    fates += [Fate(key, "not used", "", f"beside the weights ({what})") for key, what in source.file.beside.items()]
    if not any(fate.word in TAKEN for fate in fates) and not any(fate.word == "wrong" for fate in fates):
        fates.append(Fate("", "wrong", "", f"none of its {len(source.names)} keys is in the model, which has {_has(target)}"))
    return Account(source, tuple(fates))


def account_all(sources: Sequence[Recognised], target: Target) -> list[Account]:
    """The accounts of several files for one model; what one lacks and another gives is not missing."""
    accounts = [account(source, target) for source in sources]
    given = {fate.target for one in accounts for fate in one.fates if fate.word in TAKEN}
    return [replace(one, fates=tuple(fate for fate in one.fates if fate.word != "missing" or fate.target not in given)) for one in accounts]


def collision(accounts: Sequence[Account]) -> str | None:
    """One line on the first tensor that two files give; None when there is none."""
    givers: dict[str, Account] = {}
    for one in accounts:
        for fate in one.fates:
            other = givers.setdefault(fate.target, one) if fate.word in TAKEN else one
            if other is not one:
                return f"{one.source.file.path}: gives {fate.target}, and so does {other.source.file.path}; name only one of them"
    return None


def require(accounts: Sequence[Account]) -> None:
    """Raise BundleError when a key has no explanation, or two files give the same tensor."""
    for problem in (*(one.problem for one in accounts), collision(accounts)):
        if problem is not None:
            raise BundleError(problem)


def unfilled(accounts: Sequence[Account], target: Target) -> dict[str, str]:
    """The tensors of the model that no file gives -> what they start as."""
    given = {fate.target for one in accounts for fate in one.fates if fate.word in (*TAKEN, "recomputed")}
    return {name: start_of(address) for address, name in target.index.items() if name not in given and not _is_table(address[1])}


def value(fate: Fate, source: Recognised, target: Target) -> Tensor:
    """What the model gets for a fate that is loaded, renamed, reshaped or adapted; float32 where the model is."""
    tensor, wanted = source.file.tensors[fate.key].detach(), target.tensors[fate.target]
    place, _ = cast(Address, ours(fate.target))
    if fate.word == "reshaped":
        return target.tables[place].resize(tensor)
    if fate.word == "adapted":
        name = place.removeprefix("encoders.")
        plan = plan_bands(source.inputs[name], target.inputs[name], str(source.file.path))
        return tensor if plan is None else plan.apply(tensor)
    if tensor.ndim == wanted.ndim + 1:
        tensor = tensor.squeeze(0)  # the published date table, (1, 365, d)
    return tensor.to(wanted.dtype)


def start_of(address: Address) -> str:
    """What a tensor that no file gives starts as, in words."""
    place, leaf = address
    last = leaf.rpartition(".")[2]
    if place == "geo_context":
        return "empty; grows with the regions that are seen"
    if address == DATES:
        return "waves of the year"
    if leaf == "vocabulary_weight" or last == "bias" or "_bias" in last or last == "running_mean" or last == "num_batches_tracked":
        return "zero"
    if last in ("weight", "running_var") and any(word in leaf for word in ("norm", ".ln", "ln1", "ln2", ".bn.")):
        return "one"
    if "gamma" in last or last == "logit_scale":
        return "a constant"
    return "random"


def _fate(named: Named, source: Recognised, target: Target) -> Fate:
    key, name = named.key, target.index.get(named.address)
    if _is_table(named.leaf):
        return Fate(key, "recomputed", name or "", "follows from the window")
    if name is None:
        reason = _unused(named, target)
        if reason is None:
            return Fate(key, "wrong", "", f"is unexplained: the model has no {'.'.join(named.address)}")
        return Fate(key, "not used", "", reason)
    tensor, wanted = source.file.tensors[key], target.tensors[name]
    if tensor.is_floating_point() != wanted.is_floating_point() or tensor.is_complex():
        return Fate(key, "wrong", name, f"is {_type(tensor)}, {name} is {_type(wanted)}")
    cast_note = "" if tensor.dtype == wanted.dtype else f"{_type(tensor)} -> {_type(wanted)}"
    word: Word = "renamed" if named.renamed else "loaded"
    if named.leaf == PROJECTION and tensor.ndim == 4 and _adapted(named, source, target):
        return _adaptation(named, name, source, target)
    if tuple(tensor.shape) == tuple(wanted.shape) or _grows(named, tensor, wanted, target.section):
        return Fate(key, word, name, cast_note)
    if named.address == DATES and tuple(tensor.shape) == (1, *wanted.shape):
        return Fate(key, "renamed", name, f"{_size(tensor)} -> {_size(wanted)}")
    if named.leaf in POSITIONS and tensor.ndim == 3 and (1, wanted.shape[2]) == (tensor.shape[0], tensor.shape[2]):
        found = square(tensor.shape[1])
        if found is not None:
            return Fate(key, "reshaped", name, _resizing(found, target.tables[named.place]))
    return Fate(key, "wrong", name, f"has shape {_size(tensor)}, {name} is {_size(wanted)}")


def _adapted(named: Named, source: Recognised, target: Target) -> bool:
    name = named.place.removeprefix("encoders.")
    return name in source.inputs and name in target.inputs and source.inputs[name].bands != target.inputs[name].bands


def _adaptation(named: Named, name: str, source: Recognised, target: Target) -> Fate:
    """The fate of a patch embedding that was trained on other bands, or on the same in another order."""
    modality = named.place.removeprefix("encoders.")
    tensor, wanted = source.file.tensors[named.key], target.tensors[name]
    trained, seen = source.inputs[modality], target.inputs[modality]
    if tuple(tensor.shape) != (wanted.shape[0], len(trained.bands), *wanted.shape[2:]):
        return Fate(named.key, "wrong", name, f"has shape {_size(tensor)}, {name} is {_size(wanted)} for bands {' '.join(seen.bands)}")
    plan = plan_bands(trained, seen, f"{source.file.path}: {named.key}")
    return Fate(named.key, "adapted", name, plan.text if plan else "")


def _missing(address: Address, name: str, source: Recognised, target: Target) -> Fate:
    """The fate of a tensor of the model that the file should hold, or need not."""
    place, leaf = address
    if _is_table(leaf):
        return Fate("", "recomputed", name, "follows from the window")
    new_wrapper = place.startswith("encoders.") and WRAPPER.fullmatch(leaf) and not source.prompted(place)
    if new_wrapper or (address == DATES and (source.file.spec is None or not _dated(source.file.spec.model))):
        return Fate("", "missing", name, f"starts as: {start_of(address)}")
    return Fate("", "wrong", name, f"is missing in the file ({_size(target.tensors[name])})")


def _lacks(source: Recognised, place: str) -> bool:
    """Whether a bundle's own model has the part, but its tensors do not."""
    if source.file.spec is None or place in source.places:
        return False
    section = source.file.spec.model
    optional = {"completion": section.completion, "geo_context": section.prototypes, "head": section.head or source.file.spec.head}
    part, _, modality = place.partition(".")
    return part == "fusion" or (part == "encoders" and modality in section.encoders) or optional.get(part) is not None


def _unused(named: Named, target: Target) -> str | None:
    """Why a key that is understood has no place in the model; None when there is no reason."""
    place, leaf = named.address
    part, _, modality = place.partition(".")
    held = {known for known, _ in target.index}
    if modality and modality not in target.section.encoders:
        return f"the model does not see {modality}"
    if part == "encoders" and WRAPPER.fullmatch(leaf) and not target.prompted(place):
        return "the plain encoder has no labels"
    if named.address == DATES and not _dated(target.section):
        return "the model has no date table"
    if part == "completion" and leaf.startswith("vaes.") and leaf.split(".")[1] not in target.section.encoders and "completion" in held:
        return f"the model does not see {leaf.split('.')[1]}"
    if part in ("head", "completion", "geo_context") and part not in held:
        return {"head": "the model is loaded without a head", "completion": "the model completes no absent modality"}.get(
            part, "the model has no geo-context"
        )
    return None


def _dated(section: ModelSection) -> bool:
    return section.fusion.kind == "temporal" and bool(section.fusion.options.get("dates", True))


def _grows(named: Named, tensor: Tensor, wanted: Tensor, section: ModelSection) -> bool:
    """Prototypes have as many rows as regions were seen, of which there is a number."""
    if named.place != "geo_context" or section.prototypes is None or tensor.ndim != wanted.ndim:
        return False
    return tensor.shape[1:] == wanted.shape[1:] and len(tensor) <= section.prototypes.options["regions"]


def _resizing(found: tuple[int, bool], table: Table) -> str:
    side, first = found
    rows = f"{'1 + ' if first else ''}{side} x {side}"
    note = f"{rows} -> {'1 + ' if table.class_row else ''}{table.grid[0]} x {table.grid[1]} positions, {table.mode}"
    return note + ("; row 0, of the class token, is zero" if table.class_row and not first else "")


def _is_table(leaf: str) -> bool:
    return leaf.endswith(TABLES)


def _has(target: Target) -> str:
    return ", ".join(dict.fromkeys(place for place, _ in target.index))


def _size(tensor: Tensor) -> str:
    return " x ".join(str(side) for side in tensor.shape) or "a single number"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
