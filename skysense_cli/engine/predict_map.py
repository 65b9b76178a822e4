"""`predict` from recipe to files: strips of the map, kept until all are there, then the map with what lies beside it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from skysense_cli import __version__, console
from skysense_cli.core.batch import Batch
from skysense_cli.core.heads import Head
from skysense_cli.data import scene_files
from skysense_cli.engine import memory
from skysense_cli.engine.ahead import Behind
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.flips import averaged
from skysense_cli.engine.map_files import MapFiles
from skysense_cli.engine.memory import fitted, needs
from skysense_cli.engine.parts import OtherPartsError, Parts
from skysense_cli.engine.predict import Finished, predict_scene, steps_abreast
from skysense_cli.engine.ranks import POLL_S, Share, World, compute_in_processes, device_of, shares, threads_each
from skysense_cli.engine.scene_job import SceneJob, open_job
from skysense_cli.engine.score_map import ScoreMap, pixels_of
from skysense_cli.engine.tiling import Window
from skysense_cli.errors import BundleError, RecipeError
from skysense_cli.recipe.schema.maps import PredictRecipe


@dataclass(frozen=True, eq=False)
class Prediction:
    """A scene that is ready to be predicted, and the maps that are written of it."""

    recipe: PredictRecipe
    job: SceneJob
    maps: tuple[ScoreMap, ...]

    def facts(self) -> list[tuple[str, str]]:
        """(what, value) lines of the plan."""
        job, pixel_bytes = self.job, _pixel_bytes(self.maps)
        held = needs(job.plan, job.scene.channels, len(job.bundle.classes), pixel_bytes, steps_abreast(job.bundle.device))
        kinds = ", ".join(kind.what for kind in self.maps)
        return [*job.facts(), ("maps", kinds), *memory.lines(job.plan, held, pixel_bytes, self.recipe.tiles.max_memory)]

    def write(self, path: Path, recipe_digest: str, *, overwrite: bool = False, ranks: int = 1) -> list[str]:
        """Write the maps, previews, legend and STAC item at and beside `path` (.tif); returns lines for the user.

        ranks: processes that compute; under a launcher its others must be in `join`, and this one is its first
        Every file is whole or absent. Strips that an earlier run of the same recipe finished are not made again, and
        nothing is done when all files are there. The same recipe on the same files gives the same bytes.
        Raises OtherPartsError when bundle or scene are not those that an earlier run saw; `overwrite` starts anew.
        """
        files = self.files(path, recipe_digest)
        parts = Parts(path)
        changed = files.differences()
        if changed == [] and not parts.folder.exists():
            return [f"{path}: already complete"]
        if changed and not overwrite:
            raise OtherPartsError(
                f"{path} was made from something else (its tags differ in {', '.join(changed[:4])}); "
                "give --overwrite to replace it, or choose another --out"
            )
        there = parts.begin(self.state(recipe_digest), overwrite=overwrite)
        windows = self.windows()
        missing = sorted({window.row for window in windows if window.name not in there})
        if World.of_launcher().count > 1:
            self.compute_share(parts, World.of_launcher())
            while not {window.name for window in windows} <= parts.finished().keys():
                time.sleep(5 * POLL_S)  # a launcher ends all its processes when one fails
        elif ranks > 1:
            self._compute_in_ranks(parts, recipe_digest, missing, ranks)
        else:
            for rows in runs(missing):
                self.compute(parts, rows)
        lines = files.write(parts, windows)
        parts.remove()
        return lines

    def join(self, path: Path, recipe_digest: str, world: World) -> None:
        """Compute the share of a process that a launcher started and that is not its first, which is in `write`."""
        parts, state = Parts(path, world.rank), self.state(recipe_digest)
        while (changed := parts.changed(state)) or not parts.begun:
            if not changed and self.files(path, recipe_digest).differences() == []:
                return  # complete, and the folder of strips is gone
            time.sleep(POLL_S)
        self.compute_share(parts, world)

    def compute_share(self, parts: Parts, world: World) -> None:
        """Compute what is missing of one process's share of all rows."""
        windows, there = self.windows(), parts.finished()
        missing = {window.row for window in windows if window.name not in there}
        own = shares(self.job.plan, sorted({window.row for window in windows}), world.count)
        for rows in runs(missing.intersection(own[world.rank] if world.rank < len(own) else ())):
            self.compute(parts, rows)

    def _compute_in_ranks(self, parts: Parts, recipe_digest: str, missing: Sequence[int], count: int) -> None:
        own, device = shares(self.job.plan, missing, count), self.job.bundle.device
        same = partial(Share, self.recipe, recipe_digest, parts.output, threads_each(max(len(own), 1)), os.getpid())
        working = compute_in_processes([same(device_of(device, number), tuple(runs(rows)), number) for number, rows in enumerate(own)])
        before = len(parts.finished())

        def arrivals() -> Iterator[None]:
            there = before
            for _ in working:
                known, there = there, len(parts.finished())
                yield from [None] * (there - known)

        with closing(working):
            for _ in console.progress(arrivals(), "strips", len(self.windows()) - before):
                pass

    def files(self, path: Path, recipe_digest: str) -> MapFiles:
        """What is written at and beside `path`."""
        tags = {**self.job.tags(recipe_digest), "SKYSENSE_SCENES_SHA256": scene_files.digest(self.job.scene)}
        return MapFiles(self.job, self.maps, path, tags, self.recipe.write.compress)

    def state(self, recipe_digest: str) -> dict[str, Any]:
        """All that the numbers of a strip depend on, as plain JSON."""
        bundle = self.job.bundle
        return {
            "recipe": recipe_digest,
            "bundle": {name: entry["sha256"] for name, entry in bundle.manifest.items()},
            "scene": scene_files.states(self.job.scene),
            "dates": {name: " ".join(item.id for item in channel.items) for name, channel in self.job.scene.channels.items()},
            "computed": {"device": bundle.device.partition(":")[0], "skysense": __version__, "torch": torch.__version__},
        }

    def windows(self) -> list[Window]:
        """The windows whose finished strips make the maps."""
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

        def forward(batch: Batch, size: tuple[int, int]) -> Tensor:
            return head.predict(head(model(batch.to(device))), size)

        scores = averaged(forward) if self.recipe.tiles.flips else forward
        return predict_scene(scores, job.to_batch, job.scene, job.plan, len(job.bundle.classes), rows, abreast=steps_abreast(device))


