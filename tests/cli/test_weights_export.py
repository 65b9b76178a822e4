"""`skysense weights export`: files, table, and what is refused."""

import re

import pytest
import torch
from typer.testing import CliRunner

from skysense_cli import sensors
from skysense_cli.cli.main import app
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import build_model
from skysense_cli.engine.export import read_contract
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.errors import BundleError, RecipeError

MODEL = {
    "cell_m": 20.0,
    "width": 8,
    "anchor": "s1",
    "encoders": {"s1": {"kind": "vit", "channels": 2, "dim": 8, "depth": 1, "heads": 2, "patch": 2, "size": 4}},
    "fusion": {"kind": "mean"},
    "prototypes": None,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a bundle with one encoder and a head for two classes."""
    bands = sensors.get("sentinel1_grd").band_names
    inputs = {"s1": Input("sentinel1_grd", bands, 20.0, *sensors.get("sentinel1_grd").statistics(bands))}
    classes = tuple({"name": name, "color": (0, 0, 0)} for name in ("water", "land"))
    facts = {"stage": "finetune", "model": MODEL, "inputs": inputs, "dates": {"s1": 3}, "size_m": (80.0, 80.0)}
    spec = BundleSpec.model_validate(facts | {"classes": classes, "head": {"kind": "fcn", "width": 4, "depth": 1}}, strict=False)
    torch.manual_seed(0)
    model = build_model(spec.model, spec.inputs)
    parts = {"model": model, "head": spec.head.build(model.spec, 2)}
    tensors = {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()}
    folder = tmp_path_factory.mktemp("run") / "bundle"
    bundle.save(folder, spec.to_plain(), tensors)
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A function that runs `skysense weights export BUNDLE ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, ["weights", "export", str(trained), *arguments])


def test_each_size_has_its_file_and_its_rows(run, tmp_path):
    result = run("--size", "4x4", "--size", "8x6", "--out", "files/e.pt2", "--verify")
    assert result.exit_code == 0, result.exception
    lines = result.stdout.splitlines()
    assert [re.sub(r"[\d,]+ bytes", "N bytes", line) for line in lines[:2]] == ["files/e-4x4.pt2: N bytes", "files/e-8x6.pt2: N bytes"]
    assert lines[2] == "file against model"
    assert [line.split()[:3] for line in lines[5:]] == [[f"e-{size}.pt2", "batch", count] for size in ("4x4", "8x6") for count in "13"]
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == ["e-4x4.pt2", "e-8x6.pt2"]


def test_a_head_comes_along_when_asked(run, tmp_path):
    result = run("--with-head", "--size", "4x4", "--dates", "2", "--out", "m.pt2")
    assert result.exit_code == 0, result.exception
    contract = read_contract(tmp_path / "m.pt2")
    assert (contract["what"], contract["classes"]) == ("encoder and head", ["water", "land"])
    assert contract["inputs"][0] == {"name": "pixels", "shape": ["batch", 2, 2, 4, 4], "type": "float32"}


def test_normalised_input_is_an_option(run, tmp_path):
    assert run("--size", "4x4", "--batch", "2", "--normalised", "--format", "onnx", "--out", "e.onnx").exit_code == 0
    contract = read_contract(tmp_path / "e.onnx")
    assert contract["units"] == "(stored - mean) / std, 0 where there is no data" and "nodata" not in contract
    assert contract["inputs"][0]["shape"] == [2, 2, 4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "64", "--out", "e.pt2"], "--size 64: height and width in pixels are expected, e.g. 64x64"),
        (["--size", "5x4", "--out", "e.pt2"], "--size 5x4: the s1 encoder takes whole steps of 2 px (nearest: 4x4)"),
        (["--size", "4x4", "--out", "e.onnx"], "--out e.onnx: a file of format torch-export ends in .pt2"),
        (["--size", "4x4", "--out", "e.pt2", "--dates", "2"], "--dates goes with --with-head; an encoder sees one date at a time"),
        (["--size", "4x4", "--out", "e.pt2", "--modality", "s2"], "--modality s2: {bundle} has s1"),
    ],
)
def test_mistakes_are_said_in_one_line_before_anything_is_written(run, trained, tmp_path, arguments, message):
    error = run(*arguments).exception
    assert isinstance(error, RecipeError) and error.exit_code == 2 and str(error) == message.replace("{bundle}", str(trained))
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_is_not_there_is_a_data_error(tmp_path):
    result = CliRunner().invoke(app, ["weights", "export", str(tmp_path / "b"), "--size", "4x4", "--out", str(tmp_path / "e.pt2")])
    assert isinstance(result.exception, BundleError) and result.exception.exit_code == 3
    assert "no such bundle" in str(result.exception)
