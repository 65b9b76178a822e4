"""The objects that a vector head finds: what is computed of a scene, and the files it ends in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from skysense_cli import console, sensors
from skysense_cli.core.batch import Batch
from skysense_cli.core.heads import Found, Head
from skysense_cli.engine import memory
from skysense_cli.engine.box_files import CellCounts, seen_cells, write_objects
from skysense_cli.engine.flips import pooled
from skysense_cli.engine.map_files import colors_of, title_of
from skysense_cli.engine.memory import Made, fitted, needs
from skysense_cli.engine.natural_colors import color_bands
from skysense_cli.engine.object_picture import ObjectPicture
from skysense_cli.engine.parts import Parts
from skysense_cli.engine.predict import TileDone, compute, steps_abreast
from skysense_cli.engine.room import Room
from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.engine.scene_picture import LookedAt
from skysense_cli.engine.stac_item import write_item
from skysense_cli.engine.tiling import Window
from skysense_cli.engine.vector_mosaic import Claimed, Cores, Objects, VectorMosaic
from skysense_cli.errors import GridError, RecipeError
from skysense_cli.geo.raster import describe
from skysense_cli.geo.vector_files import WRITERS, read_tags
from skysense_cli.recipe.schema.maps import BoxesSection, PredictRecipe


@dataclass(frozen=True, eq=False)
class BoxProduct:
    """The objects of a scene. job: with strips that fit into the recipe's memory"""

    recipe: PredictRecipe
    job: SceneJob
    options: BoxesSection

    @classmethod
    def of(cls, recipe: PredictRecipe, job: SceneJob) -> BoxProduct:
        """What the recipe asks for. Raises RecipeError for what only maps have, GridError when the memory is too small."""
        if recipe.output.suffix.lower() not in WRITERS:
            raise RecipeError(f"predict: output {recipe.output}: this bundle finds objects; give a name that ends in {', '.join(WRITERS)}")
        if recipe.output.suffix.lower() == ".geojson" and not job.grid.crs:
            raise RecipeError(f"predict: output {recipe.output}: GeoJSON is in degrees of the globe, and the scene has no CRS; write .gpkg")
        if recipe.write.kinds != ("class",):
            raise RecipeError(f"predict: write.what is {', '.join(recipe.write.kinds)}, but this bundle finds objects; leave it out")
        if recipe.write.polygons is not None:
            raise RecipeError("predict: write.polygons is for class maps, this bundle finds objects")
        options = recipe.write.boxes or BoxesSection()
        if options.counts_m is not None:
            CellCounts.over(job.plan.shape, len(job.bundle.classes), options.counts_m, job.gsd_m)  # refused now, not at the end
        plan = fitted(job.plan, recipe.tiles.max_bytes, job.scene.channels, Made(), steps_abreast(job.bundle.device))
        return cls(recipe, replace(job, plan=plan), options)

    def lines(self) -> list[tuple[str, str]]:
        """(what, value) lines of the plan."""
        job = self.job
        pixel, plan = abs(job.grid.affine.a), job.plan
        shared = [axis.scaled(plan.unit_px) for axis in (plan.columns, plan.rows)]
        overlaps = [min(axis.before(tile) for tile in range(1, len(axis.starts))) for axis in shared if len(axis.starts) > 1]
        whole = f"up to {min(overlaps)} px ({min(overlaps) * pixel:g} in map units), the overlap of tiles" if overlaps else "of any size"
        held = needs(plan, job.scene.channels, Made(), steps_abreast(job.bundle.device))
        return [("objects found whole", whole), *memory.lines(plan, held, 0, self.recipe.tiles.max_memory)[:-1]]

    def room(self, missing: Sequence[Window]) -> Room:
        """None for certain: how many objects there are is not known."""
        return Room()

    def files(self, path: Path, tags: Mapping[str, str]) -> BoxFiles:
        """What is written at and beside `path`."""
        return BoxFiles(self.job, path, {**tags, "SKYSENSE_WHAT": "objects"}, self.options.counts_m)

    def windows(self) -> list[Window]:
        """All windows: a tile may own objects of the area without finishing a pixel of it."""
        return list(self.job.plan.windows())

    def compute(self, parts: Parts, rows: range) -> None:
        """Find what is on some rows of tiles; kept window by window."""
        for name, arrays in console.progress(self._strips(rows), "strips", len(list(self.job.plan.windows(rows)))):
            parts.put(name, arrays)

    def _strips(self, rows: range) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        job, plan = self.job, self.job.plan
        cores = Cores(*plan.axes_px, plan.shape)
        scene, claimed = LookedAt(job, rows), list[Claimed]()
        head = cast(Head, job.bundle.head)
        find = pooled(self._found, same_iou=head.same_iou) if self.recipe.tiles.flips else self._found
        for event in compute(find, job.to_batch, scene, plan, rows, abreast=steps_abreast(job.bundle.device)):
            if event.window.row not in rows:
                continue
            if isinstance(event, TileDone):
                if event.result is not None:
                    claimed.append(self._wanted(cores.claim(event.window.row, event.column, event.result)))
                continue
            arrays = self._arrays(Claimed.joined(claimed), event.window, event.valid)
            yield event.window.name, {**arrays, "picture": scene.take(event.window, event.valid)}
            claimed = []

    def _found(self, batch: Batch, size: tuple[int, int]) -> list[Found]:
        bundle = self.job.bundle
        head = cast(Head, bundle.head)
        return head.boxes(head(bundle.model(batch.to(bundle.device))), size)

    def _wanted(self, claimed: Claimed) -> Claimed:
        """Those that score enough and lie in the area that is asked for."""
        claimed = claimed.chosen(claimed.scores >= self.options.min_score)
        if self.job.plan.area is None or not len(claimed.scores):
            return claimed
        x, y = np.floor(claimed.boxes[:, :2]).astype(int).clip(0, [side - 1 for side in self.job.plan.shape[::-1]]).T
        y, x = y + self.job.plan.origin[0], x + self.job.plan.origin[1]  # of the map -> of the scene
        inside = self.job.plan.area.inside(slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1))
        return claimed.chosen(inside[y - y.min(), x - x.min()])

    def _arrays(self, claimed: Claimed, window: Window, valid: np.ndarray) -> dict[str, np.ndarray]:
        arrays = {name: getattr(claimed, name) for name in ("boxes", "scores", "ids", "owned")}
        if self.options.counts_m is not None:
            (down, across), (above, beside) = self.job.plan.pixels(window), self.job.plan.before(window)
            cell_px = max(round(self.options.counts_m / self.job.gsd_m), 1)
            arrays["seen"] = seen_cells(valid[above:, beside:], down.start, across.start, cell_px)
        return arrays


