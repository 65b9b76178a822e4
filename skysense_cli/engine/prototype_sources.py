"""What a prototype map is made of, one scene, several, or samples: opened, checked, placed on one sheet for each CRS."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, cast

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor

from skysense_cli import __version__, console
from skysense_cli.core.batch import Batch
from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.data.dataset import Regions
from skysense_cli.engine import memory
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.bundle import WEIGHTS
from skysense_cli.engine.prototype_map import NO_PROTOTYPE, NO_REGION, CellRows, Nearest, nearest_cells
from skysense_cli.engine.prototype_mosaic import ON_LATTICE, Piece, Placement, Stream, place
from skysense_cli.engine.sample_job import SampleJob, open_samples
from skysense_cli.engine.scene_job import SceneJob, open_job
from skysense_cli.errors import BundleError, GridError
from skysense_cli.geo.grid import crs_text, lonlat, make_grid
from skysense_cli.geo.regions import region_of
from skysense_cli.recipe.schema.maps import MapPrototypesRecipe

PIXEL_BYTES = 10  # of a cell in the three rasters
ROW_BYTES = 22  # of a cell in the rows that are being put together


class Source(Protocol):
    """A scene or a sample, in cells."""

    @property
    def id(self) -> str: ...

    @property
    def grid(self) -> GeoBox: ...

    @property
    def cell_m(self) -> float: ...

    @property
    def regions(self) -> Counter[int]: ...


@dataclass(frozen=True)
class SceneCells:
    """A scene. Each tile takes the prototypes of the region in which its centre lies, and alone decides its core."""

    job: SceneJob
    id: str

    @property
    def grid(self) -> GeoBox:
        """Its cells."""
        return self.job.grid

    @property
    def cell_m(self) -> float:
        """Edge of a cell in the bundle's metres."""
        return self.job.gsd_m

    @property
    def tops(self) -> list[int]:
        """First row of each portion that `pieces` gives."""
        plan = self.job.plan
        tops = (core.start * plan.unit_px for core in plan.row_cores)
        return [top for top in tops if top < plan.shape[0]]

    @property
    def regions(self) -> Counter[int]:
        """Region -> cells of the scene that its tiles decide."""
        plan, px, found = self.job.plan, self.job.plan.unit_px, Counter[int]()
        for (row, top), (column, left) in itertools.product(enumerate(plan.rows.starts), enumerate(plan.columns.starts)):
            core = plan.core(row, column)
            centre = self.grid.affine * ((left + plan.columns.size / 2) * px, (top + plan.rows.size / 2) * px)
            place = lonlat((*centre, *centre), crs_text(self.grid.crs))
            sides = [min(part.stop * px, side) - min(part.start * px, side) for part, side in zip(core, plan.shape, strict=True)]
            found[region_of(*place, *cast(Regions, self.job.bundle.spec.regions))] += sides[0] * sides[1]
        return found

    def pieces(self, number: int) -> Iterator[Piece]:
        """All its cells, as source `number`."""
        for rows in nearest_cells(nearest_of(self.job.bundle), self.job.to_batch, self.job.scene, self.job.plan):
            yield Piece(number, rows)


@dataclass(frozen=True)
class SampleCells:
    """A sample. It takes the prototypes of the region in which its centre lies. number: in the job's samples"""

    job: SampleJob
    number: int

    @property
    def id(self) -> str:
        """Of the sample."""
        return self.job.samples.rows[self.number].id

    @property
    def grid(self) -> GeoBox:
        """Its cells."""
        row = self.job.samples.rows[self.number]
        return make_grid(row.bounds[0], row.bounds[3], self.job.bundle.spec.model.cell_m, *self.job.cells(self.number), row.crs)

    @property
    def cell_m(self) -> float:
        """Edge of a cell in the bundle's metres."""
        return self.job.bundle.spec.model.cell_m

    @property
    def regions(self) -> Counter[int]:
        """Its region -> its cells."""
        height, width = self.job.cells(self.number)
        lon, lat = self.job.samples.rows[self.number].lonlat
        return Counter({region_of(lon, lat, *cast(Regions, self.job.bundle.spec.regions)): height * width})


