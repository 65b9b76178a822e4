"""`embed` of a scene: the feature of every cell as one raster, blended over tiles, and a vector for each tile's core."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from skysense_cli import console
from skysense_cli.core.batch import Batch
from skysense_cli.data import scene_files
from skysense_cli.data.sample import Sample, Series
from skysense_cli.engine import memory
from skysense_cli.engine.ahead import Behind
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.embed import Embedder, embedder
from skysense_cli.engine.embed_files import VECTORS, Vector, own_tags, vector_facts, write_vectors
from skysense_cli.engine.feature_map import FeatureMap, FeaturePicture
from skysense_cli.engine.parts import Parts
from skysense_cli.engine.predict import Finished, Raster, predict_scene, steps_abreast
from skysense_cli.engine.scene_job import SceneJob, computed_with, open_job
from skysense_cli.engine.tiling import Plan, runs
from skysense_cli.errors import GridError, RecipeError
from skysense_cli.geo.cog import GeoTiffStream
from skysense_cli.geo.grid import bounds_of, crs_text, window
from skysense_cli.geo.outlines import outline
from skysense_cli.geo.raster import describe
from skysense_cli.recipe.schema.maps import EmbedRecipe

CELLS, PICTURE = "embedding.tif", "embedding.png"
Times = dict[str, tuple[str, ...]]  # modality -> dates that have a valid pixel


@dataclass(frozen=True, eq=False)
class SceneEmbedding:
    """A scene that is ready to be embedded; its map's pixels are cells."""

    recipe: EmbedRecipe
    asked: Embedder
    job: SceneJob

    def facts(self) -> list[tuple[str, object]]:
        """(what, value) lines of the plan."""
        width = self.asked.width
        lines: list[tuple[str, object]] = [("feature", f"{self.asked.feature}, {width} channels, float32")]
        job, (height, columns), area = self.job, self.job.plan.shape, self.job.plan.unit_px**2
        made = memory.Made((width + 1) * area, width * 4 * area)
        held = memory.needs(job.plan, job.scene.channels, made, steps_abreast(job.bundle.device))
        lines += [*job.facts(), *memory.lines(job.plan, held, height * columns * width * 4 if self.recipe.cells else 0)]
        extra = FeaturePicture(self.job.plan.shape, width).held_bytes + self.job.plan.count * width * 8
        lines.append(("memory for means and preview", f"about {extra / 2**20:,.0f} MiB"))
        if self.recipe.vectors:
            lines.append(("vectors", f"at most {self.job.plan.count:,} rows, {self.job.plan.count * width * 4 / 2**20:,.1f} MiB"))
        return lines

    def write(self, folder: Path, recipe_digest: str) -> list[str]:
        """Write embedding.tif and .png, and vectors.parquet, as the recipe asks; returns lines for the user.

        Every file is whole or absent, and nothing is done when all are there from the same recipe, bundle and scenes.
        Strips that an earlier run finished are not made again, unless bundle or scenes have changed since.
        The same recipe on the same files gives the same bytes.
        """
        tags = self.job.tags(recipe_digest) | {"SKYSENSE_FEATURE": self.asked.feature, "SKYSENSE_WIDTH": str(self.asked.width)}
        if self._done(folder, tags):
            return [f"{folder}: already complete"]
        parts = Parts(folder / CELLS)
        self._compute(parts, recipe_digest)
        dates: dict[tuple[int, int], Times] = {}
        means = CoreMeans(self.job.plan, self.asked.width)
        picture = FeaturePicture(self.job.plan.shape, self.asked.width)
        kind, grid = FeatureMap(self.asked.feature, self.asked.width), self.job.grid
        (folder / VECTORS).unlink(missing_ok=True)  # not beside cells of another state
        with ExitStack() as stack:
            stream = GeoTiffStream(folder / CELLS, grid, kind.width, kind.dtype, kind.look(tags))
            cells = stack.enter_context(stream) if self.recipe.cells else None
            windows = self.job.plan.finishing()
            strips = zip(windows, parts.take(window.name for window in windows), strict=True)
            for window, (_, arrays) in console.progress(strips, "strips into files", len(windows)):
                dates |= _dates_in(arrays["dates"])
                values, seen, top = arrays["cells"], arrays["seen"], self.job.plan.pixels(window)[0].start
                means.add(top, values, seen)
                values[:, ~seen] = np.nan
                if cells is not None:
                    cells.write(values, top)
                picture.take(values, top, 0)
        title = f"{self.asked.feature}, first three principal components" + (", simulated data" if "SIMULATED" in tags else "")
        picture.save(folder / PICTURE, title)
        share = picture.known / (grid.shape[0] * grid.shape[1])
        lines = [f"cells: {folder / CELLS} ({self.asked.width} bands, {share:.1%} of the cells have data)"] if self.recipe.cells else []
        if self.recipe.vectors:
            table = means.table(self.job, dates)
            write_vectors(folder / VECTORS, table, tags)
            lines.append(f"vectors: {folder / VECTORS} ({len(table):,} of {self.job.plan.count:,} tiles have data)")
            if grid.crs is None:
                console.warn("the scene is not georeferenced: the rows of vectors.parquet have no geometry")
        parts.remove()
        return [*lines, f"preview: {folder / PICTURE}"]

    def _compute(self, parts: Parts, recipe_digest: str) -> None:
        """Keep the strips that are not there yet."""
        state = {"recipe": recipe_digest, **computed_with(self.job.bundle), "scene": scene_files.states(self.job.scene)}
        if changed := parts.changed(state):
            console.warn(f"{parts.output}: the part that an earlier run made is made again, since {changed[0]}")
        there = parts.begin(state, overwrite=True)
        scene, plan = Noting(self.job), self.job.plan
        windows = {window.name: window for window in self.job.plan.finishing()}

        def keep(strip: Finished) -> None:
            top = plan.rows.starts[windows[strip.name].row]
            dates = _dates_out(scene.dates, [(top, left) for left in plan.columns.starts])
            parts.put(strip.name, {"cells": strip.scores, "seen": strip.valid, "dates": dates})

        with Behind[Finished](keep) as kept:
            for rows in runs(window.row for name, window in windows.items() if name not in there):
                for strip in self._rows(scene, rows):
                    kept.put(strip)

    def _done(self, folder: Path, tags: Mapping[str, str]) -> bool:
        """Whether everything the recipe asks for is there already, made from the same."""
        have = [(folder / PICTURE).exists()]
        if self.recipe.cells:
            have.append(_tags(folder / CELLS) == tags)
        if self.recipe.vectors:
            have.append(vector_facts(folder / VECTORS) == tags)
        return all(have)

    def _rows(self, scene: Noting, rows: range) -> Iterator[Finished]:
        """Strips of some rows of tiles, valid where a date sees the cell."""
        bundle, job = self.asked.bundle, self.job

        def forward(batch: Batch, size: tuple[int, int]) -> list[Tensor]:
            return [self.asked.told(bundle.model(batch.to(bundle.device)))]

        raster = Raster(job.plan, self.asked.width, told=True)
        for (strip,) in predict_scene(forward, job.to_batch, scene, job.plan, [raster], rows, abreast=steps_abreast(bundle.device)):
            yield strip


