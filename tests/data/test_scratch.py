"""Dates on disk."""

import numpy as np

from skysense_cli.data.scratch import Dates


def test_dates_come_back_as_written_and_are_zeros_before(tmp_path):
    dates = Dates(tmp_path / "pixels", "uint16", 3, (2, 4, 5))
    values = np.arange(40, dtype=np.uint16).reshape(2, 4, 5)
    dates[1] = values
    dates[2] = values.transpose(0, 2, 1).copy().transpose(0, 2, 1)  # not in C order
    assert np.array_equal(dates[1], values) and np.array_equal(dates[2], values) and not dates[0].any()
    dates[1] = np.zeros_like(values)
    assert not dates[1].any() and np.array_equal(dates[2], values)


def test_a_date_that_was_not_written_takes_no_disk(tmp_path):
    Dates(tmp_path / "valid", "bool", 1000, (1000, 1000))
    assert (tmp_path / "valid").stat().st_blocks * 512 < 1_000_000


def test_no_date_at_all_is_no_error(tmp_path):
    Dates(tmp_path / "pixels", "float32", 0, (2, 4, 5))
