"""Samples on disk."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from skysense_cli.data import members, npz
from skysense_cli.data.sample import Label, Sample, Series
from skysense_cli.errors import DataError
from skysense_cli.geo.grid import lonlat, make_grid
from skysense_cli.sensors import get

RNG = np.random.default_rng(0)
LEFT, TOP, SIZE = 504320, 5621120, 160
CRS = "EPSG:32631"


def series(sensor="sentinel2_l2a", gsd=10, dates=3, crs=CRS, left=LEFT, top=TOP, size=SIZE):
    kind, side = get(sensor), round(size / gsd)
    shape = (dates, len(kind.bands), side, side)
    pixels = RNG.normal(-12, 4, shape) if kind.kind == "sar" else RNG.integers(1, 250, shape)
    times = np.datetime64("2021-01-01T10:30:21", "s") + np.arange(dates) * np.timedelta64(5, "D")
    valid = RNG.random((dates, side, side)) < 0.8
    valid[:, 0, 0] = True
    items = tuple(f"item {number}" for number in range(dates))
    meta = tuple({"platform": "S2A", "shift_px": [0.1 * number, -0.2]} for number in range(dates))
    grid = make_grid(left, top, gsd, side, side, crs)
    return Series(sensor, kind.band_names, pixels.astype(kind.dtype), times, valid, items, grid, kind.units, kind.nodata, meta)


def sample(**changes):
    parts = {"s2": series(), "s1": series("sentinel1_grd", 20, 5), "hr": series("rgb", 2.5, 1)}
    grid = parts["s2"].grid
    label = Label(
        raster=RNG.integers(0, 3, (16, 16)).astype(np.uint8), grid=grid, held_out=np.full((16, 16), 255, np.uint8),
        names=("ground", "wheat", "maïs"), colors=np.arange(9, dtype=np.uint8).reshape(3, 3), classes=np.array([1, 2]),
        period=np.array(["2021-01-01", "2021-12-31"], "datetime64[D]"), source="a survey",
        boxes=RNG.random((2, 5)).astype(np.float32), values=np.float32([0.5]), multi=np.array([True, False, True]),
    )  # fmt: skip
    bounds = (LEFT, TOP - SIZE, LEFT + SIZE, TOP)
    made = Sample("place_7", CRS, bounds, lonlat(grid), parts, label, {"recipe": "abc", "aligned": {"by": "s2"}})
    return dataclasses.replace(made, **changes)


def write(folder, made=None):
    made = made or sample()
    path = folder / f"{made.id}.npz"
    npz.write(made, path)
    return path


def same(a, b):
    """Equal, down to dtypes, through dataclasses, dicts and tuples."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fM")
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float) and np.isnan(a):
        return np.isnan(b)
    return a == b


def test_a_sample_comes_back_as_it_was(tmp_path):
    made = sample()
    assert same(npz.read(write(tmp_path, made)), made)
    assert same(npz.read_label(tmp_path / "place_7.npz"), made.label)
    npz.check(tmp_path / "place_7.npz")
    assert os.listdir(tmp_path) == ["place_7.npz"]


def test_a_sample_without_a_label_or_a_place_comes_back_too(tmp_path):
    parts = {"s2": series(crs=""), "hr": series("rgb", 2.5, 1, crs="")}
    undated = dataclasses.replace(parts["hr"], times=np.array(["NaT"], "datetime64[s]"))
    made = sample(series={**parts, "hr": undated}, label=None, crs="", lonlat=(float("nan"), float("nan")), provenance={})
    path = write(tmp_path, made)
    found = npz.read(path)
    assert same(found.series, made.series) and found.label is None and np.isnan(found.lonlat).all() and found.crs == ""
    assert npz.read_label(path) is None


def test_the_southern_hemisphere_and_odd_origins_come_back(tmp_path):
    parts = {"s2": series(crs="EPSG:32733", left=300003.7, top=6500001.3)}
    grid = parts["s2"].grid
    made = sample(crs="EPSG:32733", series=parts, label=None, lonlat=lonlat(grid), bounds=tuple(grid.boundingbox))
    assert same(npz.read(write(tmp_path, made)), made)


