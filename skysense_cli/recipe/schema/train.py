"""The recipes of pretrain, finetune and evaluate."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from skysense_cli.recipe.parts import PartOf
from skysense_cli.recipe.schema.model import ModelSection
from skysense_cli.recipe.schema.section import Input, Name, Period, Section, Share, Weights, misplaced, require_known


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
        require_known(("data", "dates"), self.data.dates, self.model.encoders, "encoders")
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
        require_known(("data", "dates"), self.data.dates, self.modalities, "modalities")
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
