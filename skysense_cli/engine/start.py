"""What training starts from: a bundle, or files of weights made elsewhere, into a model of perhaps other parts or bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from skysense_cli.core.model import SkySense
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.account import TAKEN, Account, Target, account_all, require, target_of, unfilled, value
from skysense_cli.engine.checkpoint_file import open_weights
from skysense_cli.engine.ledger import show
from skysense_cli.engine.released import Address, Recognised, ours, recognise, sources_of
from skysense_cli.engine.spec import BundleSpec, SourceFact
from skysense_cli.errors import RecipeError
from skysense_cli.files import sha256
from skysense_cli.recipe.schema.model import ModelSection

GROWS = "geo_context"  # the only part whose tensors have as many rows as there is content


@dataclass(frozen=True, eq=False)
class Start:
    """Opened files of weights, each recognised. shown: as the recipe names them"""

    sources: tuple[Recognised, ...]
    shown: str

    @property
    def spec(self) -> BundleSpec | None:
        """What a single bundle says of itself; None for files made elsewhere."""
        return self.sources[0].file.spec if len(self.sources) == 1 else None

    @property
    def inputs(self) -> dict[str, Input]:
        """Modality -> the bands its patch embedding was trained on."""
        return {name: given for source in self.sources for name, given in source.inputs.items()}

    def seen_as(self, section: ModelSection, stored: Mapping[str, Input]) -> dict[str, Input]:
        """Modality -> what the model will see: what it was trained on, where the model takes as many bands; else what is stored."""
        trained = self.spec.inputs if self.spec is not None else {}
        return {name: _either(trained.get(name), own, section, name) for name, own in stored.items()}


def open_start(start_from: Path | Sequence[Path]) -> Start:
    """The files that `start_from` of a recipe names: one bundle, or one or several files made elsewhere.

    Raises BundleError for a file that is damaged or unknown, RecipeError for a bundle beside other files.
    """
    paths = [start_from] if isinstance(start_from, Path) else list(start_from)
    sources = tuple(recognise(open_weights(path), modality) for path, modality in sources_of(paths))
    bundles = [source for source in sources if source.file.spec is not None]
    if bundles and len(sources) > 1:
        raise RecipeError(
            f"start_from: {bundles[0].file.path} is a bundle and must stand alone; make one bundle of all with `skysense weights convert`"
        )
    return Start(sources, ", ".join(str(path) for path in paths))


def load_start(start: Start, model: SkySense, spec: BundleSpec) -> BundleSpec:
    """Fill `model`, print the account, and return its `spec` with what it started from.

    Raises BundleError before anything is loaded when a key has no explanation, or a bundle lacks a part of its own model.
    """
    target = target_of(spec.model, spec.inputs, model)
    accounts = account_all(start.sources, target)
    require(accounts)
    show(f"weights from {start.shown}", accounts, unfilled(accounts, target))
    _fill(model, accounts, target)
    facts = tuple(fact_of(source) for source in start.sources)
    if start.spec is not None:
        return spec.model_copy(update={"parent": facts[0].sha256})
    return spec.model_copy(update={"sources": facts})


def fact_of(source: Recognised) -> SourceFact:
    """Name and hash of a file; of a bundle, the hash of its weights."""
    path = source.file.path
    return SourceFact(name=path.name, sha256=sha256(path / bundle.WEIGHTS if path.is_dir() else path))


def _fill(model: SkySense, accounts: Sequence[Account], target: Target) -> None:
    """Copy the files' tensors into the model, one at a time."""
    own = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    grown: dict[str, Tensor] = {}
    with torch.no_grad():
        for one in accounts:
            for fate in one.fates:
                if fate.word not in TAKEN:
                    continue
                place, leaf = cast(Address, ours(fate.target))
                if place == GROWS:
                    grown[leaf] = value(fate, one.source, target)
                else:
                    own[fate.target].copy_(value(fate, one.source, target))
    if grown:
        model.geo_context.load_state_dict(grown)


def _either(trained: Input | None, stored: Input, section: ModelSection, name: str) -> Input:
    channels = section.encoders[name].options.get("channels")
    return trained if trained is not None and channels in (None, len(trained.bands)) else stored
