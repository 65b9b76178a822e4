"""Tiles blend as a whole-scene blend would, constants stay exact, rows come out once and in order."""

import numpy as np
import pytest

from skysense_cli.engine.mosaic import Axis, RasterMosaic

AXES = [
    Axis((0,), 5),
    Axis((0, 5, 10), 5),
    Axis((0, 3, 6), 4),
    Axis((0, 3, 6, 7), 4),
    Axis((0, 6, 12, 13), 10),
    Axis((0, 1), 7),
]


def run(axis_rows, axis_columns, tile_of, channels=2):
    mosaic = RasterMosaic(channels, axis_rows, axis_columns)
    finished = []
    for row, top in enumerate(axis_rows.starts):
        for left in axis_columns.starts:
            mosaic.add(row, 0, tile_of(top, left))
        finished.append(mosaic.finish(row, 0))
    return finished


def slow_ramp(axis, number):
    """The weight of tile `number` at each position, written as it is defined."""
    weights = []
    for x in range(axis.size):
        weight = 1.0
        if number > 0:
            shared = axis.starts[number - 1] + axis.size - axis.starts[number]
            if shared > 0:
                weight = min(weight, (x + 0.5) / shared)
        if number + 1 < len(axis.starts):
            shared = axis.starts[number] + axis.size - axis.starts[number + 1]
            if shared > 0:
                weight = min(weight, (axis.size - x - 0.5) / shared)
        weights.append(weight)
    return np.array(weights)


@pytest.mark.parametrize("rows", AXES)
@pytest.mark.parametrize("columns", AXES)
def test_the_blend_equals_a_weighted_mean_over_the_whole_scene(rows, columns):
    random = np.random.default_rng(0)
    tiles = {(t, left): random.normal(size=(2, rows.size, columns.size)).astype(np.float32) for t in rows.starts for left in columns.starts}
    total = np.zeros((2, rows.length, columns.length))
    weight = np.zeros((rows.length, columns.length))
    for i, top in enumerate(rows.starts):
        for j, left in enumerate(columns.starts):
            ramp = np.outer(slow_ramp(rows, i), slow_ramp(columns, j))
            total[:, top : top + rows.size, left : left + columns.size] += ramp * tiles[top, left]
            weight[top : top + rows.size, left : left + columns.size] += ramp
    blended = np.concatenate(run(rows, columns, lambda t, left: tiles[t, left]), axis=1)
    np.testing.assert_allclose(blended, total / weight, atol=1e-5)


@pytest.mark.parametrize("rows", AXES)
@pytest.mark.parametrize("columns", AXES)
def test_tiles_that_agree_give_exactly_what_they_agree_on(rows, columns):
    scene = np.random.default_rng(1).normal(size=(2, rows.length, columns.length)).astype(np.float32) * np.float32(1e3)
    blended = run(rows, columns, lambda t, left: scene[:, t : t + rows.size, left : left + columns.size])
    np.testing.assert_array_equal(np.concatenate(blended, axis=1), scene)


def test_rows_come_out_as_soon_as_no_later_tile_touches_them():
    rows = Axis((0, 3, 6, 7), 4)
    counts = [part.shape[1] for part in run(rows, Axis((0,), 2), lambda t, left: np.zeros((2, 4, 2), np.float32))]
    assert counts == [3, 3, 1, 4]


def test_a_tile_left_out_changes_only_what_it_covers():
    rows, columns = Axis((0,), 4), Axis((0, 3, 6), 4)
    blended = run(rows, columns, lambda t, left: None if left == 3 else np.ones((2, 4, 4), np.float32))[0]
    assert (blended[:, :, :3] == 1).all() and (blended[:, :, 7:] == 1).all()
    assert np.isfinite(blended).all()


def test_the_weights_of_a_plain_overlap_are_a_straight_ramp():
    first, second = Axis((0, 4), 6).shares()
    np.testing.assert_allclose(first, 1)
    np.testing.assert_allclose(second, [0.25, 0.75, 1, 1, 1, 1])
