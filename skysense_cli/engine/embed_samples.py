"""`embed` of samples: a vector for each, and the feature of every cell where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skysense_cli import __version__, console
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.bundle import WEIGHTS
from skysense_cli.engine.embed import Embedder, embedder, mean_vector
from skysense_cli.engine.embed_files import VECTORS, Vector, dates_text, own_tags, vector_facts, write_vectors
from skysense_cli.engine.feature_map import FeatureMap
from skysense_cli.engine.sample_job import SampleJob, open_samples
from skysense_cli.errors import GridError, RecipeError
from skysense_cli.files import TEMPORARY
from skysense_cli.geo.cog import GeoTiffStream
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.outlines import outline
from skysense_cli.geo.raster import describe, read_window
from skysense_cli.recipe.schema.maps import EmbedRecipe

CELLS = "cells"  # the folder of rasters
Found = tuple[np.ndarray, np.ndarray]  # (d, h, w) float32 cells, NaN where not seen; (h, w) bool seen


@dataclass(frozen=True, eq=False)
class SampleEmbedding:
    """Samples that are ready to be embedded."""

    recipe: EmbedRecipe
    asked: Embedder
    job: SampleJob

    def facts(self) -> list[tuple[str, object]]:
        """(what, value) lines of the plan."""
        width, count = self.asked.width, len(self.job.numbers)
        cells = sum(height * column for height, column in map(self.job.cells, self.job.numbers))
        lines = [*self.job.facts(), ("feature", f"{self.asked.feature}, {width} channels, float32")]
        if self.recipe.vectors:
            lines.append(("vectors", f"{count:,} rows, {count * width * 4 / 2**20:,.1f} MiB"))
        if self.recipe.cells:
            lines.append(("cells", f"{count:,} files, at most {cells * width * 4 * 1.4 / 2**20:,.1f} MiB on disk"))
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
        for number, found, was_there in console.progress(self._each(folder, facts), "samples", len(self.job.numbers)):
            sample, (cells, seen) = self.job.samples.rows[number], found
            kept += was_there
            if not sample.crs:
                placeless.append(sample.id)
            if not seen.any():
                unseen.append(sample.id)
                continue
            vector = mean_vector(cells, seen)
            ground = outline(sample.bounds, sample.crs)
            rows.append(Vector(sample.id, sample.split, ground, self.job.dates(number), int(seen.sum()), vector))
        if unseen:
            console.warn(f"{len(unseen)} samples have no cell that a date sees, and no row ({_some(unseen)})")
        if placeless and self.recipe.vectors:
            console.warn(f"{len(placeless)} samples are not georeferenced; their rows have no geometry ({_some(placeless)})")
        lines = []
        if self.recipe.cells:
            lines.append(f"cells: {folder / CELLS} ({len(self.job.numbers):,} files, {kept:,} of them from an earlier run)")
        if self.recipe.vectors:
            write_vectors(folder / VECTORS, rows, facts)
            lines.append(f"vectors: {folder / VECTORS} ({len(rows):,} rows)")
        return lines

    def _each(self, folder: Path, facts: dict[str, str]) -> Iterator[tuple[int, Found, bool]]:
        """(number, cells and where they are seen, whether an earlier run made them) of each sample, in order."""
        for leftover in (folder / CELLS).glob(f"*{TEMPORARY}"):
            leftover.unlink()
        for step in self.job.steps():
            there = self._finished(step, folder, facts) if self.recipe.cells else None
            for number, found in zip(step, self._embed(step) if there is None else there, strict=True):
                if self.recipe.cells and there is None:
                    self._write_cells(number, found, folder, facts)
                yield number, found, there is not None

    def _embed(self, numbers: Sequence[int]) -> list[Found]:
        cells, seen = self.asked.cells(self.job.batch(numbers))
        pairs = zip(cells.cpu().numpy(), seen.cpu().numpy(), strict=True)
        return [(np.where(shown, values, np.float32(np.nan)), shown) for values, shown in pairs]

    def _tags(self, number: int, facts: dict[str, str]) -> dict[str, str]:
        return facts | {"SKYSENSE_SAMPLE": self.job.samples.rows[number].id, "SKYSENSE_DATES": dates_text(self.job.dates(number))}

    def _write_cells(self, number: int, found: Found, folder: Path, facts: dict[str, str]) -> None:
        sample, (cells, _) = self.job.samples.rows[number], found
        left, _, _, top = sample.bounds
        grid = make_grid(left, top, self.asked.bundle.spec.model.cell_m, cells.shape[1], cells.shape[2], sample.crs)
        kind = FeatureMap(self.asked.feature, self.asked.width)
        look = kind.look(self._tags(number, facts))
        with GeoTiffStream(_raster(folder, sample.id), grid, kind.width, kind.dtype, look) as stream:
            stream.write(cells, 0)

    def _finished(self, numbers: Sequence[int], folder: Path, facts: dict[str, str]) -> list[Found] | None:
        """What an earlier run wrote for all samples of a step, if it is the same and can be read.

        A step is made as a whole: the last digits of a feature depend on what else is in its batch.
        """
        finished = []
        for number in numbers:
            path = _raster(folder, self.job.samples.rows[number].id)
            try:
                info = describe(path)
                if own_tags(info.tags) != self._tags(number, facts):
                    return None
                cells, known = read_window(path, range(1, info.count + 1))
            except GridError:  # not there, or damaged: it is made again
                return None
            finished.append((cells, known[0]))
        return finished


def open_sample_embedding(recipe: EmbedRecipe, bundle: LoadedBundle) -> SampleEmbedding:
    """The samples of a recipe, checked against the bundle.

    Raises RecipeError for a feature that the bundle lacks or data.dates does not name, and what `open_samples` does.
    """
    assert recipe.data is not None, "asked for only with samples"
    asked = embedder(bundle, recipe.feature)
    job = open_samples(recipe.data, bundle, "embed")
    if recipe.feature in bundle.inputs and recipe.feature not in recipe.data.dates:
        raise RecipeError(f"embed: feature is {recipe.feature!r}, but data.dates has {', '.join(recipe.data.dates)}")
    return SampleEmbedding(recipe, asked, job)


def _raster(folder: Path, sample: str) -> Path:
    return folder / CELLS / f"{sample}.tif"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
