"""Class maps as polygons: block by block, joined across the blocks' borders, with the memory of a row of blocks.

A patch is what GDAL's polygonisation calls one: pixels of one class that hang together by their sides. Without
simplification the patches are exactly those of the whole raster. Simplified outlines are shared by the patches on
both sides, so no gap and no overlap comes of it; they keep their pixel corners where they cross a block's border.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from rasterio.io import DatasetReader

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text
from skysense_cli.geo.ground import areas_m2, pixel_m
from skysense_cli.geo.opening import open_raster
from skysense_cli.geo.outlines import straightened
from skysense_cli.geo.raster import describe, read_window

BLOCK_PX = 512
LOT = 10_000  # patches finished at once
NO_DATA = -1


@dataclass(frozen=True, eq=False)
class Patches:
    """polygons: (N,) shapely, in map coordinates      ids: (N,) int64 classes      area_m2: (N,) on the ground"""

    polygons: np.ndarray
    ids: np.ndarray
    area_m2: np.ndarray


def patches(path: Path, *, simplify_m: float = 0.0, min_area_m2: float = 0.0) -> Iterator[Patches]:
    """The patches of a class map (its first band), from top to bottom, in lots; every one once.

    simplify_m: how far outlines may leave the pixels: a corner goes when its triangle with its neighbours is
        smaller than this, squared; 0 keeps them
    min_area_m2: smaller patches are left out; one that a single other patch surrounds is added to that, unless
        it holds nodata
    Raises GridError that names the file when its band holds no whole numbers.
    """
    with open_raster(path) as dataset:
        info = describe(dataset)
        if not np.issubdtype(np.dtype(info.dtype), np.integer):
            raise GridError(f"{path}: is {info.dtype}; only a map of class numbers can be made polygons")
        grid = info.grid
        crs = crs_text(grid.crs.to_wkt()) if grid.crs else ""
        finish = _Finish(grid.affine, crs, pixel_m(grid), min_area_m2, simplified=simplify_m > 0)
        joins = _Joins()
        edges = [*range(0, info.shape[0], BLOCK_PX), info.shape[0]], [*range(0, info.shape[1], BLOCK_PX), info.shape[1]]
        for top, bottom in pairwise(edges[0]):
            for left, right in pairwise(edges[1]):
                joins.add(_block(dataset, (top, bottom, left, right), simplify_m / finish.pixel_m))
            closed = finish.known(joins.closed(last=bottom == info.shape[0]))
            for first in range(0, len(closed), LOT):
                yield finish(closed[first : first + LOT])


@dataclass(frozen=True, eq=False)
class _Block:
    """The pieces of patches within one block.

    pieces: shapely polygons in pixels of the raster      values: their classes, NO_DATA for none
    top, bottom, left, right: the piece that each pixel along the block's sides belongs to
    """

    columns: tuple[int, int]
    pieces: np.ndarray
    values: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray


def _block(dataset: DatasetReader, place: tuple[int, int, int, int], tolerance_px: float) -> _Block:
    top, bottom, left, right = place
    around = _read(dataset, place)  # one pixel more on every side
    inside = around[1:-1, 1:-1]
    if (around == inside[0, 0]).all():  # most blocks of a large map that holds little
        return _Block((left, right), np.array([shapely.box(left, top, right, bottom)], dtype=object), inside[0, :1].astype(np.int64),
                      *(np.zeros(side, int) for side in (right - left, right - left, bottom - top, bottom - top)))  # fmt: skip
    found = [
        (shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:]), int(value))
        for shape, value in rasterio.features.shapes(inside, connectivity=4, transform=Affine.translation(left, top))
    ]
    pieces, values = np.array([piece for piece, _ in found], dtype=object), np.array([value for _, value in found], np.int64)
    sides = _sides(pieces, place)
    if tolerance_px > 0:
        # neighbours must share their corners: where three patches meet, two of them have one that the third lacks
        pieces = shapely.coverage_simplify(shapely.segmentize(pieces, 1.0), tolerance_px, simplify_boundary=False)
        pieces = straightened(pieces, _Between(around, place))
    return _Block((left, right), pieces, values, *sides)


def _read(dataset: DatasetReader, place: tuple[int, int, int, int]) -> np.ndarray:
    """Classes (h + 2, w + 2) int32 of the block and of the pixels around it; beyond the raster its edge goes on."""
    top, bottom, left, right = place
    first = max(top - 1, 0), max(left - 1, 0)
    stop = min(bottom + 1, dataset.height), min(right + 1, dataset.width)
    pixels, data = read_window(dataset, [1], (slice(first[0], stop[0]), slice(first[1], stop[1])))
    known = np.where(data[0], pixels[0].astype(np.int32), NO_DATA)
    missing = [(first[0] - top + 1, bottom + 1 - stop[0]), (first[1] - left + 1, right + 1 - stop[1])]
    return np.pad(known, missing, mode="edge")


def _sides(pieces: np.ndarray, place: tuple[int, int, int, int]) -> list[np.ndarray]:
    """For top, bottom, left and right the number of the piece at every pixel along that side."""
    top, bottom, left, right = place
    points, (rings, polygons) = shapely.to_ragged_array(pieces)[1:]
    owner = np.repeat(np.arange(len(pieces)), np.diff(rings[polygons]))
    inner = np.ones(len(points), bool)
    inner[rings[1:] - 1] = False  # from the end of a ring to the start of the next there is no edge
    start, end = points[inner].astype(int), points[np.flatnonzero(inner) + 1].astype(int)
    owner, sides = owner[inner], []
    for line, across, along, (origin, stop) in ((top, 1, 0, (left, right)), (bottom, 1, 0, (left, right)),
                                                (left, 0, 1, (top, bottom)), (right, 0, 1, (top, bottom))):  # fmt: skip
        side = np.full(stop - origin, -1)
        on = (start[:, across] == line) & (end[:, across] == line)
        low, high = np.minimum(start[on, along], end[on, along]) - origin, np.maximum(start[on, along], end[on, along]) - origin
        for a, b, piece in zip(low.tolist(), high.tolist(), owner[on].tolist(), strict=True):
            side[a:b] = piece
        sides.append(side)
    return sides


@dataclass(frozen=True)
class _Between:
    """Whether a point of the raster's lattice lies on a side of the block and no outline turns or ends there."""

    around: np.ndarray
    place: tuple[int, int, int, int]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        top, bottom, left, right = self.place
        x, y = points[:, 0].astype(int), points[:, 1].astype(int)
        i, j = y - top, x - left  # of the upper left of the four pixels around, in `around`
        a, b, c, d = self.around[i, j], self.around[i, j + 1], self.around[i + 1, j], self.around[i + 1, j + 1]
        return (((y == top) | (y == bottom)) & (a == b) & (c == d)) | (((x == left) | (x == right)) & (a == c) & (b == d))


