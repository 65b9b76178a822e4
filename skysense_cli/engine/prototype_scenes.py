"""Scenes of a prototype map: their cells, tile by tile, and the sheets that they make."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import cast

from odc.geo.geobox import GeoBox

from skysense_cli.data.dataset import Regions
from skysense_cli.engine.predict import steps_abreast
from skysense_cli.engine.prototype_map import nearest_cells
from skysense_cli.engine.prototype_mosaic import Piece, Stream, place
from skysense_cli.engine.prototype_sheets import Sheet, folder_of, nearest_of, say_moved
from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.engine.tiling import runs
from skysense_cli.geo.grid import crs_text, lonlat
from skysense_cli.geo.regions import region_of


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

    @property
    def portion_rows(self) -> int:
        """Rows of its tallest portion."""
        return max(last - first for first, last in pairwise([*self.tops, self.grid.shape[0]]))

    def pieces(self, number: int, portions: Sequence[int]) -> Iterator[Piece]:
        """The cells of some of its portions, as source `number`."""
        job, nearest = self.job, nearest_of(self.job.bundle)
        for rows in runs(portions):
            for cells in nearest_cells(nearest, job.to_batch, job.scene, job.plan, rows, abreast=steps_abreast(job.bundle.device)):
                yield Piece(number, cells)


def scene_sheets(jobs: Sequence[SceneJob]) -> tuple[Sheet, ...]:
    """Scenes by CRS."""
    by_crs: dict[str, list[SceneCells]] = {}
    for number, job in enumerate(jobs, 1):
        by_crs.setdefault(crs_text(job.grid.crs), []).append(SceneCells(job, f"scene {number}"))
    sheets = []
    for crs, scenes in by_crs.items():
        grid, placements = place([scene.grid for scene in scenes], "scenes")
        streams = tuple(
            Stream([at.top + top for top in scene.tops], partial(scene.pieces, number), [range(k, k + 1) for k in range(len(scene.tops))])
            for number, (scene, at) in enumerate(zip(scenes, placements, strict=True))
        )
        tags = _joined([scene.job.scene.tags for scene in scenes])
        sheets.append(Sheet(folder_of(crs, by_crs), grid, tuple(scenes), tuple(placements), streams, tags))
        say_moved(placements, scenes)
    return tuple(sheets)


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
