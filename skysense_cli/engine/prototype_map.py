"""The nearest prototype of each cell of a scene, as a georeferenced map (SkySense Fig. 5).

Each tile takes the prototypes of the region in which its centre lies, and alone decides its core; so
where two regions meet the map changes region along the border of cores, not along the region's own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skysense_cli import console
from skysense_cli.core.batch import Batch
from skysense_cli.engine.predict import Scene, ToBatch, batches
from skysense_cli.engine.score_map import Color, hue_color
from skysense_cli.engine.tiling import Plan

Nearest = Callable[[Batch], tuple[Tensor, Tensor, Tensor]]  # batch -> index, -1 = none; similarity; seen; each (B, h, w)

NO_PROTOTYPE = 65535
NO_REGION = -1


@dataclass(frozen=True)
class CellRows:
    """Finished rows of cells. top: of the first one

    index: (n, W) uint16, 65535 = none      similarity: (n, W) float32, NaN = none      region: (n, W) int32, -1 = none
    """

    top: int
    index: np.ndarray
    similarity: np.ndarray
    region: np.ndarray


def prototype_color(region: int, prototype: int, per_region: int) -> Color:
    """The colour of a prototype: fixed by its region and its number, the same on every machine."""
    return hue_color(region * per_region + prototype, depth=prototype % 3)


def hex_color(color: Color) -> str:
    """As #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def nearest_cells(nearest: Nearest, to_batch: ToBatch, scene: Scene, plan: Plan) -> Iterator[CellRows]:
    """Prototype, similarity and region of every cell, from top to bottom, each row of cells once.

    plan.unit_px: cells along a unit. A cell that no date sees has no prototype and no region.
    """
    width = plan.columns.length * plan.unit_px
    for number, top in enumerate(console.progress(plan.rows.starts, "rows of tiles")):
        cores = [plan.core(number, column) for column in range(plan.tiles[1])]
        rows = slice(cores[0][0].start * plan.unit_px, cores[0][0].stop * plan.unit_px)
        found = CellRows(
            rows.start,
            np.full((rows.stop - rows.start, width), NO_PROTOTYPE, np.uint16),
            np.full((rows.stop - rows.start, width), np.nan, np.float32),
            np.full((rows.stop - rows.start, width), NO_REGION, np.int32),
        )
        strip = scene.strip(top, plan.rows.size)
        for columns, samples in batches(scene, strip, plan):
            batch = to_batch(samples)
            with torch.inference_mode():
                index, similarity, seen = (part.cpu().numpy() for part in nearest(batch))
            for place, column in enumerate(columns):
                region = np.where(seen[place], int(batch.region[place]), NO_REGION)
                corner = top, plan.columns.starts[column]
                _put(found, plan, corner, cores[column], (index[place], similarity[place], region))
        if rows.start < plan.shape[0]:  # the extension below the scene may hold whole rows of its own
            yield _cropped(found, plan)


def _put(found: CellRows, plan: Plan, corner: tuple[int, int], core: tuple[slice, slice], tile: tuple[np.ndarray, ...]) -> None:
    """Copy the core of a tile that begins at `corner` (units) into the row of cells. tile: index, similarity, region"""
    px = plan.unit_px
    inside = tuple(slice((part.start - start) * px, (part.stop - start) * px) for part, start in zip(core, corner, strict=True))
    columns = slice(core[1].start * px, core[1].stop * px)
    index, similarity, region = (part[inside] for part in tile)
    found.index[:, columns] = np.where(index < 0, NO_PROTOTYPE, index)
    found.similarity[:, columns] = np.where(index < 0, np.nan, similarity)
    found.region[:, columns] = region


def _cropped(rows: CellRows, plan: Plan) -> CellRows:
    """Without the cells of the extension."""
    part = slice(0, plan.shape[0] - rows.top), slice(0, plan.shape[1])
    return CellRows(rows.top, rows.index[part], rows.similarity[part], rows.region[part])
