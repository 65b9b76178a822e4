"""`skysense map-prototypes`: which learned prototype each cell of scenes or samples is most like."""

from typing import TYPE_CHECKING

from skysense_cli import console
from skysense_cli.cli.options import Options, choose_device, recipe_command

if TYPE_CHECKING:
    from skysense_cli.recipe.schema.maps import MapPrototypesRecipe


def run(recipe: "MapPrototypesRecipe", options: Options) -> None:
    """What the command does; `skysense demo` calls it too."""
    from skysense_cli.cli.home import claim
    from skysense_cli.engine.assemble import load_bundle
    from skysense_cli.engine.land_cover import LandCover
    from skysense_cli.engine.prototype_files import write_prototypes
    from skysense_cli.engine.prototype_job import open_prototypes

    bundle = load_bundle(recipe.bundle, choose_device(options.device))
    job = open_prototypes(recipe, bundle)
    land_cover = None if recipe.compare is None else LandCover.open(recipe.compare, job.cell_m)
    if land_cover is not None:
        land_cover.require_halves(job.ground())
    console.table("plan", ["what", "value"], job.facts())
    if options.dry_run:
        return
    with claim(recipe.output, recipe, options) as home:
        for line in write_prototypes(job, home.path, home.digest, land_cover, recipe.patches, overwrite=options.overwrite):
            console.say(line)


map_prototypes = recipe_command("map-prototypes", run, "Map the nearest prototype of each cell of scenes or samples.")
