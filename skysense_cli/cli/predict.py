"""`skysense predict`: maps of a whole scene from a fine-tuned bundle."""

from typing import TYPE_CHECKING, Annotated

import typer

from skysense_cli import console
from skysense_cli.cli.options import (
    DebugOption,
    DeviceOption,
    DryRunOption,
    Options,
    OutOption,
    OverwriteOption,
    RecipeArgument,
    SetOption,
    choose_device,
    load,
)
from skysense_cli.errors import RecipeError

if TYPE_CHECKING:
    from skysense_cli.recipe.schema.maps import PredictRecipe

RanksOption = Annotated[int, typer.Option("--ranks", metavar="N", min=1, help="Share the rows out over N processes on this machine.")]
MemoryOption = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="SIZE", help="For pixels and scores of a process, e.g. 2GB; the same as tiles.max_memory."),
]


def run(recipe: "PredictRecipe", options: Options) -> None:
    """What the command does; `skysense demo` calls it too."""
    from skysense_cli.cli.home import claim
    from skysense_cli.engine.assemble import load_bundle
    from skysense_cli.engine.predict_map import open_prediction
    from skysense_cli.engine.ranks import World, device_of
    from skysense_cli.recipe.resolved import digest

    world = World.of_launcher()
    if world.count > 1 and options.ranks > 1:
        raise RecipeError(f"--ranks {options.ranks}: a launcher has started {world.count} processes already; leave it out")
    device = choose_device(options.device)
    prediction = open_prediction(recipe, load_bundle(recipe.bundle, device_of(device, world.local) if world.count > 1 else device))
    console.table("plan", ["what", "value"], prediction.facts())
    if options.dry_run:
        return
    if world.rank > 0:
        prediction.join(recipe.output, digest(recipe), world)
        return
    with claim(recipe.output, recipe, options) as home:
        for line in prediction.write(home.path, home.digest, overwrite=options.overwrite, ranks=options.ranks):
            console.say(line)


def predict(
    recipe: RecipeArgument,
    set_: SetOption = None,
    out: OutOption = None,
    ranks: RanksOption = 1,
    max_memory: MemoryOption = None,
    dry_run: DryRunOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    debug: DebugOption = False,
) -> None:
    """Map a whole scene with a fine-tuned bundle."""
    sets = (*(set_ or ()), *([f"tiles.max_memory={max_memory}"] if max_memory is not None else []))
    options = Options(sets, out, dry_run, overwrite, device, debug, ranks)
    run(load(recipe, "predict", options), options)
