"""What an earlier run left is used whole or not at all, and never for something else."""

import errno
import resource

import numpy as np
import pytest

from skysense_cli.engine.parts import OtherPartsError, Parts

FACTS = {"bundle": "a" * 64, "recipe": "r", "scene": {"a.tif": "12 bytes", "b.tif": "7 bytes"}}


def begun(tmp_path, facts=FACTS, **options):
    parts = Parts(tmp_path / "map.tif")
    return parts, parts.begin(facts, **options)


def test_strips_come_back_as_they_were_kept(tmp_path):
    parts, before = begun(tmp_path)
    assert before == set()
    pixels = np.arange(12, dtype=np.uint16).reshape(1, 3, 4)
    parts.put("r000001_c000000", {"class": pixels, "confidence": np.ones((1, 3, 4), np.float32)})
    Parts(tmp_path / "map.tif", writer=3).put("r000000_c000000", {"class": pixels + 1})
    again, there = begun(tmp_path)
    assert there == {"r000000_c000000", "r000001_c000000"}
    (_, second), (name, first) = again.take(["r000001_c000000", "r000000_c000000"])
    assert name == "r000000_c000000" and (first["class"] == pixels + 1).all() and (second["confidence"] == 1).all()
    assert {path.name for path in tmp_path.iterdir()} == {".map.tif.parts"}
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_strips_of_something_else_are_refused_by_name(tmp_path):
    parts, _ = begun(tmp_path)
    parts.put("r", {"class": np.zeros(3)})
    other = {**FACTS, "bundle": "b" * 64, "scene": {"a.tif": "13 bytes"}}
    with pytest.raises(OtherPartsError, match="map.tif: an earlier run") as caught:
        begun(tmp_path, other)
    told = str(caught.value)
    assert "bundle was aaaaaaaaaaaa..., is bbbbbbbbbbbb..." in told and "--overwrite" in told
    assert "scene: a.tif was 12 bytes, is 13 bytes; scene: b.tif was 7 bytes, is absent" in told and "recipe" not in told
    assert begun(tmp_path)[1] == {"r"}
    assert begun(tmp_path, other, overwrite=True)[1] == set()
    assert begun(tmp_path, other)[1] == set()


@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "line"])
def test_a_damaged_strip_is_made_again(tmp_path, damage, capsys):
    parts, _ = begun(tmp_path)
    for name in "ab":
        parts.put(name, {"class": np.arange(100)})
    file, manifest = parts.folder / "b.npz", parts.folder / "finished-0.jsonl"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-1])
    elif damage == "bit":
        content[200] ^= 1
        file.write_bytes(content)
    elif damage == "gone":
        file.unlink()
    else:
        manifest.write_text(manifest.read_text()[:-30])
    assert begun(tmp_path)[1] == {"a"}
    assert damage != "bit" or "b.npz is damaged" in capsys.readouterr().err
    parts.put("b", {"class": np.arange(100)})
    assert begun(tmp_path)[1] == {"a", "b"}
    content[300] ^= 1
    file.write_bytes(content)
    with pytest.raises(OtherPartsError, match="b.npz: was changed"):
        list(parts.take(["a", "b"]))


def test_a_disk_that_takes_no_more_is_named_and_leaves_no_half(tmp_path):
    parts, _ = begun(tmp_path)
    parts.put("a", {"class": np.arange(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="r.npz") as caught:
            parts.put("r", {"class": np.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.errno == errno.EFBIG
    assert sorted(path.name for path in parts.folder.iterdir()) == ["a.npz", "facts.json", "finished-0.jsonl"]
    assert begun(tmp_path)[1] == {"a"}
