"""Frames say where a view lies; the overlap of two views must meet cell on cell."""

import itertools

import numpy as np
import pytest
import torch

from skysense_cli.core import frames

SIDE, CROP = 8, 5
TURNS = list(itertools.product([False, True], range(4)))


def _cut(field, left, top, flip, quarters):
    view = field[..., top : top + CROP, left : left + CROP]
    view = torch.flip(view, dims=(-1,)) if flip else view
    box = (left / SIDE, top / SIDE, (left + CROP) / SIDE, (top + CROP) / SIDE)
    return torch.rot90(view, quarters, dims=(-2, -1)), frames.view_frame(box, flip=flip, quarters=quarters)


def test_the_frame_of_a_quarter_turn_is_the_known_one():
    # rot90 of [[a, b], [c, d]] is [[b, d], [a, c]]: the view's upper left corner shows the footprint's upper right one
    frame = frames.view_frame(quarters=1)
    assert torch.allclose(frame @ torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert torch.allclose(frame @ torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 1.0]))


def test_a_frame_turns_as_numpy_turns():
    field = np.arange(12.0).reshape(3, 4)
    view = np.rot90(np.flip(field, axis=-1), 3)  # (4, 3)
    to_footprint = frames.view_frame(flip=True, quarters=3).numpy()
    for row, col in itertools.product(range(4), range(3)):
        x, y = to_footprint @ [(col + 0.5) / 3, (row + 0.5) / 4, 1]
        assert field[int(y * 3), int(x * 4)] == view[row, col]


@pytest.mark.parametrize(("flip", "quarters"), TURNS)
@pytest.mark.parametrize(("left", "top"), [(0, 0), (3, 1), (2, 3)])
def test_crops_flips_and_turns_meet_cell_on_cell(flip, quarters, left, top):
    field = torch.randn(4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    u, frame_u = _cut(field, 1, 2, True, 1)
    v, frame_v = _cut(field, left, top, flip, quarters)
    grid_u, grid_v, inside = frames.overlap(frame_u[None], frame_v[None], (CROP, CROP))
    in_u, in_v = frames.sample(u[None], grid_u), frames.sample(v[None], grid_v)
    assert inside.sum() == (CROP - abs(left - 1)) * (CROP - abs(top - 2))
    assert (in_u - u).abs().max() < 1e-5
    assert (in_u - in_v)[:, :, inside[0]].abs().max() < 1e-5


def test_views_that_do_not_touch_share_nothing():
    left, right = frames.view_frame((0, 0, 0.5, 1))[None], frames.view_frame((0.5, 0, 1, 1))[None]
    assert not frames.overlap(left, right, (4, 4))[2].any()


def test_views_of_another_scale_are_interpolated():
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # value = column of the footprint
    zoomed = frames.view_frame((0.25, 0.25, 0.75, 0.75))[None]
    _, grid, inside = frames.overlap(zoomed, frames.identity(1), (8, 8))
    read = frames.sample(ramp, grid)[0, 0, 0]
    assert inside.all()
    assert torch.allclose(read, 2 + (torch.arange(8) + 0.5) / 2 - 0.5)


def test_flags_are_true_only_where_all_mixed_cells_are():
    flags = torch.tensor([[True, True, False, True]]).expand(1, 4, 4)
    half_a_cell = frames.view_frame((0.125, 0, 1.125, 1))[None]
    _, grid, inside = frames.overlap(half_a_cell, frames.identity(1), (4, 4))
    assert frames.sample_flags(flags, grid)[0, 0].tolist() == [True, False, False, True]
    assert inside[0, 0].tolist() == [True, True, True, True]
    assert frames.sample(torch.ones(1, 2, 3, 4, 4), grid).shape == (1, 2, 3, 4, 4)
