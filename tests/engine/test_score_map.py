"""What stands in a map for given scores, to the number."""

import numpy as np
import pytest

from skysense_cli.engine.score_map import ScoreMap, class_colors, pixels_of

SCORES = np.log(np.array([[[0.5, 0.2, 0.25]], [[0.25, 0.2, 0.5]], [[0.25, 0.6, 0.25]]], np.float32))  # (K, 1, 3)
VALID = np.array([[True, True, False]])
NAMES = ("water", "forest", "town")


def test_a_class_map_holds_the_number_of_the_likeliest_class():
    kind = ScoreMap("class", NAMES)
    numbers = kind.pixels(SCORES, VALID)
    assert numbers.dtype == np.uint8
    np.testing.assert_array_equal(numbers, [[[0, 2, 255]]])
    assert kind.bands == ("class",) and kind.nodata == 255 and kind.scale == 1


def test_of_equal_scores_the_first_class_wins():
    assert ScoreMap("class", NAMES).pixels(np.zeros((3, 1, 1)), np.ones((1, 1), bool)) == 0


@pytest.mark.parametrize(("count", "dtype", "nodata"), [(2, "uint8", 255), (255, "uint8", 255), (256, "uint16", 65535)])
def test_class_numbers_never_meet_nodata(count, dtype, nodata):
    kind = ScoreMap("class", tuple(map(str, range(count))))
    scores = np.arange(count, dtype=np.float32)[:, None, None].repeat(2, axis=2)
    numbers = kind.pixels(scores, np.array([[True, False]]))
    assert numbers.dtype == dtype
    np.testing.assert_array_equal(numbers, [[[count - 1, nodata]]])


def test_probabilities_as_bytes_run_from_0_to_200():
    kind = ScoreMap("probability", NAMES)
    np.testing.assert_array_equal(kind.pixels(SCORES, VALID), [[[100, 40, 255]], [[50, 40, 255]], [[50, 120, 255]]])
    assert kind.bands == NAMES and kind.scale == 1 / 200


def test_probabilities_as_floats_add_up_and_are_nan_where_there_is_no_data():
    shares = ScoreMap("probability", NAMES, "float32").pixels(SCORES * 100, VALID)
    np.testing.assert_allclose(shares[:, 0, :2].sum(axis=0), 1, rtol=1e-6)
    assert np.isnan(shares[:, 0, 2]).all()


def test_confidence_is_the_probability_of_the_class():
    np.testing.assert_array_equal(ScoreMap("confidence", NAMES).pixels(SCORES, VALID), [[[100, 120, 255]]])
    np.testing.assert_allclose(ScoreMap("confidence", NAMES, "float32").pixels(SCORES, VALID), [[[0.5, 0.6, np.nan]]], rtol=1e-6)


def test_margin_and_entropy_are_those_of_the_probabilities():
    margin = ScoreMap("margin", NAMES, "float32").pixels(SCORES, VALID)
    entropy = ScoreMap("entropy", NAMES, "float32").pixels(SCORES, VALID)
    shares = np.exp(SCORES[:, 0, :2])
    np.testing.assert_allclose(margin[0, 0], [0.25, 0.4, np.nan], rtol=1e-6)
    np.testing.assert_allclose(entropy[0, 0, :2], -(shares * np.log(shares)).sum(axis=0) / np.log(3), rtol=1e-6)
    alike, sure = np.zeros((3, 1, 1), np.float32), np.array([0, 1e6, -1e6], np.float32).reshape(3, 1, 1)
    yes = np.ones((1, 1), bool)
    assert ScoreMap("entropy", NAMES).pixels(alike, yes) == 200 and ScoreMap("entropy", NAMES).pixels(sure, yes) == 0
    assert ScoreMap("margin", NAMES).pixels(alike, yes) == 0 and ScoreMap("margin", NAMES).pixels(sure, yes) == 200
    assert ScoreMap("margin", ("one",)).pixels(alike[:1], yes) == 200 and ScoreMap("entropy", ("one",)).pixels(alike[:1], yes) == 0


def test_several_maps_at_once_are_the_same_whatever_is_ranked_at_once(monkeypatch):
    scores = np.random.default_rng(0).normal(0, 2, (5, 37, 11)).astype(np.float32)
    scores[:, 3, 4] = 1  # all alike: the first one wins
    valid = np.random.default_rng(1).random((37, 11)) < 0.8
    names = tuple("abcde")
    kinds = [ScoreMap(what, names, "float32") for what in ("class", "probability", "confidence", "margin", "entropy", "value")]
    whole = pixels_of(kinds, scores, valid)
    np.testing.assert_array_equal(whole["class"][0], np.where(valid, scores.argmax(axis=0), 255))
    np.testing.assert_array_equal(whole["value"], np.where(valid, scores, np.nan))
    np.testing.assert_allclose(whole["confidence"][0], whole["probability"].max(axis=0), rtol=1e-6)
    ordered = np.sort(whole["probability"], axis=0)
    np.testing.assert_allclose(whole["margin"][0], ordered[-1] - ordered[-2], atol=1e-6)
    monkeypatch.setattr("skysense_cli.engine.score_map.CHUNK", 100)
    for what, pixels in pixels_of(kinds, scores, valid).items():
        np.testing.assert_array_equal(pixels, whole[what])


def test_huge_scores_do_not_overflow():
    assert np.isfinite(ScoreMap("confidence", NAMES, "float32").pixels(SCORES * 1e6, np.ones((1, 3), bool))).all()


def test_colours_of_classes_differ_and_stay():
    colors = class_colors(40)
    assert len(set(colors)) == 40
    assert colors[:3] == [(230, 80, 80), (25, 66, 166), (206, 247, 148)]
