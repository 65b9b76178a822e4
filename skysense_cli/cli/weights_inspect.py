"""`skysense weights inspect` and `convert`: released files and bundles, with a word on every key."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skysense_cli import console
from skysense_cli.cli.options import DebugOption
from skysense_cli.errors import BundleError, RecipeError

if TYPE_CHECKING:
    from skysense_cli.recipe.schema.model import ModelSection

FilesArgument = Annotated[
    list[str],
    typer.Argument(metavar="FILE...", help="Files, folders of files, or bundles; s2=FILE says whose weights a file holds."),
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="A model recipe, or the name of a shipped one; told by the files themselves by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object with the fate of every key.")]
BundleOption = Annotated[Path, typer.Option("--out", metavar="BUNDLE", help="The bundle folder to write.")]
ReplaceOption = Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there already.")]
OnlyOption = Annotated[bool, typer.Option("--only", help="Leave out the modalities and optional parts that no file gives.")]


def inspect(files: FilesArgument, json_: JsonOption = False, model: ModelOption = None, debug: DebugOption = False) -> None:
    """Say what files of weights hold and what becomes of every key; nothing but their description is read."""
    from skysense_cli.engine import convert as engine
    from skysense_cli.engine.ledger import as_plain, missing_as_plain, show

    found = engine.inspect(files, _model_section, model)
    if json_:
        models = [
            {"model": group.model, "files": [as_plain(one) for one in group.accounts], "missing": missing_as_plain(group.missing)}
            for group in found.groups
        ]
        console.say(json.dumps({"models": models, "problems": found.problems}, indent=1))
    else:
        for group in found.groups:
            show(f"model {group.model}", group.accounts, group.missing)
    if found.problems:
        raise BundleError("\n".join(found.problems))


def convert(
    files: FilesArgument,
    out: BundleOption,
    model: ModelOption = None,
    only: OnlyOption = False,
    overwrite: ReplaceOption = False,
    debug: DebugOption = False,
) -> None:
    """Make one bundle of several files of weights."""
    from skysense_cli.engine import convert as engine
    from skysense_cli.engine.ledger import show

    if out.exists() and not (overwrite and (out / "bundle.json").is_file()):
        also = ", or --overwrite" if (out / "bundle.json").is_file() else " (it is no bundle, so it is not replaced)"
        raise RecipeError(f"--out {out}: is there already; choose another name{also}")
    group = engine.convert(files, out, _model_section, model, only=only)
    show(f"model {group.model}", group.accounts, group.missing)
    console.say(f"bundle: {out}")


def _model_section(name: str) -> "ModelSection":
    """The model in a recipe file, or the shipped one of that name."""
    from skysense_cli.recipe.load import load_model

    return load_model(name if Path(name).is_file() or "/" in name else f"models/{name}")