@dataclass(frozen=True)
class Sheet:
    """One raster of a map. name: of its folder, "" when there is only one      tags: what its files say of its sources"""

    name: str
    grid: GeoBox
    sources: tuple[Source, ...]
    placements: tuple[Placement, ...]
    streams: tuple[Stream, ...]
    tags: Mapping[str, str]

    @property
    def regions(self) -> Counter[int]:
        """Region -> cells of the sources that take its prototypes, most first; cells that several see count several times."""
        found: Counter[int] = Counter()
        for source in self.sources:
            found.update(source.regions)
        return Counter(dict(found.most_common()))

    @property
    def band_rows(self) -> int:
        """At most so many rows wait to be finished at a time, if sources come in turn."""
        return max(placement.shape[0] if isinstance(source, SampleCells) else _strip(source) for source, placement in
                   zip(self.sources, self.placements, strict=True))  # fmt: skip


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
        return PrototypeJob(bundle, "samples", _sample_sheets(samples), tuple(samples.facts()))
    given = [recipe.scene] if recipe.scene else list(recipe.scenes)
    jobs = [open_job(recipe.model_copy(update={"scene": scene, "scenes": ()}), bundle, bundle.spec.model.cell_m) for scene in given]
    if any(job.grid.crs is None for job in jobs):
        raise GridError("map-prototypes: the scene is not georeferenced, and prototypes belong to regions of the globe")
    facts: list[tuple[str, object]] = []
    for number, job in enumerate(jobs, 1):
        before = f"scene {number}: " if recipe.scenes else ""
        held = memory.needs(job.plan, job.scene.channels, 0, PIXEL_BYTES, 1)
        facts += [(before + what, value) for what, value in (*job.facts(), *memory.lines(job.plan, held, PIXEL_BYTES))]
    return PrototypeJob(bundle, "scenes" if recipe.scenes else "scene", _scene_sheets(jobs), tuple(facts))


