"""Items here, in worker processes and on a scheduler that others started."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from skysense_cli.data import schedule
from skysense_cli.errors import DataError, SourceError


def square(number: int) -> int:
    if number == 3:
        raise DataError("three.tif: is odd")
    time.sleep(0.02 * (5 - number) if number < 5 else 0)
    return number * number


def buggy(number: int) -> int:
    return 1 // number


def deadly(number: int) -> int:
    if number == 2:
        os._exit(1)
    return number


def name(number: int) -> str:
    return f"block {number}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, memory_limit=0) as made:
        yield made


def check(found: dict, said: str) -> None:
    assert {number: result for number, result in found.items() if number != 3} == {0: 0, 1: 1, 2: 4, 4: 16, 5: 25}
    assert isinstance(found[3], DataError) and str(found[3]) == "three.tif: is odd"
    assert "block 3: three.tif: is odd" in said


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_gives_a_result_or_fails_by_its_name(workers, capsys):
    check(dict(schedule.run(square, range(6), name=name, total=6, workers=workers)), capsys.readouterr().err)


def test_a_scheduler_of_others_gives_the_same(cluster, capsys):
    check(dict(schedule.run(square, range(6), name=name, total=6, address=cluster.scheduler_address)), capsys.readouterr().err)


def test_a_bug_ends_the_run():
    with pytest.raises(ZeroDivisionError):
        list(schedule.run(buggy, [1, 0], name=name, total=2))


def test_nothing_to_do_gives_nothing():
    assert list(schedule.run(square, [], name=name, total=0, workers=2)) == []


def test_items_are_taken_as_workers_get_free(cluster):
    taken, most, done = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(10, 60):
            taken += 1
            yield number

    for _ in schedule.run(square, items(), name=name, total=50, address=cluster.scheduler_address):
        done += 1
        most = max(most, taken - done)
    assert done == 50 and most <= 2 * schedule.AHEAD + 1


def test_workers_work_in_the_folder_of_the_command(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = dict(schedule.run(lambda number: str(Path.cwd()), range(2), name=name, total=2, address=cluster.scheduler_address))
    assert set(found.values()) == {str(tmp_path)}


@pytest.mark.slow
def test_an_item_that_kills_its_workers_fails_and_the_others_do_not(cluster, capsys):
    found = dict(schedule.run(deadly, range(5), name=name, total=5, address=cluster.scheduler_address))
    assert {k: found[k] for k in (0, 1, 3, 4)} == {0: 0, 1: 1, 3: 3, 4: 4}
    assert "4 workers died over it" in str(found[2]) and "block 2: 4 workers died" in capsys.readouterr().err


def test_a_scheduler_that_does_not_answer_is_said_in_one_line():
    import dask

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        for address in ("tcp://127.0.0.1:9", "tp://127.0.0.1:9"):
            with pytest.raises(SourceError, match=f"--cluster {address}: no Dask scheduler answers") as caught:
                list(schedule.run(square, [1], name=name, total=1, address=address))
            assert "\n" not in str(caught.value)