def test_keys_shapes_and_types_are_those_of_the_schema(tmp_path):
    with np.load(write(tmp_path), allow_pickle=False) as file:
        found = {key: (file[key].dtype.kind if file[key].dtype.kind == "U" else file[key].dtype.name, file[key].shape) for key in file}
    assert list(found)[:7] == ["schema", "id", "crs", "bounds", "lonlat", "modalities", "provenance"]
    assert found["schema"] == ("int32", ()) and found["id"] == ("U", ()) and found["bounds"] == ("float64", (4,))
    expected = {
        "sensor": ("U", ()), "bands": ("U", (10,)), "pixels": ("uint16", (3, 10, 16, 16)), "times": ("datetime64[s]", (3,)),
        "valid": ("bool", (3, 16, 16)), "transform": ("float64", (6,)), "items": ("U", (3,)), "units": ("U", ()),
        "nodata": ("uint16", ()), "meta": ("U", (3,)),
    }  # fmt: skip
    assert {key: value for key, value in found.items() if key.startswith("s2/")} == {f"s2/{key}": value for key, value in expected.items()}
    assert found["s1/nodata"] == ("float32", ()) and found["hr/pixels"] == ("uint8", (1, 3, 64, 64))
    assert {key.removeprefix("label/") for key in found if key.startswith("label/")} == {
        "raster", "held_out", "boxes", "ids", "colors", "values", "multi", "period", "transform", "names", "source",
    }  # fmt: skip
    assert found["label/ids"] == ("int64", (2,)) and found["label/period"] == ("datetime64[D]", (2,))


def test_members_are_stored_and_their_data_aligned(tmp_path):
    path = write(tmp_path)
    with zipfile.ZipFile(path) as archive, members.Members(path) as file:
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED and info.date_time == (1980, 1, 1, 0, 0, 0)
            view = file.view(info.filename.removesuffix(".npy"))
            if view.nbytes:
                address = np.frombuffer(file._map, np.uint8).__array_interface__["data"][0]
                assert (view.__array_interface__["data"][0] - address) % 64 == 0
        assert archive.testzip() is None


def test_equal_samples_are_equal_bytes(tmp_path):
    made = sample()
    first = write(tmp_path, made).read_bytes()
    turned = dataclasses.replace(made, series=dict(reversed(made.series.items())), provenance=dict(reversed(made.provenance.items())))
    assert write(tmp_path, turned).read_bytes() == first


def test_a_part_is_the_same_as_the_cut_whole(tmp_path):
    made = sample()
    path = write(tmp_path, made)
    for dates, window in ((None, None), ([2, 0], None), (np.array([1]), (slice(4, 12), slice(0, 16))), ([], (slice(0, 4), slice(4, 8)))):
        part = npz.read_part(path, "s2", dates, window)
        whole, keep = made.series["s2"], list(range(3)) if dates is None else list(dates)
        rows, columns = window or (slice(None), slice(None))
        np.testing.assert_array_equal(part.pixels, whole.pixels[keep][:, :, rows, columns])
        np.testing.assert_array_equal(part.valid, whole.valid[keep][:, rows, columns])
        np.testing.assert_array_equal(part.times, whole.times[keep])
        assert part.items == tuple(whole.items[i] for i in keep) and part.meta == tuple(whole.meta[i] for i in keep)
        assert part.pixels.flags.owndata and part.pixels.flags.writeable and part.pixels.flags.c_contiguous
    corner = npz.read_part(path, "s1", None, (slice(2, 6), slice(1, 5))).grid
    assert corner == make_grid(LEFT + 20, TOP - 40, 20, 4, 4, CRS)


def test_a_part_touches_only_its_own_pages(tmp_path):
    """Damage in other dates is not even seen."""
    made = sample(series={"s2": series(dates=6)}, label=None)
    path = write(tmp_path, made)
    content = bytearray(path.read_bytes())
    at = bytes(content).index(made.series["s2"].pixels[4].tobytes())
    content[at : at + 100] = bytes(100)
    path.write_bytes(content)
    np.testing.assert_array_equal(npz.read_part(path, "s2", [1, 5]).pixels, made.series["s2"].pixels[[1, 5]])
    with pytest.raises(DataError, match="s2/pixels is damaged"):
        npz.read(path)


def test_the_header_is_told_without_pixels(tmp_path):
    made = sample()
    head = npz.header(write(tmp_path, made))
    assert (head.id, head.crs, head.bounds, head.lonlat, head.has_label) == ("place_7", CRS, made.bounds, made.lonlat, True)
    assert list(head.series) == ["hr", "s1", "s2"]
    found = head.series["s1"]
    assert (found.sensor, found.bands, found.shape, found.grid) == ("sentinel1_grd", ("VV", "VH"), (5, 2, 8, 8), made.series["s1"].grid)
    np.testing.assert_array_equal(found.times, made.series["s1"].times)


# files made or changed elsewhere


