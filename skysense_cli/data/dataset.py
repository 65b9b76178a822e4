"""Samples of an index as model inputs: stored units to normalised, dates chosen, views cut.

Only the dates and the window that a view needs are read from the mapped `.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from skysense_cli import sensors
from skysense_cli.core.batch import Batch
from skysense_cli.data import npz
from skysense_cli.data.collate import SeriesView, View, collate
from skysense_cli.data.order import Key
from skysense_cli.data.rows import Row, Rows
from skysense_cli.data.sample import Sample, Series
from skysense_cli.data.views import Cut, Cutter, Piece, change_colors, day_of_year, draw_dates, jitter_days, spread_dates
from skysense_cli.errors import DataError
from skysense_cli.geo.regions import region_of
from skysense_cli.recipe.schema.train import ViewsSection

SAME_GSD = 1e-6  # relative
MOST_CHOICES = 65_536  # that are remembered
IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)

Regions = tuple[int, Literal["equal_area", "mercator"]]  # how many, and how they are laid out
Period = tuple[np.datetime64, np.datetime64]  # both ends inclusive
On = Literal["label", "held_out"]  # which raster of a label is used


@dataclass(frozen=True)
class Input:
    """What the model sees in one slot. mean, std: per band, in stored units; the model sees (pixel - mean) / std."""

    sensor: str
    bands: tuple[str, ...]
    gsd_m: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def order(self, series: Series, name: str) -> list[int]:
        """Where the wanted bands lie in `series`. Raises DataError when it is of another sensor, gsd or lacks a band."""
        if series.sensor != self.sensor:
            raise DataError(f"{name} is {series.sensor}, the model was built for {self.sensor}")
        found = abs(series.grid.affine.a)
        if abs(found - self.gsd_m) > SAME_GSD * self.gsd_m:
            raise DataError(f"{name} has pixels of {found:g} m, the model was built for {self.gsd_m:g} m")
        missing = [band for band in self.bands if band not in series.bands]
        if missing:
            raise DataError(f"{name} lacks band {missing[0]} (has {', '.join(series.bands)})")
        return [series.bands.index(band) for band in self.bands]

    def normalise(self, series: Series, name: str) -> np.ndarray:
        """(T, C, H, W) float32 as the model sees it; pixels without data are 0."""
        order = self.order(series, name)
        pixels = series.pixels if order == list(range(len(series.bands))) else series.pixels[:, order]
        normal = sensors.to_model(pixels, self.mean, self.std)
        if np.isnan(series.nodata):
            np.nan_to_num(normal, copy=False, nan=0.0)
        elif not series.valid.all():
            empty = (series.pixels == series.nodata).all(axis=1) & ~series.valid  # (T, H, W)
            np.copyto(normal, np.float32(0), where=empty[:, None])
        return normal


@dataclass(frozen=True)
class Reading:
    """What is read of a sample.

    inputs: modality -> what the model sees in it      dates: modality -> at most so many dates
    period: only dates within it                       regions: how the globe is divided; None: no geo-context
    seed: of everything that is drawn
    """

    inputs: Mapping[str, Input]
    dates: Mapping[str, int]
    period: Period | None = None
    regions: Regions | None = None
    seed: int = 0


class SampleDataset(Dataset):
    """The samples of `rows`, whose paths are relative to `folder`; the kinds below say which views they become."""

    def __init__(self, folder: Path, rows: Sequence[Row], reading: Reading) -> None:
        self.folder, self.rows, self.reading = folder, Rows.of(rows), reading
        self.places = self.rows.first_of_each_place()
        self._choices: dict[tuple[int, str], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def size_m(self, number: int) -> tuple[float, float]:
        """(height, width) of a sample's footprint."""
        left, bottom, right, top = self.rows[number].bounds
        return top - bottom, right - left

    def modalities(self, number: int) -> list[str]:
        """The inputs for which a sample has a date within the period."""
        return [name for name in self.reading.inputs if len(self.choice(number, name))]

    def choice(self, number: int, name: str) -> np.ndarray:
        """Indices of the dates of `name` that lie within the period, ascending; an unknown date always does."""
        if (number, name) not in self._choices:
            if len(self._choices) >= MOST_CHOICES:
                self._choices.clear()
            times = np.array(self.rows[number].dates.get(name, ()), "datetime64[s]")
            self._choices[number, name] = np.flatnonzero(within(times, self.reading.period))
        return self._choices[number, name]

    def path(self, number: int) -> Path:
        """Where a sample lies."""
        return self.folder / self.rows[number].path

    def read(self, number: int, name: str, dates: np.ndarray, cut: Cut) -> tuple[Series, np.ndarray, np.ndarray]:
        """(series as stored, normalised pixels, days of year) of some dates in the window of a cut, not yet turned."""
        path, wanted = self.path(number), self.reading.inputs[name]
        series = npz.read_part(path, name, dates, cut.window(wanted.gsd_m))
        return series, wanted.normalise(series, f"{path}: {name}"), day_of_year(series.times)

    def view(self, number: int, cut: Cut, series: dict[str, SeriesView], **label: np.ndarray | int | None) -> View:
        """A view of sample `number` with its place on the globe."""
        row: Row = self.rows[number]
        region = region_of(*row.lonlat, *self.reading.regions) if self.reading.regions else -1
        return View(row.id, series, cut.frame(self.size_m(number)), region, int(self.places[number]), **label)  # type: ignore[arg-type]


