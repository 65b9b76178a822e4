"""The recipes and their sections, as frozen pydantic models. Keys, types and defaults live here only.

The options of a part (`kind: ...`) live in the signature of its class; `recipe/parts.py` reads them.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from skysense_cli.recipe.mistakes import nearest
from skysense_cli.recipe.parts import FixedPart, Part, PartOf, SceneInput, kinds


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


def _require_reference(section: "CoregisterSection | None", modalities: Iterable[str]) -> None:
    if section is not None and section.reference not in modalities:
        raise misplaced(("coregister", "reference"), f"{section.reference!r} is none of the modalities ({', '.join(modalities)})")


def _require_known(at: tuple[str, ...], names: Iterable[str], known: Iterable[str], what: str) -> None:
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


# build-data


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


class CoregisterSection(Section):
    """Shifts are measured against modality `reference`; longer ones than `max_shift_m` are refused, shorter ones than
    `min_shift_m` ignored. `min_score`: how far a match must stand above the best one elsewhere (0 not at all, 1 alone)."""

    reference: Name
    max_shift_m: PositiveFloat = 20
    min_shift_m: Annotated[float, Field(ge=0)] = 2
    min_score: Share = 0.2


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
        _require_reference(self.coregister, self.modalities)
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


# models and training


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
            _require_known(("prompting", "merge_after"), self.prompting.options["merge_after"], self.encoders, "encoders")
        if self.head is not None and self.prompting is None:
            raise misplaced(("head",), "needs prompting, whose vocabulary it speaks; a task's head stands in the recipe of finetune")
        return self


class DataSection(Section):
    """Samples and how many dates of each modality a step sees (drawn at random, ascending).

    limit: use only the first so many samples     crop_m: random crops of this side (null: whole samples)
    """

    index: Annotated[Path, Input()]
    split: str = "train"
    dates: Annotated[dict[Name, PositiveInt], Field(min_length=1)]
    period: Period | None = None
    limit: PositiveInt | None = None
    crop_m: PositiveFloat | None = None


class FinetuneData(DataSection):
    """`augment`: random flips and quarter turns. `val`: the split that is evaluated."""

    val: str | None = None
    augment: bool = True


class ViewsSection(Section):
    """How the two views differ. Paper silent on all figures (SkySense, 4.1).

    same_dates: both views see the same dates      date_jitter: days, uniform, per date
    drop_modality: chance that a view lacks one of its modalities
    """

    same_dates: bool = False
    date_jitter: Annotated[int, Field(ge=0)] = 15
    color_jitter: Annotated[float, Field(ge=0, le=1)] = 0.4
    blur: Share = 0.5
    drop_modality: Share = 0.0


class TrainSection(Section):
    """`layer_decay`: learning-rate factor per layer below the last. `freeze`: name patterns of parameters.

    groups: which parameters are decayed and how layers count; `published` is SkySense++'s own way, with its oddities
    """

    steps: PositiveInt
    batch: PositiveInt
    lr: PositiveFloat
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    groups: Literal["corrected", "published"] = "corrected"
    clip: PositiveFloat = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    freeze: tuple[str, ...] = ()
    compile: bool = False
    checkpoint_activations: bool = False
    seed: int = 0
    workers: Annotated[int, Field(ge=0)] = 0
    log_every: PositiveInt = 10
    save_every: PositiveInt = 500
    keep: PositiveInt = 1


class EvaluateSection(Section):
    every: PositiveInt
    metric: Literal["miou", "macro_f1", "oa"] = "miou"


class PretrainRecipe(Section):
    recipe: Literal["pretrain"]
    version: Literal[1]
    output: Path
    data: DataSection
    model: ModelSection
    start_from: Annotated[Weights | None, Input()] = None
    views: ViewsSection = ViewsSection()
    objective: PartOf("core/objectives")  # type: ignore[valid-type]
    train: TrainSection

    @model_validator(mode="after")
    def _dates_known(self) -> "PretrainRecipe":
        _require_known(("data", "dates"), self.data.dates, self.model.encoders, "encoders")
        return self


class FinetuneRecipe(Section):
    """`start_from` alone (a bundle), `model` alone (random weights), or both: the model with the weights that fit, patch
    embeddings adapted to its bands. `modalities`: the first one is the anchor."""

    recipe: Literal["finetune"]
    version: Literal[1]
    output: Path
    start_from: Annotated[Weights | None, Input()] = None
    model: ModelSection | None = None
    modalities: Annotated[tuple[Name, ...], Field(min_length=1)]
    data: FinetuneData
    classes: tuple[str, ...] | None = None
    head: PartOf("core/heads")  # type: ignore[valid-type]
    train: TrainSection
    evaluate: EvaluateSection | None = None

    @model_validator(mode="after")
    def _some_start(self) -> "FinetuneRecipe":
        if self.start_from is None and self.model is None:
            raise ValueError("give start_from (a bundle), model (random weights), or both")
        return self

    @model_validator(mode="after")
    def _modalities_known(self) -> "FinetuneRecipe":
        _require_known(("data", "dates"), self.data.dates, self.modalities, "modalities")
        unknown = [name for name in self.modalities if self.model and name not in self.model.encoders]
        if self.model and unknown:
            raise misplaced(("modalities",), f"{unknown[0]!r} is none of the encoders ({', '.join(self.model.encoders)})")
        return self


class EvaluateRecipe(Section):
    """Scores of a bundle on samples, or of a finished map against their labels; exactly one of `bundle`, `map`."""

    recipe: Literal["evaluate"]
    version: Literal[1]
    output: Path
    bundle: Annotated[Path | None, Input()] = None
    map: Annotated[Path | None, Input()] = None
    data: FinetuneData
    on: Literal["label", "held_out"] = "label"
    batch: PositiveInt = 4

    @model_validator(mode="after")
    def _one_subject(self) -> "EvaluateRecipe":
        if (self.bundle is None) == (self.map is None):
            raise ValueError("give either bundle or map")
        return self


# maps


class TilesSection(Section):
    size_m: PositiveFloat = 640
    overlap: Annotated[float, Field(ge=0, lt=0.5)] = 0.25
    batch: PositiveInt = 8


class WriteSection(Section):
    """`gsd`: pixel size of the map in metres (null: the anchor's). `dtype`: of probabilities; uint8 holds 0-200."""

    what: Literal["class", "probability", "confidence"] = "class"
    gsd: PositiveFloat | None = None
    dtype: Literal["uint8", "float32"] = "uint8"
    compress: Literal["deflate", "zstd", "lzw"] = "deflate"


class SceneRecipe(Section):
    """What every command on scenes asks for. `coregister`: measured on the scene, as build-data does on a block."""

    recipe: str
    version: Literal[1]
    bundle: Annotated[Path, Input()]
    scene: Annotated[dict[Name, SceneInput], Field(min_length=1)]  # type: ignore[valid-type]
    scene_gsd: Literal["refuse", "resample", "as_is"] = "refuse"
    period: Period | None = None
    dates: dict[Name, PositiveInt] | None = None
    coregister: CoregisterSection | None = None
    output: Path
    tiles: TilesSection = TilesSection()

    @model_validator(mode="after")
    def _names_known(self) -> "SceneRecipe":
        _require_known(("dates",), self.dates or (), self.scene, "scene's modalities")
        _require_reference(self.coregister, self.scene)
        return self


class PredictRecipe(SceneRecipe):
    recipe: Literal["predict"]
    write: WriteSection = WriteSection()


class MapPrototypesRecipe(SceneRecipe):
    recipe: Literal["map-prototypes"]


class EmbedData(Section):
    """Samples and at most how many of their dates are seen (evenly spread). `split`: null = all. `batch`: samples per step."""

    index: Annotated[Path, Input()]
    split: str | None = None
    dates: Annotated[dict[Name, PositiveInt], Field(min_length=1)]
    period: Period | None = None
    limit: PositiveInt | None = None
    batch: PositiveInt = 8


class EmbedRecipe(SceneRecipe):
    """Features of a scene or of samples; exactly one of `scene`, `data`.

    feature: fused, fused_mm (without the geo-context), or a modality (the mean over its dates)
    cells: write the features of every cell as GeoTIFF      vectors: write one per sample or tile as GeoParquet
    """

    recipe: Literal["embed"]
    scene: dict[Name, SceneInput] = {}  # type: ignore[valid-type]
    data: EmbedData | None = None
    feature: Name = "fused"
    cells: bool = True
    vectors: bool = True

    @model_validator(mode="after")
    def _names_known(self) -> "EmbedRecipe":
        if bool(self.scene) == (self.data is not None):
            raise ValueError("give either scene (one scene) or data (samples)")
        if not self.cells and not self.vectors:
            raise misplaced(("cells",), "is false, and so is vectors: nothing would be written")
        if self.data is None:
            _require_known(("dates",), self.dates or (), self.scene, "scene's modalities")
            _require_reference(self.coregister, self.scene)
        for name in ("dates", "period", "coregister"):
            if self.data is not None and getattr(self, name) is not None:
                where = f"data.{name}" if name != "coregister" else "the recipe of build-data"
                raise misplaced((name,), f"belongs to a scene; for samples it stands in {where}")
        return self


RECIPES: dict[str, type[Section]] = {
    "build-data": BuildDataRecipe,
    "pretrain": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "evaluate": EvaluateRecipe,
    "predict": PredictRecipe,
    "map-prototypes": MapPrototypesRecipe,
    "embed": EmbedRecipe,
}
