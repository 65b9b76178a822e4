"""Pieces of one overpass become one date: which belong together, and that no number changes."""

import datetime
import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from skysense_cli.data.build import build
from skysense_cli.data.index import FACTS
from skysense_cli.data.overpass import fill, passes
from skysense_cli.data.sources import Item
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.build import BuildDataRecipe

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SIDE = 64


def item(name: str, time: str, units: str = "reflectance*10000", **meta) -> Item:
    return Item(name, np.datetime64(time, "s"), {}, units, meta)


A = {"platform": "sentinel-2a", "relative_orbit": 8}


@pytest.mark.parametrize(
    ("second", "together"),
    [
        (item("b", "2021-06-01T10:54:59", **A), True),
        (item("b", "2021-06-01T10:50:00", platform="Sentinel-2A"), True),  # its orbit is not said
        (item("b", "2021-06-01T10:55:01", **A), False),
        (item("b", "2021-06-01T10:50:00", platform="sentinel-2b", relative_orbit=8), False),
        (item("b", "2021-06-01T10:50:00", platform="sentinel-2a", relative_orbit=108), False),
        (item("b", "2021-06-01T10:50:00"), False),
        (item("b", "2021-06-01T10:50:00", "DN", **A), False),
        (item("b", "NaT", **A), False),
    ],
)
def test_which_items_are_one_overpass(second, together):
    assert passes([item("a", "2021-06-01T10:50:00", **A), second]) == ([(0, 1)] if together else [])


def test_items_without_a_platform_stay_as_they_are():
    assert passes([item("a", "2021-06-01T10:50:00"), item("b", "2021-06-01T10:50:00")]) == []


def test_the_newest_processing_lies_on_top_then_the_smaller_id():
    time = "2021-06-01T10:50:00"
    three = [item("c", time, baseline="02.14", **A), item("b", time, baseline="05.00", **A), item("a", time, baseline="02.14", **A)]
    assert passes(three) == [(1, 2, 0)]


def test_another_platform_between_two_pieces_changes_nothing():
    other = item("x", "2021-06-01T10:51:00", platform="sentinel-2b")
    assert passes([item("a", "2021-06-01T10:50:00", **A), other, item("b", "2021-06-01T10:52:00", **A)]) == [(0, 2)]


@pytest.mark.parametrize("nodata", [0.0, float("nan")])
def test_holes_are_filled_and_nothing_else_changes(nodata):
    random = np.random.default_rng(1)
    pixels = random.uniform(1, 9, (3, 2, 6, 6)).astype(np.float32)
    valid = random.uniform(size=(3, 6, 6)) > 0.3
    pixels[0, :, :, 4:], valid[0, :, 4:] = nodata, False
    pixels[2, :, :, :3], valid[2, :, :3] = nodata, False
    before, clear = pixels.copy(), valid.copy()
    assert fill(pixels, valid, (2, 0), nodata) == {2: 0.5, 0: 0.5}
    assert np.array_equal(pixels[0][:, :, 3:], before[2][:, :, 3:])
    assert np.array_equal(pixels[0][:, :, :3], before[0][:, :, :3])
    assert np.array_equal(valid[0], np.hstack([clear[0][:, :3], clear[2][:, 3:]]))
    assert not valid[2].any()
    assert np.array_equal(pixels[1], before[1]) and np.array_equal(valid[1], clear[1])


def test_a_piece_that_gives_nothing_is_not_named():
    pixels, valid = np.ones((2, 1, 4, 4), np.uint16), np.ones((2, 4, 4), bool)
    assert fill(pixels, valid, (1, 0), 0) == {1: 1.0}
    assert valid[1].all() and not valid[0].any()


# a whole build: halves of scenes against the whole scenes


