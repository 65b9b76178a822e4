"""Scores: known answers, an obvious slow version, and what is left out."""

import json
import math

import numpy as np
import pytest

from skysense_cli.engine.metrics import Confusion
from skysense_cli.errors import DataError


def test_known_answer():
    confusion = Confusion(3)
    confusion.update(np.array([0, 0, 0, 1, 1, 255]), np.array([0, 0, 1, 1, 0, 2]))
    assert confusion.counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert confusion.oa == pytest.approx(3 / 5)
    assert confusion.iou[:2] == pytest.approx([2 / 4, 1 / 3])
    assert confusion.f1[:2] == pytest.approx([4 / 6, 2 / 4])
    assert math.isnan(confusion.iou[2])
    assert confusion.miou == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert confusion.macro_f1 == pytest.approx((4 / 6 + 2 / 4) / 2)


def test_scores_agree_with_a_slow_version():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (9, 7)), rng.integers(0, 4, (9, 7))
    confusion = Confusion(4)
    for row in range(9):  # in pieces
        confusion.update(truth[row], predicted[row])
    for k in range(4):
        hit = sum(t == k and p == k for t, p in zip(truth.flat, predicted.flat, strict=True))
        either = sum(t == k or p == k for t, p in zip(truth.flat, predicted.flat, strict=True))
        assert confusion.iou[k] == pytest.approx(hit / either)
    assert confusion.oa == pytest.approx((truth == predicted).mean())


def test_the_majority_baseline_says_the_most_frequent_class():
    confusion = Confusion(2)
    confusion.update(np.array([0, 0, 0, 1]), np.array([1, 1, 1, 1]))
    baseline = confusion.majority()
    assert baseline.counts.tolist() == [[3, 0], [1, 0]]
    assert baseline.oa == 0.75
    assert baseline.miou == pytest.approx((3 / 4 + 0) / 2)


def test_scores_are_plain_json_even_when_empty():
    scores = json.loads(json.dumps(Confusion(2).scores(["a", "b"])))
    assert scores["oa"] is None
    assert scores["per_class"]["b"] == {"f1": None, "iou": None, "precision": None, "recall": None, "pixels": 0}


@pytest.mark.parametrize(
    ("truth", "predicted", "message"), [([3], [0], "true class 3 is not in 0..1"), ([0], [255], "predicted class 255")]
)
def test_ids_out_of_range_are_refused(truth, predicted, message):
    with pytest.raises(DataError, match=message):
        Confusion(2).update(np.array(truth), np.array(predicted))
