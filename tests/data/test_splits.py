import datetime
import json

import numpy as np
import pytest

from skysense_cli.data import splits
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.footprints import Footprint
from skysense_cli.geo.grid import lonlat
from skysense_cli.recipe.schema.build import SplitsSection


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


def regions_file(path, parts):
    """parts: (split, west, east) in degrees"""
    features = [
        {"type": "Feature", "properties": {"split": split} if split else {},
         "geometry": {"type": "Polygon", "coordinates": [[[w, 50], [e, 50], [e, 51], [w, 51], [w, 50]]]}}
        for split, w, e in parts
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_a_footprint_on_a_border_goes_where_its_centre_lies_and_buffers_apply(tmp_path):
    places = square(6)
    middle = lonlat(places[2].bounds, places[2].crs)[0] + 0.001  # east of the centres of column 2, inside of it
    path = regions_file(tmp_path / "regions.geojson", [("train", 2, middle), ("test", middle, 4)])
    found, left_out = splits.planned(places, SplitsSection(regions=path, block=3), 0)
    assert {(share.footprint.col, share.split) for share in found} == {(c, "train" if c < 3 else "test") for c in range(6)}
    assert left_out == 0 and len({(share.block, share.split) for share in found}) == len({share.block for share in found})
    near, left_out = splits.planned(places, SplitsSection(regions=path), 640)
    assert left_out == 6 and not [share for share in near if share.footprint.col == 2]


def test_footprints_outside_of_all_regions_are_left_out(tmp_path):
    places = square(4)
    middle = lonlat(places[1].bounds, places[1].crs)[0] + 0.001
    found, left_out = splits.planned(places, SplitsSection(regions=regions_file(tmp_path / "r.geojson", [("val", 2, middle)])), 0)
    assert left_out == 8 and {share.split for share in found} == {"val"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("training", 2, 4)], "a feature has the split 'training' .known: train, val, test"),
        ([("train", 2, 3.2), ("test", 3, 4)], "regions of test and train share ground"),
        ([("train", 9, 10)], "no footprint has its centre in one of its regions"),
        ([("", 2, 4)], "its features have no property 'split'"),
    ],
)
def test_regions_that_cannot_be_used_are_refused(tmp_path, parts, message):
    with pytest.raises((DataError, GridError), match=f"r.geojson: {message}"):
        splits.planned(square(2), SplitsSection(regions=regions_file(tmp_path / "r.geojson", parts)), 0)


def test_periods_give_each_footprint_a_sample_per_split():
    year = {"start": datetime.date(2018, 1, 1), "end": datetime.date(2018, 12, 31)}
    next_year = {"start": datetime.date(2019, 1, 1), "end": datetime.date(2019, 12, 31)}
    section = SplitsSection.model_validate({"periods": {"train": year, "test": next_year}})
    found, left_out = splits.planned(square(2), section, 1000)
    assert left_out == 0 and len(found) == 8 and len({share.footprint.id for share in found}) == 8
    assert {(share.split, str(share.footprint.days[0])) for share in found} == {("train", "2018-01-01"), ("test", "2019-01-01")}
    assert {share.block for share in found} == {"32631_r0_c0_train", "32631_r0_c0_test"}


def test_periods_that_overlap_are_a_mistake():
    year = {"start": datetime.date(2018, 1, 1), "end": datetime.date(2018, 12, 31)}
    with pytest.raises(ValueError, match="begins on 2018-12-31, before train has ended"):
        SplitsSection.model_validate({"periods": {"train": year, "val": {**year, "start": datetime.date(2018, 12, 31)}}})