def nearest_of(bundle: LoadedBundle) -> Nearest:
    """What finds the nearest prototype of each cell of a batch; raises BundleError when a feature is not finite."""

    def nearest(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        batch = batch.to(bundle.device)
        features = bundle.model(batch)
        index, similarity = cast(GeoPrototypes, bundle.model.geo_context).nearest(features.fused_mm, batch.region)
        if not bool(torch.isfinite(similarity).all()):
            raise BundleError(f"{bundle.path}: the model gives features that are not finite; see with which data it was trained")
        return torch.where(features.seen_any, index, -1), similarity, features.seen_any

    return nearest


def _scene_sheets(jobs: Sequence[SceneJob]) -> tuple[Sheet, ...]:
    """Scenes by CRS."""
    by_crs: dict[str, list[SceneCells]] = {}
    for number, job in enumerate(jobs, 1):
        by_crs.setdefault(crs_text(job.grid.crs), []).append(SceneCells(job, f"scene {number}"))
    sheets = []
    for crs, scenes in by_crs.items():
        grid, placements = place([scene.grid for scene in scenes], "scenes")
        streams = tuple(
            Stream([at.top + top for top in scene.tops], lambda scene=scene, number=number: scene.pieces(number))  # type: ignore[misc]
            for number, (scene, at) in enumerate(zip(scenes, placements, strict=True))
        )
        tags = _joined([scene.job.scene.tags for scene in scenes])
        sheets.append(Sheet(_folder(crs, by_crs), grid, tuple(scenes), tuple(placements), streams, tags))
        _say_moved(placements, scenes)
    return tuple(sheets)


def _sample_sheets(job: SampleJob) -> tuple[Sheet, ...]:
    """Samples by CRS, those of one from north to south, so that few rows wait for their neighbours."""
    by_crs: dict[str, list[SampleCells]] = {}
    placeless = []
    for number in job.numbers:
        crs = job.samples.rows[number].crs
        by_crs.setdefault(crs, []).append(SampleCells(job, number)) if crs else placeless.append(job.samples.rows[number].id)
    if not by_crs:
        raise GridError(
            f"map-prototypes: none of the {len(placeless)} samples is georeferenced, and prototypes belong to regions of the globe"
        )
    if placeless:
        shown = ", ".join(placeless[:3]) + (", ..." if len(placeless) > 3 else "")
        console.warn(f"{len(placeless)} samples are not georeferenced and have no place in a map ({shown})")
    sheets = []
    for crs, samples in sorted(by_crs.items()):
        samples.sort(key=lambda one: (-job.samples.rows[one.number].bounds[3], job.samples.rows[one.number].bounds[0]))  # stable
        grid, placements = place([sample.grid for sample in samples], "samples")
        order = sorted(range(len(samples)), key=lambda k: placements[k].top)  # as rounded to the lattice
        samples, placements = [samples[k] for k in order], [placements[k] for k in order]
        stream = Stream([at.top for at in placements], lambda samples=tuple(samples): _sample_pieces(job, samples))  # type: ignore[misc]
        ids = "\n".join(sample.id for sample in samples).encode()
        tags = {"SKYSENSE_SAMPLES": str(len(samples)), "SKYSENSE_SAMPLES_SHA256": hashlib.sha256(ids).hexdigest()}
        sheets.append(Sheet(_folder(crs, by_crs), grid, tuple(samples), tuple(placements), (stream,), tags))
        _say_moved(placements, samples)
    return tuple(sheets)


def _sample_pieces(job: SampleJob, samples: Sequence[SampleCells]) -> Iterator[Piece]:
    """The cells of each sample, several a step, in their order."""
    nearest = nearest_of(job.bundle)
    places = iter(range(len(samples)))
    for step in console.progress(list(job.steps([sample.number for sample in samples])), "steps of samples"):
        batch = job.batch(step)
        with torch.inference_mode():
            index, similarity, seen = (part.cpu().numpy() for part in nearest(batch))
        for k in range(len(step)):
            known = index[k] >= 0
            yield Piece(next(places), CellRows(
                0, np.where(known, index[k], NO_PROTOTYPE).astype(np.uint16), np.where(known, similarity[k], np.nan).astype(np.float32),
                np.where(seen[k], int(batch.region[k]), NO_REGION).astype(np.int32),
            ))  # fmt: skip


def _strip(source: Source) -> int:
    """Rows that the tallest portion of a scene has."""
    scene = cast(SceneCells, source)
    edges = [*scene.tops, scene.grid.shape[0]]
    return max(last - first for first, last in pairwise(edges))


def _folder(crs: str, known: Mapping[str, object]) -> str:
    """The folder of a sheet: none for a single one, `epsg_32631`, or `crs_2` for one without a number."""
    if len(known) == 1:
        return ""
    code = crs.lower().replace(":", "_")
    return code if code.replace("_", "").isalnum() and len(code) < 20 else f"crs_{sorted(known).index(crs) + 1}"


def _joined(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The tags of several scenes: lists of items one after the other, what they share once."""
    found = {}
    for name in dict.fromkeys(name for one in tags for name in one):
        texts = [one[name] for one in tags if name in one]
        if name.startswith("SKYSENSE_SCENES_"):
            found[name] = " ".join(dict.fromkeys(item for text in texts for item in text.split()))
        else:
            found[name] = " | ".join(dict.fromkeys(texts))
    return found


def _say_moved(placements: Sequence[Placement], sources: Sequence[Source]) -> None:
    moved = [(at.off, source.id) for at, source in zip(placements, sources, strict=True) if at.off > ON_LATTICE]
    if moved:
        off, worst = max(moved)
        console.warn(f"{len(moved)} of {len(sources)} do not lie on the grid of the first; moved by up to {off:.2f} cells ({worst})")
