"""How a scene is cut: tiles, the windows that are read, and the steps in which tiles go through the model.

Everything here is a function of the plan alone. So whichever process computes a tile, after whatever
resume, it goes through the model beside the same tiles, and its numbers are the same to the last bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from skysense_cli.engine.mosaic import Axis
from skysense_cli.errors import GridError
from skysense_cli.geo.grid import tiles
from skysense_cli.geo.opening import CACHE_BYTES


class Area(Protocol):
    """A part of the map that is asked for."""

    def inside(self, rows: slice, columns: slice) -> np.ndarray:
        """(n, w) bool: which of these map pixels belong to it."""
        ...


@dataclass(frozen=True)
class Window:
    """What is read at once: tiles side by side in one row of tiles.

    row: of tiles      columns: the tiles of the block, wanted or not      left, width: in units, of what is read
    """

    row: int
    block: int
    columns: range
    left: int
    width: int

    @property
    def name(self) -> str:
        """Of the finished strip that ends with it; it sorts from the top left on, and another cut has other names."""
        return f"r{self.row:06d}_c{self.columns.start:06d}-{self.columns.stop:06d}"


@dataclass(frozen=True, eq=False)
class Plan:
    """How a scene is cut. rows, columns: tiles, in units      unit_px: map pixels along a unit

    shape: of the map in pixels, the extension cropped off     batch: tiles per step
    row_cores, column_cores: for each row and column of tiles the units that it alone decides
    wanted: (tile rows, tile columns) bool; the other tiles are neither read nor computed, and pixels that such a
        tile covers are nodata, so an area needs every tile that holds a pixel of it. None: all
    area: what of the wanted tiles belongs to the map; None: all      origin: the scene's row and column where the map begins
    blocks: first columns of tiles; a strip is read, blended and kept in as many pieces
    block_row: bytes of a row of the scene's blocks, as files store them      cache: bytes for decoded ones
    """

    rows: Axis
    columns: Axis
    unit_px: int
    shape: tuple[int, int]
    batch: int
    row_cores: tuple[slice, ...]
    column_cores: tuple[slice, ...]
    wanted: np.ndarray | None = None
    area: Area | None = None
    blocks: tuple[int, ...] = (0,)
    origin: tuple[int, int] = (0, 0)
    block_row: int = 0
    cache: int = CACHE_BYTES

    @property
    def tile_px(self) -> tuple[int, int]:
        """Map pixels of a tile."""
        return self.rows.size * self.unit_px, self.columns.size * self.unit_px

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return len(self.rows.starts), len(self.columns.starts)

    @property
    def count(self) -> int:
        """Number of tiles, wanted or not."""
        return self.tiles[0] * self.tiles[1]

    def core(self, row: int, column: int) -> tuple[slice, slice]:
        """The units (rows, columns) that a tile alone decides."""
        return self.row_cores[row], self.column_cores[column]

    def wants(self, row: int, column: int) -> bool:
        """Whether a tile is computed."""
        return self.wanted is None or bool(self.wanted[row, column])

    def in_blocks(self, count: int) -> Plan:
        """The plan with its strips cut into at most `count` pieces of about equal numbers of tiles."""
        edges = np.linspace(0, self.tiles[1], min(count, self.tiles[1]) + 1)[:-1]
        return replace(self, blocks=tuple(int(edge) for edge in edges))

    def cached(self, allowed: int) -> Plan:
        """The plan with a cache that holds a row of the scene's blocks, if that is allowed: less would hold none of it.

        Strips meet a row of blocks from end to end, one after the other, and the cache forgets what was met longest ago.
        """
        wanted = self.block_row + self.block_row // 8
        return replace(self, cache=max(CACHE_BYTES, wanted if wanted <= allowed else 0))

    def block_columns(self, block: int) -> range:
        """The columns of tiles of a block."""
        return range(*self._block_edges[block : block + 2])

    def pixels(self, window: Window) -> tuple[slice, slice]:
        """Rows and columns of the map that are finished with a window; empty where only the extension is, or what the area leaves out."""
        rows, columns = (
            slice(max(part.start - first, 0), max(part.stop - first, 0))
            for part, first in zip(self.reached(window), self.origin, strict=True)
        )
        return rows, columns

    def reached(self, window: Window) -> tuple[slice, slice]:
        """As `pixels`, counted in the scene, with those before the map's first row and column."""
        ends = (window.row, window.row + 1), (window.columns.start, window.columns.stop)
        found = []
        sides = (self.origin[0] + self.shape[0], self.origin[1] + self.shape[1])
        for axis, (first, last), side in zip((self.rows, self.columns), ends, sides, strict=True):
            stop = axis.starts[last] * self.unit_px if last < len(axis.starts) else side
            found.append(slice(min(axis.starts[first] * self.unit_px, side), min(stop, side)))
        return found[0], found[1]

    def before(self, window: Window) -> tuple[int, int]:
        """How many of the rows and columns of `reached` lie before the map's first ones."""
        above, beside = (max(first - part.start, 0) for part, first in zip(self.reached(window), self.origin, strict=True))
        return above, beside

    @property
    def axes_px(self) -> tuple[Axis, Axis]:
        """The rows and columns of tiles in pixels of the map; those of an area may begin before it."""
        rows, columns = (
            Axis(tuple(start * self.unit_px - first for start in axis.starts), axis.size * self.unit_px)
            for axis, first in zip((self.rows, self.columns), self.origin, strict=True)
        )
        return rows, columns

    def windows(self, rows: range | None = None) -> Iterator[Window]:
        """The windows of some rows of tiles (None: all) with a wanted tile, from left to right and from top to bottom."""
        for row in range(self.tiles[0]) if rows is None else rows:
            if self.wanted is not None and not self.wanted[row].any():
                continue
            for block in range(len(self.blocks)):
                columns = self.block_columns(block)
                asked = columns if self.wanted is None else columns.start + np.flatnonzero(self.wanted[row, columns.start : columns.stop])
                if len(asked):
                    left = self.columns.starts[asked[0]]
                    yield Window(row, block, columns, left, self.columns.starts[asked[-1]] + self.columns.size - left)

    def finishing(self, rows: range | None = None) -> list[Window]:
        """Those of the windows that finish a pixel of the map."""
        return [window for window in self.windows(rows) if all(part.start < part.stop for part in self.pixels(window))]

    @cached_property
    def _block_edges(self) -> tuple[int, ...]:
        return (*self.blocks, self.tiles[1])


