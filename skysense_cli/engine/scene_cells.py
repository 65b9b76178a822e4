"""A scene's plan in cells of the model: the same tiles, windows and steps, with cells for pixels."""

import math
from dataclasses import dataclass, replace

import numpy as np

from skysense_cli.engine.scene_job import SceneJob, map_grid_of
from skysense_cli.engine.tiling import Area
from skysense_cli.geo.grid import window


def in_cells(job: SceneJob) -> SceneJob:
    """`job` with the bundle's cells for pixels, cut to those that share ground with its map.

    A unit is whole steps of every encoder and a step is whole cells (`assemble.lift_scale`), so units, tiles and the edges of
    windows lie between cells. The cells are those of the whole scene: where the map of an area begins within one, its cells begin
    up to a cell before it. Each window that finishes a pixel finishes a cell, and the other way round.
    """
    cell_m, plan = job.bundle.spec.model.cell_m, job.plan
    cells, pixels = round(job.scene.unit_m / cell_m), plan.unit_px
    assert math.isclose(cells * cell_m, job.scene.unit_m), "units are whole cells"
    whole = map_grid_of(job.scene, cell_m)
    spans = []
    for first, side, most in zip(plan.origin, plan.shape, whole.shape, strict=True):
        spans.append(slice(first * cells // pixels, min(-(-(first + side) * cells // pixels), most)))
    rows, columns = spans
    ends = plan.origin[0] + plan.shape[0], plan.origin[1] + plan.shape[1]
    area = None if plan.area is None else CellArea(plan.area, cells, pixels, ends)
    shape = rows.stop - rows.start, columns.stop - columns.start
    plan = replace(plan, unit_px=cells, shape=shape, origin=(rows.start, columns.start), area=area)
    return replace(job, plan=plan, grid=window(whole, rows, columns), gsd_m=cell_m)


@dataclass(frozen=True)
class CellArea:
    """An area of a map's pixels in cells: a cell belongs to it when it shares ground with a pixel that does.

    So every tile that reaches such a cell holds a pixel of the area, and is wanted.
    cells, pixels: along a unit      ends: first row and column beyond the map, where an area may go on
    """

    area: Area
    cells: int
    pixels: int
    ends: tuple[int, int]

    def inside(self, rows: slice, columns: slice) -> np.ndarray:
        """(n, w) bool: which cells belong to the area."""
        units = [slice(part.start // self.cells, -(-part.stop // self.cells)) for part in (rows, columns)]
        found = self.area.inside(*(slice(part.start * self.pixels, part.stop * self.pixels) for part in units))
        for axis, (part, end) in enumerate(zip(units, self.ends, strict=True)):
            np.moveaxis(found, axis, 0)[max(end - part.start * self.pixels, 0) :] = False
        fine = math.lcm(self.cells, self.pixels)  # pieces along a unit, none across an edge of a cell or a pixel
        pieces = found.repeat(fine // self.pixels, axis=0).repeat(fine // self.pixels, axis=1)
        height, width = ((part.stop - part.start) * self.cells for part in units)
        each = fine // self.cells
        cells = np.asarray(pieces.reshape(height, each, width, each).any(axis=(1, 3)))
        top, left = (part.start - unit.start * self.cells for part, unit in zip((rows, columns), units, strict=True))
        return cells[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]
