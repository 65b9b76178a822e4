"""What all recipe commands share: their options, and how a recipe comes in.

A command file, e.g. `cli/pretrain.py`, reads like this; everything heavy is imported inside `run`:

    def run(recipe: "PretrainRecipe", options: Options) -> None:
        \"""What the command does; `skysense demo` calls it too.\"""
        from skysense_cli.cli.home import claim
        from skysense_cli.engine.assemble import ...

        device = choose_device(options.device)
        ...                                      # all checks: inputs, shapes, sizes
        console.table("plan", ["what", "value"], rows)
        if options.dry_run:
            return
        with claim(recipe.output, recipe, options) as home:    # locks, refuses another recipe's folder, writes recipe.yaml
            train(..., home=home.path)                         # home.resumed: the same recipe was here before
        console.say(f"bundle: {home.path / 'bundle'}")


    pretrain = recipe_command("pretrain", run, "Learn an encoder from samples.")
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from skysense_cli.errors import RecipeError, SkySenseError


@dataclass(frozen=True)
class Options:
    """The options of a recipe command, as given.

    sets: `key.path=value` texts      out: takes the place of the recipe's `output`      ranks: processes of `predict`
    flags: (option, key, value) of a command's own options that stand for a key of the recipe
    """

    sets: tuple[str, ...] = ()
    out: Path | None = None
    dry_run: bool = False
    overwrite: bool = False
    device: str = "auto"
    debug: bool = False
    ranks: int = 1
    flags: tuple[tuple[str, str, Any], ...] = ()


class DeviceError(SkySenseError):
    """The device asked for is not there."""

    exit_code = 2


RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one (see `recipe list`).")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value, e.g. train.steps=10.")]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="PATH", help="Write here instead of the recipe's output.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan and stop.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Empty an output of another recipe first.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where the model runs.")]
ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", metavar="ADDRESS", help="Run on a Dask scheduler, e.g. tcp://host:8786, instead of workers of this machine."),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show a traceback for every error.")]


Kind = Literal["build-data", "pretrain", "finetune", "evaluate", "predict", "map-prototypes", "embed"]


def load(recipe: str | Path, kind: Kind, options: Options) -> Any:
    """The checked recipe of this kind with `--set` and `--out` applied.

    Raises RecipeError with one line per mistake, e.g. a key that is not known or an input file that is not there.
    """
    from skysense_cli.recipe.load import load_recipe

    return load_recipe(recipe, kind, options.sets, flags=options.flags, output=options.out, inputs=True)


def recipe_command(kind: Kind, run: Callable[[Any, Options], Any], purpose: str) -> Callable[..., None]:
    """The function that the app registers: all shared options, then `run` with the checked recipe. purpose: its help"""

    def command(
        recipe: RecipeArgument,
        set_: SetOption = None,
        out: OutOption = None,
        dry_run: DryRunOption = False,
        overwrite: OverwriteOption = False,
        device: DeviceOption = "auto",
        debug: DebugOption = False,
    ) -> None:
        options = Options(tuple(set_ or ()), out, dry_run, overwrite, device, debug)
        run(load(recipe, kind, options), options)

    command.__doc__ = purpose
    return command


def check_cluster(address: str | None) -> None:
    """Raise RecipeError for what is no address of a Dask scheduler."""
    if address is not None and not address.startswith(("tcp://", "tls://")):
        raise RecipeError(f"--cluster {address}: is no address of a Dask scheduler, expected e.g. tcp://host:8786")


def choose_device(name: str) -> str:
    """`cpu`, `cuda` or `cuda:N` for the name given on the command line. Raises DeviceError when it is not there."""
    if name == "cpu":
        return name
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cuda") or (number and not number.isdigit()) or (kind == "auto" and number):
        raise DeviceError(f"--device {name}: unknown device (known: auto, cpu, cuda, cuda:N)")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return "cuda" if count else "cpu"
    if int(number or 0) >= count:
        raise DeviceError(
            f"--device {name}: torch {torch.__version__} finds {count} CUDA devices; use --device cpu, or see `skysense doctor`"
        )
    return name
