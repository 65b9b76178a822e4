"""`skysense build-data`: samples from archives of scenes."""

from typing import TYPE_CHECKING

from skysense_cli import console
from skysense_cli.cli.options import Options, recipe_command

if TYPE_CHECKING:
    from skysense_cli.recipe.schema import BuildDataRecipe


def run(recipe: "BuildDataRecipe", options: Options) -> None:
    """What the command does; `skysense demo` calls it too."""
    from skysense_cli.cli.home import claim
    from skysense_cli.data.build import build, make_plan
    from skysense_cli.data.outlook import outlook

    if options.dry_run:
        console.table("plan", ["what", "value"], outlook(recipe, make_plan(recipe)))
        return
    with claim(recipe.output, recipe, options) as home:
        report = build(recipe, home.path, home.digest)
    splits = ", ".join(f"{count} {name}" for name, count in sorted(report["samples"].items()))
    console.say(f"{sum(report['samples'].values())} samples of {report['footprints']} footprints ({splits}) in {home.path}")
    rows = [[name, *(str(counts[key]) for key in counts)] for name, counts in report["dates"].items()]
    if rows:
        console.table("dates of all blocks", ["modality", *next(iter(report["dates"].values()))], rows)


build_data = recipe_command("build-data", run, "Turn scenes of one or several sensors into samples.")
