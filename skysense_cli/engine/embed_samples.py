"""`embed` of samples: a vector for each, and the feature of every cell where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import numpy as np

from skysense_cli import __version__, console
from skysense_cli.data import index
from skysense_cli.data.collate import SeriesView, View, collate
from skysense_cli.data.dataset import Reading, SampleDataset
from skysense_cli.data.views import Cut, spread_dates
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.bundle import WEIGHTS
from skysense_cli.engine.embed import Embedder, embedder, mean_vector
from skysense_cli.engine.embed_files import VECTORS, Vector, cells_look, dates_text, own_tags, vector_facts, write_vectors
from skysense_cli.engine.gather import period_of, warn_of_long_series
from skysense_cli.errors import DataError, GridError, RecipeError
from skysense_cli.files import TEMPORARY
from skysense_cli.geo.cog import GeoTiffStream
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.outlines import outline
from skysense_cli.geo.raster import describe, read_window
from skysense_cli.recipe.schema.maps import EmbedData, EmbedRecipe

CELLS = "cells"  # the folder of rasters
Found = tuple[np.ndarray, np.ndarray]  # (d, h, w) float32 cells, NaN where not seen; (h, w) bool seen


@dataclass(frozen=True, eq=False)
class SampleEmbedding:
    """Samples that are ready to be embedded. numbers: those of `samples` that have a date within the period"""

    recipe: EmbedRecipe
    data: EmbedData
    asked: Embedder
    samples: SampleDataset
    numbers: tuple[int, ...]

    def facts(self) -> list[tuple[str, object]]:
        """(what, value) lines of the plan."""
        width, cell_m = self.asked.width, self.asked.bundle.spec.model.cell_m
        split = f"of split {self.data.split!r}" if self.data.split else "of all splits"
        sides = [self.samples.size_m(number) for number in self.numbers]
        cells = [round(height / cell_m) * round(column / cell_m) for height, column in sides]
        dates = ", ".join(f"{name} at most {count} dates" for name, count in self.data.dates.items())
        lines: list[tuple[str, object]] = [
            ("samples", f"{len(self.numbers):,} {split} in {self.samples.folder}, {self.data.batch} a step"),
            ("seen", f"{dates}; {max(cells):,} cells of {cell_m:g} m a sample" + (" at most" if len(set(cells)) > 1 else "")),
            ("feature", f"{self.asked.feature}, {width} channels, float32"),
            ("memory for pixels", f"about {self._batch_bytes(max(sides)) / 2**20:,.0f} MiB"),
        ]
        if self.recipe.vectors:
            lines.append(("vectors", f"{len(self.numbers):,} rows, {len(self.numbers) * width * 4 / 2**20:,.1f} MiB"))
        if self.recipe.cells:
            lines.append(("cells", f"{len(self.numbers):,} files, at most {sum(cells) * width * 4 * 1.4 / 2**20:,.1f} MiB on disk"))
        return lines

    def write(self, folder: Path, recipe_digest: str) -> list[str]:
        """Write cells/<id>.tif and vectors.parquet, as the recipe asks; returns lines for the user.

        A step whose rasters an earlier run of the same recipe, bundle and dates has finished is read instead of made again.
        Every file is whole or absent. The same recipe on the same samples gives the same bytes.
        """
        facts = {
            "SKYSENSE_VERSION": __version__,
            "SKYSENSE_BUNDLE_SHA256": self.asked.bundle.manifest[WEIGHTS]["sha256"],
            "SKYSENSE_RECIPE_SHA256": recipe_digest,
            "SKYSENSE_FEATURE": self.asked.feature,
            "SKYSENSE_WIDTH": str(self.asked.width),
        }
        if self.recipe.vectors and not self.recipe.cells and vector_facts(folder / VECTORS) == facts:
            return [f"{folder / VECTORS}: already complete"]
        rows, unseen, placeless, kept = [], [], [], 0
        for number, found, was_there in console.progress(self._each(folder, facts), "samples", len(self.numbers)):
            sample, (cells, seen) = self.samples.rows[number], found
            kept += was_there
            if not sample.crs:
                placeless.append(sample.id)
            if not seen.any():
                unseen.append(sample.id)
                continue
            vector = mean_vector(cells, seen)
            ground = outline(sample.bounds, sample.crs)
            rows.append(Vector(sample.id, sample.split, ground, self._dates(number), int(seen.sum()), vector))
        if unseen:
            console.warn(f"{len(unseen)} samples have no cell that a date sees, and no row ({_some(unseen)})")
        if placeless and self.recipe.vectors:
            console.warn(f"{len(placeless)} samples are not georeferenced; their rows have no geometry ({_some(placeless)})")
        lines = []
        if self.recipe.cells:
            lines.append(f"cells: {folder / CELLS} ({len(self.numbers):,} files, {kept:,} of them from an earlier run)")
        if self.recipe.vectors:
            write_vectors(folder / VECTORS, rows, facts)
            lines.append(f"vectors: {folder / VECTORS} ({len(rows):,} rows)")
        return lines

    def _each(self, folder: Path, facts: dict[str, str]) -> Iterator[tuple[int, Found, bool]]:
        """(number, cells and where they are seen, whether an earlier run made them) of each sample, in order."""
        for leftover in (folder / CELLS).glob(f"*{TEMPORARY}"):
            leftover.unlink()
        for _, alike in groupby(self.numbers, key=self.samples.size_m):  # samples of a batch share a size
            while step := list(islice(alike, self.data.batch)):
                there = self._finished(step, folder, facts) if self.recipe.cells else None
                for number, found in zip(step, self._embed(step) if there is None else there, strict=True):
                    if self.recipe.cells and there is None:
                        self._write_cells(number, found, folder, facts)
                    yield number, found, there is not None

    def _embed(self, numbers: Sequence[int]) -> list[Found]:
        cells, seen = self.asked.cells(collate([self._view(number) for number in numbers]))
        pairs = zip(cells.cpu().numpy(), seen.cpu().numpy(), strict=True)
        return [(np.where(shown, values, np.float32(np.nan)), shown) for values, shown in pairs]

    def _view(self, number: int) -> View:
        """The whole sample with evenly spread dates, not turned."""
        cut, series = Cut(0, 0, *self.samples.size_m(number)), {}
        for name in self.samples.modalities(number):
            stored, pixels, days = self.samples.read(number, name, self._choice(number, name), cut)
            series[name] = SeriesView(pixels, days, stored.valid)
        return self.samples.view(number, cut, series)

    def _choice(self, number: int, name: str) -> np.ndarray:
        return spread_dates(self.samples.choice(number, name), self.data.dates[name])

    def _dates(self, number: int) -> dict[str, tuple[str, ...]]:
        """Modality -> the dates that are used."""
        known = self.samples.rows[number].dates
        return {name: tuple(known[name][i] for i in self._choice(number, name)) for name in self.samples.modalities(number)}

    def _tags(self, number: int, facts: dict[str, str]) -> dict[str, str]:
        return facts | {"SKYSENSE_SAMPLE": self.samples.rows[number].id, "SKYSENSE_DATES": dates_text(self._dates(number))}

    def _write_cells(self, number: int, found: Found, folder: Path, facts: dict[str, str]) -> None:
        sample, (cells, _) = self.samples.rows[number], found
        left, _, _, top = sample.bounds
        grid = make_grid(left, top, self.asked.bundle.spec.model.cell_m, cells.shape[1], cells.shape[2], sample.crs)
        look = cells_look(self.asked.feature, self.asked.width, self._tags(number, facts))
        with GeoTiffStream(_raster(folder, sample.id), grid, self.asked.width, "float32", look) as stream:
            stream.write(cells, 0)

    def _finished(self, numbers: Sequence[int], folder: Path, facts: dict[str, str]) -> list[Found] | None:
        """What an earlier run wrote for all samples of a step, if it is the same and can be read.

        A step is made as a whole: the last digits of a feature depend on what else is in its batch.
        """
        finished = []
        for number in numbers:
            path = _raster(folder, self.samples.rows[number].id)
            try:
                info = describe(path)
                if own_tags(info.tags) != self._tags(number, facts):
                    return None
                cells, known = read_window(path, range(1, info.count + 1))
            except GridError:  # not there, or damaged: it is made again
                return None
            finished.append((cells, known[0]))
        return finished

    def _batch_bytes(self, size_m: tuple[float, float]) -> float:
        """The pixels of a step, as read and as the model sees them."""
        total = 0.0
        for name, wanted in self.samples.reading.inputs.items():
            pixels = size_m[0] * size_m[1] / wanted.gsd_m**2
            total += 2 * self.data.batch * self.data.dates[name] * pixels * (4 * len(wanted.bands) + 1)
        return total


def open_sample_embedding(recipe: EmbedRecipe, bundle: LoadedBundle) -> SampleEmbedding:
    """The samples of a recipe, checked against the bundle.

    Raises RecipeError for a feature or a modality that the bundle lacks, DataError when no sample has a date, GridError
    for a sample whose sides the model's steps do not divide.
    """
    data = recipe.data
    assert data is not None, "asked for only with samples"
    asked = embedder(bundle, recipe.feature)
    unknown = sorted(set(data.dates) - set(bundle.inputs))
    if unknown:
        raise RecipeError(f"embed: data.dates has {unknown[0]!r}, but {recipe.bundle} was trained on {', '.join(bundle.inputs)}")
    if recipe.feature in bundle.inputs and recipe.feature not in data.dates:
        raise RecipeError(f"embed: feature is {recipe.feature!r}, but data.dates has {', '.join(data.dates)}")
    inputs = {name: bundle.inputs[name] for name in bundle.inputs if name in data.dates}
    rows = index.read(data.index, data.split)
    samples = SampleDataset(data.index.parent, rows, Reading(inputs, data.dates, period_of(data.period), bundle.spec.regions))
    usable = [number for number in range(len(rows)) if samples.modalities(number)]
    if not usable:
        raise DataError(f"{data.index}: none of the {len(rows)} samples has a date of {', '.join(inputs)} within data.period")
    if len(usable) < len(rows):
        console.warn(f"{len(rows) - len(usable)} of {len(rows)} samples have no date of {', '.join(inputs)} within data.period")
    usable = usable[: data.limit]
    warn_of_long_series([rows[number] for number in usable], tuple(inputs), samples.reading.period)
    _check_sizes(samples, usable, bundle.unit_m)
    return SampleEmbedding(recipe, data, asked, samples, tuple(usable))


def _check_sizes(samples: SampleDataset, numbers: Sequence[int], unit_m: float) -> None:
    for number in numbers:
        for side in samples.size_m(number):
            if side < unit_m / 2 or abs(side / unit_m - round(side / unit_m)) > 1e-6:
                height, width = samples.size_m(number)
                raise GridError(
                    f"{samples.path(number)}: the sample is {height:g} x {width:g} m, this bundle reads multiples of {unit_m:g} m; "
                    "build samples of such a size"
                )


def _raster(folder: Path, sample: str) -> Path:
    return folder / CELLS / f"{sample}.tif"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
