"""Names of files whose bytes are no UTF-8, as text and back."""

import os
from pathlib import Path

import pytest

from skysense_cli.errors import DataError
from skysense_cli.geo.names import is_plain, path_of, text_of
from skysense_cli.geo.opening import open_raster
from skysense_cli.geo.raster import describe


def named(folder, name):
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


@pytest.mark.parametrize(
    "name", [b"caf\xe9.tif", b"\xff\xfe", "café.tif".encode(), b"a\\x{41}.tif", b"plain", "\u540d\u524d".encode() + b"\x80"]
)
def test_every_name_comes_back(tmp_path, name):
    path = named(tmp_path, name)
    path.write_bytes(b"")
    assert path_of(text_of(path)) == path and text_of(path).encode()
    assert is_plain(text_of(path)) == (name.decode(errors="replace").encode() == name)


def test_a_byte_is_written_in_braces_so_that_digits_after_it_stay_apart(tmp_path):
    assert text_of(named(tmp_path, b"caf\xe920210401.tif")) == rf"{tmp_path}/caf\x{{e9}}20210401.tif"


def test_what_has_the_very_characters_comes_first_and_two_that_read_alike_are_refused(tmp_path):
    (tmp_path / r"a\x{e9}").write_bytes(b"")
    assert path_of(tmp_path / r"a\x{e9}") == tmp_path / r"a\x{e9}"
    with pytest.raises(DataError, match="rename one of them"):
        text_of(named(tmp_path, b"a\xe9"))


def test_a_raster_in_a_folder_of_such_a_name_is_opened_and_says_where_it_is(tmp_path, scene_kit):
    path = named(tmp_path, b"\xe9t\xe9/scene.tif")
    path.parent.mkdir()
    made = scene_kit.write_scene(tmp_path / "scene.tif", scene_kit.numbers(8, 9))
    made.rename(path)
    before = os.listdir("/proc/self/fd")
    assert describe(text_of(path)).path == text_of(path) and describe(path).shape == (8, 9)
    with open_raster(path) as dataset:
        assert dataset.read().shape == (10, 8, 9)
    assert os.listdir("/proc/self/fd") == before
