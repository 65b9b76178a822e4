"""`skysense samples` on small made data sets: sound, damaged, and with a planted leak."""

import io
import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from skysense_cli.cli.main import app
from skysense_cli.data import index, npz
from skysense_cli.data.sample import Sample, Series
from skysense_cli.errors import DataError, ItemsFailed
from skysense_cli.geo.crs import transformed
from skysense_cli.geo.footprints import Footprint
from skysense_cli.geo.grid import lonlat

BANDS = ("B02", "B03", "B04", "B08")


def sample_at(place: Footprint, seed: int = 0) -> Sample:
    random, grid = np.random.default_rng(seed), place.grid(20)
    shape = grid.shape
    optical = Series(
        "sentinel2_l2a", BANDS, random.integers(300, 3000, (3, 4, *shape)).astype(np.uint16),
        np.array(["2021-04-01T10:50:31", "2021-06-01T10:50:31", "2021-08-01T10:50:31"], "datetime64[s]"), np.ones((3, *shape), bool),
        ("a", "b", "c"), grid, "reflectance*10000", 0, ({}, {"repaired": "offset -1000"}, {}),
    )  # fmt: skip
    optical.valid[1, :5] = False
    radar = Series(
        "sentinel1_grd", ("VV", "VH"), random.normal(-14, 2, (1, 2, *shape)).astype(np.float32), np.array(["2021-05-01"], "datetime64[s]"),
        np.ones((1, *shape), bool), ("r",), grid, "sigma0 dB", float("nan"), ({},),
    )  # fmt: skip
    return Sample(place.id, place.crs, place.bounds, lonlat(place.bounds, place.crs), {"s2": optical, "s1": radar})


def row_of(sample: Sample, split: str) -> index.Row:
    dates = {name: tuple(str(time) for time in series.times) for name, series in sample.series.items()}
    path = f"samples/{sample.id}.npz"
    return index.Row(sample.id, path, split, sample.crs, sample.bounds, sample.lonlat, tuple(sorted(sample.series)), dates)


def data_set(home, places, splits):
    rows = []
    for number, (place, split) in enumerate(zip(places, splits, strict=True)):
        sample = sample_at(place, number)
        npz.write(sample, home / "samples" / f"{sample.id}.npz")
        rows.append(row_of(sample, split))
    index.write_part(home / "index", "a", rows)
    return home


def place(col: int, row: int = 0, crs: str = "EPSG:32631", left: float = 500000) -> Footprint:
    return Footprint(crs, left + 320 * col, 5600000 - 320 * row, 320, row, col)


def run(*arguments):
    return CliRunner().invoke(app, ["samples", *map(str, arguments)])


@pytest.fixture
def sound(tmp_path):
    return data_set(tmp_path / "data", [place(k) for k in range(3)], ["train"] * 3)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def rewrite(path, **changes):
    """Members replaced; None removes one."""
    found = members(path)
    for name, value in changes.items():
        key = name.replace("__", "/") + ".npy"
        if value is None:
            del found[key]
            continue
        buffer = io.BytesIO()
        np.save(buffer, value)
        found[key] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in found.items():
            archive.writestr(name, data)


def load(path, key):
    with np.load(path) as archive:
        return archive[key]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-700])


def duplicated(path):
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("id.npy", members(path)["id.npy"])


def emptied(path):
    pixels = load(path, "s2/pixels")
    pixels[0, :, 2, 3] = 0
    rewrite(path, s2__pixels=pixels)


def raised(path):
    rewrite(path, s2__pixels=(load(path, "s2/pixels") * 0 + 3).astype(np.uint16))


DAMAGES = {
    "truncated zip": (truncated, "is no npz file, or a damaged one|cut off"),
    "wrong dtype": (lambda path: rewrite(path, s2__pixels=load(path, "s2/pixels").astype(np.float64)), "s2/pixels is float64"),
    "unsorted times": (lambda path: rewrite(path, s2__times=load(path, "s2/times")[::-1]), "s2/times is not ascending"),
    "transform off": (lambda path: rewrite(path, s2__transform=load(path, "s2/transform") + [0, 0, 30, 0, 0, 0]), "s2/transform .* spans"),
    "missing member": (lambda path: rewrite(path, s2__valid=None), "has no s2/valid"),
    "nan crs": (lambda path: rewrite(path, crs=np.array("nan")), "crs"),
    "nodata called valid": (emptied, "s2/valid calls 1 pixels valid at 2021-04-01T10:50:31 that hold no data"),
    "wrong units": (lambda path: rewrite(path, s1__units=np.array("sigma0 linear")), "s1/units is 'sigma0 linear', sentinel1_grd stores"),
    "duplicate member": (duplicated, "holds id twice"),
    "numbers that cannot be": (raised, "s2/pixels at 2021-04-01T10:50:31: the median of a band is 3"),
    "power called dB": (
        lambda path: rewrite(path, s1__pixels=10 ** (load(path, "s1/pixels") / 10)), "s1/pixels at 2021-05-01T00:00:00: is said to be dB"
    ),
    "another sample's name": (lambda path: rewrite(path, id=np.array("other")), "id is 'other', expected"),
}  # fmt: skip


def test_a_sound_data_set_passes(sound):
    done = run("check", sound / "index")
    assert done.exit_code == 0 and "3 samples are sound" in done.output
    assert run("check", sound).exit_code == 0  # the data set's own folder is understood too


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_sample_is_named_with_its_key(sound, name, capsys):
    damage, message = DAMAGES[name]
    path = sorted((sound / "samples").glob("*.npz"))[1]
    damage(path)
    done = run("check", sound / "index")
    assert isinstance(done.exception, ItemsFailed) and done.exception.exit_code == 4
    assert "1 of 3 samples are not sound" in str(done.exception)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and path.name in lines[0]
    assert re.search(message, lines[0]), lines[0]


