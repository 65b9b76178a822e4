import numpy as np
import pytest

from skysense_cli.demo.scores import CloudCounts, clusters, filled, matched_colors, shift_scores
from skysense_cli.engine.agreement import contingency, nmi


def test_cloud_scores_are_the_shares_of_a_small_example():
    counts = CloudCounts()
    codes, clear = np.array([[8, 4, 3, 5]]), np.array([[False, False, True, True]])
    counts.add_raw(codes, clear)
    counts.clear = 2
    counts.add_kept(np.array([[False, True, False, True]]), clear)
    scores = counts.scores()
    assert (scores.raw_recall, scores.raw_precision) == (0.5, 0.5)
    assert (scores.clear_share_of_kept, scores.kept_share_of_clear) == (0.5, 0.5)


def test_a_perfect_measurement_with_its_own_origin_leaves_nothing():
    true = np.array([[5.0, 0], [-5, 5], [0, -10], [10, 10]])
    found = shift_scores(true, true + [3.0, -2], np.ones(4, bool), np.zeros(4, int))
    assert (found.median, found.p90, found.refused, found.between_blocks) == pytest.approx((0, 0, 0, 0))
    assert found.before == pytest.approx(np.median(np.hypot(*(true + [3, -2]).T)) / 10)


def test_every_block_has_its_own_origin_and_their_distance_is_told():
    true = np.tile([[5.0, 0], [-5, 5], [0, -10]], (2, 1))
    block = np.repeat([0, 1], 3)
    found = shift_scores(true, true + np.where(block[:, None] == 0, 2.0, [-1.0, -2.0]), np.ones(6, bool), block)
    assert found.p90 == pytest.approx(0)
    assert found.between_blocks == pytest.approx(0.5)


def test_refused_measurements_count_only_as_refused():
    true = np.zeros((4, 2))
    measured = np.array([[0.0, 0], [1, 0], [0, 1], [90, 90]])
    found = shift_scores(true, measured, np.array([True, True, True, False]), np.zeros(4, int))
    assert found.refused == 0.25
    assert found.p90 < 0.2
    assert len(found.left) == 3


def test_clusters_find_well_separated_groups():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(4), 100)
    features = groups[:, None] * 10 + rng.standard_normal((400, 3))
    assert nmi(contingency(clusters(features, 4, seed=0), groups)) == pytest.approx(1)


def test_invalid_pixels_take_the_mean_of_the_valid_dates():
    pixels = np.array([1.0, 99, 3]).reshape(3, 1, 1, 1)
    np.testing.assert_array_equal(filled(pixels, np.array([True, False, True]).reshape(3, 1, 1)).ravel(), [1, 2, 3])


def test_clusters_are_drawn_in_the_colour_of_their_commonest_class():
    picture = matched_colors(np.array([[0, 0, 1, 9]]), np.array([[1, 1, 0, 0]]), [(10, 10, 10), (20, 20, 20)], ignore=9)
    assert picture[0, :, 0].tolist() == [20, 20, 10, 255]
