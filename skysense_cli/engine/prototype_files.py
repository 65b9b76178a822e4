"""`map-prototypes` from recipe to files: three rasters, a legend and a picture."""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from skysense_cli import console
from skysense_cli.core.batch import Batch
from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.data.dataset import Regions
from skysense_cli.engine import memory
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.preview import Entry, Reduced, paint, save_classes
from skysense_cli.engine.prototype_map import NO_PROTOTYPE, NO_REGION, CellRows, Census, nearest_cells, prototype_color
from skysense_cli.engine.scene_job import SceneJob, open_job
from skysense_cli.engine.score_map import Color
from skysense_cli.errors import BundleError, GridError
from skysense_cli.files import write_text
from skysense_cli.geo.cog import GeoTiffStream, Look
from skysense_cli.geo.grid import crs_text, lonlat
from skysense_cli.geo.regions import region_of
from skysense_cli.recipe.schema.maps import MapPrototypesRecipe

INDEX, SIMILARITY, REGION = "prototypes.tif", "prototypes_similarity.tif", "prototypes_region.tif"
PIXEL_BYTES = 10  # of a cell in the three rasters
SEAM_RULE = "each tile takes the region in which its centre lies and decides its core alone"


def open_prototypes(recipe: MapPrototypesRecipe, bundle: LoadedBundle) -> SceneJob:
    """The scene of a recipe in cells. Raises BundleError for a model without prototypes, GridError for a scene without a place."""
    if not isinstance(bundle.model.geo_context, GeoPrototypes):
        raise BundleError(f"{bundle.path} has no prototypes (model.prototypes is null in the recipe it was trained with)")
    job = open_job(recipe, bundle, bundle.spec.model.cell_m)
    if job.grid.crs is None:
        raise GridError("map-prototypes: the scene is not georeferenced, and prototypes belong to regions of the globe")
    return job


def plan_facts(job: SceneJob) -> list[tuple[str, str]]:
    """(what, value) lines of the plan; among them the regions of the scene, and which of them have prototypes."""
    held = memory.needs(job.plan, job.scene.channels, 0, PIXEL_BYTES, 1)
    return [*job.facts(), *memory.lines(job.plan, held, PIXEL_BYTES), *region_facts(job)]


def region_facts(job: SceneJob) -> list[tuple[str, str]]:
    """(what, value) lines: the regions of the scene, and which of them have prototypes."""
    learned = set(_prototypes(job).slot_regions.tolist())
    words = {region: "with prototypes" if region in learned else "WITHOUT prototypes: nodata" for region in regions(job)}
    return [(f"region {region}", f"{cells:,} cells, {words[region]}") for region, cells in regions(job).items()]


def regions(job: SceneJob) -> Counter[int]:
    """Region -> cells of the scene that its tiles decide, most first."""
    plan, px, found = job.plan, job.plan.unit_px, Counter[int]()
    for (row, top), (column, left) in itertools.product(enumerate(plan.rows.starts), enumerate(plan.columns.starts)):
        core = plan.core(row, column)
        centre = job.grid.affine * ((left + plan.columns.size / 2) * px, (top + plan.rows.size / 2) * px)
        region = region_of(*lonlat((*centre, *centre), crs_text(job.grid.crs)), *cast(Regions, job.bundle.spec.regions))
        sides = [min(part.stop * px, side) - min(part.start * px, side) for part, side in zip(core, plan.shape, strict=True)]
        found[region] += sides[0] * sides[1]
    return Counter(dict(found.most_common()))


