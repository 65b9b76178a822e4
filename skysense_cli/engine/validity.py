"""Where the pixels of a map are valid: what the scene's files say, tiles that are left out, the area that is asked for."""

from collections.abc import Mapping

import numpy as np

from skysense_cli.data.sample import Series
from skysense_cli.engine.tiling import Plan, Window


def valid_pixels(strip: Mapping[str, Series], shape: tuple[int, int]) -> np.ndarray:
    """`shape` bool: pixels of a map over the strip that hold a valid pixel of some date of some modality."""
    total = np.zeros(shape, bool)
    for series in strip.values():
        total |= _resized(np.any(series.valid, axis=0), shape)
    return total


def finished_pixels(strip: Mapping[str, Series], plan: Plan, window: Window) -> np.ndarray:
    """Where the finished pixels of a window are valid: (n, w) bool."""
    down, across = plan.reached(window)
    found = np.zeros((down.stop - down.start, across.stop - across.start), bool)
    if not found.size:
        return found
    read = valid_pixels(strip, (plan.tile_px[0], window.width * plan.unit_px))
    first = (window.left - plan.columns.starts[window.columns.start]) * plan.unit_px
    read = read[: found.shape[0], : max(found.shape[1] - first, 0)]
    found[: read.shape[0], first : first + read.shape[1]] = read
    keep_asked(found, plan, window)
    return found


def keep_asked(valid: np.ndarray, plan: Plan, window: Window) -> None:
    """Make finished pixels of a window invalid that the plan does not ask for, or cannot give: `valid` (n, w) bool."""
    if plan.wanted is not None:
        _leave_out(valid, plan, window)
    if plan.area is not None:
        valid &= plan.area.inside(*plan.reached(window))


def _leave_out(valid: np.ndarray, plan: Plan, window: Window) -> None:
    """Make pixels invalid that a tile which is not wanted covers too: their blend would lack its share."""
    assert plan.wanted is not None, "called only then"
    down, across = plan.reached(window)
    for row in range(window.row, -1, -1):
        if (plan.rows.starts[row] + plan.rows.size) * plan.unit_px <= down.start:
            break
        bottom = (plan.rows.starts[row] + plan.rows.size) * plan.unit_px - down.start
        for column in range(window.columns.stop - 1, -1, -1):
            left = plan.columns.starts[column] * plan.unit_px - across.start
            right = left + plan.columns.size * plan.unit_px
            if right <= 0:
                break
            if not plan.wanted[row, column]:
                valid[:bottom, max(left, 0) : right] = False


def _resized(valid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) bool to `shape`: a coarser pixel is valid where any of its own is, a finer one where the one below its centre is."""
    for axis, (have, want) in enumerate(zip(valid.shape, shape, strict=True)):
        if have > want:
            first = np.arange(want) * have // want
            valid = np.logical_or.reduceat(valid, first, axis=axis)
        elif have < want:
            valid = valid.take(((np.arange(want) + 0.5) * have / want).astype(int), axis=axis)
    return valid
