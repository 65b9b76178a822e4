"""Scores of clusters against classes: literal values, scikit-learn, and what must not change them."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from skysense_cli.engine.agreement import Mapped, ari, contingency, entropy, hungarian, majority, nmi, shuffled


def pair(seed, clusters=7, classes=4, size=600, related=0.6):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, size)
    found = np.where(rng.random(size) < related, truth + classes * rng.integers(0, 2, size), rng.integers(0, clusters, size))
    return found % clusters, truth


def scores(table):
    by_majority, one_to_one = Mapped.of(table, majority(table)), Mapped.of(table, hungarian(table))
    return [nmi(table), ari(table), by_majority.oa, by_majority.miou, one_to_one.oa, one_to_one.miou, one_to_one.covered]


@pytest.mark.parametrize("seed", range(6))
def test_nmi_and_ari_are_those_of_scikit_learn(seed):
    found, truth = pair(seed, related=seed / 5)
    assert nmi(contingency(found, truth)) == pytest.approx(normalized_mutual_info_score(truth, found), abs=1e-12)
    assert ari(contingency(found, truth)) == pytest.approx(adjusted_rand_score(truth, found), abs=1e-12)


def test_a_table_counts_pairs_whatever_their_types():
    clusters, classes = np.array([[2, 0], [2, 2]], np.uint16), np.array([[1, 0], [1, 0]], np.uint8)
    assert contingency(clusters, classes).tolist() == [[1, 0], [0, 0], [1, 2]]
    assert contingency(clusters, classes, (4, 2)).tolist() == [[1, 0], [0, 0], [1, 2], [0, 0]]
    assert contingency(clusters[:0], classes[:0]).shape == (0, 0)


def test_literal_values():
    table = np.array([[8, 0], [1, 3], [0, 4]])
    assert majority(table).tolist() == [0, 1, 1]
    mapped = Mapped.of(table, majority(table))
    assert mapped.oa == 15 / 16 and mapped.iou.tolist() == [8 / 9, 7 / 8] and mapped.covered == 1
    assert hungarian(table).tolist() == [0, -1, 1]
    one_to_one = Mapped.of(table, hungarian(table))
    assert one_to_one.oa == 12 / 16 and one_to_one.iou.tolist() == [8 / 9, 4 / 7] and one_to_one.covered == 12 / 16
    assert one_to_one.miou == pytest.approx((8 / 9 + 4 / 7) / 2)  # the cells without a class are no class of their own
    assert entropy(np.array([1, 1, 2, 0])) == pytest.approx(1.5 * np.log(2))


def test_a_map_that_is_the_truth_under_other_numbers_scores_one():
    truth = np.random.default_rng(0).integers(0, 5, 400)
    table = contingency(np.array([3, 0, 4, 1, 2])[truth], truth)
    assert scores(table) == pytest.approx([1] * 7)


def test_a_random_map_scores_chance():
    rng = np.random.default_rng(0)
    truth = rng.choice(4, 40_000, p=[0.5, 0.25, 0.15, 0.1])
    table = contingency(rng.integers(0, 6, truth.size), truth)
    assert nmi(table) < 0.001 and abs(ari(table)) < 0.002
    assert Mapped.of(table, majority(table)).oa == pytest.approx(0.5, abs=0.01)  # of the commonest class
    assert Mapped.of(table, majority(table)).miou == pytest.approx(0.5 / 4, abs=0.01)


def test_renumbering_the_clusters_changes_nothing():
    found, truth = pair(3)
    new = np.random.default_rng(1).permutation(7)
    assert scores(contingency(new[found], truth)) == pytest.approx(scores(contingency(found, truth)), abs=1e-12)


def test_one_cluster_or_one_class_is_no_division_by_zero():
    assert nmi(np.array([[4]])) == ari(np.array([[4]])) == 1
    assert nmi(np.array([[4, 4]])) == 0 and ari(np.array([[4, 4]])) == 0
    assert Mapped.of(np.array([[4, 4]]), majority(np.array([[4, 4]]))).oa == 0.5


def test_a_cluster_not_met_while_fitting_gets_the_commonest_class():
    assert majority(np.array([[0, 0, 0], [1, 9, 2]])).tolist() == [1, 1]


def test_dealing_the_clusters_out_anew_keeps_the_sums_and_breaks_the_tie():
    found, truth = pair(2, size=5000)
    table = contingency(found, truth)
    drawn = shuffled(table, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.sum(axis=0), table.sum(axis=0))
    np.testing.assert_array_equal(drawn.sum(axis=1), table.sum(axis=1))
    assert nmi(table) > 0.1 > 0.01 > nmi(drawn)
    by_hand = [nmi(contingency(np.random.default_rng(k).permutation(found), truth)) for k in range(20)]
    assert np.mean([nmi(shuffled(table, np.random.default_rng(k))) for k in range(20)]) == pytest.approx(np.mean(by_hand), rel=0.3)


def test_a_table_beyond_what_can_be_drawn_is_thinned():
    drawn = shuffled(np.array([[3 * 10**9, 10**9], [10**9, 10**9]]), np.random.default_rng(0))
    assert drawn.sum() == pytest.approx(5e8, rel=0.2)