def write_prototypes(job: SceneJob, folder: Path, recipe_digest: str) -> list[str]:
    """Write prototypes.tif (uint16), _similarity.tif (float32), _region.tif (int32), legend.json, legend.csv and .png.

    Every file is whole or absent; no random number is drawn. The palette of prototypes.tif, which has one colour
    per number, is that of the region with most cells. Returns lines for the user.
    """
    census, codes = Census(_prototypes(job).per_region), Reduced(job.plan.shape)
    tags = {**job.tags(recipe_digest), "SKYSENSE_SEAM_RULE": SEAM_RULE}
    with _Rasters(job, folder, tags) as rasters:
        for rows in _rows(job):
            rasters.write(rows)
            census.add(rows)
            codes.add(census.codes(rows.region, rows.index))
    legend = _legend(census)
    write_text(folder / "legend.json", _json(legend, census, job))
    write_text(folder / "legend.csv", _csv(legend))
    colors = {line.region * census.per_region + line.prototype: line.color for line in legend}
    several = len({line.region for line in legend}) > 1
    labels = [f"{line.region}: {line.prototype}" if several else f"prototype {line.prototype}" for line in legend]
    entries = [Entry(label, line.color, line.share) for label, line in zip(labels, legend, strict=True)]
    title = "nearest prototype of each cell" + (", simulated data" if "SIMULATED" in tags else "")
    save_classes(folder / "prototypes.png", paint(codes.picture, colors), entries, title)
    for region, cells in sorted(census.empty.items()):
        known = ", ".join(map(str, sorted(_prototypes(job).slot_regions.tolist())[:8])) or "none"
        console.warn(f"region {region} has no prototypes, {cells:,} cells are nodata (this bundle learned regions {known})")
    return [f"prototypes: {folder / INDEX} ({len(legend)} in use on {sum(census.cells.values()):,} cells)"]


class _Rasters:
    """The three files, written together."""

    def __init__(self, job: SceneJob, folder: Path, tags: dict[str, str]) -> None:
        per_region, region = _prototypes(job).per_region, next(iter(regions(job)))
        colors = {number: prototype_color(region, number, per_region) for number in range(per_region)}
        tags = {**tags, "SKYSENSE_PALETTE_REGION": str(region)}
        looks = (
            (INDEX, "uint16", Look(nodata=NO_PROTOTYPE, colors=colors, band_names=["prototype"], tags=tags, overviews="mode")),
            (SIMILARITY, "float32", Look(nodata=np.nan, band_names=["cosine similarity"], tags=tags, overviews="average")),
            (REGION, "int32", Look(nodata=NO_REGION, band_names=["region"], tags=tags, overviews="mode")),
        )
        self._streams = [GeoTiffStream(folder / name, job.grid, 1, dtype, look) for name, dtype, look in looks]
        self._stack = ExitStack()

    def __enter__(self) -> "_Rasters":
        for stream in self._streams:
            self._stack.enter_context(stream)
        return self

    def write(self, rows: CellRows) -> None:
        for stream, numbers in zip(self._streams, (rows.index, rows.similarity, rows.region), strict=True):
            stream.write(numbers[None], rows.top)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


@dataclass(frozen=True)
class _Line:
    """A prototype in use. share: of the cells that have one"""

    region: int
    prototype: int
    color: Color
    cells: int
    share: float


def _rows(job: SceneJob) -> Iterator[CellRows]:
    model, device = job.bundle.model, job.bundle.device

    def nearest(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        batch = batch.to(device)
        features = model(batch)
        index, similarity = _prototypes(job).nearest(features.fused_mm, batch.region)
        return torch.where(features.seen_any, index, -1), similarity, features.seen_any

    return nearest_cells(nearest, job.to_batch, job.scene, job.plan)


def _prototypes(job: SceneJob) -> GeoPrototypes:
    return cast(GeoPrototypes, job.bundle.model.geo_context)


def _legend(census: Census) -> list[_Line]:
    total = sum(census.cells.values())
    colors = {pair: prototype_color(*pair, census.per_region) for pair in census.cells}
    return [_Line(*pair, colors[pair], census.cells[pair], census.cells[pair] / total) for pair in sorted(census.cells)]


def _json(legend: list[_Line], census: Census, job: SceneJob) -> str:
    lines = [
        {"region": one.region, "prototype": one.prototype, "color": _hex(one.color), "cells": one.cells, "share": round(one.share, 6)}
        for one in legend
    ]
    empty = [{"region": region, "cells": cells} for region, cells in sorted(census.empty.items())]
    facts = {"cell_m": job.gsd_m, "per_region": census.per_region, "seam_rule": SEAM_RULE, "regions_without_prototypes": empty}
    return json.dumps({**facts, "prototypes": lines}, indent=1) + "\n"


def _csv(legend: list[_Line]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["region", "prototype", "color", "cells", "share"])
    writer.writerows([one.region, one.prototype, _hex(one.color), one.cells, f"{one.share:.6f}"] for one in legend)
    return text.getvalue()


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
