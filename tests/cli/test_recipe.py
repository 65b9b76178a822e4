"""`skysense recipe`: what a person sees of their recipes."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from skysense_cli.cli.main import app
from skysense_cli.errors import RecipeError
from skysense_cli.recipe.load import shipped_recipes
from skysense_cli.recipe.schema import RECIPES

PREDICT = """recipe: predict
version: 1
bundle: runs/crops/bundle
scene: {s2: {path: scenes}}
output: maps/crops.tif
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs `skysense recipe ARGUMENTS` where `predict.yaml` lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "predict.yaml").write_text(PREDICT)
    return lambda *arguments: CliRunner().invoke(app, ["recipe", *arguments])


def test_check_says_what_the_recipe_is_for(run):
    result = run("check", "predict.yaml", "--set", "tiles.batch=2")
    assert (result.exit_code, result.stdout) == (0, "predict.yaml: ok (predict)\n")


def test_check_collects_the_mistakes_of_all_files(run, tmp_path):
    (tmp_path / "b.yaml").write_text(PREDICT.replace("bundle", "bundel"))
    (tmp_path / "c.yaml").write_text(PREDICT.replace("version: 1", "version: 3"))
    result = run("check", "b.yaml", "predict.yaml", "c.yaml")
    assert result.stdout == "predict.yaml: ok (predict)\n"
    assert isinstance(result.exception, RecipeError)
    assert [line.split(": ")[0] for line in str(result.exception).splitlines()] == ["b.yaml:3:1", "c.yaml:2:10"]


def test_ten_broken_recipes_give_ten_lines_and_exit_code_2(tmp_path):
    changes = [
        ("bundle:", "bundel:"),
        ("version: 1", "version: one"),
        ("version: 1", "version: 1\nversion: 1"),
        ("{path: scenes}", "{pth: scenes}"),
        ("{path: scenes}", "{path: scenes, cloud_mask: {kind: slc}}"),
        ("{path: scenes}", "{path: [scenes"),
        ("recipe: predict", "recipe: predct"),
        ("output: maps/crops.tif", ""),
        ("output: maps/crops.tif", "output: m.tif\ntiles: {overlap: 0.5}"),
        ("output: maps/crops.tif", "output: m.tif\ndates: {s1: 3}"),
    ]
    names = [f"{number}.yaml" for number in range(len(changes))]
    for name, change in zip(names, changes, strict=True):
        (tmp_path / name).write_text(PREDICT.replace(*change))
    result = subprocess.run(
        [sys.executable, "-m", "skysense_cli", "recipe", "check", *names], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert [re.match(r"error: (\d+\.yaml):\d+:\d+: \S.*", line)[1] for line in lines] == names


def test_check_looks_for_inputs_when_asked(run):
    result = run("check", "predict.yaml", "--inputs")
    assert str(result.exception) == "predict.yaml:3:9: bundle: runs/crops/bundle does not exist"


def test_show_prints_a_recipe_that_can_be_checked(run, tmp_path):
    (tmp_path / "again.yaml").write_text(run("show", "predict.yaml", "--set", "tiles.overlap=0.1").stdout)
    assert "overlap: 0.1" in (tmp_path / "again.yaml").read_text()
    assert run("check", "again.yaml").exit_code == 0


def test_list_names_every_shipped_recipe_with_its_command(run):
    rows = [line.split() for line in run("list").stdout.splitlines()[3:]]
    assert [row[0] for row in rows] == shipped_recipes()
    assert ["models/tiny", "model"] in rows


def test_a_model_file_can_be_checked_too(run, tmp_path):
    assert run("check", "models/tiny").stdout == "models/tiny: ok (model)\n"
    (tmp_path / "model.yaml").write_text("cell_m: 10\nencoders: {}\n")
    assert "model.yaml:1:1: anchor: is missing" in str(run("check", "model.yaml").exception)


@pytest.mark.parametrize("kind", [*RECIPES, "model"])
def test_schema_describes_every_key(run, kind):
    tree = json.loads(run("schema", kind).stdout)
    assert tree["$schema"].startswith("https://json-schema.org/")
    assert tree["additionalProperties"] is False
    if kind != "model":
        assert tree["properties"]["recipe"]["const"] == kind


def test_the_schema_allows_a_model_file_as_recipes_do(run):
    assert json.loads(run("schema", "pretrain").stdout)["properties"]["model"]["anyOf"][0]["type"] == "string"


def test_schema_of_an_unknown_kind_lists_the_known_ones(run):
    assert str(run("schema", "pretran").exception).startswith("unknown recipe kind 'pretran' (known: build-data, pretrain, ")
