import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.clouds.scl import Scl
from skysense_cli.errors import RecipeError

SENSOR = sensors.get("sentinel2_l2a")


def valid(mask: Scl, classes: list, gsd_m: float = 10) -> list:
    array = np.array(classes, np.uint8)
    return mask.valid(np.ones((10, *array.shape), np.uint16), {"SCL": array}, gsd_m).tolist()


def test_each_class_is_kept_or_rejected_as_documented():
    kept = valid(Scl(SENSOR), [list(range(12))])[0]
    assert kept == [number in (2, 4, 5, 6, 7) for number in range(12)]


def test_snow_stays_when_asked_for():
    assert valid(Scl(SENSOR, reject=(3, 8, 9, 10)), [[11, 9, 0, 1]]) == [[True, False, False, False]]


def test_growth_is_in_metres():
    row = [[4, 4, 4, 9, 4, 4, 4]]
    assert valid(Scl(SENSOR, grow_m=10), row) == [[True, True, False, False, False, True, True]]
    assert valid(Scl(SENSOR, grow_m=40), row, gsd_m=20) == [[True, False, False, False, False, False, True]]
    assert valid(Scl(SENSOR, grow_m=19), row, gsd_m=20) == [[True, True, True, False, True, True, True]]


def test_missing_and_saturated_pixels_do_not_grow():
    assert valid(Scl(SENSOR, grow_m=40), [[0, 4, 1, 4]]) == [[False, True, False, True]]


def test_impossible_options_are_refused():
    with pytest.raises(RecipeError, match="reject takes classes 0 to 11"):
        Scl(SENSOR, reject=(12,))
    with pytest.raises(RecipeError, match="grow_m is not negative"):
        Scl(SENSOR, grow_m=-1)


def test_without_a_mask_everything_is_clear():
    assert NoMask(SENSOR).valid(np.zeros((10, 2, 3), np.uint16), {}, 10).all()
