"""Worker processes: started by a process of their own, since a fork wants one without threads."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

WORK = """
import json, os, sys, time
from pathlib import Path
from skysense_cli.data import workers

def work(number):
    Path(sys.argv[1], str(os.getpid())).touch()
    if number == 99:
        time.sleep(600)
    if number == 2:
        os._exit(1)
    return 10 * number

if __name__ == "__main__":
"""


def script(home: Path, body: str) -> list[str]:
    """A command that runs `body` in the main part of WORK."""
    (home / "work.py").write_text(WORK + "".join(f"    {line}\n" for line in body.splitlines()))
    (home / "seen").mkdir()
    return [sys.executable, str(home / "work.py"), str(home / "seen")]


@pytest.mark.parametrize("afresh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_process_that_dies_is_replaced_and_the_other_items_are_done(tmp_path, afresh):
    """afresh: as where processes are not forked."""
    body = f"""{"sys.platform = 'darwin'" if afresh else ""}
with workers.Workers(work, 2) as pool:
    found = dict(pool.map(iter(range(6))))
died = found.pop(2)
assert isinstance(died, workers.Died), died
print(json.dumps([str(died), found]))"""
    run = subprocess.run(script(tmp_path, body), capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == ["4 workers died over it", {str(k): 10 * k for k in (0, 1, 3, 4, 5)}]
    assert 2 <= len(list((tmp_path / "seen").iterdir())) <= 2 + 4


def test_workers_end_with_an_error_although_they_could_work_on(tmp_path):
    body = """with workers.Workers(work, 2) as pool:
    for item, _ in pool.map(iter([99, 1])):
        raise KeyboardInterrupt(item)"""
    run = subprocess.run(script(tmp_path, body), capture_output=True, text=True, check=False)
    assert run.returncode != 0 and "KeyboardInterrupt: 1" in run.stderr
    until(lambda: not any(alive(path.name) for path in (tmp_path / "seen").iterdir()))


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    body = """with workers.Workers(work, 2) as pool:
    list(pool.map(iter([99, 99])))"""
    with subprocess.Popen(script(tmp_path, body)) as parent:
        until(lambda: len(list((tmp_path / "seen").iterdir())) == 2)
        parent.kill()
    until(lambda: not any(alive(path.name) for path in (tmp_path / "seen").iterdir()))


def until(true: Callable[[], bool]) -> None:
    """Wait until it is; a minute is far more than it takes."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never was"
        time.sleep(0.02)


def alive(pid: str) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
