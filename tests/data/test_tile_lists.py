import importlib.util
import itertools
import json

import numpy as np
import pytest
from pyproj import Geod, Transformer

from skysense_cli.data import tile_lists
from skysense_cli.data.gcj02 import from_gcj02
from skysense_cli.data.tile_lists import common_length, read_entries, read_footprints, tile_centres
from skysense_cli.errors import DataError, GridError, RecipeError

GHENT = {"x": 33452, "y": 21946, "z": 16, "date_min": "201904", "date_max": "201910"}
installed = pytest.mark.skipif(importlib.util.find_spec("lmdb") is None, reason="needs the extra lmdb")


def lines(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def database(path, entries, length=None):
    import lmdb

    with lmdb.open(str(path), map_size=1 << 22, subdir=False, lock=False) as home, home.begin(write=True) as writing:
        writing.put(b"length", str(len(entries) if length is None else length).encode())
        for number, entry in enumerate(entries):
            writing.put(str(number).encode(), json.dumps(entry).encode())
    return path


def test_months_become_whole_months_in_both_spellings(tmp_path):
    months = [("201904", "201910"), ("2019-04", "2019-10"), (202002, 202002)]
    entries = list(read_entries(lines(tmp_path / "a.jsonl", [GHENT | {"date_min": a, "date_max": b} for a, b in months])))
    spans = [tuple(str(day) for day in entry.days) for entry in entries]
    assert spans == [("2019-04-01", "2019-10-31")] * 2 + [("2020-02-01", "2020-02-29")]


def test_centres_are_the_middle_of_web_mercator_squares():
    to_degrees = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
    edge = 20037508.342789244
    for x, y, z in [(0, 0, 0), (1, 0, 1), (33452, 21946, 16), (5, 6, 3)]:
        side = 2 * edge / 2**z
        wanted = to_degrees.transform(-edge + (x + 0.5) * side, edge - (y + 0.5) * side)
        assert tile_centres(np.array([x]), np.array([y]), np.array([z])) == pytest.approx((wanted[0], wanted[1]), abs=1e-9)


@pytest.mark.parametrize("gsds, size_m", [([10.0, 20.0], 640), ([0.3, 10.0], 600), ([10.0, 20.0, 60.0], 960)])
def test_footprints_have_true_metres_lie_on_all_grids_and_near_their_tile(tmp_path, gsds, size_m):
    rng = np.random.default_rng(0)
    entries = [
        GHENT | {"x": int(x), "y": int(y)} for x, y in zip(rng.integers(0, 2**16, 300), rng.integers(2**14, 3 * 2**14, 300), strict=True)
    ]
    snap = common_length(gsds)
    found = list(read_footprints(lines(tmp_path / "a.jsonl", entries), size_m=size_m, snap_m=snap))
    assert len(found) == 300 and len({one.crs for one in found}) > 50
    for footprint, entry in zip(found, entries, strict=True):
        lon, lat = tile_centres(*(np.array([entry[axis]]) for axis in "xyz"))
        x, y = Transformer.from_crs("EPSG:4326", footprint.crs, always_xy=True).transform(lon[0], lat[0])
        left, bottom, right, top = footprint.bounds
        assert max(abs((left + right) / 2 - x), abs((bottom + top) / 2 - y)) <= snap / 2 + 1e-5
        for gsd in gsds:
            assert abs(left / gsd - round(left / gsd)) < 1e-4 and abs(top / gsd - round(top / gsd)) < 1e-4
        assert footprint.col * size_m <= left + 1e-3 < (footprint.col + 1) * size_m + 1e-2
        back = Transformer.from_crs(footprint.crs, "EPSG:4326", always_xy=True).transform([left, right], [top, top])
        assert Geod(ellps="WGS84").inv(back[0][0], back[1][0], back[0][1], back[1][1])[2] == pytest.approx(size_m, rel=0.0012)


def test_the_same_tile_in_two_periods_is_two_samples(tmp_path):
    path = lines(tmp_path / "a.jsonl", [GHENT, GHENT | {"date_min": "202004", "date_max": "202010"}])
    first, second = read_footprints(path, size_m=640, snap_m=20)
    assert first.bounds == second.bounds and first.id.endswith("_20190401_20191031") and second.id.endswith("_20200401_20201031")


def test_tiles_of_chinese_maps_are_moved_back(tmp_path):
    path = lines(tmp_path / "a.jsonl", [GHENT | {"x": 53955, "y": 24832}])  # Beijing
    plain, moved = (next(read_footprints(path, size_m=640, snap_m=10, shifted=shifted)) for shifted in (False, True))
    lon, lat = from_gcj02(*tile_centres(np.array([53955]), np.array([24832]), np.array([16])))
    x, y = Transformer.from_crs("EPSG:4326", moved.crs, always_xy=True).transform(lon[0], lat[0])
    assert abs(moved.left + 320 - x) <= 5 and abs(moved.top - 320 - y) <= 5
    assert 100 < np.hypot(plain.left - moved.left, plain.top - moved.top) < 750


def test_lists_are_read_as_they_are_used(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text((json.dumps(GHENT) + "\n") * 10_000 + "broken\n")
    assert len(list(itertools.islice(read_entries(path), 10_000))) == 10_000
    monkeypatch.setattr(tile_lists, "AT_ONCE", 5)
    assert len(list(itertools.islice(read_footprints(path, size_m=640, snap_m=10), 9_995))) == 9_995


@installed
def test_a_database_gives_what_the_lines_give(tmp_path):
    entries = [GHENT | {"x": GHENT["x"] + k} for k in range(12)]
    assert list(read_entries(database(tmp_path / "a.lmdb", entries))) == list(read_entries(lines(tmp_path / "a.jsonl", entries)))


@installed
def test_damaged_databases_are_named(tmp_path):
    with pytest.raises(DataError, match="`length` says 9 entries, the database has 1"):
        list(read_entries(database(tmp_path / "a.lmdb", [GHENT], length=9)))
    with pytest.raises(DataError, match="the key `length` holds 'many'"):
        list(read_entries(database(tmp_path / "b.lmdb", [GHENT], length="many")))
    (tmp_path / "c.lmdb").write_bytes(b"nonsense" * 2000)
    with pytest.raises(DataError, match=r"c.lmdb: cannot be read as an LMDB database"):
        list(read_entries(tmp_path / "c.lmdb"))


def test_without_the_extra_its_name_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_lists.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"skysense-cli\[lmdb\]"):
        list(read_entries(tmp_path / "a.lmdb"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("nonsense", "line 1: 'nonsense' is no JSON object"),
        ("[" * 3000, "is no JSON object"),
        ("[1]", "is no tile; expected an object with x, y, z, date_min, date_max"),
        (json.dumps(GHENT | {"x": 2**16}), "there is no tile x 65536, y 21946, z 16"),
        (json.dumps(GHENT | {"z": True}), "there is no tile"),
        (json.dumps(GHENT | {"date_min": "2019"}), "date_min is '2019', expected a month such as 201904"),
        (json.dumps(GHENT | {"date_min": "201913"}), "date_min is '201913', expected a month"),
        (json.dumps(GHENT | {"date_max": "201901"}), "date_max 2019-01 lies before date_min 2019-04"),
        ("x" * 5000, "line 1 is longer than 4096 characters"),
    ],
)
def test_entries_that_are_none_are_named(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text + "\n")
    with pytest.raises(DataError) as error:
        list(read_entries(tmp_path / "a.jsonl"))
    assert message in str(error.value) and "a.jsonl" in str(error.value)


def test_tiles_beyond_utm_are_refused(tmp_path):
    with pytest.raises(GridError, match="UTM ends at 80 S and 84 N"):
        list(read_footprints(lines(tmp_path / "a.jsonl", [GHENT | {"y": 0}]), size_m=640, snap_m=10))


def test_common_lengths():
    assert common_length([10]) == 10 and common_length([10, 20, 60]) == 60 and common_length([0.3, 10]) == 30
