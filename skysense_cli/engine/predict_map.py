"""`predict` from recipe to files: finished strips, kept until all are there, then the output with what lies beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from skysense_cli import console
from skysense_cli.data import scene_files
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.box_product import BoxProduct
from skysense_cli.engine.parts import OtherPartsError, Parts
from skysense_cli.engine.ranks import POLL_S, Share, World, compute_in_processes, device_of, shares, threads_each
from skysense_cli.engine.raster_product import RasterProduct
from skysense_cli.engine.room import Room, kept_on_failure
from skysense_cli.engine.scene_job import SceneJob, computed_with, open_job
from skysense_cli.engine.tiling import Window, runs
from skysense_cli.errors import BundleError, RecipeError
from skysense_cli.geo.ours import refuse_strangers
from skysense_cli.recipe.schema.maps import PredictRecipe


class Files(Protocol):
    """The files that an output ends in."""

    def all(self) -> list[Path]:
        """Every file, the output first."""
        ...

    def differences(self) -> list[str] | None:
        """The tags by which the files that are there were made from something else; None when files are missing."""
        ...

    def write(self, parts: Parts, windows: Sequence[Window]) -> list[str]:
        """Write all files from the finished strips, each whole or not at all; returns lines for the user."""
        ...


class Product(Protocol):
    """What is made of a scene: `raster_product.RasterProduct` or `box_product.BoxProduct`."""

    @property
    def job(self) -> SceneJob:
        """The scene, cut into strips that fit into the memory."""
        ...

    def lines(self) -> list[tuple[str, str]]:
        """(what, value) lines of the plan."""
        ...

    def windows(self) -> list[Window]:
        """The windows whose finished strips make the files."""
        ...

    def room(self, missing: Sequence[Window]) -> Room:
        """What the disk must have for certain when the strips of these windows are still to be made."""
        ...

    def compute(self, parts: Parts, rows: range) -> None:
        """Compute some rows of tiles; a strip is kept for each of their windows."""
        ...

    def files(self, path: Path, tags: Mapping[str, str]) -> Files:
        """What is written at and beside `path`."""
        ...


@dataclass(frozen=True, eq=False)
class Prediction:
    """A scene that is ready to be predicted, and what is made of it."""

    recipe: PredictRecipe
    product: Product

    @property
    def job(self) -> SceneJob:
        """The scene and its plan."""
        return self.product.job

    def facts(self) -> list[tuple[str, str]]:
        """(what, value) lines of the plan."""
        return [*self.job.facts(), *self.product.lines()]

    def write(self, path: Path, recipe_digest: str, *, overwrite: bool = False, ranks: int = 1) -> list[str]:
        """Write the files at and beside `path`; returns lines for the user.

        ranks: processes that compute; under a launcher its others must be in `join`, and this one is its first
        Every file is whole or absent. Strips that an earlier run of the same recipe finished are not made again, and
        nothing is done when all files are there. The same recipe on the same files gives the same bytes.
        Raises OtherPartsError when bundle or scene are not those that an earlier run saw; `overwrite` starts anew.
        Raises DiskError before anything is computed when the disk has too little room for certain, and when it takes no more.
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
        windows = self.windows()
        with kept_on_failure(parts, len(windows)):
            there = parts.begin(self.state(recipe_digest), overwrite=overwrite)
            missing = [window for window in windows if window.name not in there]
            self.product.room(missing).check(path)
            self._finish(parts, recipe_digest, sorted({window.row for window in missing}), ranks)
            lines = files.write(parts, windows)
        parts.remove()
        return lines

    def _finish(self, parts: Parts, recipe_digest: str, missing: Sequence[int], ranks: int) -> None:
        """Compute the missing rows, here or in several processes."""
        if World.of_launcher().count > 1:
            self.compute_share(parts, World.of_launcher())
            while not {window.name for window in self.windows()} <= parts.finished().keys():
                time.sleep(5 * POLL_S)  # a launcher ends all its processes when one fails
        elif ranks > 1:
            self._compute_in_ranks(parts, recipe_digest, missing, ranks)
        else:
            for rows in runs(missing):
                self.compute(parts, rows)

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

    def files(self, path: Path, recipe_digest: str) -> Files:
        """What is written at and beside `path`."""
        return self.product.files(path, {**self.job.tags(recipe_digest), "SKYSENSE_SCENES_SHA256": scene_files.digest(self.job.scene)})

    def state(self, recipe_digest: str) -> dict[str, Any]:
        """All that the numbers of a strip depend on, as plain JSON."""
        return {
            "recipe": recipe_digest,
            **computed_with(self.job.bundle),
            "scene": scene_files.states(self.job.scene),
            "dates": {name: " ".join(item.id for item in channel.items) for name, channel in self.job.scene.channels.items()},
        }

    def windows(self) -> list[Window]:
        """The windows whose finished strips make the files."""
        return self.product.windows()

    def compute(self, parts: Parts, rows: range) -> None:
        """Compute some rows of tiles and keep their strips."""
        self.product.compute(parts, rows)


def open_prediction(recipe: PredictRecipe, bundle: LoadedBundle) -> Prediction:
    """The scene of a recipe, ready to be predicted, and what is written of it.

    Raises BundleError for a bundle whose head is not made for scenes, RecipeError and GridError when the scene does not fit,
    RecipeError when a file of someone else lies where one beside the output goes.
    """
    if bundle.head is None or bundle.without_task:
        raise BundleError(f"{bundle.path} {bundle.without_task}; fine-tune it first, or use map-prototypes")
    if bundle.head.output == "table":
        raise BundleError(f"{bundle.path}: its head gives a table, only heads that draw maps or find objects predict scenes")
    anchor = bundle.spec.model.anchor
    if anchor not in recipe.scene:
        raise RecipeError(f"predict: scene lacks {anchor!r}, the modality whose features the head of {bundle.path} reads")
    job = open_job(recipe, bundle, recipe.write.gsd)
    product: Product = BoxProduct.of(recipe, job) if bundle.finds_objects else RasterProduct.of(recipe, job)
    refuse_strangers(product.files(recipe.output, {}).all()[1:])
    return Prediction(recipe, product)
