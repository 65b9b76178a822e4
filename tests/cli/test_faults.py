"""Builds that are killed or run out of disk: a short form of `tests/benchmarks/faults.py`, which says how it is done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "faults.py"


@pytest.fixture
def broken(badinput_dir, shared_data):
    """A function from arguments of the script to what passed and failed."""

    def run(*arguments: str) -> dict:
        places = {"SKYSENSE_BADINPUT_DIR": str(badinput_dir), "SKYSENSE_DATA_DIR": str(shared_data(""))}
        done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False, env=os.environ | places)
        assert done.stdout, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.slow
def test_a_build_from_three_archives_that_is_killed_ends_with_the_same_bytes(broken):
    """A product in the middle of its download, rasters of a server, radar in work: killed at changes of files."""
    found = broken("--paths", "all", "--checks", "events", "--n", "2")["all events"]
    assert (found["passed"], found["failed"]) == (3, 0), found["lines"]


@pytest.mark.slow
def test_a_full_disk_and_a_folder_without_permission_are_one_line_and_leave_nothing_partial(broken):
    """48 KiB end while a date is written to the scratch file; 200 KiB end with samples there."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (unshare -m)")
    found = broken("--paths", "folder", "--checks", "full", "readonly", "--kib", "48", "200")
    counts = {name: (one["passed"], one["failed"]) for name, one in found.items()}
    assert counts == {"folder full": (2, 0), "folder readonly": (1, 0)}, found
