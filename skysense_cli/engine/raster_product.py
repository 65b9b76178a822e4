"""The maps that a raster head draws: what is computed of a scene, and the files it ends in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from skysense_cli.core.batch import Batch
from skysense_cli.engine import memory
from skysense_cli.engine.ahead import Behind
from skysense_cli.engine.canvas import Canvas, FeatureCanvas, canvases_of
from skysense_cli.engine.feature_map import FeatureMap, FeaturePicture
from skysense_cli.engine.flips import averaged
from skysense_cli.engine.map_files import MapFiles, maps_of
from skysense_cli.engine.memory import Made, fitted, needs
from skysense_cli.engine.parts import Parts
from skysense_cli.engine.predict import Finished, predict_scene, steps_abreast
from skysense_cli.engine.room import Room
from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.engine.score_map import ScoreMap
from skysense_cli.engine.tiling import Window
from skysense_cli.errors import RecipeError
from skysense_cli.recipe.schema.maps import PredictRecipe


@dataclass(frozen=True, eq=False)
class RasterProduct:
    """The maps of a scene. job: with strips that fit into the recipe's memory"""

    recipe: PredictRecipe
    job: SceneJob
    maps: tuple[ScoreMap | FeatureMap, ...]

    @classmethod
    def of(cls, recipe: PredictRecipe, job: SceneJob) -> RasterProduct:
        """What the recipe asks for. Raises RecipeError for what only boxes have, GridError when the memory is too small."""
        if recipe.output.suffix.lower() not in (".tif", ".tiff"):
            raise RecipeError(f"predict: output {recipe.output}: this bundle draws a map; give a name that ends in .tif")
        if recipe.write.boxes is not None:
            raise RecipeError("predict: write.boxes is for heads that find objects, this bundle draws a map")
        maps = maps_of(job.bundle, recipe.write.kinds, recipe.write.dtype)
        made, abreast = _made(canvases_of(job, maps)), steps_abreast(job.bundle.device)
        plan = fitted(job.plan, recipe.tiles.max_bytes, job.scene.channels, made, abreast)
        return cls(recipe, replace(job, plan=plan), maps)

    def lines(self) -> list[tuple[str, str]]:
        """(what, value) lines of the plan."""
        job, canvases = self.job, canvases_of(self.job, self.maps)
        held = needs(job.plan, job.scene.channels, _made(canvases), steps_abreast(job.bundle.device))
        lines = [("maps", ", ".join(kind.what for kind in self.maps))]
        for canvas in canvases:
            if isinstance(canvas, FeatureCanvas):
                (height, width), (kind,) = canvas.job.plan.shape, canvas.maps
                lines.append((kind.what, f"{height} x {width} cells of {canvas.job.gsd_m:g} m, {kind.width} channels, {kind.dtype}"))
        disk = sum(canvas.job.plan.shape[0] * canvas.job.plan.shape[1] * _pixel_bytes(canvas) for canvas in canvases)
        return [*lines, *memory.lines(job.plan, held, disk, self.recipe.tiles.max_memory)]

    def room(self, missing: Sequence[Window]) -> Room:
        """That of the strips which are missing, and of the maps they are written into before these are compressed."""
        canvases = canvases_of(self.job, self.maps)
        strips = [sum(_pixels_of(canvas, window) * _pixel_bytes(canvas) for canvas in canvases) for window in missing]
        maps = [  # a map of an area is sparse
            canvas.job.plan.shape[0] * canvas.job.plan.shape[1] * len(kind.bands) * kind.itemsize
            for canvas in canvases if canvas.job.plan.wanted is None for kind in canvas.maps
        ]  # fmt: skip
        return Room(sum(strips) + sum(maps), max([*strips, *maps], default=0))

    def files(self, path: Path, tags: Mapping[str, str]) -> MapFiles:
        """What is written at and beside `path`."""
        write = self.recipe.write
        jobs: dict[str, SceneJob] = {kind.what: canvas.job for canvas in canvases_of(self.job, self.maps) for kind in canvas.maps}
        return MapFiles(self.job, self.maps, path, tags, write.compress, write.polygons, jobs)

    def windows(self) -> list[Window]:
        """The windows that finish a pixel of the map."""
        return self.job.plan.finishing()

    def compute(self, parts: Parts, rows: range) -> None:
        """Predict some rows of tiles; decided and kept behind the model."""
        canvases = canvases_of(self.job, self.maps)

        def keep(pieces: tuple[Finished, ...]) -> None:
            made = (canvas.pixels(piece) for canvas, piece in zip(canvases, pieces, strict=True))
            parts.put(pieces[0].name, {what: pixels for of_one in made for what, pixels in of_one.items()})

        with Behind[tuple[Finished, ...]](keep) as kept:
            for pieces in self.pieces(canvases, rows):
                kept.put(pieces)

    def pieces(self, canvases: Sequence[Canvas], rows: range) -> Iterator[tuple[Finished, ...]]:
        """What is finished of each canvas, strip by strip: the model runs once for all of them."""
        job, device = self.job, self.job.bundle.device

        def forward(batch: Batch, size: tuple[int, int]) -> list[Tensor]:
            features = job.bundle.model(batch.to(device))
            return [canvas.scores(features, size) for canvas in canvases]

        scores, rasters = averaged(forward) if self.recipe.tiles.flips else forward, [canvas.raster for canvas in canvases]
        return predict_scene(scores, job.to_batch, job.scene, job.plan, rasters, rows, abreast=steps_abreast(device))


def _made(canvases: Sequence[Canvas]) -> Made:
    units = [canvas.job.plan.unit_px**2 for canvas in canvases]
    scores = sum((canvas.raster.channels + canvas.raster.told) * area for canvas, area in zip(canvases, units, strict=True))
    written = sum(_pixel_bytes(canvas) * area for canvas, area in zip(canvases, units, strict=True))
    pictures = sum(FeaturePicture(one.job.plan.shape, one.maps[0].width).held_bytes for one in canvases if isinstance(one, FeatureCanvas))
    return Made(scores, written, pictures)


def _pixel_bytes(canvas: Canvas) -> int:
    return sum(len(kind.bands) * kind.itemsize for kind in canvas.maps)


def _pixels_of(canvas: Canvas, window: Window) -> int:
    """How many pixels of a canvas a window finishes."""
    rows, columns = canvas.job.plan.pixels(window)
    return (rows.stop - rows.start) * (columns.stop - columns.start)
