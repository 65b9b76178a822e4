"""`skysense weights inspect` and `convert`: what a person and a program see."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from skysense_cli.cli.main import app
from skysense_cli.engine.assemble import load_bundle
from skysense_cli.errors import RecipeError

GUIDE = Path(__file__).parents[2] / "examples" / "guides" / "weights.md"
MODEL = """
cell_m: 10
width: 8
anchor: s2
encoders:
  s2: {kind: vit, channels: 10, dim: 8, depth: 1, heads: 2, patch: 2, size: 8}
fusion: {kind: temporal, depth: 1, heads: 2, dim: 8}
"""


def run(*arguments):
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


@pytest.fixture
def file(tmp_path):
    """A small Sentinel-2 encoder under its published names, and its model recipe beside it."""
    (tmp_path / "model.yaml").write_text(MODEL)
    shapes = {
        "cls_token": (1, 1, 8), "pos_embed": (1, 17, 8), "patch_embed.projection.weight": (8, 10, 2, 2),
        "patch_embed.projection.bias": (8,),
        "layers.0.ln1.weight": (8,), "layers.0.ln1.bias": (8,), "layers.0.ln2.weight": (8,), "layers.0.ln2.bias": (8,),
        "layers.0.attn.attn.Wqkv.weight": (24, 8), "layers.0.attn.attn.Wqkv.bias": (24,), "layers.0.attn.attn.out_proj.weight": (8, 8),
        "layers.0.attn.attn.out_proj.bias": (8,), "layers.0.ffn.layers.0.0.weight": (32, 8), "layers.0.ffn.layers.0.0.bias": (32,),
        "layers.0.ffn.layers.1.weight": (8, 32), "layers.0.ffn.layers.1.bias": (8,),
    }  # fmt: skip
    torch.save({"model": {name: torch.ones(shape) for name, shape in shapes.items()}, "epoch": 3}, tmp_path / "a_s2.pth")
    return tmp_path / "a_s2.pth"


def test_a_person_reads_a_table_and_what_is_not_simply_loaded(file):
    result = run("inspect", file, "--model", file.parent / "model.yaml")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"model {file.parent / 'model.yaml'}"
    assert lines[1].split() == "file holds keys loaded renamed reshaped adapted recomputed not used missing".split()
    assert lines[3].split() == "a_s2.pth encoder of s2 17 14 2 - - - 1 -".split()
    assert "  a_s2.pth: renamed: layers.0.attn.attn.Wqkv.weight -> model.encoders.s2.layers.0.attn.attn.in_proj_weight" in lines
    assert "  a_s2.pth: not used: epoch; beside the weights (int)" in lines
    assert "  in no file: model.fusion.date_embedding; starts as: waves of the year" in lines


def test_a_program_reads_every_key(file):
    result = run("inspect", file, "--json", "--model", file.parent / "model.yaml")
    content = json.loads(result.stdout)
    (one,) = content["models"][0]["files"]
    assert len(one["fates"]) == one["keys"] == 17 and content["problems"] == []
    assert {"key": "cls_token", "fate": "loaded", "target": "model.encoders.s2.cls_token", "note": ""} in one["fates"]
    assert {"target": "model.fusion.cls_token", "starts_as": "random"} in content["models"][0]["missing"]


def test_problems_are_lines_on_stderr_and_exit_code_3(file):
    torch.save({"a": torch.ones(1)}, file.parent / "b.pth")
    (file.parent / "c.pth").write_bytes(b"PK\x03\x04")
    command = [
        sys.executable,
        "-m",
        "skysense_cli",
        "weights",
        "inspect",
        str(file.parent),
        "--json",
        "--model",
        str(file.parent / "model.yaml"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 3
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {file.parent / 'b.pth'}: none of its 1 keys is known")
    assert second.startswith(f"error: {file.parent / 'c.pth'}: cut short or damaged")
    content = json.loads(result.stdout)
    assert len(content["problems"]) == 2 and len(content["models"][0]["files"]) == 1


def test_convert_writes_a_bundle_that_loads(file):
    out = file.parent / "bundle"
    result = run("convert", file, "--out", out, "--model", file.parent / "model.yaml")
    assert result.exit_code == 0 and result.stdout.splitlines()[-1] == f"bundle: {out}"
    assert load_bundle(out).model.encoders["s2"].cls_token.min() == 1
    assert run("inspect", out).stdout.splitlines()[0] == f"model {out}"


def test_convert_replaces_bundles_only_when_told(file):
    out, model = file.parent / "bundle", file.parent / "model.yaml"
    run("convert", file, "--out", out, "--model", model)
    again = run("convert", file, "--out", out, "--model", model)
    assert isinstance(again.exception, RecipeError) and str(again.exception).endswith(
        "is there already; choose another name, or --overwrite"
    )
    assert run("convert", file, "--out", out, "--model", model, "--overwrite").exit_code == 0
    other = run("convert", file, "--out", file.parent, "--model", model, "--overwrite")
    assert "is there already; choose another name (it is no bundle, so it is not replaced)" in str(other.exception)
    assert file.exists()


def test_an_unknown_model_is_a_usage_error(file):
    result = run("inspect", file, "--model", "skysense_v9")
    assert isinstance(result.exception, RecipeError) and "did you mean models/skysense_v1" in str(result.exception)


def test_the_guide_shows_what_inspect_prints_of_the_stand_ins(stand_ins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stand_ins.write(tmp_path / "stand_ins" / "v1", stand_ins.v1(stand_ins.keys))
    stand_ins.write(tmp_path / "stand_ins" / "pp", stand_ins.pp(stand_ins.keys))
    commands = re.findall(r"^skysense weights inspect (stand_ins/.*)$", GUIDE.read_text(), re.MULTILINE)
    results = [run("inspect", command) for command in commands]
    assert [result.exit_code for result in results] == [0, 0]
    shown = GUIDE.read_text().split("```\nmodel skysense_v1\n")[1].split("```")[0].splitlines()
    printed = {line.rstrip() for line in results[0].stdout.splitlines()}
    assert len(shown) > 6 and [line for line in shown if line not in printed] == []


def test_the_other_commands_of_the_guide_are_commands():
    commands = re.findall(r"^skysense weights (.*)$", GUIDE.read_text(), re.MULTILINE)
    for command in commands:
        assert run(*command.split(), "--help").exit_code == 0, command