def open_scene_embedding(recipe: EmbedRecipe, bundle: LoadedBundle) -> SceneEmbedding:
    """The scene of a recipe in cells. Raises RecipeError and GridError when scene, feature and bundle do not fit."""
    asked = embedder(bundle, recipe.feature)
    if recipe.feature in bundle.inputs and recipe.feature not in recipe.scene:
        raise RecipeError(f"embed: feature is {recipe.feature!r}, but scene has {', '.join(recipe.scene)}")
    return SceneEmbedding(recipe, asked, open_job(recipe, bundle, bundle.spec.model.cell_m))


class Noting:
    """The scene of a job that notes which dates each tile has. dates: (top, left) in units -> modality -> times"""

    def __init__(self, job: SceneJob) -> None:
        self._scene = job.scene
        self.dates: dict[tuple[int, int], Times] = {}

    @property
    def units(self) -> tuple[int, int]:
        """Rows and columns of the extended scene."""
        return self._scene.units

    def strip(self, top: int, height: int, left: int = 0, width: int | None = None) -> dict[str, Series]:
        """The series of all modalities over some units."""
        return _Strip(self._scene.strip(top, height, left, width), top, left)

    def tile(self, strip: Mapping[str, Series], left: int, width: int) -> Sample | None:
        """A part of a strip, noted."""
        assert isinstance(strip, _Strip), "strips of this scene know their corner"
        sample = self._scene.tile(strip, left, width)
        if sample is not None:
            self.dates[strip.top, strip.left + left] = {
                name: tuple(str(time) for time in part.times) for name, part in sample.series.items()
            }
        return sample


