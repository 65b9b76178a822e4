"""The log of a run and its picture."""

import json

import torch
from PIL import Image

from skysense_cli.engine.curves import Log, Window, draw, read_metrics


def test_a_window_gives_means_and_starts_again():
    window = Window()
    window.add({"a": torch.tensor(1.0), "b": torch.tensor(4.0)})
    window.add({"a": torch.tensor(2.0)})
    state = window.state()
    assert window.means() == {"a": 1.5, "b": 4.0}
    assert window.means() == {}
    again = Window()
    again.load(state, "cpu")
    again.add({"a": torch.tensor(6.0)})
    assert again.means() == {"a": 3.0, "b": 4.0}


def test_rewinding_forgets_later_lines_and_half_a_line(tmp_path):
    log = Log(tmp_path)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": 0.1 * step})
    kept = log.path.read_text().splitlines()[:2]
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.rewind(2)
    assert log.path.read_text().splitlines() == kept
    log.rewind(0)
    assert log.path.read_text() == ""


def test_numbers_that_are_not_finite_are_null(tmp_path):
    log = Log(tmp_path)
    log.write({"step": 1, "scores": {"oa": float("nan")}})
    assert json.loads(log.path.read_text()) == {"step": 1, "scores": {"oa": None}}


def test_a_line_of_something_else_ends_the_reading(tmp_path):
    (tmp_path / "m").write_text('{"step": 1}\n[2]\n{"step": 3}\n')
    assert read_metrics(tmp_path / "m") == [{"step": 1}]
    assert read_metrics(tmp_path / "absent") == []


def test_the_picture_is_the_same_for_the_same_log(tmp_path):
    log = Log(tmp_path)
    for step in range(1, 5):
        log.write({"step": step, "loss": 1 / step, "losses": {"a": 0.5 / step, "b": 0.5 / step}})
    log.write({"step": 4, "scores": {"miou": 0.5}})
    log.finish()
    draw(tmp_path)
    first = (tmp_path / "curves.png").read_bytes()
    draw(tmp_path)
    assert (tmp_path / "curves.png").read_bytes() == first
    assert Image.open(tmp_path / "curves.png").size == (1200, 400)
