"""`skysense recipe`: check, show and list recipes, and print their JSON Schema."""

import json
from typing import Annotated

import typer

from skysense_cli import console
from skysense_cli.cli.options import DebugOption, RecipeArgument, SetOption
from skysense_cli.errors import RecipeError

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True, help="Check, show and list recipes.")

RecipesArgument = Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipe files, or names of shipped ones.")]
InputsOption = Annotated[bool, typer.Option("--inputs", help="Also require that the files it names exist.")]
KindArgument = Annotated[str, typer.Argument(metavar="KIND", help="The command a recipe is for, e.g. pretrain, or model.")]


@app.command()
def check(recipes: RecipesArgument, set_: SetOption = None, inputs: InputsOption = False, debug: DebugOption = False) -> None:
    """Check recipes; print every mistake with file, line, column and key."""
    from skysense_cli.recipe.load import load_model, load_recipe, purpose

    mistakes = []
    for name in recipes:
        try:
            if looks_like_model := (purpose(name) == "model" and not set_):
                load_model(name)
            else:
                load_recipe(name, sets=set_ or (), inputs=inputs)
        except RecipeError as error:
            mistakes.append(str(error))
        else:
            console.say(f"{name}: ok ({'model' if looks_like_model else purpose(name)})")
    if mistakes:
        raise RecipeError("\n".join(mistakes))


@app.command()
def show(recipe: RecipeArgument, set_: SetOption = None, debug: DebugOption = False) -> None:
    """Print the recipe as it runs, with every default."""
    from skysense_cli.recipe.load import load_recipe
    from skysense_cli.recipe.resolved import to_yaml

    console.say(to_yaml(load_recipe(recipe, sets=set_ or ())).rstrip())


@app.command()
def schema(kind: KindArgument, debug: DebugOption = False) -> None:
    """Print the JSON Schema of a recipe, for an editor."""
    from skysense_cli.recipe.schema import RECIPES
    from skysense_cli.recipe.schema.model import ModelSection
    from skysense_cli.recipe.schema.section import Section

    known: dict[str, type[Section]] = {**RECIPES, "model": ModelSection}
    if kind not in known:
        raise RecipeError(f"unknown recipe kind {kind!r} (known: {', '.join(known)})")
    tree = {"$schema": "https://json-schema.org/draft/2020-12/schema", **known[kind].model_json_schema()}
    if model := tree["properties"].get("model"):  # a file may name another one here
        tree["properties"]["model"] = {"anyOf": [{"type": "string", "description": "a model file, relative to the recipe"}, model]}
    typer.echo(json.dumps(tree, indent=2))  # as it is: the words of a schema are no secrets


@app.command("list")
def list_(debug: DebugOption = False) -> None:
    """List the shipped recipes and what each is for; a name works wherever RECIPE stands."""
    from skysense_cli.recipe.load import purpose, shipped_recipes

    console.table("shipped recipes", ["name", "for"], [(name, purpose(name)) for name in shipped_recipes()])
