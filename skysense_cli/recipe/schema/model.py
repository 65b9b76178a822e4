"""The section that describes a model, part by part."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from skysense_cli.recipe.parts import FixedPart, PartOf
from skysense_cli.recipe.schema.section import Name, Section, misplaced, require_known


class ModelSection(Section):
    """The parts of a SkySense model; `cell_m` is the edge of a shared feature cell in metres.

    completion: imagines what a sample lacks      prompting: labels beside the images (both SkySense++)
    date_modalities: whose dates the fusion is told; all when null, as in the paper; [s2] in the released weights
    head: over the label vocabulary of `prompting`, part of the model as SkySense++ is published
    """

    cell_m: PositiveFloat
    width: PositiveInt
    anchor: Name
    encoders: Annotated[dict[Name, PartOf("core/encoders")], Field(min_length=1)]  # type: ignore[valid-type]
    fusion: PartOf("core/fusions")  # type: ignore[valid-type]
    prototypes: FixedPart("core/prototypes") | None = None  # type: ignore[valid-type]
    completion: FixedPart("core/completion") | None = None  # type: ignore[valid-type]
    prompting: FixedPart("core/prompting") | None = None  # type: ignore[valid-type]
    date_modalities: tuple[Name, ...] | None = None
    head: PartOf("core/heads") | None = None  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _names_known(self) -> "ModelSection":
        if self.anchor not in self.encoders:
            raise misplaced(("anchor",), f"{self.anchor!r} is none of the encoders ({', '.join(self.encoders)})")
        for name in self.date_modalities or ():
            if name not in self.encoders:
                raise misplaced(("date_modalities",), f"{name!r} is none of the encoders ({', '.join(self.encoders)})")
        if self.prompting is not None:
            require_known(("prompting", "merge_after"), self.prompting.options["merge_after"], self.encoders, "encoders")
        if self.head is not None and self.prompting is None:
            raise misplaced(("head",), "needs prompting, whose vocabulary it speaks; a task's head stands in the recipe of finetune")
        return self