def catalogue(folder: Path, geotiff, halves: bool) -> str:
    """Three dates of ten bands as a STAC collection; with `halves` each comes as a left and a right piece that overlap by 8 px."""
    random, items = np.random.default_rng(3), []
    for day in ("2021-05-01", "2021-06-01", "2021-07-01"):
        picture = random.integers(300, 4000, (10, SIDE, SIDE), np.uint16)
        spans = [(0, 36), (28, SIDE)] if halves else [(0, SIDE)]
        for number, (first, last) in enumerate(spans):
            name = f"S2A_{day}_{'LR'[number] if halves else 'W'}"
            geotiff(folder / f"{name}.tif", picture[:, :, first:last], left=500000 + 10 * first, nodata=0, names=BANDS)
            assets = {"data": {"href": f"./{name}.tif", "roles": ["data"], "eo:bands": [{"name": band} for band in BANDS]}}
            properties = {"datetime": f"{day}T10:50:{10 + 20 * number}Z", "platform": "sentinel-2a", "sat:relative_orbit": 8,
                          "s2:processing_baseline": "02.14"}  # fmt: skip
            items.append({"type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "s2", "bbox": [2.9, 50.4, 3.2, 50.7],
                          "geometry": None, "links": [], "properties": properties, "assets": assets})  # fmt: skip
            (folder / f"{name}.json").write_text(json.dumps(items[-1]))
    extent = {"spatial": {"bbox": [[2.9, 50, 10, 51]]}, "temporal": {"interval": [["2020-01-01T00:00:00Z", None]]}}
    root = {"type": "Collection", "stac_version": "1.0.0", "id": "s2", "description": "a", "license": "other", "extent": extent,
            "links": [{"rel": "item", "href": f"./{one['id']}.json"} for one in items]}  # fmt: skip
    (folder / "collection.json").write_text(json.dumps(root))
    return str(folder / "collection.json")


def built(home: Path, geotiff, halves: bool) -> tuple[dict[str, dict], dict[str, dict]]:
    """The arrays of the samples by file, and what became of each item."""
    url = catalogue(home, geotiff, halves)
    area = geotiff(home / "area.tif", np.ones((SIDE, SIDE), np.uint8))
    tree = {
        "recipe": "build-data", "version": 1, "output": home / "out", "area": area, "workers": 1,
        "period": {"start": datetime.date(2021, 1, 1), "end": datetime.date(2021, 12, 31)},
        "grid": {"size_m": 320.0, "anchor": "area", "crs": "EPSG:32631"},
        "modalities": {"s2": {"sensor": "sentinel2_l2a", "gsd": 10.0, "source": bind("data/sources", "stac", {"url": url}),
                              "dates": {"at_least": 3}}},
    }  # fmt: skip
    report = build(BuildDataRecipe.model_validate(tree), home / "out", "digest")
    samples = {}
    for path in sorted((home / "out" / "samples").rglob("*.npz")):
        with np.load(path) as sample:
            samples[path.name] = {name: sample[name] for name in sample.files}
    (part,) = (home / "out" / "index").rglob("part-*.parquet")
    facts = json.loads(json.loads(parquet.read_schema(part).metadata[FACTS])["report"])
    assert report["dates"]["s2"]["kept"] == 3
    return samples, {entry["item"]: entry for entry in facts["dates"]["s2"]}


def test_halves_of_an_overpass_build_what_the_whole_scenes_build(tmp_path, geotiff):
    """Neither half covers the samples in the middle by more than 80 %, so without the mosaic they would have no date at all."""
    whole, _ = built(tmp_path / "whole", geotiff, halves=False)
    pieces, dates = built(tmp_path / "halves", geotiff, halves=True)
    assert sorted(whole) == sorted(pieces) and len(whole) == 4
    for name, sample in pieces.items():
        for key in ("s2/pixels", "s2/valid", "s2/times", "s2/transform"):
            assert sample[key].tobytes() == whole[name][key].tobytes(), f"{name}: {key}"
        assert list(sample["s2/items"])[0] == "S2A_2021-05-01_L+S2A_2021-05-01_R"
        assert json.loads(str(sample["s2/meta"][0]))["parts"] == {"S2A_2021-05-01_L": 0.5625, "S2A_2021-05-01_R": 0.4375}
    assert dates["S2A_2021-05-01_L+S2A_2021-05-01_R"]["samples"] == 4
    assert dates["S2A_2021-05-01_R"]["dropped"] == "part of S2A_2021-05-01_L+S2A_2021-05-01_R"
