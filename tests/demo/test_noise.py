import numpy as np
import pytest

from skysense_cli.demo.noise import borders, distance_to, fractal, hashed, near, numbered, turned


def test_fractal_noise_has_unit_spread_and_depends_on_its_seed_only():
    first, again = (fractal((64, 96), 16, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.mean() == pytest.approx(0, abs=1e-5)
    assert first.std() == pytest.approx(1, abs=1e-4)


def test_fractal_noise_is_smoother_on_a_larger_scale():
    small, large = (fractal((128, 128), scale, np.random.default_rng(0)) for scale in (4, 60))
    assert np.abs(np.diff(large)).mean() < 0.6 * np.abs(np.diff(small)).mean()


def test_hashes_are_even_and_the_same_for_equal_keys():
    numbers = hashed(np.arange(20000), seed=5)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert np.histogram(numbers, 10, (0, 1))[0] == pytest.approx(2000, rel=0.1)
    np.testing.assert_array_equal(hashed(np.array([7, -7, 7]), seed=1)[[0]], hashed(np.array([7]), seed=1))


def test_distance_to_a_straight_line_is_the_distance_in_pixels():
    distance = distance_to(np.array([[0.0, 10.0], [200.0, 10.0]]), (40, 200))
    assert distance[10, 100] <= 1
    assert distance[25, 100] == pytest.approx(15, abs=1)


def test_a_quarter_turn_swaps_the_axes():
    along, across = turned(np.float32(3), np.float32(5), np.pi / 2)
    assert (along, across) == pytest.approx((5, -3), abs=1e-5)


def test_numbers_of_combinations_are_dense():
    labels = numbered(np.array([[5, 5], [9, 9]]), np.array([[-2, 0], [0, 0]]))
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert labels[1, 0] == labels[1, 1]


def test_borders_lie_where_labels_change():
    found = borders(np.array([[1, 1, 2], [1, 1, 2]]))
    np.testing.assert_array_equal(found, [[False, True, False], [False, True, False]])


def test_grown_flags_form_a_disc():
    flags = np.zeros((9, 9), bool)
    flags[4, 4] = True
    assert near(flags, 2).sum() == 13
