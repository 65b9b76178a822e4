"""`skysense predict`: a map of a whole scene from a fine-tuned bundle."""

from typing import TYPE_CHECKING

from skysense_cli import console
from skysense_cli.cli.options import Options, choose_device, recipe_command

if TYPE_CHECKING:
    from skysense_cli.recipe.schema.maps import PredictRecipe


def run(recipe: "PredictRecipe", options: Options) -> None:
    """What the command does; `skysense demo` calls it too."""
    from skysense_cli.cli.home import claim
    from skysense_cli.engine.assemble import load_bundle
    from skysense_cli.engine.predict_map import open_prediction

    bundle = load_bundle(recipe.bundle, choose_device(options.device))
    prediction = open_prediction(recipe, bundle)
    console.table("plan", ["what", "value"], prediction.facts())
    if options.dry_run:
        return
    with claim(recipe.output, recipe, options) as home:
        for line in prediction.write(home.path, home.digest, overwrite=options.overwrite):
            console.say(line)


predict = recipe_command("predict", run, "Map a whole scene with a fine-tuned bundle.")