class _Strip(dict[str, Series]):
    """A strip that knows its corner in units, since others are read before its tiles are cut."""

    def __init__(self, series: Mapping[str, Series], top: int, left: int) -> None:
        super().__init__(series)
        self.top, self.left = top, left


@dataclass
class CoreMeans:
    """The mean of the seen cells of each tile's core, from rows of cells as they arrive. width: channels"""

    plan: Plan
    width: int
    _sums: np.ndarray = field(init=False)
    _counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = len(self.plan.rows.starts), len(self.plan.columns.starts)
        self._sums, self._counts = np.zeros((*shape, self.width)), np.zeros(shape, np.int64)

    def add(self, top: int, values: np.ndarray, seen: np.ndarray) -> None:
        """Take rows of cells from `top` on: values (d, n, W), zeros where not `seen` (n, W)."""
        tops, lefts = self._edges()
        rows = np.searchsorted(tops, np.arange(top, top + len(seen)), side="right") - 1  # of cores, ascending
        for row in np.unique(rows):
            here = slice(*np.searchsorted(rows, (row, row + 1)))  # a view, not a copy of all channels
            self._sums[row] += np.add.reduceat(values[:, here].sum(axis=1, dtype=np.float64), lefts, axis=1).T
            self._counts[row] += np.add.reduceat(seen[here].sum(axis=0), lefts)

    def table(self, job: SceneJob, dates: Mapping[tuple[int, int], Times]) -> list[Vector]:
        """A row for each core with a seen cell, from the top left on; its outline is that of the core."""
        plan, rows = self.plan, []
        for row, column in np.ndindex(*plan.tiles):
            count = int(self._counts[row, column])
            if count:
                px, ends = plan.unit_px, zip(plan.core(row, column), plan.shape, strict=True)
                area = [slice(part.start * px, min(part.stop * px, side)) for part, side in ends]
                ground = outline(bounds_of(window(job.grid, *area)), crs_text(job.grid.crs))
                mean = (self._sums[row, column] / count).astype(np.float32)
                times = dates[plan.rows.starts[row], plan.columns.starts[column]]
                rows.append(Vector(f"r{row:04d}_c{column:04d}", "", ground, times, count, mean))
        return rows

    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        """First rows and first columns of the cores, in cells."""
        cores = self.plan.row_cores, self.plan.column_cores
        tops, lefts = (np.array([core.start * self.plan.unit_px for core in axis]) for axis in cores)
        return tops, lefts


def _dates_out(dates: Mapping[tuple[int, int], Times], corners: Sequence[tuple[int, int]]) -> np.ndarray:
    """The dates of the tiles at some corners as bytes of JSON, to be kept beside their cells."""
    return np.frombuffer(json.dumps([[*corner, dates[corner]] for corner in corners if corner in dates]).encode(), np.uint8)


def _dates_in(kept: np.ndarray) -> dict[tuple[int, int], Times]:
    return {(top, left): {name: tuple(times) for name, times in dates.items()} for top, left, dates in json.loads(kept.tobytes())}


def _tags(path: Path) -> dict[str, str] | None:
    """The tags of a raster that say where it comes from; None when there is none or it cannot be read."""
    try:
        return own_tags(describe(path).tags)
    except GridError:
        return None
