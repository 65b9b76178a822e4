"""Samples of a prototype map: their cells, several a step, and the sheets that they make."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import numpy as np
import torch
from odc.geo.geobox import GeoBox

from skysense_cli import console
from skysense_cli.data.dataset import Regions
from skysense_cli.engine.prototype_map import NO_PROTOTYPE, NO_REGION, CellRows
from skysense_cli.engine.prototype_mosaic import Piece, Placement, Stream, place
from skysense_cli.engine.prototype_sheets import Sheet, folder_of, nearest_of, say_moved
from skysense_cli.engine.sample_job import SampleJob
from skysense_cli.errors import GridError
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.regions import region_of

PORTION = 64  # samples, at least, whose cells are kept together


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

    @property
    def portion_rows(self) -> int:
        """All its rows: a sample comes as a whole."""
        return self.job.cells(self.number)[0]


def sample_sheets(job: SampleJob) -> tuple[Sheet, ...]:
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
        stream = _stream(job, samples, placements)
        ids = "\n".join(sample.id for sample in samples).encode()
        tags = {"SKYSENSE_SAMPLES": str(len(samples)), "SKYSENSE_SAMPLES_SHA256": hashlib.sha256(ids).hexdigest()}
        sheets.append(Sheet(folder_of(crs, by_crs), grid, tuple(samples), tuple(placements), (stream,), tags))
        say_moved(placements, samples)
    return tuple(sheets)


def _stream(job: SampleJob, samples: Sequence[SampleCells], placements: Sequence[Placement]) -> Stream:
    """The cells of each sample, in their order; those of a portion are whole steps, whichever portions are asked for."""
    portions: list[list[list[int]]] = []
    for step in job.steps([sample.number for sample in samples]):
        if not portions or sum(map(len, portions[-1])) >= PORTION:
            portions.append([])
        portions[-1].append(step)
    ends = list(accumulate(sum(map(len, steps)) for steps in portions))
    ranges = [range(first, last) for first, last in zip([0, *ends], ends, strict=False)]

    def pieces(asked: Sequence[int]) -> Iterator[Piece]:
        places = (place for portion in asked for place in ranges[portion])
        steps = [step for portion in asked for step in portions[portion]]
        for step in console.progress(steps, "steps of samples"):
            for cells in _cells_of(job, step):
                yield Piece(next(places), cells)

    return Stream([at.top for at in placements], pieces, ranges)


def _cells_of(job: SampleJob, step: Sequence[int]) -> Iterator[CellRows]:
    batch = job.batch(step)
    with torch.inference_mode():
        index, similarity, seen = (part.cpu().numpy() for part in nearest_of(job.bundle)(batch))
    for k in range(len(step)):
        known = index[k] >= 0
        yield CellRows(
            0, np.where(known, index[k], NO_PROTOTYPE).astype(np.uint16), np.where(known, similarity[k], np.nan).astype(np.float32),
            np.where(seen[k], int(batch.region[k]), NO_REGION).astype(np.int32),
        )  # fmt: skip
