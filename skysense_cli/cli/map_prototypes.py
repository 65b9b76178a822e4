"""`skysense map-prototypes`: which learned prototype each cell of a scene is most like."""

from typing import TYPE_CHECKING

from skysense_cli import console
from skysense_cli.cli.options import Options, choose_device, recipe_command

if TYPE_CHECKING:
    from skysense_cli.recipe.schema.maps import MapPrototypesRecipe


def run(recipe: "MapPrototypesRecipe", options: Options) -> None:
    """What the command does; `skysense demo` calls it too."""
    from skysense_cli.cli.home import claim
    from skysense_cli.engine.assemble import load_bundle
    from skysense_cli.engine.prototype_files import open_prototypes, plan_facts, write_prototypes

    bundle = load_bundle(recipe.bundle, choose_device(options.device))
    job = open_prototypes(recipe, bundle)
    console.table("plan", ["what", "value"], plan_facts(job))
    if options.dry_run:
        return
    with claim(recipe.output, recipe, options) as home:
        for line in write_prototypes(job, home.path, home.digest):
            console.say(line)


map_prototypes = recipe_command("map-prototypes", run, "Map the nearest prototype of each cell of a scene.")
