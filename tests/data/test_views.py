"""Cuts, frames, dates and colours of views."""

import numpy as np
import pytest

from skysense_cli.data import views
from skysense_cli.data.views import Cut, Cutter, pieces
from skysense_cli.errors import DataError


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_a_frame_says_where_each_pixel_of_a_turned_crop_came_from(flip, quarters):
    ground = np.arange(12 * 16).reshape(12, 16)
    cut = Cut(20, 40, 60, 80, flip, quarters)  # on pixels of 10 m
    rows, columns = cut.window(10)
    shown = cut.turn(ground[rows, columns])
    frame = cut.frame((120, 160))
    for row in range(shown.shape[0]):
        for col in range(shown.shape[1]):
            x, y = frame @ np.array([(col + 0.5) / shown.shape[1], (row + 0.5) / shown.shape[0], 1])
            assert ground[int(y * 12), int(x * 16)] == shown[row, col]


def test_crops_lie_on_units_inside_the_sample_and_all_are_reached():
    rng = np.random.default_rng(0)
    cutter = Cutter(40, 20)
    cuts = [cutter.draw(rng, (80, 120)) for _ in range(400)]
    assert {cut.top_m for cut in cuts} == {0, 20, 40}
    assert {cut.left_m for cut in cuts} == {0, 20, 40, 60, 80}
    assert {(cut.flip, cut.quarters) for cut in cuts} == {(flip, q) for flip in (False, True) for q in range(4)}


def test_a_second_crop_shares_half_of_each_side():
    rng = np.random.default_rng(0)
    cutter = Cutter(80, 20)
    for _ in range(200):
        first = cutter.draw(rng, (640, 640))
        second = cutter.draw(rng, (640, 640), near=first)
        assert abs(first.top_m - second.top_m) <= 40 and abs(first.left_m - second.left_m) <= 40


def test_views_that_are_not_square_keep_their_sides():
    rng = np.random.default_rng(0)
    assert {Cutter(None, 20).draw(rng, (80, 120)).quarters for _ in range(50)} == {0, 2}
    assert Cutter(None, 20, turn=False).draw(rng, (80, 80)) == Cut(0, 0, 80, 80)


def test_a_crop_larger_than_the_sample_is_refused():
    with pytest.raises(DataError, match="data.crop_m 160 is more than the sample's 80 x 120 m"):
        Cutter(160, 20).draw(np.random.default_rng(0), (80, 120))
    with pytest.raises(DataError, match="data.crop_m 160 is more than the sample's 80 m"):
        pieces((80, 80), 160)


def test_pieces_cover_each_pixel_once():
    counted = np.zeros((10, 13), int)
    for piece in pieces((100, 130), 40):
        rows, columns = piece.cut.window(10)
        counted[rows, columns] += piece.only_new(np.zeros((4, 4), np.uint8), 10) != 255
    assert (counted == 1).all()
    assert len(pieces((100, 130), None)) == 1


def test_days_of_year():
    times = np.array(["2019-01-01T23:59:59", "2019-12-31", "2020-12-31", "2020-02-29", "NaT"], "datetime64[s]")
    assert views.day_of_year(times).tolist() == [0, 364, 364, 59, -1]


def test_dates_are_drawn_ascending_without_repeats():
    rng = np.random.default_rng(0)
    choice = np.array([2, 3, 5, 8, 13])
    drawn = [tuple(views.draw_dates(rng, choice, 3)) for _ in range(200)]
    assert len(set(drawn)) == 10
    assert all(list(one) == sorted(set(one)) for one in drawn)
    assert views.draw_dates(rng, choice, 9).tolist() == choice.tolist()


def test_fixed_dates_reach_from_the_first_to_the_last():
    assert views.spread_dates(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert views.spread_dates(np.arange(3), 4).tolist() == [0, 1, 2]
    assert views.spread_dates(np.arange(5), 1).tolist() == [0]


def test_jittered_days_wrap_over_new_year_and_unknown_ones_stay():
    rng = np.random.default_rng(0)
    moved = views.jitter_days(rng, np.tile([0, 364, 100, -1], 100), 15).reshape(100, 4)
    assert set(moved[:, 0]) <= {*range(16), *range(350, 365)} and len(set(moved[:, 0])) > 10
    assert (abs(moved[:, 2] - 100) <= 15).all()
    assert (moved[:, 3] == -1).all()


def test_blur_agrees_with_a_slow_version_and_keeps_a_flat_image():
    image = np.random.default_rng(0).random((1, 1, 9, 9)).astype(np.float32)
    sigma, radius = 1.0, 3
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    expected = sum(
        weights[a + radius] * weights[b + radius] * image[0, 0, min(max(4 + a, 0), 8), min(max(5 + b, 0), 8)]
        for a in range(-radius, radius + 1)
        for b in range(-radius, radius + 1)
    )
    assert views.blur(image, sigma)[0, 0, 4, 5] == pytest.approx(expected, abs=1e-6)
    assert np.allclose(views.blur(np.full((2, 3, 8, 8), 7.0), 2.0), 7)


def test_colours_stay_display_counts_and_no_strength_changes_nothing():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    assert np.allclose(views.jitter_colors(rng, pixels, 0.0), pixels, atol=1e-3)
    changed = views.jitter_colors(rng, pixels, 0.9)
    assert changed.min() >= 0 and changed.max() <= 255
    assert np.array_equal(views.change_colors(rng, pixels, 0.0, 0.0), pixels)
