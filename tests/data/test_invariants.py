"""What must hold in every sample."""

import dataclasses

import numpy as np
import pytest

from skysense_cli.data.invariants import check_sample
from skysense_cli.data.sample import Label, Sample, Series
from skysense_cli.errors import DataError
from skysense_cli.geo.grid import lonlat, make_grid

GRID = make_grid(504320, 5621120, 10, 4, 4, "EPSG:32631")
BOUNDS = (504320, 5621080, 504360, 5621120)


def series(**changes):
    times = np.array(["2021-01-01", "2021-01-06", "2021-01-06"], "datetime64[s]")
    made = Series(
        "rgb", ("R", "G", "B"), np.ones((3, 3, 4, 4), np.uint8), times, np.ones((3, 4, 4), bool), ("a", "b", "c"), GRID, "DN", 0, ({},) * 3
    )
    return dataclasses.replace(made, **changes)


def sample(part=None, **changes):
    return dataclasses.replace(Sample("x", "EPSG:32631", BOUNDS, lonlat(GRID), {"hr": part or series()}), **changes)


def test_a_sound_sample_passes():
    check_sample(sample(), "here")
    check_sample(sample(label=Label(raster=np.zeros((4, 4), np.float32), grid=GRID)), "here")


def refused(made, words):
    with pytest.raises(DataError, match=words) as caught:
        check_sample(made, "here.npz")
    assert str(caught.value).startswith("here.npz: ")


@pytest.mark.parametrize("change, words", [
    ({"bands": ("R", "G", "G")}, "hr/bands names a band twice"),
    ({"bands": ("R", "G", "N")}, "hr/sensor: sensor rgb has no band 'N'"),
    ({"items": ("a", "b")}, "hr/items has 2 entries, expected 3"),
    ({"meta": ({},)}, "hr/meta has 1 entries, expected 3"),
    ({"times": np.array(["2021-01-01"], "datetime64[s]")}, "hr/times has 1 entries, expected 3"),
    ({"valid": np.ones((3, 4, 5), bool)}, r"hr/valid is bool \(3, 4, 5\), expected bool \(3, 4, 4\)"),
    ({"valid": np.ones((3, 4, 4), np.uint8)}, r"hr/valid is uint8 .*expected bool"),
    ({"valid": np.arange(3)[:, None, None] != np.ones((3, 4, 4))}, "hr/valid has no valid pixel at 2021-01-06T00:00:00, expected at"),
    ({"times": np.array(["2021-01-06", "2021-01-01", "2021-01-08"], "datetime64[s]")}, r"hr/times is not ascending .* at 2021-01-06"),
    ({"items": ("a", "c", "b")}, r"hr/times is not ascending \(ties by item id\) at 2021-01-06"),
    ({"times": np.array(["2021-01-01", "2021-01-06", "NaT"], "datetime64[s]")}, "unknown dates .NaT. among 3"),
    ({"times": np.array(["0001-01-01", "2021-01-06", "9999-01-01"], "datetime64[s]")}, "hr/times reaches from 0001.*expected 1970 to 2100"),
    ({"grid": make_grid(504320, 5621120, 10, 4, 5, "EPSG:32631")}, r"hr/transform stands for \(4, 5\) pixels, expected \(4, 4\)"),
    ({"grid": make_grid(504320.001, 5621120, 10, 4, 4, "EPSG:32631")}, r"hr/transform x 4 x 4 px spans \(504320\.001, .*expected \(5"),
    ({"grid": make_grid(504320, 5621120, 10, 4, 4, "EPSG:32632")}, "hr/transform is in EPSG:32632, expected EPSG:32631"),
])  # fmt: skip
def test_series_that_do_not_fit_are_named(change, words):
    refused(sample(series(**change)), words)


@pytest.mark.parametrize("change, words", [
    ({"series": {}}, "modalities is empty"),
    ({"series": {"HR": series()}}, "modality 'HR' must be lower-case"),
    ({"series": {"label": series()}}, "and not 'label'"),
    ({"bounds": (504360, 5621080, 504320, 5621120)}, "bounds is .*expected left < right"),
    ({"lonlat": (50.7, 3.06)}, r"lonlat is \(50\.7, 3\.06\), expected \(3\.0\d+, 50\.\d+\), the centre of bounds"),
    ({"lonlat": (float("nan"), float("nan"))}, "lonlat is .nan, nan., expected"),
    ({"crs": ""}, "lonlat is .*expected NaN since crs is empty"),
    ({"crs": "EPSG:4326", "bounds": (4, 50, 5, 51)}, "crs: EPSG:4326 is in degree"),
    ({"crs": "EPSG:3857"}, "crs: EPSG:3857: a metre of the map is 0.7"),
    ({"crs": "moon"}, "crs: 'moon' is not a coordinate reference system"),
])  # fmt: skip
def test_places_that_do_not_fit_are_named(change, words):
    refused(sample(**change), words)


RASTER = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize("label, words", [
    (Label(raster=RASTER), "label/raster needs label/transform"),
    (Label(raster=RASTER.astype(np.int32), grid=GRID), r"label/raster is int32 \(4, 4\), expected uint8 or float32"),
    (Label(raster=RASTER, grid=GRID, held_out=RASTER[:3]), r"label/held_out is uint8 \(3, 4\), expected uint8 \(4, 4\)"),
    (Label(raster=RASTER, grid=make_grid(504320, 5621120, 20, 4, 4, "EPSG:32631")), "label/transform x 4 x 4 px spans"),
    (Label(raster=RASTER + 3, grid=GRID, names=("a", "b")), r"label holds class 3, expected 0\.\.1"),
    (Label(raster=RASTER, grid=GRID, held_out=RASTER + 9, names=("a", "b")), "label holds class 9"),
    (Label(classes=np.array([-1]), names=("a",)), "label holds class -1"),
    (Label(colors=np.zeros((2, 3), np.uint8), names=("a",)), r"label/colors is uint8 \(2, 3\), expected uint8 \(1, 3\)"),
    (Label(boxes=np.zeros((2, 4), np.float32)), "label/ids has 0 entries, expected 2, one per box"),
    (Label(boxes=np.zeros((2, 3), np.float32)), "label/boxes is float32"),
    (Label(period=np.array(["2021-12-31", "2021-01-01"], "datetime64[D]")), "label/period is 2021-12-31 to 2021-01-01, expected"),
])  # fmt: skip
def test_labels_that_do_not_fit_are_named(label, words):
    refused(sample(label=label), words)


def test_the_class_255_is_ignored():
    check_sample(sample(label=Label(raster=RASTER + 255, grid=GRID, names=("a",))), "here")
