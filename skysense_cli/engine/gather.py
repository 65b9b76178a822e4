"""The samples a recipe asks for: which rows, what their modalities are, how large they are, what their labels mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from skysense_cli import console, sensors
from skysense_cli.data import index, npz
from skysense_cli.data.dataset import Input, Period, Reading, Regions, within
from skysense_cli.data.rows import Rows, dates_of
from skysense_cli.engine.score_map import class_colors
from skysense_cli.engine.spec import ClassFact
from skysense_cli.errors import DataError, RecipeError
from skysense_cli.recipe.schema.section import Period as PeriodSection
from skysense_cli.recipe.schema.train import DataSection

LONG_DAYS = 366  # a longer series shows one day of the year twice


@dataclass(frozen=True, eq=False)
class Gathered:
    """Samples of one split.

    folder: what the rows' paths are relative to      inputs: modality -> what is stored, with its sensor's statistics
    size_m: (height, width) of a view                 crop_m: None = whole samples
    dates, period: as in the recipe                   classes: of the labels
    """

    folder: Path
    rows: Rows
    inputs: dict[str, Input]
    size_m: tuple[float, float]
    crop_m: float | None
    dates: dict[str, int]
    period: Period | None
    classes: tuple[ClassFact, ...] = ()

    def reading(self, regions: Regions | None, seed: int = 0) -> Reading:
        """How these samples are read."""
        return Reading(self.inputs, self.dates, self.period, regions, seed)

    def as_trained(self, inputs: Mapping[str, Input], where: str) -> Gathered:
        """The same samples, seen as the model was trained to: its bands and statistics. Raises DataError where they do not fit."""
        for name, own in self.inputs.items():
            wanted = inputs[name]
            if (own.sensor, own.gsd_m) != (wanted.sensor, wanted.gsd_m) or not set(wanted.bands) <= set(own.bands):
                raise DataError(
                    f"{self.folder}: {name} is {own.sensor} at {own.gsd_m:g} m ({', '.join(own.bands)}), "
                    f"{where} saw {wanted.sensor} at {wanted.gsd_m:g} m ({', '.join(wanted.bands)})"
                )
        return replace(self, inputs={name: inputs[name] for name in self.inputs})


def gather(data: DataSection, modalities: Sequence[str], wanted_by: str, split: str | None = None) -> Gathered:
    """The rows of a split that have a date of some modality within the period.

    wanted_by: who asks for the modalities, for messages. Raises RecipeError when the data set lacks one, or `data.dates` does.
    """
    rows = index.read(data.index, split or data.split)
    period = period_of(data.period)
    lacking = [name for name in modalities if not rows.having(name).any()]
    if lacking:
        has = ", ".join(sorted({name for row in rows for name in row.modalities}))
        raise RecipeError(f"{wanted_by} has {lacking[0]!r}, but {data.index} holds {has}")
    for name in modalities:
        if name not in data.dates:
            raise RecipeError(f"data.dates says nothing of {name!r}, which {wanted_by} has; add e.g. {name}: 10")
    unknown = sorted(set(data.dates) - set(modalities))
    if unknown:
        raise RecipeError(f"data.dates has {unknown[0]!r}, but {wanted_by} has {', '.join(modalities)}")
    usable = rows.take(rows.where("dates", lambda text: any(_dates(text, name, period).any() for name in modalities)))
    if not len(usable):
        raise DataError(f"{data.index}: none of the {len(rows)} samples has a date of {', '.join(modalities)} within data.period")
    if len(usable) < len(rows):
        console.warn(f"{len(rows) - len(usable)} of {len(rows)} samples have no date of {', '.join(modalities)} within data.period")
    usable = usable[: data.limit]
    warn_of_long_series(usable, modalities, period)
    folder = data.index.parent
    size_m = (data.crop_m, data.crop_m) if data.crop_m else _one_size(usable, data.index)
    return Gathered(folder, usable, _inputs(folder, usable, modalities), size_m, data.crop_m, dict(data.dates), period)


def gather_labelled(data: DataSection, modalities: Sequence[str], names: Sequence[str] | None, split: str) -> Gathered:
    """As `gather`, with the classes of the labels. names: what the recipe calls them; None: as the samples do.

    Raises DataError when the samples have no labels, RecipeError when their class names differ from the recipe's.
    """
    found = gather(data, modalities, "modalities", split)
    label = npz.read_label(found.folder / found.rows[0].path)
    if label is None:
        raise DataError(f"{found.folder / found.rows[0].path}: has no label; build-data with a `label:` section makes them")
    stored = tuple(label.names)
    if names is None and not stored:
        raise RecipeError("classes: the labels have no names, so the recipe must list the classes in the order of their ids")
    if names is not None and stored and tuple(names) != stored:
        raise RecipeError(f"classes are {', '.join(names)}, but the labels of {data.index} are {', '.join(stored)}")
    called = tuple(names or stored)
    most = max((number for row in found.rows for number in row.classes), default=-1)
    if most >= len(called):
        raise RecipeError(f"classes names {len(called)} classes, but the labels of {data.index} hold class {most}")
    colors = class_colors(len(called)) if label.colors is None else [tuple(int(v) for v in color) for color in label.colors]
    facts = tuple(ClassFact(name=name, color=color) for name, color in zip(called, colors, strict=True))  # type: ignore[arg-type]
    return replace(found, classes=facts)


def period_of(section: PeriodSection | None) -> Period | None:
    """The recipe's period as numpy dates."""
    return None if section is None else (np.datetime64(section.start), np.datetime64(section.end))


