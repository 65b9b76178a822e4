"""What is asked of the disk before a scene is computed, and what is kept when it takes no more."""

import errno
import os
import resource
from contextlib import contextmanager

import numpy as np
import pytest

from skysense_cli.engine.parts import Parts
from skysense_cli.engine.room import Room, kept_on_failure
from skysense_cli.errors import DiskError, RecipeError


@contextmanager
def files_of_at_most(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/file")


def test_a_disk_or_a_limit_that_is_too_small_is_said_with_both_numbers(tmp_path):
    output = tmp_path / "map.tif"
    Room(1, 1).check(output)
    with pytest.raises(
        DiskError, match=r"map.tif: needs at least 1,099,511,627,776.0 MiB of disk, [\d,.]+ MiB are free in .*choose another"
    ):
        Room(1 << 60, 1).check(output)
    with files_of_at_most(1000):
        Room(2000, 1000).check(output)
        with pytest.raises(
            DiskError, match=r"needs a file of at least 1,001 bytes, too large .* \(1,000 bytes\); raise it with `ulimit -f`"
        ):
            Room(2000, 1001).check(output)


def test_finished_strips_are_kept_and_counted_and_without_one_nothing_is(tmp_path):
    parts = Parts(tmp_path / "map.tif")
    with pytest.raises(DiskError, match=r"^a/file: cannot be written \(No space left on device\); free or choose another disk"):
        with kept_on_failure(parts, 3):
            parts.begin({"bundle": "b"})
            full()
    assert os.listdir(tmp_path) == []
    with pytest.raises(DiskError, match=r"^a/file: .*; 1 of 3 strips are finished and kept; make room and run the same command again"):
        with kept_on_failure(parts, 3):
            parts.begin({"bundle": "b"})
            parts.put("r", {"class": np.zeros(3)})
            full()
    assert parts.begin({"bundle": "b"}) == {"r"}


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), RecipeError("wrong"), KeyboardInterrupt()])
def test_other_errors_pass_and_take_nothing_away(tmp_path, error):
    parts = Parts(tmp_path / "map.tif")
    with pytest.raises(type(error)) as caught, kept_on_failure(parts, 3):
        parts.begin({})
        raise error
    assert caught.value is error and parts.begun


@pytest.mark.parametrize(
    ("limit", "told"), [(1000, "too large for the limit"), (100_000, "too large for the limit"), (0, "File too large")]
)
def test_a_map_for_which_there_is_no_room_leaves_nothing(tmp_path, scene_kit, limit, told):
    """512 x 512 px of one byte."""
    bundle = scene_kit.write_bundle(tmp_path / "bundle", size_m=1280.0)
    scene = scene_kit.write_scene(tmp_path / "20210401.tif", scene_kit.numbers(512, 512))
    before = sorted(os.listdir(tmp_path))
    with files_of_at_most(limit):
        found = scene_kit.command(bundle, scene, "--out", tmp_path / "new" / "maps")
    assert isinstance(found.exception, DiskError) and told in str(found.exception) and found.exception.exit_code == 3
    assert limit != 100_000 or "needs a file of at least 262,144 bytes" in str(found.exception)
    assert sorted(os.listdir(tmp_path)) == before


def test_the_room_is_that_of_the_missing_strips_and_the_maps(tmp_path, scene_kit):
    """Two kinds of map of one byte, one with three bands: 4 bytes a pixel in the strips, and again in the maps."""
    from skysense_cli.cli.given import recipe_of
    from skysense_cli.cli.options import Options
    from skysense_cli.data.offered import Wishes
    from skysense_cli.engine.assemble import load_bundle
    from skysense_cli.engine.predict_map import open_prediction

    bundle = load_bundle(scene_kit.write_bundle(tmp_path / "bundle", size_m=1280.0), "cpu")
    scene = scene_kit.write_scene(tmp_path / "20210401.tif", scene_kit.numbers(300, 200))
    flags = (("--what", "write.what", ["class", "probability"]),)
    prediction = open_prediction(recipe_of([str(scene)], bundle, Options(out=tmp_path / "maps", flags=flags), Wishes(), None), bundle)
    windows = prediction.windows()
    assert prediction.product.room(windows) == Room(2 * 4 * 300 * 200, 3 * 300 * 200)
    assert prediction.product.room([]) == Room(4 * 300 * 200, 3 * 300 * 200)
    first = prediction.job.plan.pixels(windows[0])
    strip = (first[0].stop - first[0].start) * 200
    assert prediction.product.room(windows[:1]).total == 4 * (300 * 200 + strip)
