"""What is counted of a prototype map while it is made: cells, hectares and similarity per prototype, and its most typical cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli.engine.prototype_map import NO_PROTOTYPE, NO_REGION, CellRows
from skysense_cli.geo.grid import WGS84, bounds_of, crs_text, window
from skysense_cli.geo.outlines import outline

SPREAD_CELLS = 32  # side of the squares of which each gives at most one typical cell
M2_PER_HA = 10_000


@dataclass
class Tally:
    """cells and hectares, and the sum of the similarity of the cells"""

    cells: int = 0
    area_ha: float = 0.0
    similarity: float = 0.0

    @property
    def mean_similarity(self) -> float:
        """Of the cells; NaN without any."""
        return self.similarity / self.cells if self.cells else float("nan")

    def __iadd__(self, other: Tally) -> Tally:
        self.cells, self.area_ha, self.similarity = (
            self.cells + other.cells,
            self.area_ha + other.area_ha,
            self.similarity + other.similarity,
        )
        return self


@dataclass(frozen=True, order=True)
class Typical:
    """A cell that is like its prototype. sheet, row, column: where; better ones and, of equal ones, earlier ones sort first"""

    dislike: float  # minus the similarity
    sheet: int
    row: int
    column: int
    source: int = field(compare=False)

    @property
    def similarity(self) -> float:
        """To the prototype, -1..1."""
        return -self.dislike


@dataclass
class Census:
    """All sheets of a map together. per_region: N_p      typical: how many typical cells are kept of each prototype

    used: (region, prototype) -> its cells      empty: region without prototypes -> its cells
    """

    per_region: int
    typical: int = 0
    used: defaultdict[tuple[int, int], Tally] = field(default_factory=lambda: defaultdict(Tally))
    empty: defaultdict[int, Tally] = field(default_factory=lambda: defaultdict(Tally))
    _best: dict[int, dict[tuple[int, int, int], Typical]] = field(default_factory=dict)

    def add(self, rows: CellRows, grid: GeoBox, sheet: int = 0, source: np.ndarray | None = None) -> np.ndarray:
        """Count some rows of the sheet whose cells are `grid`; returns their codes (n, W). source: (n, W), which one each came from"""
        codes = self.codes(rows.region, rows.index)
        cell_ha = cell_area_m2(grid, rows.top, len(rows.index)) / M2_PER_HA
        known = codes >= 0
        found, inverse = np.unique(codes[known], return_inverse=True)
        cells, sums = np.bincount(inverse), np.bincount(inverse, rows.similarity[known].astype(np.float64))
        for code, count, total in zip(found.tolist(), cells.tolist(), sums.tolist(), strict=True):
            self.used[divmod(code, self.per_region)] += Tally(count, count * cell_ha, total)
        regions, counts = np.unique(rows.region[~known & (rows.region != NO_REGION)], return_counts=True)
        for region, count in zip(regions.tolist(), counts.tolist(), strict=True):
            self.empty[region] += Tally(count, count * cell_ha)
        if self.typical and len(found):
            self._note(rows, known, (found, inverse), sheet, source)
        return codes

    def codes(self, region: np.ndarray, index: np.ndarray) -> np.ndarray:
        """One number for each (region, prototype); -1 where there is none."""
        return np.where(index == NO_PROTOTYPE, -1, region.astype(np.int64) * self.per_region + index)

    def code(self, region: int, prototype: int) -> int:
        """The number of one of them."""
        return region * self.per_region + prototype

    def regions(self) -> dict[int, Tally]:
        """Region with prototypes -> all its cells, in order."""
        found: defaultdict[int, Tally] = defaultdict(Tally)
        for (region, _), tally in sorted(self.used.items()):
            found[region] += tally
        return dict(found)

    def most_typical(self, region: int, prototype: int) -> list[Typical]:
        """The cells most similar to a prototype, at most one from each square of SPREAD_CELLS, best first."""
        return sorted(self._best.get(self.code(region, prototype), {}).values())[: self.typical]

    def _note(
        self, rows: CellRows, known: np.ndarray, unique: tuple[np.ndarray, np.ndarray], sheet: int, source: np.ndarray | None
    ) -> None:
        """Keep the best cells; of a square only its best one ever counts, so what was dropped before need not be remembered."""
        found, inverse = unique
        least = np.array([self._least(code) for code in found.tolist()])
        row, column = np.nonzero(known)
        similarity = rows.similarity[known].astype(np.float64)
        some = similarity >= least[inverse]
        row, column, similarity, inverse = row[some], column[some], similarity[some], inverse[some]
        squares = (row + rows.top) // SPREAD_CELLS, column // SPREAD_CELLS
        order = np.lexsort((column, row, -similarity, squares[1], squares[0], inverse))
        keys = np.stack([inverse, *squares])[:, order]
        first = np.ones(len(order), bool)
        first[1:] = (keys[:, 1:] != keys[:, :-1]).any(axis=0)  # of each prototype and square the best
        for k in order[first].tolist():
            place = int(row[k] + rows.top), int(column[k])
            came = 0 if source is None else int(source[row[k], column[k]])
            self._keep(int(found[inverse[k]]), Typical(-float(similarity[k]), sheet, *place, source=came))

    def _keep(self, code: int, cell: Typical) -> None:
        best = self._best.setdefault(code, {})
        square = cell.sheet, cell.row // SPREAD_CELLS, cell.column // SPREAD_CELLS
        if square not in best or cell < best[square]:
            best[square] = cell
        if len(best) > self.typical:
            del best[max(best, key=lambda place: best[place])]

    def _least(self, code: int) -> float:
        """The similarity below which a cell cannot become typical."""
        best = self._best.get(code, {})
        return min((cell.similarity for cell in best.values()), default=-np.inf) if len(best) >= self.typical else -np.inf


def cell_area_m2(grid: GeoBox, top: int, height: int) -> float:
    """Mean area of a cell on the ellipsoid, in rows of `grid`; a map projection's own metres may be up to 1 % off."""
    ground = outline(bounds_of(window(grid, slice(top, top + height), slice(0, grid.shape[1]))), crs_text(grid.crs))
    return abs(WGS84.geometry_area_perimeter(ground)[0]) / (height * grid.shape[1])


def total(tallies: Iterable[Tally]) -> Tally:
    """All together."""
    found = Tally()
    for tally in tallies:
        found += tally
    return found
