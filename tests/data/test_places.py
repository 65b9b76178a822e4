"""A table of footprints stands for the footprints themselves."""

from dataclasses import replace

import numpy as np
import pytest

from skysense_cli.data import splits
from skysense_cli.data.places import Places
from skysense_cli.geo.footprints import Footprint
from skysense_cli.geo.grid import lonlat

DAYS = np.datetime64("2021-04-01", "D"), np.datetime64("2021-10-31", "D")
ONES = [
    Footprint(crs, 500000.5 + 640 * c, 5600000 - 640 * r, 640, r, c)
    for crs in ("EPSG:32631", "EPSG:32632")
    for r in (-3, 40)
    for c in (2, -1)
]


def test_footprints_come_back_as_they_were():
    mixed = [*ONES, replace(ONES[0], days=DAYS)]
    table = Places.of(iter(mixed))
    assert list(table) == mixed and list(table[2:4]) == mixed[2:4]
    assert table[-1].days == DAYS and table[-1].id == mixed[-1].id
    assert len(Places.of([])) == 0


def test_blocks_bounds_and_centres_are_those_of_the_footprints():
    table = Places.of(ONES)
    numbers, names = table.blocks(16)
    assert [names[number] for number in numbers] == [splits.block_of(one, 16) for one in ONES]
    assert [tuple(bounds) for bounds in table.bounds] == [one.bounds for one in ONES]
    assert table.lonlat() == pytest.approx(np.array([lonlat(one.bounds, one.crs) for one in ONES]))


def test_the_second_of_two_equal_footprints_is_a_repetition():
    table = Places.of([ONES[0], ONES[1], ONES[0], replace(ONES[0], days=DAYS)])
    assert table.repeated().tolist() == [False, False, True, False]
