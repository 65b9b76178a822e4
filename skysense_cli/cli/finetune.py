"""`skysense finetune`: put a task head on an encoder and train both on labels."""

from typing import TYPE_CHECKING

from skysense_cli import console
from skysense_cli.cli.options import Options, choose_device, recipe_command

if TYPE_CHECKING:
    from pathlib import Path

    from skysense_cli.engine.assemble import Assembly
    from skysense_cli.engine.train import Validation
    from skysense_cli.recipe.schema.train import FinetuneRecipe


def run(recipe: "FinetuneRecipe", options: Options) -> "Path | None":
    """Train and return the folder of the final bundle; None after a dry run."""
    from skysense_cli.cli.home import claim
    from skysense_cli.engine import distributed, plan
    from skysense_cli.engine.assemble import assemble_finetuning
    from skysense_cli.engine.loading import finetuning_loader, one_sample
    from skysense_cli.engine.train import train

    device = distributed.start(choose_device(options.device))
    assembly = assemble_finetuning(recipe)
    loader = finetuning_loader(recipe, assembly, device)
    if options.dry_run:
        plan.show(plan.training_plan(assembly, recipe.train, one_sample(loader), device))
        return None
    validation = _validation(recipe, assembly, device)
    with claim(recipe.output, recipe, options) as home:
        folder = train(assembly.objective, loader, recipe.train, home.path, assembly.spec, device=device, validation=validation)
    console.say(f"bundle: {folder}")
    return folder


def _validation(recipe: "FinetuneRecipe", assembly: "Assembly", device: str) -> "Validation | None":
    from skysense_cli.engine.evaluate import scorer
    from skysense_cli.engine.train import Validation

    if recipe.evaluate is None or assembly.val is None:
        return None
    score = scorer(assembly.val, assembly.spec.regions, batch=recipe.train.batch, device=device)
    return Validation(recipe.evaluate.every, score, recipe.evaluate.metric)


finetune = recipe_command("finetune", run, "Train a task head, and the encoder with it, on labelled samples.")
