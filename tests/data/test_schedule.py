import time

import pytest

from skysense_cli.data import schedule
from skysense_cli.errors import DataError


def square(number: int) -> int:
    if number == 3:
        raise DataError("three.tif: is odd")
    time.sleep(0.02 * (5 - number) if number < 5 else 0)
    return number * number


def buggy(number: int) -> int:
    return 1 // number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items_and_failures_by_name(workers, capsys):
    found = schedule.run(square, list(range(6)), names=[f"block {k}" for k in range(6)], workers=workers)
    assert [result for k, result in enumerate(found) if k != 3] == [0, 1, 4, 16, 25]
    assert isinstance(found[3], DataError) and str(found[3]) == "three.tif: is odd"
    assert "block 3: three.tif: is odd" in capsys.readouterr().err


def test_a_bug_ends_the_run():
    with pytest.raises(ZeroDivisionError):
        schedule.run(buggy, [1, 0], names=["a", "b"])


def test_nothing_to_do_gives_nothing():
    assert schedule.run(square, [], names=[], workers=2) == []
