"""`skysense weights table`: what it prints, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

from skysense_cli.cli.main import app


def run(*arguments):
    return CliRunner().invoke(app, ["weights", "table", *arguments])


def test_the_table_has_a_row_per_part_and_says_the_geometry():
    lines = run("nano").stdout.splitlines()
    assert [line.split()[0] for line in lines[3:8]] == ["encoders.s2", "lifts.s2", "fusion", "prototypes", "total"]
    assert lines[-1] == "a sample: 640 x 640 m, 64 x 64 cells; s2 20 x 64 x 64 px"


def test_json_holds_the_same_numbers():
    found = json.loads(run("nano", "--size-m", "320x160", "--dates", "s2=2", "--json").stdout)
    assert found["pixels"] == {"s2": [2, 32, 16]}
    assert found["total"]["flops"] == sum(part["flops"] for part in found["parts"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size-m", "wide"), "--size-m wide: expected metres, as 640 or 320x160"),
        (("--size-m", "1x2x3"), "--size-m 1x2x3: expected metres, as 640 or 320x160"),
        (("--dates", "s2"), "--dates s2: expected a modality and a number, as s2=20"),
        (("--dates", "s1=2"), "--dates s1=2: the model has s2, each with 1 date or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message):
    assert str(run("nano", *arguments).exception) == message
