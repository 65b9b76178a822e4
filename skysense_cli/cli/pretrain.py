"""`skysense pretrain`: learn an encoder from samples."""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from pathlib import Path

    from skysense_cli.recipe.schema import PretrainRecipe


def pretrain(
    recipe: RecipeArgument,
    set_: SetOption = None,
    out: OutOption = None,
    dry_run: DryRunOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    debug: DebugOption = False,
) -> None:
    """Learn an encoder from samples without labels."""
    options = Options(tuple(set_ or ()), out, dry_run, overwrite, device, debug)
    run(load(recipe, "pretrain", options), options)


def run(recipe: "PretrainRecipe", options: Options) -> "Path | None":
    """Train and return the folder of the final bundle; None after a dry run."""
    from skysense_cli.cli.home import claim
    from skysense_cli.engine import distributed, plan
    from skysense_cli.engine.assemble import assemble_pretraining
    from skysense_cli.engine.loading import one_sample, pretraining_loader
    from skysense_cli.engine.train import train

    device = distributed.start(choose_device(options.device))
    assembly = assemble_pretraining(recipe)
    loader = pretraining_loader(recipe, assembly, device)
    if options.dry_run:
        plan.show(plan.training_plan(assembly, recipe.train, one_sample(loader), device))
        return None
    with claim(recipe.output, recipe, options) as home:
        folder = train(assembly.objective, loader, recipe.train, home.path, assembly.spec, device=device)
    console.say(f"bundle: {folder}")
    return folder
