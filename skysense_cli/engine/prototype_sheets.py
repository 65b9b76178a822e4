"""The sheets of a prototype map: what each is made of, and what makes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor

from skysense_cli import console
from skysense_cli.core.batch import Batch
from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.prototype_map import Nearest
from skysense_cli.engine.prototype_mosaic import ON_LATTICE, Placement, Stream
from skysense_cli.errors import BundleError
from skysense_cli.geo.grid import window

PORTION_ROWS = 64  # of a sheet, looked at together


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

    @property
    def portion_rows(self) -> int: ...


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

    def ground(self) -> Iterator[tuple[GeoBox, np.ndarray]]:
        """(grid, (n, W) bool: cells on which a source lies) of portions of the sheet, from the top; those without any are left out."""
        height, width = self.grid.shape
        edges = np.array([(at.top, at.left, at.top + at.shape[0], at.left + at.shape[1]) for at in self.placements])
        for top in range(0, height, PORTION_ROWS):
            last = min(top + PORTION_ROWS, height)
            covered = np.zeros((last - top, width), bool)
            for first, left, stop, right in edges[(edges[:, 0] < last) & (edges[:, 2] > top)].tolist():
                covered[max(first - top, 0) : stop - top, left:right] = True
            if covered.any():
                yield window(self.grid, slice(top, last), slice(0, width)), covered

    @property
    def band_rows(self) -> int:
        """At most so many rows wait to be finished at a time, if sources come in turn."""
        return max(source.portion_rows for source in self.sources)


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


def folder_of(crs: str, known: Mapping[str, object]) -> str:
    """The folder of a sheet: none for a single one, `epsg_32631`, or `crs_2` for one without a number."""
    if len(known) == 1:
        return ""
    code = crs.lower().replace(":", "_")
    return code if code.replace("_", "").isalnum() and len(code) < 20 else f"crs_{sorted(known).index(crs) + 1}"


def say_moved(placements: Sequence[Placement], sources: Sequence[Source]) -> None:
    """Warn of sources that do not lie on the lattice of the first."""
    moved = [(at.off, source.id) for at, source in zip(placements, sources, strict=True) if at.off > ON_LATTICE]
    if moved:
        off, worst = max(moved)
        console.warn(f"{len(moved)} of {len(sources)} do not lie on the grid of the first; moved by up to {off:.2f} cells ({worst})")
