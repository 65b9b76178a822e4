"""`skysense pretrain`: learn an encoder from samples."""

from typing import TYPE_CHECKING

from skysense_cli import console
from skysense_cli.cli.options import Options, choose_device, recipe_command

if TYPE_CHECKING:
    from pathlib import Path

    from skysense_cli.recipe.schema.train import PretrainRecipe


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


pretrain = recipe_command("pretrain", run, "Learn an encoder from samples without labels.")
