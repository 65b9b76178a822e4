"""The histogram of measured shifts."""

import matplotlib.image
import numpy as np

from skysense_cli.data.shifts import BINS, PICTURE, Shifts


def entries(*measured):
    return [{"shift_px": list(shift), "decision": decision} for shift, decision in measured]


def test_shifts_are_counted_in_metres_by_modality_and_decision():
    shifts = Shifts("s2", {"s2": 10, "hr": 0.5}, 40)
    shifts.add({"s2": entries(((0.3, 0.4), "moved"), ((9, 0), "refused")), "hr": entries(((3, -4), "below min_shift"))})
    shifts.add({"s2": [*entries(((0, 0.5), "moved")), {"item": "too cloudy", "decision": "not measurable"}]})
    assert shifts.counts["s2"]["moved"][5] == 2, "0.5 px of 10 m, in bins of 1 m"
    assert shifts.counts["s2"]["refused"][BINS - 1] == 1, "longer than the histogram reaches"
    assert shifts.counts["hr"]["below min_shift"][2] == 1, "5 px of 0.5 m"
    assert sum(counts.sum() for kinds in shifts.counts.values() for counts in kinds.values()) == 4


def test_the_picture_has_a_histogram_for_each_modality_and_is_the_same_each_time(tmp_path):
    shapes = []
    for number in (1, 2):
        shifts = Shifts("s2", {"s2": 10, "s1": 10}, 25)
        shifts.add({name: entries(((0.5, 0.1), "moved"), ((0.1, 0), "below min_shift")) for name in ("s2", "s1")[:number]})
        path = shifts.draw(tmp_path)
        first = path.read_bytes()
        assert shifts.draw(tmp_path).read_bytes() == first
        picture = matplotlib.image.imread(path)
        blue = np.abs(picture[..., :3] - np.array([0x1D, 0x5F, 0xA8]) / 255).max(axis=-1) < 0.02
        assert blue.any()
        shapes.append(picture.shape)
    assert shapes[1][0] == 2 * shapes[0][0]


def test_without_a_measurement_there_is_no_picture(tmp_path):
    (tmp_path / PICTURE).write_bytes(b"of an earlier build")
    assert Shifts("s2", {"s2": 10}, 25).draw(tmp_path) is None
    assert not (tmp_path / PICTURE).exists()
