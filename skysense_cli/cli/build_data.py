"""`skysense build-data`: samples from archives of scenes."""

from typing import TYPE_CHECKING

from skysense_cli import console
from skysense_cli.cli.options import (
    ClusterOption,
    DebugOption,
    DeviceOption,
    DryRunOption,
    Options,
    OutOption,
    OverwriteOption,
    RecipeArgument,
    SetOption,
    check_cluster,
    load,
)

if TYPE_CHECKING:
    from skysense_cli.recipe.schema.build import BuildDataRecipe


def run(recipe: "BuildDataRecipe", options: Options, cluster: str | None = None) -> None:
    """What the command does; `skysense demo` calls it too.   cluster: address of a Dask scheduler"""
    from skysense_cli.cli.home import claim
    from skysense_cli.data.build import build, make_plan
    from skysense_cli.data.outlook import outlook

    if options.dry_run:
        console.table("plan", ["what", "value"], outlook(recipe, make_plan(recipe)))
        return
    with claim(recipe.output, recipe, options) as home:
        report = build(recipe, home.path, home.digest, address=cluster)
    splits = ", ".join(f"{count} {name}" for name, count in sorted(report["samples"].items()))
    console.say(f"{sum(report['samples'].values())} samples of {report['footprints']} footprints ({splits}) in {home.path}")
    rows = [[name, *(str(counts[key]) for key in counts)] for name, counts in report["dates"].items()]
    if rows:
        console.table("dates of all blocks", ["modality", *next(iter(report["dates"].values()))], rows)


def build_data(
    recipe: RecipeArgument,
    set_: SetOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
    overwrite: OverwriteOption = False,
    cluster: ClusterOption = None,
    device: DeviceOption = "auto",
    debug: DebugOption = False,
) -> None:
    """Turn scenes of one or several sensors into samples."""
    check_cluster(cluster)
    # no model runs here; scripts give all commands the same options, a device too
    options = Options(tuple(set_ or ()), out, dry_run, overwrite, device, debug)
    run(load(recipe, "build-data", options), options, cluster)