@dataclass(frozen=True)
class Span:
    """The tiles that rows of tiles need, numbered row by row: their own, those that reach into them from above, and whatever
    goes through the model beside one of these. first, last: numbers of tiles      rows: of tiles, that are blended"""

    first: int
    last: int
    rows: range

    @classmethod
    def of(cls, plan: Plan, rows: range) -> Span:
        """What the finished rows of the tiles `rows` depend on."""
        above = next(row for row in range(rows.start + 1) if plan.rows.starts[row] + plan.rows.size > plan.rows.starts[rows.start])
        across = plan.tiles[1]
        first, last = above * across // plan.batch * plan.batch, -(-rows.stop * across // plan.batch) * plan.batch
        return cls(first, min(last, plan.count), range(above, rows.stop))

    def windows(self, plan: Plan) -> Iterator[Window]:
        """The windows that hold one of the tiles."""
        across = plan.tiles[1]
        for window in plan.windows(range(self.first // across, (self.last - 1) // across + 1)):
            numbers = window.row * across + window.columns.start, window.row * across + window.columns.stop
            if numbers[0] < self.last and numbers[1] > self.first:
                yield window


def make_plan(units: tuple[int, int], *, size: int, overlap: float, batch: int, unit_px: int, shape: tuple[int, int]) -> Plan:
    """Tiles of `size` units (smaller where the scene is smaller) over a scene of `units`."""
    cut = [tiles((side, 1), (size, 1), overlap) for side in units]  # a scene may have millions of tiles, an axis has thousands
    rows, columns = (Axis(tuple(tile.row for tile in axis), axis[0].height) for axis in cut)
    row_cores, column_cores = (tuple(tile.core[0] for tile in axis) for axis in cut)
    return Plan(rows, columns, unit_px, shape, batch, row_cores, column_cores)


def size_in_units(size_m: float, unit_m: float) -> int:
    """The largest whole number of units not above `size_m`. Raises GridError when not even one fits."""
    units = math.floor(size_m / unit_m + 1e-6)
    if units < 1:
        raise GridError(f"tiles.size_m is {size_m:g} m, the smallest tile of this bundle has {unit_m:g} m")
    return units


def runs(rows: Iterable[int]) -> list[range]:
    """Rows as ranges without gaps, ascending."""
    found = []
    for _, run in itertools.groupby(enumerate(sorted(rows)), key=lambda pair: pair[1] - pair[0]):
        numbers = [row for _, row in run]
        found.append(range(numbers[0], numbers[-1] + 1))
    return found
