"""Bands that come by rows."""

import numpy as np
import pytest

from skysense_cli.geo.axes import Steps
from skysense_cli.geo.layer import Doubled, Interpolated, Whole, everywhere, stacked

RNG = np.random.default_rng(0)


def slowly(values, known, steps, shape):
    """Bilinear between centres, pixel by pixel: missing neighbours are left out, NaN where the nearest pixel is missing."""
    out = np.full(shape, np.nan, np.float32)
    for row in range(shape[0]):
        for column in range(shape[1]):
            y, x = (s.start + (k + 0.5) * s.step for s, k in zip(steps, (row, column), strict=True))
            nearest = int(np.floor(y + 1e-9)), int(np.floor(x + 1e-9))
            if not (0 <= nearest[0] < values.shape[0] and 0 <= nearest[1] < values.shape[1] and known[nearest]):
                continue
            total = weight = 0.0
            for r in (int(np.floor(y - 0.5 + 1e-9)), int(np.floor(y - 0.5 + 1e-9)) + 1):
                for c in (int(np.floor(x - 0.5 + 1e-9)), int(np.floor(x - 0.5 + 1e-9)) + 1):
                    share = max(1 - abs(y - 0.5 - r), 0) * max(1 - abs(x - 0.5 - c), 0)
                    if 0 <= r < values.shape[0] and 0 <= c < values.shape[1] and known[r, c]:
                        total, weight = total + share * float(values[r, c]), weight + share
            out[row, column] = total / weight
    return out


@pytest.mark.parametrize("start", [(0.0, 0.0), (0.5, 1.0), (2.0, 1.5)])
@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (9, 10)])
def test_a_doubled_band_is_exactly_the_bilinear_one_whatever_rows_are_asked_for(start, shape):
    values = RNG.integers(0, 65535, (7, 8)).astype(np.uint16)
    known, steps = np.ones(values.shape, bool), (Steps(start[0], 0.5), Steps(start[1], 0.5))
    assert Doubled.can(values, known, steps, shape)
    expected = slowly(values, known, steps, shape)
    for layer in (Doubled(values, steps, shape), Interpolated(values, known, steps, shape)):
        assert layer.known.all() and layer.known.shape == shape
        for rows in (slice(None), slice(0, 1), slice(shape[0] // 2, shape[0]), slice(None, None, 3)):
            np.testing.assert_array_equal(layer[rows], expected[rows])


@pytest.mark.parametrize(("step", "start"), [(0.5, -1.0), (1 / 3, 0.0), (0.25, 3.1), (1.0, 0.3), (0.5, 0.25)])
def test_holes_and_edges_are_left_out_of_an_interpolated_band(step, start):
    values, known = RNG.integers(1, 9999, (9, 8)).astype(np.uint16), RNG.random((9, 8)) < 0.7
    steps, shape = (Steps(start, step), Steps(-start, step)), (11, 13)
    assert not Doubled.can(values, known, steps, shape)
    layer, expected = Interpolated(values, known, steps, shape), slowly(values, known, steps, shape)
    np.testing.assert_array_equal(layer.known, ~np.isnan(expected))
    for rows in (slice(None), slice(3, 5), slice(10, 20), slice(1, None, 4)):
        np.testing.assert_allclose(layer[rows], expected[rows], rtol=3e-7)
        np.testing.assert_array_equal(layer[rows], layer[:][rows])


def test_what_is_known_everywhere_takes_no_memory():
    known = np.ones((50, 60), bool)
    assert everywhere(known).all() and everywhere(known).shape == (50, 60) and everywhere(known).strides == (0, 0)
    known[3, 4] = False
    assert everywhere(known) is known


def test_layers_together_are_bands():
    values, known = RNG.random((2, 3, 4)), RNG.random((2, 3, 4)) < 0.5
    pixels, data = stacked([Whole(*one) for one in zip(values, known, strict=True)])
    np.testing.assert_array_equal(pixels, values)
    np.testing.assert_array_equal(data, known)
