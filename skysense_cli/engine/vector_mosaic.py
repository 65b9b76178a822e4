"""Boxes put together from overlapping tiles, row by row: each object once, in map coordinates.

A tile owns the boxes whose centre lies in its core, which ends in the middle of what it shares with each
neighbour. So an object no larger than the overlap lies whole within the tile that owns it. Where two tiles put its
centre on either side of the border both own it and one goes, since they overlap; where each leaves it to the other,
a box just beyond the border stands in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from affine import Affine

from skysense_cli import console
from skysense_cli.core.boxes import corners, decide, to_horizontal, to_rotated
from skysense_cli.core.heads import Found
from skysense_cli.engine.mosaic import Axis
from skysense_cli.errors import BundleError

SLACK = 0.1  # of a box's shorter side: how far beyond its tile's core a centre may lie to stand in for a missing one


@dataclass(frozen=True, eq=False)
class Claimed:
    """The boxes that tiles claim. boxes: (N, 5) float64, cx cy w h angle in pixels of the map

    scores: (N,) float32      ids: (N,) int64      owned: (N,) bool, False for what only stands in
    """

    boxes: np.ndarray
    scores: np.ndarray
    ids: np.ndarray
    owned: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Claimed"]) -> "Claimed":
        """All boxes of some parts, in their order."""
        if not parts:
            return cls(np.zeros((0, 5)), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "ids", "owned")))

    def chosen(self, index: np.ndarray) -> "Claimed":
        """Those at `index`, or where a bool array says so."""
        return Claimed(self.boxes[index], self.scores[index], self.ids[index], self.owned[index])


@dataclass(frozen=True, eq=False)
class Objects:
    """Finished boxes. polygons: (N, 4, 2) float64 corners x, y in map coordinates      scores: (N,)      ids: (N,)

    centres: (N, 2) x, y in pixels of the map
    """

    polygons: np.ndarray
    centres: np.ndarray
    scores: np.ndarray
    ids: np.ndarray


class Cores:
    """What each tile owns. rows, columns: the tiles in pixels      shape: of the map in pixels"""

    def __init__(self, rows: Axis, columns: Axis, shape: tuple[int, int]) -> None:
        self._starts = rows.starts, columns.starts
        self._edges = _edges(rows, shape[0]), _edges(columns, shape[1])

    def claim(self, row: int, column: int, found: Found) -> Claimed:
        """Of what was found on a tile: what it owns or could stand in for. Raises BundleError for numbers that are not finite."""
        boxes = to_rotated(found.boxes.detach().cpu().double()).numpy()
        scores, ids = found.scores.detach().float().cpu().numpy(), found.ids.detach().long().cpu().numpy()
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise BundleError(f"the head gives boxes or scores that are not finite (tile {row}, {column})")
        boxes = boxes + np.array([self._starts[1][column], self._starts[0][row], 0, 0, 0], float)
        near, owned = np.ones(len(boxes), bool), np.ones(len(boxes), bool)
        slack = SLACK * boxes[:, 2:4].min(axis=1, initial=np.inf)
        for position, edges, number in ((boxes[:, 1], self._edges[0], row), (boxes[:, 0], self._edges[1], column)):
            low, high, first, last = edges[number], edges[number + 1], edges[0], edges[-1]
            owned &= (low <= position) & ((position < high) | (position == last))
            near &= position >= max(first, low) - np.where(low > first, slack, 0)
            near &= position <= min(last, high) + np.where(high < last, slack, 0)
        return Claimed(boxes, scores, ids, owned).chosen(near)


class VectorMosaic:
    """Removes what several tiles found, across tiles and rows of tiles.

    Give rows from the top with `add_row`, all that hold a box and the last one; it returns the objects that no later
    row can change. Those that reach into the next row of tiles, and those that depend on them, wait, so memory is a
    strip. The result equals suppression over the whole scene at once, for objects no larger than the overlap; the
    first larger one is warned about. affine: pixels of the map to map coordinates      same_iou: of the head
    """

    def __init__(self, rows: Axis, columns: Axis, affine: Affine, *, same_iou: float) -> None:
        self._rows, self._axes = rows, (columns, rows)
        self._affine, self._same_iou = affine, same_iou
        self._waiting = Claimed.joined([])
        self._warned = False

    def add_row(self, row: int, claimed: Claimed) -> Objects:
        """Take all that a row of tiles claims; the objects that are certain now, from top to bottom."""
        self._warn_of_large(claimed.chosen(claimed.owned))
        boxes = Claimed.joined([self._waiting, claimed])
        x, y = boxes.boxes[:, 0], boxes.boxes[:, 1]
        boxes = boxes.chosen(np.lexsort((x, y, -boxes.scores, ~boxes.owned)))  # best first, whatever tile it comes from
        pixels = corners(torch.from_numpy(boxes.boxes)).numpy()
        below = self._rows.starts[row + 1] if row + 1 < len(self._rows.starts) else np.inf
        reachable = pixels[..., 1].max(axis=1, initial=-np.inf) >= below
        polygons = _on_map(self._affine, pixels)
        found = decide(
            torch.from_numpy(polygons), torch.from_numpy(boxes.ids), threshold=self._same_iou, reachable=torch.from_numpy(reachable)
        )
        self._waiting = boxes.chosen(found.waiting.numpy())
        kept = np.flatnonzero(found.kept.numpy())
        kept = kept[np.lexsort((boxes.boxes[kept, 0], boxes.boxes[kept, 1]))]
        return Objects(polygons[kept], boxes.boxes[kept, :2], boxes.scores[kept], boxes.ids[kept])

    def _warn_of_large(self, claimed: Claimed) -> None:
        if self._warned or not len(claimed.boxes):
            return
        around = to_horizontal(torch.from_numpy(claimed.boxes)).numpy()
        sides = around[:, 2:] - around[:, :2]
        for number, (axis, name) in enumerate(zip(self._axes, ("wide", "high"), strict=True)):
            overlap = min((axis.before(tile) for tile in range(1, len(axis.starts))), default=None)
            largest = int(sides[:, number].argmax())
            if overlap is not None and sides[largest, number] > overlap * (1 + 1e-6):
                x, y = _on_map(self._affine, claimed.boxes[largest, None, :2])[0]
                console.warn(
                    f"an object at x {x:.10g}, y {y:.10g} is {sides[largest, number]:.0f} px {name} and tiles overlap by {overlap} px: "
                    "what is larger than the overlap may be cut or found twice; raise tiles.overlap or tiles.size_m"
                )
                self._warned = True
                return


def _edges(axis: Axis, length: int) -> list[float]:
    """Where the cores along an axis begin and end; the last one with the map."""
    return [0.0, *((before + axis.size + after) / 2 for before, after in pairwise(axis.starts)), float(length)]


def _on_map(affine: Affine, pixels: np.ndarray) -> np.ndarray:
    """(..., 2) pixels x, y to map coordinates."""
    turn = np.array([[affine.a, affine.b], [affine.d, affine.e]])
    return pixels @ turn.T + np.array([affine.c, affine.f])
