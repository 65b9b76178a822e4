"""The index of a data set."""

import dataclasses
import time

import geopandas
import numpy as np
import pytest

from skysense_cli.data import index
from skysense_cli.data.index import Row
from skysense_cli.data.rows import Rows
from skysense_cli.errors import DataError
from skysense_cli.geo.grid import lonlat, make_grid


def row(number, split="train", crs="EPSG:32631", left=504320.0, **changes):
    grid = make_grid(left + 640 * number, 5621120, 10, 64, 64, crs)
    dates = {"s2": ("2021-01-01T10:30:21", "2021-01-06T10:30:19"), "hr": ("NaT",)}
    bounds = tuple(float(value) for value in grid.boundingbox)
    made = Row(f"p{number:03d}", f"samples/p{number:03d}.npz", split, crs, bounds, lonlat(grid), ("hr", "s2"), dates, {0: 4000, 12: 96})
    return dataclasses.replace(made, **changes)


def test_rows_of_all_parts_come_back_sorted_by_id(tmp_path):
    rows = [row(number, split) for number, split in enumerate(["train", "val", "train", ""])]
    index.write_part(tmp_path, "b", [rows[3], rows[1]])
    index.write_part(tmp_path, "a", [rows[2], rows[0]])
    index.write_part(tmp_path, "c", [])
    assert index.read(tmp_path) == rows
    assert index.read(tmp_path, "train") == [rows[0], rows[2]]
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.parquet")} == {
        "ca9/part-a.parquet", "3e2/part-b.parquet", "2e7/part-c.parquet"
    }  # fmt: skip
    assert np.array(index.read(tmp_path)[0].dates["hr"], "datetime64[s]").dtype == np.dtype("datetime64[s]")


def test_a_sample_without_a_place_has_a_row_too(tmp_path):
    nowhere = row(0, crs="", lonlat=(float("nan"), float("nan")))
    index.write_part(tmp_path, "a", [nowhere])
    found = index.read(tmp_path)[0]
    assert found.crs == "" and np.isnan(found.lonlat).all() and found.bounds == nowhere.bounds


def test_equal_rows_are_equal_bytes(tmp_path):
    first = index.write_part(tmp_path, "a", [row(0), row(1)], {"digest": "1"}).read_bytes()
    assert index.write_part(tmp_path, "a", [row(1), row(0)], {"digest": "1"}).read_bytes() == first
    assert index.write_part(tmp_path, "a", [row(1), row(0)], {"digest": "2"}).read_bytes() != first


def test_facts_of_a_part_come_back(tmp_path):
    index.write_part(tmp_path, "a", [], {"digest": "abc"})
    index.write_part(tmp_path, "b", [row(0)])
    index.write_part(tmp_path, "c", []).write_bytes(b"cut off")
    assert index.part_facts(tmp_path, "a") == {"digest": "abc"} and index.part_facts(tmp_path, "b") == {}
    assert index.part_facts(tmp_path, "c") is None and index.part_facts(tmp_path, "d") is None


def test_parts_are_geoparquet_with_footprints_in_degrees(tmp_path):
    edge = row(0, crs="EPSG:32660", left=833500.0)
    frame = geopandas.read_parquet(index.write_part(tmp_path, "a", [row(1), edge]))
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry[1].bounds == pytest.approx((3.0703, 50.7358, 3.0795, 50.7417), abs=0.01)
    assert frame.geometry[1].contains(geopandas.points_from_xy([row(1).lonlat[0]], [row(1).lonlat[1]])[0])


def test_a_footprint_across_the_antimeridian_is_two_boxes(tmp_path):
    from skysense_cli.geo.crs import transformer

    x, _ = transformer("EPSG:4326", "EPSG:32660").transform(180, 50.7)
    frame = geopandas.read_parquet(index.write_part(tmp_path, "a", [row(0, crs="EPSG:32660", left=float(round(x)) - 320)]))
    parts = sorted(frame.geometry[0].geoms, key=lambda part: part.bounds[0])
    assert parts[0].bounds[0] == -180 and parts[1].bounds[2] == 180 and frame.geometry[0].area < 1e-3


