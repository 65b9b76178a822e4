import json

import numpy as np
import pytest

from skysense_cli.data.index import Row
from skysense_cli.demo import report
from skysense_cli.demo.catalog import area_bounds, scene_grid
from skysense_cli.demo.year import CRS
from skysense_cli.errors import DataError
from skysense_cli.geo.grid import make_grid

PERFECT = {
    "cloud": {"raw_recall": 0.75, "raw_precision": 0.85, "clear_share_of_kept": 0.99, "kept_share_of_clear": 0.85},
    "coregistration_px": {"before": 0.9, "median": 0.05, "p90": 0.1, "refused": 0.06},
    "pretrain": {"first_loss": 70.0, "last_loss": 60.0},
    "segmentation": {"miou": 0.5, "majority_miou": 0.03, "random_init_miou": 0.4},
    "prototypes": {"nmi": 0.5, "untrained_nmi": 0.3, "kmeans_nmi": 0.55, "used": 1.0},
}


def test_goals_are_reached_by_numbers_within_their_limits():
    assert all(goal.reached for goal in report.goals(PERFECT))


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("cloud", "raw_recall", 0.95, "recall"),
        ("cloud", "clear_share_of_kept", 0.9, "clear among the pixels kept"),
        ("coregistration_px", "median", 0.2, "shift left, median"),
        ("coregistration_px", "refused", 0.0, "overcast"),
        ("pretrain", "last_loss", 71.0, "pretraining"),
        ("segmentation", "majority_miou", 0.3, "never trained on"),
        ("segmentation", "random_init_miou", 0.55, "random weights"),
        ("prototypes", "untrained_nmi", 0.46, "untrained"),
        ("prototypes", "kmeans_nmi", 0.6, "k-means"),
        ("prototypes", "used", 0.7, "used"),
    ],
)
def test_a_number_beyond_its_limit_misses_its_goal_alone(section, key, value, words):
    changed = {**PERFECT, section: {**PERFECT[section], key: value}}
    (missed,) = (goal for goal in report.goals(changed) if not goal.reached)
    assert words in missed.what


def test_the_report_is_json_with_every_key_and_no_long_fractions(tmp_path):
    report.write(tmp_path, {**PERFECT, "seconds": {"landscape": 1.23456}, "outputs": {"report": "report.html"}})
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["seconds"]["landscape"] == 1.2346
    assert read["outputs"] == {"report": "report.html"}
    assert set(PERFECT) < set(read)


def test_losses_are_means_at_the_start_and_the_end(tmp_path):
    lines = [{"step": step, "losses": {"a": 10.0 - step, "b": 1.0}} for step in range(8)] + [{"step": 8, "scores": {"miou": 0.5}}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report.total_losses(path)[0] == (0, 11.0)
    assert report.first_and_last_loss(path) == (10.5, 4.5)


def test_a_log_without_losses_is_named(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.jsonl: holds no losses"):
        report.first_and_last_loss(tmp_path / "metrics.jsonl")


def row(split: str, left: float, top: float) -> Row:
    return Row("a", "a.npz", split, CRS, (left, top - 640, left + 640, top), (9.3, 50.0), ("s2",), {"s2": ()})


def test_only_footprints_of_the_test_split_are_scored():
    left, _, _, top = area_bounds()
    ground = report.test_ground([row("test", left + 640, top), row("train", left, top)])
    assert ground.sum() == 64 * 64
    assert ground[8:72, 72:136].all()


def test_a_moved_window_is_read_where_its_content_came_from():
    left, _, _, top = area_bounds()
    grid = make_grid(left + 100, top - 200, 10, 5, 6, CRS)
    assert report.window_of(grid) == (slice(28, 33), slice(18, 24))
    assert report.window_of(grid, (1.4, -0.6)) == (slice(27, 32), slice(19, 25))
    assert scene_grid(10).shape == (400, 400)


def test_an_overcast_block_that_was_refused_counts_as_refused_only(tmp_path):
    truth = {
        "sentinel-2-l2a": [{"id": "a", "shift_m": [5.0, -3.0]}, {"id": "b", "shift_m": [-8.0, 0.0]}, {"id": "c", "shift_m": [0.0, 0.0]}]
    }
    dates = [
        {"item": "a", "shift_px": [-0.5, -0.3], "decision": "moved"},
        {"item": "b", "shift_px": [0.8, 0.0], "decision": "moved"},
        {"item": "c", "shift_px": [7.0, 7.0], "decision": "refused"},
    ]
    (tmp_path / "blocks.jsonl").write_text(json.dumps({"dates": {"s2": dates}}) + "\n")
    places = report.Places(*[tmp_path] * 8)
    scores = report.coregistration(places, truth)
    assert scores.p90 == pytest.approx(0, abs=1e-9)
    assert scores.refused == pytest.approx(1 / 3)
    assert np.hypot(*scores.before_each[0]) == pytest.approx(np.hypot(5, 3) / 10)


def test_a_build_without_measured_shifts_is_named(tmp_path):
    (tmp_path / "blocks.jsonl").write_text(json.dumps({"dates": {"s2": [{"item": "a"}]}}) + "\n")
    with pytest.raises(DataError, match="was coregister left out"):
        report.coregistration(report.Places(*[tmp_path] * 8), {"sentinel-2-l2a": [{"id": "a", "shift_m": [0, 0]}]})