def test_rows_without_files_files_without_rows_and_rows_that_differ_are_named(sound):
    paths = sorted((sound / "samples").glob("*.npz"))
    paths[0].unlink()
    stray = sample_at(place(9))
    npz.write(stray, sound / "samples" / f"{stray.id}.npz")
    moved = replace(sample_at(place(1), 1), series={"s2": sample_at(place(1), 1).series["s2"]})
    npz.write(moved, paths[1])
    done = run("check", sound / "index")
    assert f"{paths[0]}: is not there, but the index lists it" in done.stderr
    assert f"{stray.id}.npz: has no row in the index" in done.stderr
    assert "modalities is '[\"s2\"]', the index says" in done.stderr
    assert "3 of 4 samples are not sound" in str(done.exception)


def test_a_sample_listed_twice_and_a_damaged_part_are_named(sound):
    index.write_part(sound / "index", "b", [row_of(sample_at(place(0)), "test")])
    (sound / "index" / "part-c.parquet").write_bytes(b"PAR1 no")
    done = run("check", sound / "index")
    assert "is listed twice" in done.stderr and "part-c.parquet: cannot be read as a part of an index" in done.stderr


def test_what_is_no_index_is_an_error(tmp_path):
    for command in (("check", tmp_path), ("audit", tmp_path), ("preview", tmp_path, "--out", tmp_path / "a.html")):
        assert isinstance((done := run(*command)).exception, DataError) and "is no index" in str(done.exception)


def test_splits_that_are_apart_pass_and_the_histogram_is_shown(tmp_path):
    home = data_set(tmp_path, [place(0), place(1), place(6)], ["train", "train", "test"])  # 4 footprints between: 1280 m
    done = run("audit", home / "index", "--buffer-m", 1280)
    assert done.exit_code == 0, done.output
    assert "640 to 1280 m" in done.output and "no val or test sample overlaps" in done.output
    assert isinstance(run("audit", home / "index", "--buffer-m", 1281).exception, ItemsFailed)


def test_neighbours_that_share_an_edge_pass_without_a_buffer_only(tmp_path):
    home = data_set(tmp_path, [place(0), place(1)], ["train", "val"])
    assert run("audit", home / "index").exit_code == 0
    assert isinstance(run("audit", home / "index", "--buffer-m", 10).exception, ItemsFailed)


def test_a_planted_leak_is_named(tmp_path):
    inside = replace(place(8), left=place(1).left + 100)
    home = data_set(tmp_path, [place(0), place(1), inside, place(20)], ["train", "train", "test", "test"])
    done = run("audit", home / "index")
    assert isinstance(done.exception, ItemsFailed) and done.exception.exit_code == 4
    assert "1 val and test samples overlap a training sample" in str(done.exception)
    assert inside.id in done.output and "overlaps or touches" in done.output


def test_a_leak_across_two_zones_is_found(tmp_path):
    west = Footprint("EPSG:32631", 712000, 5600000, 320, 0, 0)
    east_x, north_y = transformed("EPSG:32631", "EPSG:32632", np.array([712000.0]), np.array([5600000.0]))
    east = Footprint("EPSG:32632", float(east_x[0]) + 50, float(north_y[0]) - 50, 320, 0, 0)
    far = Footprint("EPSG:32632", 338500, 5600000, 320, 0, 0)
    home = data_set(tmp_path, [west, east, far], ["train", "test", "test"])
    done = run("audit", home / "index")
    assert isinstance(done.exception, ItemsFailed) and east.id in done.output and far.id not in done.output


def test_the_buffer_of_the_recipe_beside_the_index_counts(tmp_path):
    home = data_set(tmp_path, [place(0), place(2)], ["train", "test"])
    recipe = {
        "recipe": "build-data", "version": 1, "output": "x", "area": [3, 50, 3.1, 50.1],
        "period": {"start": "2021-01-01", "end": "2021-12-31"},
        "modalities": {"s2": {"sensor": "sentinel2_l2a", "gsd": 10, "source": {"kind": "folder", "path": "x"}}},
        "splits": {"buffer_m": 500},
    }  # fmt: skip
    (home / "recipe.yaml").write_text(json.dumps(recipe))
    assert "nearer than 500 m" in str(run("audit", home / "index").exception)
    assert run("audit", home / "index", "--buffer-m", 320).exit_code == 0


def test_without_held_back_samples_there_is_nothing_to_audit(sound):
    assert "has no sample in val or test" in str(run("audit", sound / "index").exception)


def test_the_page_holds_every_date_the_map_and_the_warnings(tmp_path):
    home = data_set(tmp_path / "data", [place(k) for k in range(4)], ["train", "train", "val", "test"])
    done = run("preview", home / "index", "--out", tmp_path / "page.html", "--limit", 3)
    assert done.exit_code == 0 and "3 of 4 samples" in done.output
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article>") == 3 and page.count("data:image/png;base64,") == 3 * 4
    assert "repaired (offset -1000)" in page and "2021-06-01" in page and "<svg" in page
    assert "http" not in page.replace("http-equiv", "")  # nothing is loaded from elsewhere


def test_a_sample_that_cannot_be_read_is_shown_as_its_error(sound, tmp_path):
    sorted((sound / "samples").glob("*.npz"))[0].write_bytes(b"no")
    assert run("preview", sound, "--out", tmp_path / "page.html").exit_code == 0
    assert "is no npz file" in (tmp_path / "page.html").read_text()
