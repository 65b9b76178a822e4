"""A build over real dates of which one was given the offset, and over radar of which one date is power that is called dB."""

import datetime
import shutil

import numpy as np
import pytest
import rasterio

from skysense_cli.data import index, npz
from skysense_cli.data.build import build
from skysense_cli.errors import DataError
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.build import BuildDataRecipe

DATE = r"_(?P<date>\d{8}T\d{6})(_ASC)?\.tif"


@pytest.fixture(scope="module")
def archive(shared_data, tmp_path_factory):
    """Spring 2019; `S2_20190411...` carries the offset, one radar date is linear power."""
    home, data = tmp_path_factory.mktemp("planted"), shared_data("ts_belgium_A")
    for folder in ("s2", "scl", "s1"):
        (home / folder).mkdir()
        for path in sorted((data / folder).glob("*.tif")):
            if "20190315" <= path.stem.split("_")[1][:8] <= "20190512":
                shutil.copy(path, home / folder / path.name)
    optical = next((home / "s2").glob("S2_20190411*.tif"))
    change(optical, lambda raw: np.where((raw != 0).any(axis=0), raw + 1000, 0))
    change(sorted((home / "s1").glob("*.tif"))[3], lambda decibels: 10 ** (decibels / 10))
    return home


def change(path, function):
    path.chmod(0o644)
    with rasterio.open(path, "r+") as dataset:
        dataset.write(function(dataset.read()).astype(dataset.dtypes[0]))


def recipe_of(home, shared_data, out, **changes):
    scl = {"SCL": {"path": str(home / "scl"), "pattern": "SCL" + DATE}}
    s2 = bind("data/sources", "folder", {"path": str(home / "s2"), "pattern": "S2" + DATE, "extra": scl})
    s1 = bind("data/sources", "folder", {"path": str(home / "s1"), "pattern": "S1" + DATE})
    tree = {
        "recipe": "build-data", "version": 1, "output": out, "area": shared_data("ts_belgium_A") / "label_croptype_code.tif",
        "period": {"start": datetime.date(2019, 3, 1), "end": datetime.date(2019, 5, 31)},
        "grid": {"size_m": 640.0, "anchor": "area"}, "workers": 1,
        "modalities": {
            "s2": {"sensor": "sentinel2_l2a", "gsd": 10.0, "source": s2, "cloud_mask": bind("data/clouds", "scl")},
            "s1": {"sensor": "sentinel1_grd", "gsd": 20.0, "source": s1},
        },
    }  # fmt: skip
    return BuildDataRecipe.model_validate(tree | changes)


def built(archive, shared_data, out, **changes):
    build(recipe_of(archive, shared_data, out, **changes), out, "digest")
    (row,) = index.read(out / "index")
    return npz.read(out / row.path)


def test_planted_dates_are_refused_by_name_and_the_others_stay(archive, shared_data, tmp_path, capsys):
    sample = built(archive, shared_data, tmp_path)
    said = capsys.readouterr().err
    assert "S2_20190411T105" in said and "about 1000 too high: the offset is still in them" in said
    assert "metadata: no baseline, offset applied here +0" in said and "looks like linear power" in said
    assert not any(item.startswith("S2_20190411") for item in sample.series["s2"].items) and len(sample.series["s2"].items) >= 5
    power = sorted((archive / "s1").glob("*.tif"))[3].stem
    assert power not in sample.series["s1"].items and len(sample.series["s1"].items) == len(list((archive / "s1").glob("*.tif"))) - 1
    meta = sample.series["s2"].meta[0]
    assert meta["radiometry"] == "checked" and meta["units"] == "reflectance*10000" and meta["compared_dates"] >= 3


def test_repair_reads_them_as_they_should_be(archive, shared_data, tmp_path):
    sample = built(archive, shared_data, tmp_path / "out", radiometry="repair")
    series = sample.series["s2"]
    (number,) = [k for k, item in enumerate(series.items) if item.startswith("S2_20190411")]
    assert series.meta[number]["repaired"] == "offset -1000" and series.meta[number]["offset_applied"] == -1000
    with rasterio.open(next((shared_data("ts_belgium_A") / "s2").glob("S2_20190411*.tif"))) as dataset:
        assert (series.pixels[number] == dataset.read()).all()
    radar = sample.series["s1"]
    (number,) = [k for k, facts in enumerate(radar.meta) if "repaired" in facts]
    assert radar.meta[number]["repaired"] == "sigma0 dB taken as sigma0 linear"
    with rasterio.open(shared_data("ts_belgium_A") / "s1" / f"{radar.items[number]}.tif") as dataset:
        assert np.allclose(radar.pixels[number], np.maximum(dataset.read(), -35), atol=1e-3)


def test_when_every_date_denies_its_units_the_recipe_is_wrong(archive, shared_data, tmp_path):
    s1 = {"path": str(archive / "s1"), "pattern": "S1" + DATE, "units": "sigma0 linear"}
    few = tmp_path / "s1"
    few.mkdir()
    for path in sorted((archive / "s1").glob("*.tif"))[:3]:
        shutil.copy(path, few / path.name)
    tree = {"sensor": "sentinel1_grd", "gsd": 20.0, "source": bind("data/sources", "folder", s1 | {"path": str(few)})}
    with pytest.raises(DataError, match="said to be linear power, .* looks like dB: set units: 'sigma0 dB'"):
        build(recipe_of(archive, shared_data, tmp_path, modalities={"s1": tree}), tmp_path / "out", "digest")


def test_a_split_by_periods_builds_a_sample_per_period(archive, shared_data, tmp_path):
    spans = {
        "train": (datetime.date(2019, 3, 1), datetime.date(2019, 4, 15)),
        "test": (datetime.date(2019, 4, 16), datetime.date(2019, 5, 31)),
    }
    periods = {split: {"start": start, "end": end} for split, (start, end) in spans.items()}
    build(recipe_of(archive, shared_data, tmp_path, splits={"periods": periods}), tmp_path, "digest")
    rows = index.read(tmp_path / "index")
    assert {row.split for row in rows} == {"train", "test"} and len(rows) == 2
    for row in rows:
        assert all(str(spans[row.split][0]) <= time[:10] <= str(spans[row.split][1]) for times in row.dates.values() for time in times)
