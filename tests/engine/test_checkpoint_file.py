"""Files of weights made elsewhere: every form is read, and what is damaged or malicious is refused in one line."""

import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from skysense_cli.engine.checkpoint_file import open_weights
from skysense_cli.errors import BundleError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2, dtype=torch.float16), "n": torch.tensor(3)}


class Code:
    """Pickles as a call of os.mkdir."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def saved(path, content=TENSORS, **options):
    torch.save(content, path, **options)
    return path


def refused(path, message):
    """The one line with which `path` is refused, with and without reading values."""
    for values in (False, True):
        with pytest.raises(BundleError, match=message) as caught:
            open_weights(path, values=values)
        text = str(caught.value)
        assert "\n" not in text and text.startswith(f"{path}: ") and "weights_only" not in text
    return text


@pytest.mark.parametrize("old", [False, True])
def test_what_torch_saves_comes_back(tmp_path, old):
    path = saved(tmp_path / "a.pth", OrderedDict(TENSORS), _use_new_zipfile_serialization=not old)
    found = open_weights(path)
    assert found.form == ("torch, old form" if old else "torch")
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS) and not found.beside
    described = open_weights(path, values=False)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in described.tensors.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in TENSORS.items()
    }


def test_safetensors_are_told_by_content_not_by_name(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "weights.pth")
    found = open_weights(tmp_path / "weights.pth")
    assert found.form == "safetensors" and torch.equal(found.tensors["a.weight"], TENSORS["a.weight"])


def test_wrappers_are_taken_off_and_what_lies_beside_is_listed(tmp_path):
    score = np.float64(0.5)
    content = {"model": {"state_dict": TENSORS, "epoch": 3}, "optimizer": {"state": {0: torch.ones(2)}}, "best": score, "args": None}
    found = open_weights(saved(tmp_path / "a.ckpt", content))
    assert found.tensors.keys() == TENSORS.keys()
    assert found.beside == {
        "epoch": "int", "optimizer": "a dict of 1 entries, 1 tensors in it", "best": "float64", "args": "NoneType",
    }  # fmt: skip


def test_plain_values_among_the_weights_are_listed(tmp_path):
    found = open_weights(saved(tmp_path / "a.pth", TENSORS | {"epoch": 7}))
    assert found.tensors.keys() == TENSORS.keys() and found.beside == {"epoch": "int"}


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_file_is_named_and_never_run(tmp_path, old):
    path = saved(tmp_path / "a.pth", {"a": torch.ones(1), "evil": Code(tmp_path / "made")}, _use_new_zipfile_serialization=not old)
    assert "posix.mkdir" in refused(path, "can only be read by running code that it names .*; nothing was run")
    assert not (tmp_path / "made").exists()


def test_a_plain_pickle_is_never_run(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Code(tmp_path / "made")))
    refused(tmp_path / "a.pth", "nothing (of it )?was run")
    assert not (tmp_path / "made").exists()


def test_a_whole_module_is_code(tmp_path):
    refused(
        saved(tmp_path / "a.pth", torch.nn.Linear(2, 2)),
        r"can only be read by running code that it names \(torch.nn.modules.linear.Linear\)",
    )


def test_a_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    refused(tmp_path / "a.pt", r"holds a program \(TorchScript\)")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
def test_files_that_are_cut_short(tmp_path, share):
    whole = {"b": torch.arange(5000.0)} | TENSORS
    for name, old in (("new.pth", False), ("old.pth", True)):
        path = saved(tmp_path / name, whole, _use_new_zipfile_serialization=not old)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        refused(path, "cut short")
    safetensors.torch.save_file(whole, tmp_path / "c.safetensors")
    path = tmp_path / "c.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, "not readable as safetensors, or cut short")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds a list of 1 entries, 1 tensors in it; a mapping of names to tensors is expected"),
        ({"epoch": 1}, "holds no tensors"),
        ({"model": TENSORS, "state_dict": TENSORS}, "has weights both under model and state_dict"),
        (
            {"net": dict(TENSORS)},
            r"net is a dict of 3 entries, 3 tensors in it, a single tensor is expected \(known wrappers: model, state_dict",
        ),
        ({"a" * 600: torch.ones(1)}, "is no name of a tensor"),
        ({"a\nb": torch.ones(1)}, "is no name of a tensor"),
        ({3: torch.ones(1)}, "is no name of a tensor"),
        ({"a": torch.eye(2).to_sparse()}, "a is sparse or quantised"),
        ({"model": {"model": {"model": {"model": {"model": TENSORS}}}}}, "more than 4 wrappers"),
    ],
)
def test_contents_that_are_no_weights(tmp_path, content, message):
    refused(saved(tmp_path / "a.pth", content), message)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; weights saved by torch"),
        (b"<html>login</html>", "begins with b'<html>lo'; weights saved by torch"),
        (b"PK\x03\x04 and then nothing", "cut short or damaged"),
        (b"\x80\x02not a pickle", "cut short, damaged, or a pickle of other things"),
        (b"\xff" * 7 + b"\x7f{", "not readable as safetensors, or cut short"),
    ],
)
def test_files_that_are_something_else(tmp_path, data, message):
    (tmp_path / "a.pth").write_bytes(data)
    refused(tmp_path / "a.pth", message)


def test_a_compressed_archive_and_one_without_weights(tmp_path):
    source = saved(tmp_path / "a.pth")
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in archive.infolist():
            packed.writestr(entry.filename, archive.read(entry))
    refused(tmp_path / "b.pth", "a compressed zip archive")
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as empty:
        empty.writestr("readme.txt", "hello")
    refused(tmp_path / "c.pth", "a zip archive without weights of torch")


def test_a_missing_file(tmp_path):
    refused(tmp_path / "a.pth", "no such file")


def test_a_huge_stride_0_tensor_costs_nothing_to_describe(tmp_path):
    path = saved(tmp_path / "a.pth", {"a": torch.zeros(1).expand(1_000_000, 1_000_000)})
    assert path.stat().st_size < 4000
    assert open_weights(path).tensors["a"].shape == (1_000_000, 1_000_000)


def test_an_old_file_that_claims_more_than_it_holds_is_not_allocated(tmp_path):
    path = saved(tmp_path / "a.pth", {"a": torch.zeros(70_000)}, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data.replace((70_000).to_bytes(4, "little"), (2_000_000_000).to_bytes(4, "little"), 1))  # elements of its storage
    refused(path, "cut short, or claims more than it holds: 8000000000 bytes of tensors, 280008 bytes for them")


def test_containers_that_refer_to_each_other_are_entered_once(tmp_path):
    nested = [0]
    for _ in range(60):
        nested = [nested] * 10
    found = open_weights(saved(tmp_path / "a.pth", {"model": TENSORS, "history": nested}))
    assert found.beside == {"history": "a list of 10 entries, 0 tensors in it"}