def open_prediction(recipe: PredictRecipe, bundle: LoadedBundle) -> Prediction:
    """The scene of a recipe, ready to be predicted, and what is written of it.

    Raises BundleError for a bundle whose head draws no map, RecipeError and GridError when the scene does not fit.
    """
    if bundle.head is None or bundle.without_task:
        raise BundleError(f"{bundle.path} {bundle.without_task}; fine-tune it first, or use map-prototypes")
    if bundle.head.output != "raster":
        raise BundleError(f"{bundle.path}: its head gives a {bundle.head.output}, only raster heads draw maps")
    anchor = bundle.spec.model.anchor
    if anchor not in recipe.scene:
        raise RecipeError(f"predict: scene lacks {anchor!r}, the modality whose features the head of {bundle.path} reads")
    job = open_job(recipe, bundle, recipe.write.gsd)
    maps = tuple(ScoreMap(what, bundle.classes, recipe.write.dtype) for what in recipe.write.kinds)
    channels, abreast = job.scene.channels, steps_abreast(bundle.device)
    plan = fitted(job.plan, recipe.tiles.max_bytes, channels, len(bundle.classes), _pixel_bytes(maps), abreast)
    return Prediction(recipe, replace(job, plan=plan), maps)


def _pixel_bytes(maps: Sequence[ScoreMap]) -> int:
    return sum(len(kind.bands) * kind.itemsize for kind in maps)


def runs(rows: Iterable[int]) -> list[range]:
    """Rows as ranges without gaps, ascending."""
    found = []
    for _, run in itertools.groupby(enumerate(sorted(rows)), key=lambda pair: pair[1] - pair[0]):
        numbers = [row for _, row in run]
        found.append(range(numbers[0], numbers[-1] + 1))
    return found
