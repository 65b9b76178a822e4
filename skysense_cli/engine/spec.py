"""What `bundle.json` says: enough to rebuild the model without a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from skysense_cli import __version__
from skysense_cli.data.dataset import Input, Regions
from skysense_cli.errors import BundleError
from skysense_cli.recipe.schema.model import ModelSection, PartOf
from skysense_cli.recipe.schema.section import Name, Section

SCHEMA = 1


class ClassFact(Section):
    """A class: its id is its place in the list."""

    name: str
    color: tuple[int, int, int]


class SourceFact(Section):
    """A file that weights came from: its name, without folders, and the sha256 of its bytes (of a bundle: of its weights)."""

    name: str
    sha256: str


class BundleSpec(Section):
    """The content of `bundle.json`.

    stage: the command that made it; `released`: converted from files made elsewhere, listed in `sources`
    step: updates it has seen
    inputs: modality -> what the model sees        size_m: (height, width) of the views it was trained on
    dates: modality -> most dates in training      parent: sha256 of the weights it started from
    """

    model_config = ConfigDict(populate_by_name=True)

    format: Literal[1] = Field(1, alias="schema")
    skysense: str = __version__
    stage: Literal["pretrain", "finetune", "released"]
    step: int = 0
    model: ModelSection
    inputs: dict[Name, Input]
    dates: dict[Name, int]
    size_m: tuple[float, float]
    classes: tuple[ClassFact, ...] = ()
    head: PartOf("core/heads") | None = None  # type: ignore[valid-type]
    parent: str | None = None
    sources: tuple[SourceFact, ...] = ()

    @property
    def regions(self) -> Regions | None:
        """How the globe is divided for the geo-context; None without one."""
        prototypes = self.model.prototypes
        return None if prototypes is None else (prototypes.options["regions"], prototypes.options["scheme"])

    def to_plain(self) -> dict[str, Any]:
        """As it is written; `read_spec` is the way back."""
        return self.model_dump(mode="json", by_alias=True)


def read_spec(content: dict[str, Any], folder: Path) -> BundleSpec:
    """The checked content of `folder`'s bundle.json. Raises BundleError that names the first key that is wrong."""
    if content.get("schema") != SCHEMA:
        raise BundleError(f"{folder}: bundle schema {content.get('schema')!r} is not known (known: {SCHEMA})")
    try:
        spec = BundleSpec.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"{folder}: bundle.json: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    if set(spec.inputs) != set(spec.model.encoders):
        raise BundleError(f"{folder}: bundle.json: inputs are {', '.join(spec.inputs)}, encoders {', '.join(spec.model.encoders)}")
    return spec