@dataclass(eq=False)
class _Joins:
    """Which pieces are one patch; a patch is closed when no piece of it lies on the lower side of the last row of blocks."""

    _pieces: dict[int, tuple[shapely.Polygon, int]] = field(default_factory=dict)
    _parent: dict[int, int] = field(default_factory=dict)
    _count: int = 0
    _row: list[_Block] = field(default_factory=list)
    _firsts: list[int] = field(default_factory=list)
    _above: np.ndarray | None = None  # pieces along the lower side of the row of blocks above

    def add(self, block: _Block) -> None:
        """Take the next block of the row."""
        first = self._count
        for number, (piece, value) in enumerate(zip(block.pieces, block.values.tolist(), strict=True), first):
            self._pieces[number], self._parent[number] = (piece, value), number
        self._count += len(block.pieces)
        if self._row:
            self._join(self._row[-1].right + self._firsts[-1], block.left + first)
        if self._above is not None:
            self._join(self._above[slice(*block.columns)], block.top + first)
        self._row.append(block)
        self._firsts.append(first)

    def closed(self, *, last: bool) -> list[tuple[list[shapely.Polygon], int]]:
        """End the row of blocks; (pieces, class) of every patch that nothing can be added to, in the order of their first pieces."""
        self._above = np.concatenate([block.bottom + first for block, first in zip(self._row, self._firsts, strict=True)])
        self._row, self._firsts = [], []
        still = set() if last else {self._root(number) for number in np.unique(self._above).tolist()}
        parts: dict[int, list[int]] = {}
        for number in self._pieces:
            root = self._root(number)
            if root not in still:
                parts.setdefault(root, []).append(number)
        out = [([self._pieces[number][0] for number in parts[root]], self._pieces[root][1]) for root in sorted(parts)]
        for numbers in parts.values():
            for number in numbers:
                del self._pieces[number], self._parent[number]
        return out

    def _join(self, one: np.ndarray, other: np.ndarray) -> None:
        for a, b in np.unique(np.column_stack([one, other]), axis=0).tolist():
            if self._pieces[a][1] == self._pieces[b][1]:
                low, high = sorted((self._root(a), self._root(b)))
                self._parent[high] = low

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = number = self._parent[self._parent[number]]
        return number


