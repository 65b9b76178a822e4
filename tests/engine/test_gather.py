"""Which samples a recipe gets, and what is said of them."""

import datetime

import numpy as np
import pytest

from skysense_cli.data import index
from skysense_cli.engine.gather import gather, gather_labelled
from skysense_cli.errors import DataError, RecipeError
from skysense_cli.recipe.schema.section import Period
from skysense_cli.recipe.schema.train import DataSection


def section(dataset, **options):
    return DataSection(**({"index": dataset.index, "dates": {"s2": 3, "s1": 2}} | options))


def rewritten(data, change):
    """The data set with each row of its index changed."""
    index.write_part(data.index, "0", [index.Row(**{**row.__dict__, **change(row)}) for row in index.read(data.index)])
    return data


def test_rows_inputs_and_sizes(dataset):
    found = gather(section(dataset), ("s2", "s1"), "model.encoders")
    assert [row.id for row in found.rows] == ["s000", "s001", "s002", "s003"]
    assert found.inputs["s1"].gsd_m == 20 and found.inputs["s1"].bands == ("VV", "VH")
    assert found.inputs["s2"].mean[0] == pytest.approx(884.29673756)
    assert found.size_m == (80, 80) and found.folder == dataset.folder
    assert gather(section(dataset, crop_m=40.0), ("s2", "s1"), "x").size_m == (40, 40)


def test_a_limit_takes_the_first(dataset):
    assert [row.id for row in gather(section(dataset, limit=2), ("s2", "s1"), "x").rows] == ["s000", "s001"]


def test_samples_outside_the_period_are_left_out_and_counted(tmp_path, write_samples, capsys):
    data = rewritten(write_samples(tmp_path), lambda row: {"dates": {"s2": ("2001-06-01T00:00:00",)}} if row.id == "s001" else {})
    period = Period(start=datetime.date(2019, 1, 1), end=datetime.date(2019, 12, 31))
    found = gather(section(data, dates={"s2": 1}, period=period), ("s2",), "x")
    assert [row.id for row in found.rows] == ["s000", "s002", "s003"]
    assert found.period == (np.datetime64("2019-01-01"), np.datetime64("2019-12-31"))
    assert "1 of 4 samples have no date of s2 within data.period" in capsys.readouterr().err


def test_a_series_longer_than_a_year_is_warned_about_once(tmp_path, write_samples, capsys):
    long = {"s2": ("2018-01-01T00:00:00", "2019-06-01T00:00:00")}
    data = rewritten(write_samples(tmp_path), lambda row: {"dates": long})
    gather(section(data, dates={"s2": 2}), ("s2",), "x")
    assert capsys.readouterr().err.count("the dates of s2 span more than a year") == 1


def test_what_is_missing_is_named(dataset):
    with pytest.raises(RecipeError, match="model has 'hr', but .*index holds s1, s2"):
        gather(section(dataset), ("hr",), "model")
    with pytest.raises(RecipeError, match="data.dates says nothing of 's1', which model has; add e.g. s1: 10"):
        gather(section(dataset, dates={"s2": 1}), ("s2", "s1"), "model")
    with pytest.raises(RecipeError, match="data.dates has 's1', but model has s2"):
        gather(section(dataset), ("s2",), "model")
    with pytest.raises(DataError, match="no sample in split 'test'"):
        gather(section(dataset, split="test"), ("s2",), "model")


def test_a_limit_that_leaves_out_a_modality_is_refused(tmp_path, write_samples):
    data = rewritten(write_samples(tmp_path), lambda row: {"split": "train" if row.id in ("s002", "s003") else "test"})
    with pytest.raises(DataError, match="none of the 1 samples in use has 's1'; raise data.limit"):
        gather(section(data, limit=1), ("s2", "s1"), "model")


def test_classes_come_from_the_labels_or_the_recipe(dataset):
    data = section(dataset, dates={"s2": 1})
    assert [fact.name for fact in gather_labelled(data, ("s2",), None, "train").classes] == ["dark", "bright"]
    assert [fact.color for fact in gather_labelled(data, ("s2",), ("dark", "bright"), "train").classes] == [(0, 0, 0), (255, 255, 0)]


def test_more_classes_in_the_labels_than_names_are_refused(tmp_path, write_samples):
    data = rewritten(write_samples(tmp_path), lambda row: {"classes": {0: 3, 7: 2}})
    with pytest.raises(RecipeError, match="classes names 2 classes, but the labels of .* hold class 7"):
        gather_labelled(section(data, dates={"s2": 1}), ("s2",), None, "train")


def test_bands_and_statistics_are_those_of_the_trained_model(dataset):
    found = gather(section(dataset, dates={"s2": 1}), ("s2",), "x")
    own = found.inputs["s2"]
    fewer = type(own)(own.sensor, ("B04", "B08"), 10, (1.0, 2.0), (3.0, 4.0))
    assert found.as_trained({"s2": fewer}, "a bundle").inputs["s2"] == fewer
    coarse = type(own)(own.sensor, own.bands, 20, own.mean, own.std)
    with pytest.raises(DataError, match=r"s2 is sentinel2_l2a at 10 m .* a bundle saw sentinel2_l2a at 20 m"):
        found.as_trained({"s2": coarse}, "a bundle")
