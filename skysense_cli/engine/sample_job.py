"""A recipe's samples beside a bundle: checked against what the model saw, in steps of one size, as whole views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np

from skysense_cli import console
from skysense_cli.core.batch import Batch
from skysense_cli.data import index
from skysense_cli.data.collate import SeriesView, View, collate
from skysense_cli.data.dataset import Input, Reading, SampleDataset
from skysense_cli.data.views import Cut, spread_dates
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.gather import period_of, warn_of_long_series
from skysense_cli.errors import DataError, GridError, RecipeError
from skysense_cli.recipe.schema.maps import EmbedData

Dates = dict[str, tuple[str, ...]]  # modality -> ISO 8601 times


@dataclass(frozen=True, eq=False)
class SampleJob:
    """Samples that are ready to be seen. numbers: those of `samples` that have a date within the period"""

    bundle: LoadedBundle
    data: EmbedData
    samples: SampleDataset
    numbers: tuple[int, ...]

    def facts(self) -> list[tuple[str, object]]:
        """(what, value) lines of the plan."""
        cell_m = self.bundle.spec.model.cell_m
        split = f"of split {self.data.split!r}" if self.data.split else "of all splits"
        cells = [height * width for height, width in map(self.cells, self.numbers)]
        dates = ", ".join(f"{name} at most {count} dates" for name, count in self.data.dates.items())
        largest = max(self.samples.size_m(number) for number in self.numbers)
        return [
            ("samples", f"{len(self.numbers):,} {split} in {self.samples.folder}, {self.data.batch} a step"),
            ("seen", f"{dates}; {max(cells):,} cells of {cell_m:g} m a sample" + (" at most" if len(set(cells)) > 1 else "")),
            ("memory for pixels", f"about {self._batch_bytes(largest) / 2**20:,.0f} MiB"),
        ]

    def cells(self, number: int) -> tuple[int, int]:
        """Rows and columns of cells of a sample."""
        height, width = self.samples.size_m(number)
        return round(height / self.bundle.spec.model.cell_m), round(width / self.bundle.spec.model.cell_m)

    def steps(self, numbers: Sequence[int] | None = None) -> Iterator[list[int]]:
        """Samples of a step, in order; those of a batch share a size."""
        for _, alike in groupby(self.numbers if numbers is None else numbers, key=self.samples.size_m):
            while step := list(islice(alike, self.data.batch)):
                yield step

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Whole samples with evenly spread dates, not turned."""
        return collate([self._view(number) for number in numbers])

    def present(self, number: int) -> dict[str, Input]:
        """What the model sees of the modalities that a sample has."""
        return {name: self.samples.reading.inputs[name] for name in self.samples.modalities(number)}

    def choice(self, number: int, name: str) -> np.ndarray:
        """Indices of the dates that are used, ascending."""
        return spread_dates(self.samples.choice(number, name), self.data.dates[name])

    def dates(self, number: int) -> Dates:
        """Modality -> the dates that are used."""
        known = self.samples.rows[number].dates
        return {name: tuple(known[name][i] for i in self.choice(number, name)) for name in self.samples.modalities(number)}

    def _view(self, number: int) -> View:
        cut, series = Cut(0, 0, *self.samples.size_m(number)), {}
        for name in self.samples.modalities(number):
            stored, pixels, days = self.samples.read(number, name, self.choice(number, name), cut)
            series[name] = SeriesView(pixels, days, stored.valid)
        return self.samples.view(number, cut, series)

    def _batch_bytes(self, size_m: tuple[float, float]) -> float:
        """The pixels of a step, as read and as the model sees them."""
        total = 0.0
        for name, wanted in self.samples.reading.inputs.items():
            pixels = size_m[0] * size_m[1] / wanted.gsd_m**2
            total += 2 * self.data.batch * self.data.dates[name] * pixels * (4 * len(wanted.bands) + 1)
        return total


def open_samples(data: EmbedData, bundle: LoadedBundle, command: str) -> SampleJob:
    """The samples of a recipe, checked against the bundle. command: who asks, for messages

    Raises RecipeError for a modality that the bundle lacks, DataError when no sample has a date, GridError for a sample
    whose sides the model's steps do not divide.
    """
    unknown = sorted(set(data.dates) - set(bundle.inputs))
    if unknown:
        raise RecipeError(f"{command}: data.dates has {unknown[0]!r}, but {bundle.path} was trained on {', '.join(bundle.inputs)}")
    inputs = {name: bundle.inputs[name] for name in bundle.inputs if name in data.dates}
    rows = index.read(data.index, data.split)
    samples = SampleDataset(data.index.parent, rows, Reading(inputs, data.dates, period_of(data.period), bundle.spec.regions))
    usable = [number for number in range(len(rows)) if samples.modalities(number)]
    if not usable:
        raise DataError(f"{data.index}: none of the {len(rows)} samples has a date of {', '.join(inputs)} within data.period")
    if len(usable) < len(rows):
        console.warn(f"{len(rows) - len(usable)} of {len(rows)} samples have no date of {', '.join(inputs)} within data.period")
    usable = usable[: data.limit]
    warn_of_long_series(rows.take(np.array(usable)), tuple(inputs), samples.reading.period)
    _check_sizes(samples, usable, bundle.unit_m)
    return SampleJob(bundle, data, samples, tuple(usable))


def _check_sizes(samples: SampleDataset, numbers: Sequence[int], unit_m: float) -> None:
    for number in numbers:
        for side in samples.size_m(number):
            if side < unit_m / 2 or abs(side / unit_m - round(side / unit_m)) > 1e-6:
                height, width = samples.size_m(number)
                raise GridError(
                    f"{samples.path(number)}: the sample is {height:g} x {width:g} m, this bundle reads multiples of {unit_m:g} m; "
                    "build samples of such a size"
                )