def _dates(text: str, name: str, period: Period | None) -> np.ndarray:
    """(T,) bool: which dates of a modality lie within the period, of the dates that a row holds."""
    return within(np.array(dates_of(text).get(name, ()), "datetime64[s]"), period)


def warn_of_long_series(rows: Rows, modalities: Sequence[str], period: Period | None) -> None:
    """Warn of the first sample whose dates of a modality span more than a year."""

    def is_long(text: str, name: str) -> bool:
        times = np.array(dates_of(text).get(name, ()), "datetime64[s]")[_dates(text, name, period)]
        return len(times) > 1 and (times.max() - times.min()).astype("timedelta64[D]").astype(int) > LONG_DAYS

    for name in modalities:
        long = np.flatnonzero(rows.where("dates", partial(is_long, name=name)))
        if len(long):
            console.warn(
                f"{rows[int(long[0])].id}: the dates of {name} span more than a year, but a model knows the day of the year only; "
                "set data.period"
            )
            return


def _one_size(rows: Rows, folder: Path) -> tuple[float, float]:
    """(height, width) that all rows share."""
    sizes, first = np.unique(rows.sizes_m(), axis=0, return_index=True)
    if len(sizes) > 1:
        one, two = sorted(first.tolist())[:2]
        (a, b), (c, d) = rows.sizes_m()[[one, two]].tolist()
        raise DataError(
            f"{folder}: samples of one batch must have one size, but {rows[one].id} is {a:g} x {b:g} m and {rows[two].id} is "
            f"{c:g} x {d:g} m; set data.crop_m"
        )
    height, width = sizes[0].tolist()
    return height, width


def _inputs(folder: Path, rows: Rows, modalities: Sequence[str]) -> dict[str, Input]:
    """What the first sample that has a modality says of it; each sample is compared with that when it is read."""
    found = {}
    for name in modalities:
        having = np.flatnonzero(rows.having(name))
        if not len(having):
            raise DataError(f"{folder}: none of the {len(rows)} samples in use has {name!r}; raise data.limit")
        head = npz.header(folder / rows[int(having[0])].path).series[name]
        mean, std = sensors.get(head.sensor).statistics(head.bands)
        found[name] = Input(head.sensor, head.bands, abs(head.grid.affine.a), mean, std)
    return found
