"""A plan narrowed to an area of interest: its tiles only, its pixels only, the numbers those of the whole scene's map."""

from dataclasses import replace

import numpy as np

from skysense_cli.engine.mosaic import Axis
from skysense_cli.engine.tiling import Plan
from skysense_cli.errors import GridError
from skysense_cli.geo.areas import GridArea


def narrowed_plan(plan: Plan, area: GridArea, name: str) -> Plan:
    """`plan` with the tiles that hold a pixel of the area, cut to the rows and columns of the area's pixels.

    Tiles lie as in the plan of the whole scene, and every tile that reaches a pixel of the area is there, so the pixels get
    the scores of the whole scene's map.   name: what the message calls the scene. Raises GridError for an area without a pixel.
    """
    spans = []
    for axis, span in ((plan.rows, area.rows), (plan.columns, area.columns)):
        reach = [number for number, start in enumerate(axis.starts) if _meets(axis, start, plan.unit_px, span)]
        spans.append(range(reach[0], reach[-1] + 1))
    rows, columns = (Axis(axis.starts[s.start : s.stop], axis.size) for axis, s in zip((plan.rows, plan.columns), spans, strict=True))
    wanted = _wanted(rows, columns, plan.unit_px, area)
    if not wanted.any():
        raise GridError(f"{name}: the area holds no centre of a pixel; it is smaller than one")
    return replace(
        plan, rows=rows, columns=columns, wanted=wanted, area=area, origin=(area.rows.start, area.columns.start),
        row_cores=plan.row_cores[spans[0].start : spans[0].stop], column_cores=plan.column_cores[spans[1].start : spans[1].stop],
        shape=(area.rows.stop - area.rows.start, area.columns.stop - area.columns.start),
    )  # fmt: skip


def _meets(axis: Axis, start: int, unit_px: int, span: slice) -> bool:
    return start * unit_px < span.stop and (start + axis.size) * unit_px > span.start


def _wanted(rows: Axis, columns: Axis, unit_px: int, area: GridArea) -> np.ndarray:
    """(tile rows, tile columns) bool: tiles that hold a pixel of the area."""
    wanted = np.zeros((len(rows.starts), len(columns.starts)), bool)
    for number, start in enumerate(rows.starts):
        part = slice(max(start * unit_px, area.rows.start), min((start + rows.size) * unit_px, area.rows.stop))
        found = np.concatenate([[0], np.cumsum(area.inside(part, area.columns).any(axis=0))])
        for column, left in enumerate(columns.starts):
            ends = (np.array([left, left + columns.size]) * unit_px - area.columns.start).clip(0, len(found) - 1)
            wanted[number, column] = found[ends[1]] > found[ends[0]]
    return wanted
