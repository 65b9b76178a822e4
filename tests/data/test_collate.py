"""Views to a Batch: padding, absent modalities, labels."""

import numpy as np
import pytest
import torch

from skysense_cli.data.collate import SeriesView, View, collate, collate_pairs
from skysense_cli.errors import DataError


def series(dates, side=4, channels=2, value=1.0):
    return SeriesView(np.full((dates, channels, side, side), value, np.float32), np.arange(dates), np.ones((dates, side, side), bool))


def view(name="a", raster=None, scene_class=None, **parts):
    return View(name, parts, np.array([[1, 0, 0], [0, 1, 0]], np.float32), 3, 0, raster, scene_class)


def test_dates_are_padded_and_absent_modalities_marked():
    batch = collate([view(s2=series(3), s1=series(1)), view(s2=series(2))])
    s2, s1 = batch.series["s2"], batch.series["s1"]
    assert s2.present.tolist() == [[True, True, True], [True, True, False]]
    assert s2.days.tolist() == [[0, 1, 2], [0, 1, -1]]
    assert (s2.pixels[1, 2] == 0).all() and not s2.valid[1, 2].any()
    assert s1.present.tolist() == [[True], [False]]
    assert batch.region.tolist() == [3, 3] and batch.target is None


def test_a_modality_that_no_sample_has_is_missing():
    empty = series(0)
    assert list(collate([view(s2=series(1), s1=empty)]).series) == ["s2"]


def test_labels_are_stacked_and_unlabelled_samples_ignored():
    batch = collate([view(s2=series(1), raster=np.array([[0, 255]], np.uint8)), view(s2=series(1))])
    assert batch.target.raster.tolist() == [[[0, 255]], [[255, 255]]]
    assert batch.target.raster.dtype == torch.int64
    assert collate([view(s2=series(1), scene_class=2), view(s2=series(1))]).target.classes.tolist() == [2, 255]


def test_turned_arrays_are_taken():
    turned = SeriesView(np.rot90(series(1).pixels, 1, (-2, -1)), np.arange(1), np.ones((1, 4, 4), bool)[..., ::-1])
    assert collate([view(s2=turned)]).series["s2"].pixels.shape == (1, 1, 2, 4, 4)


def test_pairs_become_views():
    pair = view(s2=series(1, value=1)), view(s2=series(2, value=2))
    both = collate_pairs([pair])
    assert both.u.series["s2"].pixels.mean() == 1 and both.v.series["s2"].pixels.shape[1] == 2
    assert both.to("cpu").v.frame.shape == (1, 2, 3)


def test_samples_of_different_sizes_are_refused_by_name():
    with pytest.raises(DataError, match=r"b: s2 is \(C, H, W\) = \(2, 5, 5\), a has \(2, 4, 4\)"):
        collate([view("a", s2=series(1)), view("b", s2=series(1, side=5))])
    with pytest.raises(DataError, match="labels of a batch have several shapes"):
        collate([view("a", np.zeros((2, 2), np.uint8), s2=series(1)), view("b", np.zeros((3, 3), np.uint8), s2=series(1))])
