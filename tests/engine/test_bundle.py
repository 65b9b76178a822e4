"""Bundles: what is written comes back, equal content is equal bytes, damage is refused by name."""

import json
import pickle

import pytest
import torch

from skysense_cli.engine import bundle
from skysense_cli.errors import BundleError
from skysense_cli.files import sha256

TENSORS = {"model.a": torch.arange(6.0).reshape(2, 3).T, "model.b": torch.tensor(3), "model.none": torch.empty(0, 4)}
STATE = {"objective.a": torch.arange(3.0), "optimizer.a.step": torch.tensor(7.0), "half": torch.ones(2, dtype=torch.bfloat16)}
SPEC = {"schema": 1, "stage": "pretrain"}


@pytest.fixture
def folder(tmp_path):
    bundle.save(tmp_path / "run" / "b", SPEC, TENSORS, STATE)
    return tmp_path / "run" / "b"


def tree(folder):
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_bundle_comes_back(folder):
    found = bundle.read(folder)
    assert found.spec == SPEC
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)


def test_state_comes_back(folder):
    found = bundle.read_state(folder)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) and found[name].dtype == STATE[name].dtype for name in STATE)


def test_equal_content_is_equal_bytes(folder, tmp_path):
    loaded = bundle.read_state(folder)  # other string objects than the first time
    bundle.save(tmp_path / "elsewhere", dict(SPEC), TENSORS, {name: loaded[name] for name in reversed(loaded)})
    assert tree(tmp_path / "elsewhere") == tree(folder)


def test_saving_again_replaces_the_folder(folder):
    bundle.save(folder, SPEC, TENSORS)
    assert not (folder / "state").exists()
    with pytest.raises(BundleError, match="no state/ to resume from"):
        bundle.read_state(folder)


def test_a_missing_bundle_is_refused_by_name(tmp_path):
    with pytest.raises(BundleError, match="nowhere: no such bundle"):
        bundle.read(tmp_path / "nowhere")


def test_a_bundle_without_manifest_is_refused(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"no manifest.json; this is no bundle, or its writing was interrupted"):
        bundle.read(folder)


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors", "state/.metadata", "state/__0_0.distcp"])
def test_one_flipped_byte_is_refused_by_name(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: content differs from manifest.json"):
        bundle.read_state(folder)


def test_a_shortened_file_is_refused_even_without_hashes(folder):
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[:-1])
    with pytest.raises(BundleError, match=r"weights.safetensors: has \d+ bytes, manifest.json says"):
        bundle.read(folder, verify=False)


def test_a_missing_file_is_refused_by_name(folder):
    (folder / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match="weights.safetensors: listed in manifest.json but missing"):
        bundle.read(folder)


def resign(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


class Evil:
    def __reduce__(self):
        return (eval, ("open('/nonexistent-skysense', 'w')",))


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), pickle.dumps({"a": 1}), b"", b"\x80\x04garbage"])
def test_metadata_with_other_classes_is_refused_even_when_signed(folder, content):
    (folder / "state" / ".metadata").write_bytes(content)
    resign(folder, "state/.metadata")
    with pytest.raises(BundleError, match="not the metadata of a checkpoint"):
        bundle.read_state(folder)


@pytest.mark.parametrize(
    ("content", "message"), [(b"[1]", "a JSON object is expected"), (b"{", "not readable as JSON"), (b"\xff", "not readable")]
)
def test_a_manifest_that_is_no_object_is_refused(folder, content, message):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        bundle.read(folder)


def test_a_manifest_cannot_point_outside(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["../x"] = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="is not a file with sha256 and bytes"):
        bundle.read(folder)


def test_weights_that_are_no_safetensors_are_refused(folder):
    (folder / "weights.safetensors").write_bytes(b"not weights at all")
    resign(folder, "weights.safetensors")
    with pytest.raises(BundleError, match="not readable as safetensors"):
        bundle.read(folder)


def test_checkpoints_are_listed_and_pruned(tmp_path):
    for step in (5, 10, 15):
        bundle.save(bundle.checkpoint_path(tmp_path, step), SPEC, TENSORS)
    (tmp_path / bundle.CHECKPOINTS / "step_00000020.tmp").mkdir()
    (tmp_path / bundle.CHECKPOINTS / "step_00000020").mkdir()
    assert [step for step, _ in bundle.checkpoints(tmp_path)] == [5, 10, 15]
    bundle.prune(tmp_path, keep=2)
    assert sorted(path.name for path in (tmp_path / bundle.CHECKPOINTS).iterdir()) == ["step_00000010", "step_00000015"]
