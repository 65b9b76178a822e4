import numpy as np
import pytest

from skysense_cli.data import splits
from skysense_cli.geo.grid import Footprint


def square(count: int, size: float = 640) -> list[Footprint]:
    return [Footprint("EPSG:32631", 500000 + c * size, 5600000 - r * size, size, r, c) for r in range(count) for c in range(count)]


def test_a_block_is_named_by_its_place_also_west_and_north_of_the_anchor():
    place = Footprint("EPSG:32631", 0, 0, 640, -1, 17)
    assert splits.block_of(place, 16) == "32631_r-1_c1"
    assert splits.block_of(Footprint("PROJCS[...]", 0, 0, 640, 16, 0), 16) == "grid_r1_c0"


def test_shares_are_met_as_nearly_as_whole_blocks_allow():
    names = [f"b{k:03}" for k in range(100)]
    found = splits.assign(names, {"train": 0.9, "val": 0.05, "test": 0.05}, 7)
    assert [list(found.values()).count(split) for split in splits.SPLITS] == [90, 5, 5]
    assert found == splits.assign(reversed(names), {"train": 0.9, "val": 0.05, "test": 0.05}, 7)
    assert found != splits.assign(names, {"train": 0.9, "val": 0.05, "test": 0.05}, 8)


@pytest.mark.parametrize(("count", "expected"), [(1, [1, 0, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (0, [0, 0, 0])])
def test_few_blocks_still_give_every_split_one(count, expected):
    found = splits.assign([f"b{k}" for k in range(count)], {"train": 0.8, "val": 0.1, "test": 0.1}, 0)
    assert [list(found.values()).count(split) for split in splits.SPLITS] == expected


def test_a_split_without_a_share_gets_nothing():
    found = splits.assign([f"b{k}" for k in range(5)], {"train": 1.0, "val": 0.0, "test": 0.0}, 0)
    assert set(found.values()) == {"train"}


def test_no_two_samples_of_different_splits_are_nearer_than_the_buffer():
    places = square(12)
    names = [splits.block_of(place, 3) for place in places]
    split_of = splits.assign(names, {"train": 0.6, "val": 0.2, "test": 0.2}, 1)
    labels = [split_of[name] for name in names]
    out = splits.left_out(places, labels, 1280)
    assert 0 < out.sum() < len(places)
    for a in range(len(places)):
        for b in range(a):
            if labels[a] != labels[b] and not out[a] and not out[b]:
                gaps = [
                    max(places[a].bounds[k], places[b].bounds[k]) - min(places[a].bounds[k + 2], places[b].bounds[k + 2]) for k in (0, 1)
                ]
                assert np.hypot(*np.maximum(gaps, 0)) >= 1280 - 1e-6


def test_test_samples_stay_and_train_samples_give_way():
    places = square(6)
    labels = ["test" if place.col < 3 else "train" for place in places]
    out = splits.left_out(places, labels, 640)
    assert {(labels[k], places[k].col) for k in np.flatnonzero(out)} == {("train", 3)}


def test_footprints_of_two_zones_are_compared_too():
    west = Footprint("EPSG:32631", 712000, 5600000, 640, 0, 0)
    east = Footprint("EPSG:32632", 288500, 5600500, 640, 0, 0)  # both within a few hundred metres of 6 degrees east
    far = Footprint("EPSG:32632", 388500, 5600500, 640, 0, 0)
    assert splits.left_out([west, east], ["test", "train"], 5000).tolist() == [False, True]
    assert splits.left_out([west, far], ["test", "train"], 5000).tolist() == [False, False]


def test_without_a_buffer_nothing_is_left_out():
    assert not splits.left_out(square(3), ["train", "test", "val"] * 3, 0).any()
