"""The streaming writer of safetensors: the same bytes as the library, tensors asked for one by one."""

import pytest
import safetensors.torch
import torch

from skysense_cli.engine import tensor_file


def some_tensors():
    rng = torch.Generator().manual_seed(0)
    tensors = {'quote"d': torch.ones(2), "ümlaut": torch.arange(3.0)}
    for number, dtype in enumerate(tensor_file.TYPES):
        for place, shape in enumerate([(3, 2), (), (0, 4), (5,)]):
            tensors[f"x{place}.{number}"] = (torch.randn(shape, generator=rng) * 10).to(dtype)
    return tensors


def test_the_bytes_are_those_of_the_library(tmp_path):
    tensors = some_tensors()
    tensor_file.write(tmp_path / "ours", tensors)
    safetensors.torch.save_file(tensors, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_strided_and_shared_tensors_are_written_whole(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    tensor_file.write(tmp_path / "file", {"a": base.T, "b": base[:, 1], "c": base, "d": torch.zeros(1).expand(4, 2)})
    found = safetensors.torch.load_file(tmp_path / "file")
    assert torch.equal(found["a"], base.T) and torch.equal(found["b"], base[:, 1]) and found["d"].shape == (4, 2)


def test_values_are_asked_for_one_by_one_in_the_order_of_the_file(tmp_path):
    with torch.device("meta"):
        said = {"b": torch.empty(2), "a": torch.empty(3), "n": torch.empty((), dtype=torch.int64)}
    asked = []

    def value(name):
        asked.append(name)
        return torch.ones(said[name].shape, dtype=said[name].dtype)

    tensor_file.write(tmp_path / "file", said, value)
    assert asked == ["n", "a", "b"]
    assert safetensors.torch.load_file(tmp_path / "file")["a"].tolist() == [1, 1, 1]


def test_a_value_of_another_shape_is_a_bug(tmp_path):
    with pytest.raises(ValueError, match="a: .* was given where"):
        tensor_file.write(tmp_path / "file", {"a": torch.empty(2)}, lambda name: torch.empty(3))
