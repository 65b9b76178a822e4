"""What a prototype map is made of, one scene, several, or samples: opened, checked, placed on one sheet for each CRS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli import __version__
from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.engine import memory
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.bundle import WEIGHTS
from skysense_cli.engine.predict import steps_abreast
from skysense_cli.engine.prototype_samples import sample_sheets
from skysense_cli.engine.prototype_scenes import scene_sheets
from skysense_cli.engine.prototype_sheets import Sheet
from skysense_cli.engine.sample_job import open_samples
from skysense_cli.engine.scene_job import open_job
from skysense_cli.errors import BundleError, GridError
from skysense_cli.recipe.schema.maps import MapPrototypesRecipe

PIXEL_BYTES = 10  # of a cell in the three rasters
ROW_BYTES = 22  # of a cell in the rows that are being put together


@dataclass(frozen=True)
class PrototypeJob:
    """A map that is ready to be made. what: "scene", "scenes" or "samples" """

    bundle: LoadedBundle
    what: str
    sheets: tuple[Sheet, ...]
    known_facts: tuple[tuple[str, object], ...]

    @property
    def prototypes(self) -> GeoPrototypes:
        """Of the bundle's model."""
        return cast(GeoPrototypes, self.bundle.model.geo_context)

    @property
    def cell_m(self) -> float:
        """Edge of a cell in the bundle's metres."""
        return self.bundle.spec.model.cell_m

    def ground(self) -> Iterator[tuple[GeoBox, np.ndarray]]:
        """Of all sheets, see `Sheet.ground`."""
        for sheet in self.sheets:
            yield from sheet.ground()

    def facts(self) -> list[tuple[str, object]]:
        """(what, value) lines of the plan: what is read, the sheets, the regions and which of them have prototypes."""
        learned = set(self.prototypes.slot_regions.tolist())
        lines = list(self.known_facts)
        for sheet in self.sheets if self.what != "scene" else ():
            height, width = sheet.grid.shape
            where = f"{sheet.name}/" if sheet.name else "mosaic"
            held = sheet.band_rows * width * ROW_BYTES / 2**20
            lines.append(
                (where, f"{height:,} x {width:,} cells of {sheet.grid.affine.a:g} m, {sheet.grid.crs}, {len(sheet.sources):,} {self.what}")
            )
            lines.append(("memory for rows, disk", f"about {held:,.0f} MiB, at most {height * width * PIXEL_BYTES * 2.7 / 2**20:,.1f} MiB"))
        together: Counter[int] = Counter()
        for sheet in self.sheets:
            together.update(sheet.regions)
        for region, cells in together.most_common():
            words = "with prototypes" if region in learned else "WITHOUT prototypes: nodata"
            lines.append((f"region {region}", f"{cells:,} cells, {words}"))
        return lines

    def tags(self, sheet: Sheet, recipe_digest: str) -> dict[str, str]:
        """What the files of a sheet say about where they come from."""
        return {
            "SKYSENSE_VERSION": __version__,
            "SKYSENSE_BUNDLE_SHA256": self.bundle.manifest[WEIGHTS]["sha256"],
            "SKYSENSE_RECIPE_SHA256": recipe_digest,
            **sheet.tags,
        }


def open_prototypes(recipe: MapPrototypesRecipe, bundle: LoadedBundle) -> PrototypeJob:
    """The scenes or samples of a recipe in cells.

    Raises BundleError for a model without prototypes, GridError for a scene without a place or what is no mosaic.
    """
    if not isinstance(bundle.model.geo_context, GeoPrototypes):
        raise BundleError(f"{bundle.path} has no prototypes (model.prototypes is null in the recipe it was trained with)")
    if recipe.data is not None:
        samples = open_samples(recipe.data, bundle, "map-prototypes")
        return PrototypeJob(bundle, "samples", sample_sheets(samples), tuple(samples.facts()))
    given = [recipe.scene] if recipe.scene else list(recipe.scenes)
    jobs = [open_job(recipe.model_copy(update={"scene": scene, "scenes": ()}), bundle, bundle.spec.model.cell_m) for scene in given]
    if any(job.grid.crs is None for job in jobs):
        raise GridError("map-prototypes: the scene is not georeferenced, and prototypes belong to regions of the globe")
    facts: list[tuple[str, object]] = []
    for number, job in enumerate(jobs, 1):
        before = f"scene {number}: " if recipe.scenes else ""
        made = memory.Made(written=PIXEL_BYTES * job.plan.unit_px**2)
        held = memory.needs(job.plan, job.scene.channels, made, steps_abreast(bundle.device))
        cells = job.plan.shape[0] * job.plan.shape[1]
        facts += [(before + what, value) for what, value in (*job.facts(), *memory.lines(job.plan, held, PIXEL_BYTES * cells))]
    return PrototypeJob(bundle, "scenes" if recipe.scenes else "scene", scene_sheets(jobs), tuple(facts))
