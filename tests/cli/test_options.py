"""Options shared by the recipe commands."""

from pathlib import Path

import pytest
import torch

from skysense_cli.cli.options import DeviceError, Options, choose_device, load
from skysense_cli.errors import RecipeError

PREDICT = """recipe: predict
version: 1
bundle: bundle
scene: {s2: {path: scenes}}
output: maps/crops.tif
"""


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_is_the_cpu_where_there_is_no_gpu(no_cuda):
    assert choose_device("auto") == "cpu"
    assert choose_device("cpu") == "cpu"


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(DeviceError, match="--device cuda:2: torch .* finds 2 CUDA devices"):
        choose_device("cuda:2")


def test_a_gpu_that_is_not_there_is_refused(no_cuda):
    with pytest.raises(DeviceError, match="--device cuda: torch .* finds 0 CUDA devices; use --device cpu, or see `skysense doctor`"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "auto:1", "cuda 0"])
def test_an_unknown_device_lists_the_known_ones(name):
    with pytest.raises(DeviceError, match=r"unknown device \(known: auto, cpu, cuda, cuda:N\)") as error:
        choose_device(name)
    assert error.value.exit_code == 2


def test_a_recipe_comes_in_with_set_and_out_applied_and_its_inputs_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(PREDICT)
    with pytest.raises(RecipeError, match="r.yaml:3:9: bundle: bundle does not exist"):
        load("r.yaml", "predict", Options())
    Path("bundle").mkdir()
    recipe = load("r.yaml", "predict", Options(sets=("tiles.batch=3",), out=Path("other.tif")))
    assert recipe.tiles.batch == 3
    assert recipe.output == Path("other.tif")
