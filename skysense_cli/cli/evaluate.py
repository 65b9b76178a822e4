"""`skysense evaluate`: score a bundle on samples, or a finished map against their labels."""

from typing import TYPE_CHECKING, Any

from skysense_cli import console
from skysense_cli.cli.options import Options, choose_device, recipe_command

if TYPE_CHECKING:
    from skysense_cli.recipe.schema.train import EvaluateRecipe


def run(recipe: "EvaluateRecipe", options: Options) -> dict[str, Any] | None:
    """Score and return what `scores.json` holds; None after a dry run."""
    from skysense_cli.cli.home import claim
    from skysense_cli.engine.evaluate import report
    from skysense_cli.engine.scoring import subject

    scored = subject(recipe, choose_device(options.device))
    console.table("plan", ["what", "value"], scored.facts())
    if options.dry_run:
        return None
    with claim(recipe.output, recipe, options) as home:
        scores = scored.scores()
        path = report(scores, home.path)
    console.say(f"scores: {path}")
    return scores


evaluate = recipe_command("evaluate", run, "Score a bundle or a map against labels.")
