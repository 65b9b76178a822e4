"""Commands that are killed or run out of disk. Builds: a short form of `tests/benchmarks/faults.py`, which says how it is done."""

import json
import os
import shlex
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


# skysense predict


@pytest.fixture(scope="module")
def predict(tmp_path_factory, scene_kit):
    """The words of a command that maps 512 x 512 px: five strips, 262,144 bytes of them."""
    home = tmp_path_factory.mktemp("faults")
    bundle = scene_kit.write_bundle(home / "bundle", size_m=1280.0)
    scene = scene_kit.write_scene(home / "20210401.tif", scene_kit.numbers(512, 512))
    return [sys.executable, "-m", "skysense_cli", "predict", str(bundle), str(scene), "--device", "cpu", "--out"]


def can_mount():
    return not subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize(("check", "passed"), [("full --kib 16,400", 2), ("fsize --bytes 1000", 1), ("readonly", 1)])
def test_a_map_that_cannot_be_written_leaves_nothing(badinput_dir, predict, check, passed):
    if check.startswith("full") and not can_mount():
        pytest.skip("a small disk cannot be mounted here (unshare -m)")
    command = [sys.executable, badinput_dir / "fault.py", *check.split(), "--", *predict, "{out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == f"{passed} passed, 0 failed", done.stdout


@pytest.mark.slow
def test_a_disk_that_fills_up_at_the_end_keeps_the_strips_and_the_same_command_goes_on(predict, tmp_path):
    """512 KiB are strips and map; what is left is too little for the COG, of which GDAL once left the beginning and said nothing."""
    if not can_mount():
        pytest.skip("a small disk cannot be mounted here (unshare -m)")
    command, disk, kept = shlex.join(predict), tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size=576k none {disk} && {command} {disk}/maps; echo status $?; find {disk} -type f -not -path '*/.*';"
        f"mount -o remount,size=4m {disk} && {command} {disk}/maps >&2; echo status $?; cp -a {disk}/maps {kept}"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith((str(disk), "status"))]
    beside = [f"{disk}/maps/20210401.{what}" for what in ("environment.json", "recipe.yaml")]
    assert (found[0], sorted(found[1:-1]), found[-1]) == ("status 3", beside, "status 0"), done.stderr
    (error,) = (line for line in done.stderr.splitlines() if not line.startswith(("s2: ", "strips", " ", "plan", "map", "preview")))
    assert error.startswith(f"error: {disk}/maps/20210401.tif: cannot be written") and "5 of 5 strips are finished and kept" in error
    whole = tmp_path / "whole"
    subprocess.run([*predict, str(whole)], capture_output=True, check=True)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {path.name: path.read_bytes() for path in whole.iterdir()}
