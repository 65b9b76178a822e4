"""Cells of many samples or scenes on one grid, row by row; of cells seen twice the one nearer to its source's centre stays.

A source is a sample or a scene. A cell of the mosaic is decided by the source that sees it and whose centre is nearest;
of sources with equally near centres by the first. All of them have cells of one size; a source that does not lie on the
lattice of the first one is moved to it, by half a cell at most in each direction.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.engine.prototype_map import NO_PROTOTYPE, NO_REGION, CellRows
from skysense_cli.errors import GridError

MOST_CELLS = 1 << 32  # of one raster
GAP_ROWS = 256  # rows of nothing are written in such portions
SAME_SIZE = 1e-6  # relative difference of two cells
ON_LATTICE = 0.01  # of a cell; less is rounding

NOBODY = -1


@dataclass(frozen=True)
class Placement:
    """Where a source lies on the mosaic. top, left: of its first cell      off: how far it was moved, in cells"""

    top: int
    left: int
    shape: tuple[int, int]
    off: float

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column, in cells from the mosaic's corner."""
        return self.top + self.shape[0] / 2, self.left + self.shape[1] / 2


@dataclass(frozen=True)
class Piece:
    """Rows of one source; rows.top counts from the source's own first row."""

    source: int
    rows: CellRows


@dataclass(frozen=True)
class Stream:
    """Pieces of one or several sources, made one after the other.

    tops: first mosaic row of each, ascending      pieces: numbers of portions, ascending -> their pieces
    portions: the pieces that are made, and may be kept, together; one after the other they are all
    """

    tops: Sequence[int]
    pieces: Callable[[Sequence[int]], Iterator[Piece]]
    portions: Sequence[range]


@dataclass(frozen=True)
class MosaicRows:
    """Finished rows. source: (n, W) int32, which source decided the cell; -1 = none"""

    cells: CellRows
    source: np.ndarray


def place(grids: Sequence[GeoBox], what: str) -> tuple[GeoBox, list[Placement]]:
    """The grid that holds all of `grids`, which share a CRS, on the lattice of the first; and where each lies.

    what: "samples" or "scenes", for messages
    Raises GridError for cells of different sizes, turned grids, or a grid of more than MOST_CELLS.
    """
    first = grids[0].affine
    corners, off = [], []
    for grid in grids:
        affine = grid.affine
        if affine.b or affine.d or max(abs(affine.a / first.a - 1), abs(affine.e / first.e - 1)) > SAME_SIZE:
            raise GridError(
                f"map-prototypes: {what} of {grid.crs} have cells of {first.a:g} x {-first.e:g} and of {affine.a:g} x {-affine.e:g}, "
                "which are no mosaic; say scene_gsd: resample, or map them one by one"
            )
        exact = (affine.f - first.f) / first.e, (affine.c - first.c) / first.a
        corners.append((round(exact[0]), round(exact[1])))
        off.append(max(abs(value - round(value)) for value in exact))
    tops, lefts = ([corner[axis] for corner in corners] for axis in (0, 1))
    bottom = max(top + grid.shape[0] for top, grid in zip(tops, grids, strict=True))
    right = max(left + grid.shape[1] for left, grid in zip(lefts, grids, strict=True))
    height, width = bottom - min(tops), right - min(lefts)
    if height * width > MOST_CELLS:
        raise GridError(
            f"map-prototypes: the {what} of {grids[0].crs} lie so far apart that their mosaic has {height:,} x {width:,} cells, "
            f"at most {MOST_CELLS:,} are possible; map a split or a part of them at a time"
        )
    whole = GeoBox((height, width), first * Affine.translation(min(lefts), min(tops)), grids[0].crs)
    return whole, [
        Placement(top - min(tops), left - min(lefts), (grid.shape[0], grid.shape[1]), moved)
        for top, left, grid, moved in zip(tops, lefts, grids, off, strict=True)
    ]


def mosaic(streams: Sequence[Stream], placements: Sequence[Placement], shape: tuple[int, int]) -> Iterator[MosaicRows]:
    """Rows of the mosaic from top to bottom, each once. placements: of all sources

    In memory are the rows between the topmost piece that is still to come and the lowest that came; a stream is started
    when its first piece is next, so scenes that share no row are not open together.
    """
    band = _Band(shape)
    waiting = [(stream.tops[0], number, 0) for number, stream in enumerate(streams) if len(stream.tops)]
    heapq.heapify(waiting)
    started: dict[int, Iterator[Piece]] = {}
    while waiting:
        top, number, done = heapq.heappop(waiting)
        yield from band.before(top)
        stream = streams[number]
        if number not in started:
            started[number] = stream.pieces(range(len(stream.portions)))
        piece = next(started[number])
        band.put(piece, placements[piece.source])
        if done + 1 < len(stream.tops):
            heapq.heappush(waiting, (stream.tops[done + 1], number, done + 1))
        else:
            del started[number]
    yield from band.before(shape[0])


class _Band:
    """The rows of a mosaic that are not finished, from `top` on."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.top = shape, 0
        self._rows = self._empty(0)

    def put(self, piece: Piece, at: Placement) -> None:
        """Lay a piece over what is there."""
        top, height, width = at.top + piece.rows.top, *piece.rows.index.shape
        missing = top + height - self.top - len(self._rows[0])
        if missing > 0:
            self._rows = [np.concatenate(pair) for pair in zip(self._rows, self._empty(missing), strict=True)]
        where = slice(top - self.top, top - self.top + height), slice(at.left, at.left + width)
        index, similarity, region, source, distance = (part[where] for part in self._rows)
        down = np.arange(top, top + height) + 0.5 - at.centre[0]
        across = np.arange(at.left, at.left + width) + 0.5 - at.centre[1]
        far = down[:, None] ** 2 + across[None, :] ** 2
        nearer = (far < distance) | ((far == distance) & (piece.source < source))
        taken = nearer & (piece.rows.region != NO_REGION)
        for part, values in ((index, piece.rows.index), (similarity, piece.rows.similarity), (region, piece.rows.region), (distance, far)):
            np.copyto(part, values, where=taken)
        source[taken] = piece.source

    def before(self, row: int) -> Iterator[MosaicRows]:
        """The finished rows above `row`, and nothing where no source lies."""
        row = min(row, self.shape[0])
        while self.top < row:
            kept = len(self._rows[0])
            count = min(row - self.top, kept or GAP_ROWS)
            done = [part[:count] for part in self._rows] if kept else self._empty(count)
            index, similarity, region, source, _ = done
            yield MosaicRows(CellRows(self.top, index, similarity, region), source)
            self._rows = [part[count:] for part in self._rows]
            self.top += count

    def _empty(self, height: int) -> list[np.ndarray]:
        """index, similarity, region, source and squared distance of rows that nobody has decided."""
        shape = height, self.shape[1]
        return [
            np.full(shape, NO_PROTOTYPE, np.uint16), np.full(shape, np.nan, np.float32), np.full(shape, NO_REGION, np.int32),
            np.full(shape, NOBODY, np.int32), np.full(shape, np.inf),
        ]  # fmt: skip
