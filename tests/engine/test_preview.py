"""Reduced pictures of maps."""

import numpy as np
import pytest
from matplotlib.image import imread

from skysense_cli.engine import preview
from skysense_cli.engine.preview import Entry, Reduced, paint, save_classes, save_values


@pytest.mark.parametrize("chunks", [[50], [1] * 50, [7, 13, 30]])
def test_a_reduced_map_takes_every_nth_pixel_however_the_rows_arrive(chunks, monkeypatch):
    monkeypatch.setattr(preview, "LARGEST_PX", 16)
    whole = np.arange(50 * 33).reshape(50, 33)
    reduced = Reduced(whole.shape)
    for stop, count in zip(np.cumsum(chunks), chunks, strict=True):
        reduced.add(whole[stop - count : stop])
    assert reduced.step == 4
    np.testing.assert_array_equal(reduced.picture, whole[::4, ::4])


def test_numbers_are_painted_in_their_colours_and_others_are_white():
    picture = paint(np.array([[0, 1, 255]]), {0: (1, 2, 3), 1: (4, 5, 6)})
    np.testing.assert_array_equal(picture, [[[1, 2, 3], [4, 5, 6], [255, 255, 255]]])


def test_equal_maps_are_equal_pictures(tmp_path):
    picture = paint(np.arange(600).reshape(20, 30) % 3, {0: (200, 0, 0), 1: (0, 200, 0), 2: (0, 0, 200)})
    legend = [Entry(f"class {i}", (200, 0, 0), 1 / 40) for i in range(40)]
    for name in ("a.png", "b.png"):
        save_classes(tmp_path / name, picture, legend, "a map")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert imread(tmp_path / "a.png").ndim == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_values_get_a_colour_bar(tmp_path):
    save_values(tmp_path / "v.png", np.array([[0.0, np.nan], [0.5, 1.0]]), "confidence", "probability of the class")
    assert imread(tmp_path / "v.png").shape[2] == 4