class PairDataset(SampleDataset):
    """Two augmented views of a sample for pretraining. `cutter`: how they are cut; `views`: how else they differ."""

    def __init__(self, folder: Path, rows: Sequence[Row], reading: Reading, cutter: Cutter, views: ViewsSection) -> None:
        super().__init__(folder, rows, reading)
        self.cutter, self.views = cutter, views

    def __getitem__(self, key: Key) -> tuple[View, View]:
        rng = np.random.default_rng([self.reading.seed, key.step, key.position])
        names, size = self.modalities(key.row), self.size_m(key.row)
        first = self.cutter.draw(rng, size)
        second = self.cutter.draw(rng, size, near=first)
        shared = {name: draw_dates(rng, self.choice(key.row, name), self.reading.dates[name]) for name in names}
        return self._augmented(key.row, first, shared, rng), self._augmented(key.row, second, shared, rng)

    def _augmented(self, number: int, cut: Cut, shared: dict[str, np.ndarray], rng: np.random.Generator) -> View:
        kept = list(shared)
        if len(kept) > 1 and rng.random() < self.views.drop_modality:
            kept.remove(kept[rng.integers(len(kept))])
        series = {}
        for name in kept:
            dates = shared[name] if self.views.same_dates else draw_dates(rng, self.choice(number, name), self.reading.dates[name])
            series[name] = self._series(number, name, dates, cut, rng)
        return self.view(number, cut, series)

    def _series(self, number: int, name: str, dates: np.ndarray, cut: Cut, rng: np.random.Generator) -> SeriesView:
        stored, pixels, days = self.read(number, name, dates, cut)
        wanted = self.reading.inputs[name]
        if sensors.get(wanted.sensor).kind == "rgb":
            counts = change_colors(rng, stored.pixels[:, wanted.order(stored, name)], self.views.color_jitter, self.views.blur)
            pixels = np.where(pixels == 0, 0, sensors.to_model(counts, wanted.mean, wanted.std))
        days = jitter_days(rng, days, self.views.date_jitter)
        return SeriesView(cut.turn(pixels), days, cut.turn(stored.valid))


class LabelledDataset(SampleDataset):
    """One view with its label for fine-tuning: drawn dates, cut and turned together with the label."""

    def __init__(self, folder: Path, rows: Sequence[Row], reading: Reading, cutter: Cutter) -> None:
        super().__init__(folder, rows, reading)
        self.cutter = cutter

    def __getitem__(self, key: Key) -> View:
        rng = np.random.default_rng([self.reading.seed, key.step, key.position])
        cut = self.cutter.draw(rng, self.size_m(key.row))
        series = {}
        for name in self.modalities(key.row):
            stored, pixels, days = self.read(key.row, name, draw_dates(rng, self.choice(key.row, name), self.reading.dates[name]), cut)
            series[name] = SeriesView(cut.turn(pixels), days, cut.turn(stored.valid))
        return self.view(key.row, cut, series, **label_of(self.path(key.row), cut, "label"))


class FixedDataset(SampleDataset):
    """Views for evaluation: the same evenly spread dates every time, pieces that cover each sample, `on` label or held_out.

    pieces: (sample number, piece), one for each item; a pixel of the label that an earlier piece covers is ignored
    """

    def __init__(self, folder: Path, rows: Sequence[Row], reading: Reading, pieces: Sequence[tuple[int, Piece]], on: On = "label") -> None:
        super().__init__(folder, rows, reading)
        self.pieces, self.on = list(pieces), on

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, item: int) -> View:
        number, piece = self.pieces[item]
        cut, series = piece.cut, {}
        for name in self.modalities(number):
            stored, pixels, days = self.read(number, name, spread_dates(self.choice(number, name), self.reading.dates[name]), cut)
            series[name] = SeriesView(pixels, days, stored.valid)
        return self.view(number, cut, series, **label_of(self.path(number), cut, self.on, piece))


def batch_of(samples: Sequence[Sample], inputs: Mapping[str, Input], regions: Regions | None = None) -> Batch:
    """Whole samples with all their dates as one Batch; series that are no input of the model are left out."""
    views = []
    for number, sample in enumerate(samples):
        series = {}
        for name, wanted in inputs.items():
            if name in sample.series:
                stored = sample.series[name]
                series[name] = SeriesView(wanted.normalise(stored, f"{sample.id}: {name}"), day_of_year(stored.times), stored.valid)
        if not series:
            raise DataError(f"{sample.id}: has {', '.join(sample.series) or 'no modality'}, the model sees {', '.join(inputs)}")
        region = region_of(*sample.lonlat, *regions) if regions else -1
        views.append(View(sample.id, series, IDENTITY, region, number))
    return collate(views)


def label_of(path: Path, cut: Cut, on: On, piece: Piece | None = None) -> dict[str, np.ndarray | int | None]:
    """`raster` (class ids, cut and turned) and `scene_class` of a sample's label, as far as it has them.

    With `piece`, pixels that it shares with an earlier one are 255.
    """
    label = npz.read_label(path)
    if label is None:
        return {}
    raster = label.raster if on == "label" else label.held_out
    found: dict[str, np.ndarray | int | None] = {}
    if raster is not None and label.grid is not None:
        gsd_m = abs(label.grid.affine.a)
        rows, columns = cut.window(gsd_m)
        window = raster[rows, columns]
        found["raster"] = cut.turn(window if piece is None else piece.only_new(window, gsd_m))
    if label.classes is not None and len(label.classes):
        found["scene_class"] = int(label.classes[0])
    return found


def within(times: np.ndarray, period: Period | None) -> np.ndarray:
    """(T,) bool: dates inside the period, both ends inclusive, and unknown ones."""
    if period is None:
        return np.ones(len(times), bool)
    dates = times.astype("datetime64[D]")
    return np.isnat(dates) | ((dates >= period[0]) & (dates <= period[1]))