def rewrite(path, changes=None, pack=zipfile.ZIP_STORED, drop=()):
    """The file with some arrays replaced, packed by numpy and zipfile alone."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file if key not in drop}
    with zipfile.ZipFile(path, "w", pack) as archive:
        for key, array in {**arrays, **(changes or {})}.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asanyarray(array), allow_pickle=True)
            archive.writestr(f"{key}.npy", content.getvalue())
    return path


def test_a_deflated_file_reads_with_one_warning_per_folder(tmp_path, capsys):
    made = sample()
    path = rewrite(write(tmp_path, made), pack=zipfile.ZIP_DEFLATED)
    assert same(npz.read(path), made)
    for _ in range(3):
        np.testing.assert_array_equal(npz.read_part(path, "s2", [0]).pixels, made.series["s2"].pixels[:1])
    said = capsys.readouterr().err
    assert said.count("holds deflated") == 1 and str(tmp_path) in said


def test_big_endian_and_fortran_order_arrays_come_back_as_usual_ones(tmp_path):
    made = sample()
    pixels = made.series["s2"].pixels
    for other in (pixels.astype(">u2"), np.asfortranarray(pixels)):
        path = rewrite(write(tmp_path, made), {"s2/pixels": other})
        for found in (npz.read(path).series["s2"].pixels, npz.read_part(path, "s2").pixels):
            assert found.dtype == np.dtype("uint16") and found.dtype.isnative and found.flags.c_contiguous
            np.testing.assert_array_equal(found, pixels)


def test_a_key_that_is_not_known_is_left_alone(tmp_path):
    made = sample()
    assert same(npz.read(rewrite(write(tmp_path, made), {"surprise": np.zeros(3)})), made)


def refused(path, words, action=npz.read):
    with pytest.raises(DataError, match=words) as caught:
        action(path)
    assert str(caught.value).startswith(str(path))


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_is_ever_unpickled(tmp_path):
    trap = np.empty(1, object)
    trap[0] = Trap(tmp_path / "trace")
    for key in ("s2/pixels", "s2/times", "id", "provenance"):
        path = rewrite(write(tmp_path), {key: trap})
        refused(path, f"{key} is object; objects and structured arrays are not read")
    refused(rewrite(write(tmp_path), {"s2/pixels": np.zeros((1, 1, 1, 1), [("v", "u2")])}), "s2/pixels is .*structured")
    assert not (tmp_path / "trace").exists()


def test_two_members_of_one_name_are_refused(tmp_path):
    path = write(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("s2/pixels.npy", b"other")
    refused(path, "holds s2/pixels twice", npz.header)


def raw_member(path, key, content):
    rewrite(path, drop=(key,))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{key}.npy", content)
    return path


def test_headers_that_lie_are_refused_before_any_data(tmp_path):
    text = "{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 10, 10000, 10000), }".ljust(117) + "\n"
    lie = b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)
    refused(raw_member(write(tmp_path), "s2/pixels", lie), r"s2/pixels declares uint16 .* but has 192", npz.header)
    code = b"__import__('os').system('touch trace')".ljust(117) + b"\n"
    lie = b"\x93NUMPY\x01\0" + len(code).to_bytes(2, "little") + code + bytes(64)
    refused(raw_member(write(tmp_path), "s2/pixels", lie), "s2/pixels has no readable array header")
    refused(raw_member(write(tmp_path), "s2/pixels", b"no array"), "s2/pixels has no readable array header")


def test_a_bomb_is_refused_by_its_declared_size(tmp_path, monkeypatch):
    path = rewrite(write(tmp_path), {"s2/pixels": np.zeros((50, 10, 256, 256), np.uint16)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"declares 6\d,\d+,\d+ bytes of arrays, at most 10,000,000"):
        members.Members(path, most_bytes=10_000_000)


def test_damaged_files_are_refused_by_name(tmp_path):
    path = write(tmp_path)
    content = path.read_bytes()
    for share in (0, 0.01, 0.5, 0.95):
        path.write_bytes(content[: int(share * len(content))])
        refused(path, "no npz file, or a damaged one")
        refused(path, "no npz file, or a damaged one", npz.header)
    path.write_bytes(b"<html>503</html>")
    refused(path, "no npz file")
    path.unlink()
    refused(path, "cannot be opened")
    path = rewrite(write(tmp_path), pack=zipfile.ZIP_DEFLATED)
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 3] ^= 0xFF
    path.write_bytes(packed)
    refused(path, "is damaged|no readable array header|differs")


def test_another_schema_or_none_is_refused(tmp_path):
    refused(rewrite(write(tmp_path), {"schema": np.int32(2)}), r"schema is 2, this version knows 1\. Rebuild")
    refused(rewrite(write(tmp_path), drop=("schema",)), "has no schema; it is no skysense sample")


def test_a_modality_the_sample_lacks_is_named_with_those_it_has(tmp_path):
    refused(write(tmp_path), r"has no modality 's3' \(has: hr, s1, s2\)", lambda path: npz.read_part(path, "s3"))


NEEDED = [
    *("id", "crs", "bounds", "lonlat", "modalities", "provenance", "label/transform"),
    *(f"s2/{key}" for key in "pixels valid sensor bands times transform items units nodata meta".split()),
]


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_key_is_named(tmp_path, key):
    refused(rewrite(write(tmp_path), drop=(key,)), f"has no {key}$")


@pytest.mark.parametrize("key, value, words", [
    ("id", np.array(["a"]), "id is <U1 .*expected one text"),
    ("bounds", np.float32([1, 2, 3, 4]), r"bounds is float32 \(4,\), expected float64 \(4,\)"),
    ("provenance", "nonsense", "provenance is no JSON"),
    ("provenance", "[1]", "provenance is a list, expected a JSON object"),
    ("s2/times", np.array(["2021-01-01"] * 3), r"s2/times is <U10 \(3,\), expected datetime64\[s\]"),
    ("s2/meta", np.array(["{}", "{", "{}"]), "s2/meta is no JSON"),
    ("s2/bands", np.arange(10), "s2/bands is int64 .*expected a list of texts"),
    ("s2/nodata", np.array([0, 0]), r"s2/nodata is int64 \(2,\), expected one number"),
    ("s2/pixels", np.zeros((3, 10, 16), np.uint16), r"s2/pixels has the shape \(3, 10, 16\), expected \(T, C, H, W\)"),
    ("s2/pixels", np.zeros((0, 10, 16, 16), np.uint16), r"s2/pixels has the shape \(0, 10, 16, 16\), expected .*none of them 0"),
    ("s2/pixels", np.zeros((3, 10, 16, 16)), r"s2/pixels is float64, sentinel2_l2a stores uint16\. Rebuild the sample\."),
    ("s2/pixels", np.zeros((3, 9, 16, 16), np.uint16), "s2/bands has 10 entries, expected 9"),
    ("s2/sensor", "sentinel9", "unknown sensor 'sentinel9'"),
    ("label/raster", np.zeros((16, 16, 1), np.uint8), r"label/raster has the shape \(16, 16, 1\), expected \(H, W\)"),
])  # fmt: skip
def test_a_value_of_another_kind_is_named(tmp_path, key, value, words):
    path = rewrite(write(tmp_path), {key: value})
    with pytest.raises(DataError, match=words):
        npz.read(path)


def test_check_compares_the_id_with_the_file_name(tmp_path):
    path = write(tmp_path)
    moved = path.rename(tmp_path / "other.npz")
    assert npz.read(moved).id == "place_7"
    refused(moved, "id is 'place_7', expected 'other'", npz.check)


def test_a_sample_that_breaks_a_rule_is_not_written(tmp_path):
    with pytest.raises(DataError, match="modalities is empty"):
        npz.write(sample(series={}), tmp_path / "a.npz")
    assert not os.listdir(tmp_path)


def test_meta_and_provenance_are_json_with_sorted_keys(tmp_path):
    with np.load(write(tmp_path)) as file:
        assert str(file["provenance"]) == '{"aligned":{"by":"s2"},"recipe":"abc"}'
        assert json.loads(str(file["s2/meta"][1])) == {"platform": "S2A", "shift_px": [0.1, -0.2]}


def test_hostile_npz_files_are_refused_by_name(badinput_dir, tmp_path):
    subprocess.run([sys.executable, badinput_dir / "make_bad.py", tmp_path, "--only", "npz"], check=True, capture_output=True)
    files = sorted((tmp_path / "npz").glob("*.npz"))
    assert len(files) > 30
    for path in files:
        for action in (npz.read, npz.header, lambda p: npz.read_part(p, "s2")):
            refused(path, "", action)


def test_a_part_of_a_replaced_file_is_the_new_one(tmp_path):
    path = tmp_path / "place.npz"
    first = sample()
    npz.write(first, path)
    assert npz.read_part(path, "s2").items == first.series["s2"].items
    renamed = dataclasses.replace(first.series["s2"], items=tuple("new" + item for item in first.series["s2"].items))
    npz.write(dataclasses.replace(first, series={"s2": renamed}), path)
    assert all(item.startswith("new") for item in npz.read_part(path, "s2").items)