@dataclass(eq=False)
class _Finish:
    """Pieces to patches on the map: joined, measured, the small ones taken out."""

    affine: Affine
    crs: str
    pixel_m: float
    min_area_m2: float
    simplified: bool
    _voids: list[shapely.Point] = field(default_factory=list)  # a place in every closed patch without data

    def known(self, closed: list[tuple[list[shapely.Polygon], int]]) -> list[tuple[list[shapely.Polygon], int]]:
        """Those with data; the others are remembered."""
        self._voids += [parts[0].representative_point() for parts, value in closed if value == NO_DATA]
        return [(parts, value) for parts, value in closed if value != NO_DATA]

    def __call__(self, closed: list[tuple[list[shapely.Polygon], int]]) -> Patches:
        """The patches of a lot of (pieces, class); what is without data must be known before."""
        pixels = np.array([self._joined(parts) for parts, _ in closed], dtype=object)
        ids = np.array([value for _, value in closed], np.int64)
        polygons = self._on_map(pixels)
        area = areas_m2(polygons, self.crs)
        large = area >= self.min_area_m2
        if self.min_area_m2 > 0:
            for number in np.flatnonzero(large & (shapely.get_num_interior_rings(polygons) > 0)).tolist():
                filled = self._filled(pixels[number])
                if filled is not None:
                    polygons[number] = self._on_map(np.array([filled], dtype=object))[0]
                    area[number] = areas_m2(polygons[number : number + 1], self.crs)[0]
        return Patches(polygons[large], ids[large], area[large])

    def _joined(self, parts: list[shapely.Polygon]) -> shapely.Polygon:
        if len(parts) == 1:
            return parts[0]
        whole = cast(shapely.Polygon, shapely.union_all(np.array(parts, dtype=object)))
        return whole if self.simplified else straightened(np.array([whole], dtype=object))[0]

    def _filled(self, polygon: shapely.Polygon) -> shapely.Polygon | None:
        """The polygon without its small holes that hold data only; None if it has none."""
        holes = np.array([shapely.Polygon(ring) for ring in polygon.interiors], dtype=object)
        small = areas_m2(self._on_map(holes), self.crs) < self.min_area_m2
        if self._voids and small.any():
            hit, _ = shapely.STRtree(np.array(self._voids, dtype=object)).query(holes, predicate="contains")
            small[hit] = False
        if not small.any():
            return None
        return shapely.Polygon(polygon.exterior, [ring for ring, gone in zip(polygon.interiors, small, strict=True) if not gone])

    def _on_map(self, polygons: np.ndarray) -> np.ndarray:
        turn = np.array([[self.affine.a, self.affine.b], [self.affine.d, self.affine.e]])
        return shapely.transform(polygons, lambda points: points @ turn.T + np.array([self.affine.c, self.affine.f]))