def test_the_geopackage_holds_all_rows_in_equal_bytes(tmp_path):
    index.write_part(tmp_path / "index", "a", [row(1)])
    index.write_part(tmp_path / "index", "b", [row(0, "val")])
    path = tmp_path / "index.gpkg"
    index.to_geopackage(tmp_path / "index", path)
    frame = geopandas.read_file(path, layer="samples")
    assert frame.id.tolist() == ["p000", "p001"] and frame.split.tolist() == ["val", "train"] and frame.crs.to_epsg() == 4326
    first = path.read_bytes()
    time.sleep(1.1)  # the format keeps the second in which it was written
    index.to_geopackage(tmp_path / "index", path)
    assert path.read_bytes() == first and sorted(path.name for path in tmp_path.iterdir()) == ["index", "index.gpkg"]


def refused(folder, words, split=None):
    with pytest.raises(DataError, match=words) as caught:
        index.read(folder, split)
    assert str(folder) in str(caught.value)


def test_what_is_no_index_is_refused_by_name(tmp_path):
    refused(tmp_path / "index", "is no index .there is no such folder.; build-data makes one")
    refused(tmp_path, r"holds no \*/part-\*\.parquet")
    index.write_part(tmp_path, "a", []).write_bytes(b"PAR1 and nothing else")
    refused(tmp_path, "part-a.parquet: cannot be read as GeoParquet")
    geopandas.GeoDataFrame({"id": ["a"]}, geometry=[None], crs="EPSG:4326").to_parquet(index.part_path(tmp_path, "a"))
    refused(tmp_path, "part-a.parquet: has no column 'path'")


def test_a_split_without_samples_names_those_there_are(tmp_path):
    index.write_part(tmp_path, "a", [row(0), row(1, "val"), row(2, "")])
    refused(tmp_path, r"no sample in split 'test' \(has: train, val\)", "test")


def test_an_id_listed_twice_is_refused(tmp_path):
    index.write_part(tmp_path, "a", [row(0)])
    index.write_part(tmp_path, "b", [row(0)])
    refused(tmp_path, "sample p000 is listed twice")


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "samples/../../x.npz"])
def test_paths_that_lead_out_of_the_data_set_are_refused(tmp_path, path):
    index.write_part(tmp_path, "a", [row(0, path=path)])
    refused(tmp_path, "sample p000 lies at .*expected a path inside the data set")


def test_rows_that_make_no_sense_are_refused(tmp_path):
    frame = geopandas.read_parquet(index.write_part(tmp_path, "a", [row(0)]))
    frame["dates"] = "nonsense"
    frame.to_parquet(index.part_path(tmp_path, "a"))
    refused(tmp_path, "part-a.parquet: the row of sample 'p000' cannot be understood")


def test_rows_in_columns_are_the_rows_themselves(tmp_path):
    rows = [row(number, split, classes={number: 1}) for number, split in enumerate(["train", "val", "train"])]
    rows.append(row(4, crs="", lonlat=(1.5, 2.5), modalities=("hr",)))
    found = Rows.of(rows)
    assert list(found) == rows and Rows.of(found) is found and found[-1] == rows[3] and found[1:3] == rows[1:3] and len(found[:0]) == 0
    assert found.take(np.array([2, 0])) == [rows[2], rows[0]] and found.take(np.array([True, False, False, True])) == [rows[0], rows[3]]
    assert found.having("s2").tolist() == [True, True, True, False]
    assert found.where("split", lambda text: text == "val").tolist() == [False, True, False, False]
    assert found.sizes_m().tolist() == [[640, 640]] * 4 and found != rows[:3]
    with pytest.raises(IndexError):
        found[4]


def test_samples_of_one_footprint_are_known_as_such(tmp_path):
    again = row(0, id="again")
    found = Rows.of([row(1), row(0), again, row(0, crs="EPSG:32632", id="elsewhere"), row(1, id="later")])
    assert found.first_of_each_place().tolist() == [0, 1, 1, 3, 0]
    assert Rows.of([]).first_of_each_place().tolist() == [] and list(Rows.of([])) == []


def test_repeated_texts_of_many_parts_are_kept_once(tmp_path):
    for part in range(8):
        index.write_part(tmp_path, f"p{part}", [row(50 * part + number) for number in range(50)])
    found = index.read(tmp_path)
    assert len(found) == 400 and found.nbytes < 400 * 200
    assert [one.id for one in found] == sorted(one.id for one in found)