@dataclass(frozen=True, eq=False)
class BoxFiles:
    """The file of objects at `path`; beside it `<stem>_counts.tif`, if asked for, a preview and the STAC item."""

    job: SceneJob
    path: Path
    tags: Mapping[str, str]
    counts_m: float | None

    @property
    def counts(self) -> Path:
        """The raster of counts."""
        return self.path.with_name(f"{self.path.stem}_counts.tif")

    def all(self) -> list[Path]:
        """Every file, the output first."""
        beside = [self.path.with_suffix(end) for end in (".png", ".stac.json")]
        return [self.path, *([self.counts] if self.counts_m is not None else []), *beside]

    def differences(self) -> list[str] | None:
        """The tags by which the files that are there were made from something else; None when files are missing."""
        found = []
        try:
            written = [read_tags(self.path)] + ([describe(self.counts).tags] if self.counts_m is not None else [])
        except GridError:
            return None
        for tags in written:
            found += [name for name, value in self.tags.items() if tags.get(name) != value and name not in found]
        return sorted(found) if found or all(path.exists() for path in self.all()) else None

    def write(self, parts: Parts, windows: Sequence[Window]) -> list[str]:
        """Write all files from the finished strips, each whole or not at all; returns lines for the user."""
        job, classes = self.job, self.job.bundle.classes
        counts = CellCounts.over(job.plan.shape, len(classes), self.counts_m, job.gsd_m) if self.counts_m is not None else None
        shown = sensors.get(job.inputs[color_bands(job.inputs)[0]].sensor)
        picture = ObjectPicture(job.plan.shape, job.grid.affine, shown.kind, len(classes))
        lines = write_objects(self.path, job.grid, classes, self._objects(parts, windows, counts, picture), self.tags)
        if counts is not None:
            lines += counts.write(self.counts, job.grid, classes, self.tags)
        preview = self.path.with_suffix(".png")
        picture.save(preview, classes, colors_of(job.bundle), title_of(self.path, self.tags))
        write_item(self.path.with_suffix(".stac.json"), job, {"counts": self.counts} if counts else {}, self.tags, {"objects": self.path})
        return [*lines, f"preview: {preview}"]

    def _objects(self, parts: Parts, windows: Sequence[Window], counts: CellCounts | None, picture: ObjectPicture) -> Iterator[Objects]:
        head, (rows, columns) = cast(Head, self.job.bundle.head), self.job.plan.axes_px
        mosaic = VectorMosaic(rows, columns, self.job.grid.affine, same_iou=head.same_iou)
        last = len(rows.starts) - 1
        for row, claimed in itertools.chain(self._claimed(parts, windows, counts, picture), [(last, Claimed.joined([]))]):
            objects = mosaic.add_row(row, claimed)
            picture.add(objects)
            if counts is not None:
                counts.add(objects)
            yield objects

    def _claimed(
        self, parts: Parts, windows: Sequence[Window], counts: CellCounts | None, picture: ObjectPicture
    ) -> Iterator[tuple[int, Claimed]]:  # fmt: skip
        """(row of tiles, what it claims)."""
        strips = zip(windows, parts.take(window.name for window in windows), strict=True)
        for row, group in itertools.groupby(strips, key=lambda strip: strip[0].row):
            claimed = []
            for window, (_, arrays) in group:
                rows, columns = self.job.plan.pixels(window)
                picture.scene.put_few(arrays.pop("picture"), rows.start, columns.start)
                if counts is not None:
                    counts.seen[tuple(arrays.pop("seen").T)] = True
                claimed.append(Claimed(**arrays))
            yield row, Claimed.joined(claimed)
