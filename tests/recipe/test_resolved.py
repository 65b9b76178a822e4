"""A recipe as it ran: complete, stable, comparable."""

from pathlib import Path

import pytest

from skysense_cli.recipe.load import bind_recipe, load_recipe
from skysense_cli.recipe.resolved import differences, digest, to_yaml

TREE = {
    "recipe": "predict",
    "version": 1,
    "bundle": "runs/bundle",
    "scene": {"s2": {"path": "scenes", "nodata": float("nan"), "cloud_mask": {"kind": "scl"}}, "s1": ["a.tif", "b.tif"]},
    "period": {"start": "2020-01-01", "end": "2020-12-31"},
    "output": "maps/a.tif",
}


def test_resolved_text_is_stable_and_loads_again(tmp_path):
    recipe = bind_recipe(TREE)
    text = to_yaml(recipe)
    (tmp_path / "recipe.yaml").write_text(text)
    again = load_recipe(tmp_path / "recipe.yaml")
    assert to_yaml(again) == text
    assert digest(again) == digest(recipe)
    assert "nodata: .nan" in text
    assert "overlap: 0.25" in text


def test_the_digest_forgets_the_output_and_nothing_else():
    recipe = bind_recipe(TREE)
    assert digest(bind_recipe({**TREE, "output": "maps/b.tif"})) == digest(recipe)
    assert digest(bind_recipe({**TREE, "bundle": "runs/other"})) != digest(recipe)
    assert digest(bind_recipe({**TREE, "tiles": {"size_m": 640.0}})) == digest(recipe)


def test_differences_name_keys_with_old_and_new_value():
    text = to_yaml(bind_recipe(TREE))
    assert differences(text, bind_recipe({**TREE, "output": "elsewhere.tif"})) == []
    changed = {**TREE, "tiles": {"batch": 2}, "scene": {"s1": ["a.tif"]}}
    found = differences(text, bind_recipe(changed))
    assert "tiles.batch: 8 -> 2" in found
    assert "scene.s1.path: ['a.tif', 'b.tif'] -> ['a.tif']" in found
    assert "scene.s2.path: scenes -> nothing" in found


@pytest.mark.parametrize("text", ["a: 'b: c'", "Ünïcode", "- x", "yes", "1e3", "2020-01-01", "*a", "#c", "", " lead", "tab\there", "C:\\x"])
def test_odd_texts_survive(tmp_path, text):
    recipe = bind_recipe({**TREE, "bundle": "b/" + text, "scene": {"s2": [text]}})
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again.bundle == Path("b/" + text)
    assert again.scene["s2"].source.options["path"] == [text]


def test_the_number_of_workers_is_no_part_of_what_a_recipe_asks_for():
    recipe = load_recipe("build_data/folder")
    more = recipe.model_copy(update={"workers": recipe.workers + 1})
    assert digest(more) == digest(recipe)
    assert differences(to_yaml(recipe), more) == []
