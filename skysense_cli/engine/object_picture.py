"""A picture of a scene with the outlines of what was found on it, of one size however large the scene and however many the objects."""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from affine import Affine

from skysense_cli.engine.natural_colors import limits_of, lit
from skysense_cli.engine.preview import EMPTY, LARGEST_PX, Entry, Reduced, save_classes
from skysense_cli.engine.score_map import Color
from skysense_cli.engine.vector_mosaic import Objects

LOT = 256  # objects drawn at once
MOST_POINTS = 4 * LARGEST_PX  # along a side
NOTHING = -1


@dataclass(eq=False)
class ObjectPicture:
    """shape: of the map in pixels      affine: of the map's grid      kind: of the sensor that is shown

    `scene` takes what the picture shows of the scene; see `scene_picture.LookedAt`.
    """

    shape: tuple[int, int]
    affine: Affine
    kind: str
    classes: int
    scene: Reduced = field(init=False)
    counts: np.ndarray = field(init=False)
    _outlines: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.scene = Reduced(self.shape, empty=np.nan)
        self.counts = np.zeros(self.classes, np.int64)
        sides = [-(-side // self.scene.step) * self._larger for side in self.shape]
        self._outlines = np.full(sides, NOTHING, np.int32)

    def add(self, objects: Objects) -> None:
        """Draw the outlines of some objects."""
        self.counts += np.bincount(objects.ids, minlength=self.classes)
        back = ~self.affine
        turn, first = np.array([[back.a, back.b], [back.d, back.e]]), np.array([back.c, back.f])
        for start in range(0, len(objects.ids), LOT):
            lot = slice(start, start + LOT)
            corners = (objects.polygons[lot] @ turn.T + first) / self.scene.step * self._larger
            self._draw(corners, objects.ids[lot])

    def save(self, path: Path, classes: Sequence[str], colors: Sequence[Color], title: str) -> None:
        """Write the PNG, with how many there are of each class."""
        counted = zip(classes, colors, self.counts.tolist(), strict=True)
        legend = [Entry(name, color, count / max(int(self.counts.sum()), 1), count) for name, color, count in counted]
        save_classes(path, self.pixels(colors), legend, title)

    def pixels(self, colors: Sequence[Color]) -> np.ndarray:
        """(h, w, 3) uint8: the scene, white where it has no data, with the outlines in the colours of their classes."""
        seen = self.scene.picture
        ground = lit(self.kind, seen, limits_of(self.kind, seen), EMPTY[0])
        picture = ground.repeat(self._larger, axis=0).repeat(self._larger, axis=1)
        around = np.pad(self._outlines, 1, constant_values=NOTHING)  # wider lines: thin ones get holes when the picture is made smaller
        shifts = itertools.product((slice(0, -2), slice(1, -1), slice(2, None)), repeat=2)
        outlines = functools.reduce(np.maximum, (around[shift] for shift in shifts))
        drawn = outlines != NOTHING
        picture[drawn] = np.array(colors, np.uint8)[outlines[drawn]]
        return picture

    @property
    def _larger(self) -> int:
        """Picture pixels along one of the scene's, so that outlines on a small scene are thinner than its pixels."""
        return max(LARGEST_PX // max(self.shape), 1)

    def _draw(self, corners: np.ndarray, ids: np.ndarray) -> None:
        """Lines around polygons (N, 4, 2) in picture pixels."""
        starts = corners.reshape(-1, 2)
        steps = np.roll(corners, -1, axis=1).reshape(-1, 2) - starts
        count = np.minimum(np.ceil(np.abs(steps).max(axis=1) * 2) + 1, MOST_POINTS).astype(int)
        side = np.repeat(np.arange(len(starts)), count)
        share = (np.arange(len(side)) - np.repeat(np.cumsum(count) - count, count)) / count[side]
        x, y = np.floor(starts[side] + steps[side] * share[:, None]).astype(int).T
        here = (y >= 0) & (y < self._outlines.shape[0]) & (x >= 0) & (x < self._outlines.shape[1])
        self._outlines[y[here], x[here]] = ids[side[here] // 4]
