import json
from pathlib import Path

import pytest

from skysense_cli.cli import demo
from skysense_cli.recipe.load import load_recipe


def test_recipes_are_copied_with_the_output_folder_in_every_path(tmp_path):
    out = tmp_path / "a place: with #signs"
    folder = demo._write_recipes(out)
    assert {path.stem for path in folder.iterdir()} >= {
        "build_data",
        "pretrain",
        "finetune",
        "finetune_random",
        "predict",
        "map_prototypes",
    }
    assert not any('"demo/' in path.read_text() for path in folder.iterdir())
    recipe = load_recipe(folder / "pretrain.yaml", "pretrain")
    assert recipe.output == out / "pretrain"
    assert recipe.data.index == out / "data" / "index"


@pytest.mark.parametrize("step", demo.STEPS, ids=lambda step: step.name)
def test_every_step_has_a_sound_recipe(step, tmp_path):
    sets = [text.format(out=tmp_path.as_posix()) for text in step.sets]
    recipe = load_recipe(demo._write_recipes(tmp_path) / f"{step.recipe}.yaml", step.kind, sets)
    assert recipe.recipe == step.kind
    assert tmp_path in recipe.output.parents


def test_no_two_steps_write_to_one_place(tmp_path):
    folder = demo._write_recipes(tmp_path)
    outputs = [
        load_recipe(folder / f"{step.recipe}.yaml", step.kind, [text.format(out=tmp_path.as_posix()) for text in step.sets]).output
        for step in demo.STEPS
    ]
    assert len(set(outputs)) == len(outputs)


def test_seconds_of_a_resumed_step_add_up(tmp_path):
    path = tmp_path / "seconds.json"
    path.write_text(json.dumps({"pretrain": 10.0}))
    clock = demo._Clock(path)
    with clock.of("pretrain"):
        pass
    with clock.of("report"):
        pass
    assert json.loads(path.read_text()) == {"pretrain": 10.0, "report": 0.0}


def test_the_closing_lines_name_the_goals_that_were_missed(capsys):
    from skysense_cli.demo.report import Goal

    demo._close([Goal("first thing", ">= 1", 0.5, False), Goal("second thing", ">= 1", 1.5, True)], Path("somewhere"))
    said = capsys.readouterr().out
    assert "goals missed: first thing" in said
    assert "SIMULATED" in said
    assert "somewhere/report.html" in said
