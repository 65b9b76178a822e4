"""Every shipped recipe loads, and so does what is written of it beside an output."""

import pytest

from skysense_cli.recipe.load import SHIPPED, find_recipe, load_model, load_recipe, purpose, shipped_recipes
from skysense_cli.recipe.resolved import differences, digest, to_yaml
from skysense_cli.recipe.schema import RECIPES as KINDS

NAMES = shipped_recipes()
MODELS = [name for name in NAMES if purpose(name) == "model"]
RECIPES = [name for name in NAMES if name not in MODELS]


def test_recipes_of_every_command_are_shipped():
    assert SHIPPED[1].is_dir()
    assert {purpose(name) for name in NAMES} == {*KINDS, "model"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_loads_and_comes_back_from_its_resolved_text(name, tmp_path):
    recipe = load_recipe(name)
    text = to_yaml(recipe)
    again = tmp_path / "recipe.yaml"
    again.write_text(text, encoding="utf-8")
    assert load_recipe(again) == recipe
    assert to_yaml(load_recipe(again)) == text
    assert digest(load_recipe(again)) == digest(recipe)
    assert differences(text, recipe) == []


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_begins_with_what_it_is_for(name):
    keys = [line for line in find_recipe(name).read_text(encoding="utf-8").splitlines() if line and not line.startswith(("#", " "))]
    assert keys[0].startswith("recipe:")
    assert keys[1].startswith("version:")


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_loads(name):
    model = load_model(name)
    assert model.anchor in model.encoders
