"""The maps that a raster head draws: what is computed of a scene, and the files it ends in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import Tensor

from skysense_cli.core.batch import Batch
from skysense_cli.core.heads import Head
from skysense_cli.engine import memory
from skysense_cli.engine.ahead import Behind
from skysense_cli.engine.flips import averaged
from skysense_cli.engine.map_files import MapFiles, maps_of
from skysense_cli.engine.memory import Made, fitted, needs
from skysense_cli.engine.parts import Parts
from skysense_cli.engine.predict import Finished, Raster, predict_scene, steps_abreast
from skysense_cli.engine.room import Room
from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.engine.score_map import ScoreMap, pixels_of
from skysense_cli.engine.tiling import Window
from skysense_cli.errors import RecipeError
from skysense_cli.recipe.schema.maps import PredictRecipe


@dataclass(frozen=True, eq=False)
class RasterProduct:
    """The maps of a scene. job: with strips that fit into the recipe's memory"""

    recipe: PredictRecipe
    job: SceneJob
    maps: tuple[ScoreMap, ...]

    @classmethod
    def of(cls, recipe: PredictRecipe, job: SceneJob) -> RasterProduct:
        """What the recipe asks for. Raises RecipeError for what only boxes have, GridError when the memory is too small."""
        if recipe.output.suffix.lower() not in (".tif", ".tiff"):
            raise RecipeError(f"predict: output {recipe.output}: this bundle draws a map; give a name that ends in .tif")
        if recipe.write.boxes is not None:
            raise RecipeError("predict: write.boxes is for heads that find objects, this bundle draws a map")
        maps = maps_of(job.bundle, recipe.write.kinds, recipe.write.dtype)
        channels, abreast = job.scene.channels, steps_abreast(job.bundle.device)
        plan = fitted(job.plan, recipe.tiles.max_bytes, channels, _made(job, maps), abreast)
        return cls(recipe, replace(job, plan=plan), maps)

    def lines(self) -> list[tuple[str, str]]:
        """(what, value) lines of the plan."""
        job, (height, width) = self.job, self.job.plan.shape
        held = needs(job.plan, job.scene.channels, _made(job, self.maps), steps_abreast(job.bundle.device))
        kinds = ", ".join(kind.what for kind in self.maps)
        return [("maps", kinds), *memory.lines(job.plan, held, height * width * _pixel_bytes(self.maps), self.recipe.tiles.max_memory)]

    def room(self, missing: Sequence[Window]) -> Room:
        """That of the strips which are missing, and of the maps they are written into before these are compressed."""
        shape, plan = self.job.plan.shape, self.job.plan
        pixels = ([part.stop - part.start for part in plan.pixels(window)] for window in missing)
        strips = [height * width * _pixel_bytes(self.maps) for height, width in pixels]
        maps = [shape[0] * shape[1] * _pixel_bytes((kind,)) for kind in self.maps] if plan.wanted is None else []  # sparse with an area
        return Room(sum(strips) + sum(maps), max([*strips, *maps], default=0))

    def files(self, path: Path, tags: Mapping[str, str]) -> MapFiles:
        """What is written at and beside `path`."""
        write = self.recipe.write
        return MapFiles(self.job, self.maps, path, tags, write.compress, write.polygons)

    def windows(self) -> list[Window]:
        """The windows that finish a pixel of the map."""
        plan = self.job.plan
        return [window for window in plan.windows() if all(part.start < part.stop for part in plan.pixels(window))]

    def compute(self, parts: Parts, rows: range) -> None:
        """Predict some rows of tiles; decided and kept behind the model."""
        with Behind[Finished](lambda strip: parts.put(strip.name, pixels_of(self.maps, strip.scores, strip.valid))) as kept:
            for strip in self._strips(rows):
                kept.put(strip)

    def _strips(self, rows: range) -> Iterator[Finished]:
        job = self.job
        model, head, device = job.bundle.model, cast(Head, job.bundle.head), job.bundle.device

        def forward(batch: Batch, size: tuple[int, int]) -> list[Tensor]:
            return [head.predict(head(model(batch.to(device))), size)]

        scores, raster = averaged(forward) if self.recipe.tiles.flips else forward, Raster(job.plan, len(job.bundle.classes))
        for (strip,) in predict_scene(scores, job.to_batch, job.scene, job.plan, [raster], rows, abreast=steps_abreast(device)):
            yield strip


def _made(job: SceneJob, maps: tuple[ScoreMap, ...]) -> Made:
    area = job.plan.unit_px**2
    return Made(len(job.bundle.classes) * area, _pixel_bytes(maps) * area)


def _pixel_bytes(maps: tuple[ScoreMap, ...]) -> int:
    return sum(len(kind.bands) * kind.itemsize for kind in maps)
