"""The recipe of build-data."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from skysense_cli.recipe.parts import Part, PartOf
from skysense_cli.recipe.schema.section import (
    CoregisterSection,
    Input,
    Name,
    Period,
    Section,
    SensorName,
    Share,
    misplaced,
    require_reference,
)


class TileList(Section):
    """A published list of Web-Mercator tiles with months (JSON lines or LMDB): a footprint of `grid.size_m` around each
    centre, with its own period. `gcj02`: the tiles are those of a Chinese map."""

    tiles: Annotated[Path, Input()]
    gcj02: bool = False


class GridSection(Section):
    """Footprints. `anchor`: their origin is 0, the area's corner, or [x, y] in CRS units."""

    size_m: PositiveFloat = 640
    stride_m: PositiveFloat | None = None
    crs: str = "utm"
    anchor: Literal[0, "area"] | tuple[float, float] = 0


class DatesSection(Section):
    """Which dates of a footprint are kept. `one_per_day`: of several on a day (UTC) the clearest only; models tell dates
    apart by their day. `min_valid_block`: least valid share of all footprints of a block together; a date below is used by none."""

    at_least: Annotated[int, Field(ge=0)] = 1
    at_most: PositiveInt = 40
    min_valid: Share = 0.8
    min_valid_block: Share = 0.0
    spread: bool = True
    one_per_day: bool = True


class ModalityBuild(Section):
    sensor: SensorName
    gsd: PositiveFloat
    source: PartOf("data/sources")  # type: ignore[valid-type]
    cloud_mask: PartOf("data/clouds") = Field(Part("data/clouds", "none"), validate_default=False)  # type: ignore[valid-type]
    bands: tuple[str, ...] | None = None
    dates: DatesSection = DatesSection()


class FieldsHeldOut(Section):
    """Whole connected fields of these codes are held out, about `share` of the fields of each code."""

    codes: tuple[int, ...]
    share: Share = 0.5
    seed: int = 0


class HoldOut(Section):
    """Exactly one of the two."""

    checkerboard_px: PositiveInt | None = None
    fields: FieldsHeldOut | None = None

    @model_validator(mode="after")
    def _one(self) -> "HoldOut":
        if (self.checkerboard_px is None) == (self.fields is None):
            raise ValueError("give either checkerboard_px or fields")
        return self


class LabelSection(Section):
    """A class raster. `classes`: csv with code,name[,color]; ids follow its order. `ignore`: codes that mean unlabelled."""

    raster: Annotated[Path, Input()]
    classes: Annotated[Path, Input()]
    ignore: int | tuple[int, ...] = ()
    hold_out: HoldOut | None = None
    period: Period | None = None


class SplitPeriods(Section):
    """When each split is seen; the periods share no day. A split without a period gets no sample."""

    train: Period
    val: Period | None = None
    test: Period | None = None

    @model_validator(mode="after")
    def _apart(self) -> "SplitPeriods":
        given = sorted((part.start, part.end, name) for name in ("train", "val", "test") if (part := getattr(self, name)))
        for before, after in pairwise(given):
            if after[0] <= before[1]:
                raise misplaced((after[2],), f"begins on {after[0]}, before {before[2]} has ended ({before[1]})")
        return self


class SplitsSection(Section):
    """Shares by blocks of `block` x `block` footprints; samples nearer than `buffer_m` to another split are left out.

    regions: polygons with a property `split` (train, val, test) decide instead: a footprint goes where its centre lies,
        one outside of all regions is left out      periods: each footprint gives a sample of its own per split and period
    """

    train: Share = 0.9
    val: Share = 0.05
    test: Share = 0.05
    block: PositiveInt = 16
    buffer_m: Annotated[float, Field(ge=0)] = 0
    seed: int = 0
    regions: Annotated[Path | None, Input()] = None
    periods: SplitPeriods | None = None

    @model_validator(mode="after")
    def _whole(self) -> "SplitsSection":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, val and test add up to {total:g}, not 1")
        if self.regions is not None and self.periods is not None:
            raise misplaced(("periods",), "cannot stand beside regions: give one of them")
        return self


class BuildDataRecipe(Section):
    """`radiometry`: what becomes of a date whose numbers deny what is said of them (offset, dB or linear power)."""

    recipe: Literal["build-data"]
    version: Literal[1]
    output: Path
    area: Annotated[Path | tuple[float, float, float, float] | TileList, Input()]
    period: Period | None = None
    grid: GridSection = GridSection()
    modalities: Annotated[dict[Name, ModalityBuild], Field(min_length=1)]
    coregister: CoregisterSection | None = None
    label: LabelSection | None = None
    splits: SplitsSection = SplitsSection(train=1.0, val=0.0, test=0.0)
    radiometry: Literal["refuse", "repair"] = "refuse"
    workers: PositiveInt = 2
    geopackage: bool = False

    @model_validator(mode="after")
    def _reference_known(self) -> "BuildDataRecipe":
        require_reference(self.coregister, self.modalities)
        return self

    @model_validator(mode="after")
    def _one_period(self) -> "BuildDataRecipe":
        listed = isinstance(self.area, TileList)
        if listed and self.period is not None:
            raise misplaced(("period",), "cannot stand beside a list of tiles, each of which has its own")
        if not listed and self.period is None:
            raise misplaced(("period",), "the period is missing")
        if listed and (self.grid.crs != "utm" or self.grid.anchor != 0 or self.grid.stride_m is not None):
            raise misplaced(("grid",), "takes only size_m beside a list of tiles: crs, anchor and stride_m follow from the tiles")
        return self
