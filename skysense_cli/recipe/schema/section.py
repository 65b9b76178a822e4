"""What all recipes are made of: the checked section, names, shares, periods, and how a mistake says where it stands."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, model_validator
from pydantic_core import PydanticCustomError

from skysense_cli.recipe.mistakes import nearest
from skysense_cli.recipe.parts import kinds


@dataclass(frozen=True)
class Input:
    """Marks a path that the command reads: it must exist when the command starts."""


Share = Annotated[float, Field(ge=0, le=1)]
Weights = Path | Annotated[tuple[Path, ...], Field(min_length=1)]  # a bundle, or files made elsewhere; s2=FILE says whose one is
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


def _known_sensor(name: str) -> str:
    known = kinds("sensors")
    if name not in known:
        hint = nearest(name, known)
        raise misplaced((), f"unknown sensor {name!r}{f'; did you mean {hint!r}?' if hint else ''} (known: {', '.join(known)})")
    return name


SensorName = Annotated[str, AfterValidator(_known_sensor)]


class Section(BaseModel):
    """Immutable; unknown keys and wrong types are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


def misplaced(at: tuple[str, ...], message: str) -> PydanticCustomError:
    """A mistake in the value at the keys `at` below the section that is checked."""
    return PydanticCustomError("at", "{message}", {"message": message, "at": at})


def require_reference(section: "CoregisterSection | None", modalities: Iterable[str]) -> None:
    if section is not None and section.reference not in modalities:
        raise misplaced(("coregister", "reference"), f"{section.reference!r} is none of the modalities ({', '.join(modalities)})")


def require_known(at: tuple[str, ...], names: Iterable[str], known: Iterable[str], what: str) -> None:
    known = list(known)
    for name in names:
        if name not in known:
            raise misplaced((*at, name), f"{name!r} is none of the {what} ({', '.join(known)})")


class Period(Section):
    """From `start` to `end`, both inclusive."""

    start: datetime.date
    end: datetime.date

    @model_validator(mode="after")
    def _ordered(self) -> "Period":
        if self.end < self.start:
            raise misplaced(("end",), f"{self.end} lies before start {self.start}")
        return self


class CoregisterSection(Section):
    """Shifts are measured against modality `reference`; longer ones than `max_shift_m` are refused, shorter ones than
    `min_shift_m` ignored. `min_score`: how far a match must stand above the best one elsewhere (0 not at all, 1 alone).
    `min_correlation`: of its edges with those of the reference; radar needs only to be better than chance."""

    reference: Name
    max_shift_m: PositiveFloat = 20
    min_shift_m: Annotated[float, Field(ge=0)] = 2
    min_score: Share = 0.2
    min_correlation: Share = 0.2
