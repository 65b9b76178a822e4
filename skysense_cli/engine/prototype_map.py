"""The nearest prototype of each cell of a scene, as a georeferenced map (SkySense Fig. 5).

Each tile takes the prototypes of the region in which its centre lies, and alone decides its core; so
where two regions meet the map changes region along the border of cores, not along the region's own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from skysense_cli import console
from skysense_cli.core.batch import Batch
from skysense_cli.engine.predict import Scene, ToBatch, WindowDone, compute
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


def nearest_cells(
    nearest: Nearest, to_batch: ToBatch, scene: Scene, plan: Plan, rows: range | None = None, *, abreast: int = 1
) -> Iterator[CellRows]:
    """Prototype, similarity and region of every cell, from top to bottom, each row of cells once.

    plan.unit_px: cells along a unit      rows: of tiles, whose cells are asked for; None: all, and which changes no bit
    abreast: steps that go through the model at the same time
    A cell that no date sees has no prototype and no region.
    """
    rows = range(plan.tiles[0]) if rows is None else rows
    yield from console.progress(_rows_of_cells(nearest, to_batch, scene, plan, rows, abreast), "rows of tiles", len(rows))


def _rows_of_cells(
    nearest: Nearest, to_batch: ToBatch, scene: Scene, plan: Plan, rows: range, abreast: int
) -> Iterator[CellRows]:  # fmt: skip
    def of_tiles(batch: Batch, _: tuple[int, int]) -> list[tuple[np.ndarray, ...]]:
        index, similarity, seen = (part.cpu().numpy() for part in nearest(batch))
        region = np.where(seen, batch.region.numpy()[:, None, None], NO_REGION)
        return list(zip(index, similarity, region, strict=True))

    found: CellRows | None = None
    for event in compute(of_tiles, to_batch, scene, plan, rows, abreast=abreast):
        row = event.window.row
        if row not in rows:
            continue
        found = found or _nothing(plan, row)
        if isinstance(event, WindowDone):
            if found.top < plan.shape[0]:  # the extension below the scene may hold whole rows of its own
                yield _cropped(found, plan)
            found = None
        elif event.result is not None:
            corner = plan.rows.starts[row], plan.columns.starts[event.column]
            _put(found, plan, corner, plan.core(row, event.column), event.result)


def _nothing(plan: Plan, row: int) -> CellRows:
    """The cells that a row of tiles decides, none of them seen."""
    core = plan.row_cores[row]
    shape = (core.stop - core.start) * plan.unit_px, plan.columns.length * plan.unit_px
    empty = np.full(shape, NO_PROTOTYPE, np.uint16), np.full(shape, np.nan, np.float32), np.full(shape, NO_REGION, np.int32)
    return CellRows(core.start * plan.unit_px, *empty)


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
