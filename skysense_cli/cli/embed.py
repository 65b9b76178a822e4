"""`skysense embed`: what a model makes of a scene or of samples, as GeoTIFF and GeoParquet."""

from typing import TYPE_CHECKING

from skysense_cli import console
from skysense_cli.cli.options import Options, choose_device, recipe_command

if TYPE_CHECKING:
    from skysense_cli.recipe.schema.maps import EmbedRecipe


def run(recipe: "EmbedRecipe", options: Options) -> None:
    """What the command does."""
    from skysense_cli.cli.home import claim
    from skysense_cli.engine.assemble import load_bundle
    from skysense_cli.engine.embed_samples import open_sample_embedding
    from skysense_cli.engine.embed_scene import open_scene_embedding

    bundle = load_bundle(recipe.bundle, choose_device(options.device))
    opened = open_scene_embedding(recipe, bundle) if recipe.data is None else open_sample_embedding(recipe, bundle)
    console.table("plan", ["what", "value"], opened.facts())
    if options.dry_run:
        return
    with claim(recipe.output, recipe, options) as home:
        for line in opened.write(home.path, home.digest):
            console.say(line)


embed = recipe_command("embed", run, "Write a model's features of a scene or of samples.")
