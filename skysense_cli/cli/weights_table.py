"""`skysense weights table`: parameters, memory and work of a model, part by part."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from skysense_cli import console
from skysense_cli.cli.options import DebugOption
from skysense_cli.errors import RecipeError

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A model recipe, or the name of a shipped one, e.g. skysense_v1.")]
SizeOption = Annotated[str | None, typer.Option("--size-m", help="Ground of a sample in metres, e.g. 640 or 320x160 (height x width).")]
DatesOption = Annotated[list[str] | None, typer.Option("--dates", metavar="MODALITY=COUNT", help="Dates of a modality, e.g. s2=20.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def table(
    model: ModelArgument, size_m: SizeOption = None, dates: DatesOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Count parameters, state-dict entries, bytes and floating-point operations of a sample; nothing is computed but shapes."""
    from skysense_cli.engine.sizes import measure
    from skysense_cli.recipe.load import load_model

    section = load_model(model if Path(model).is_file() or "/" in model else f"models/{model}")
    found = measure(section, size_m=None if size_m is None else _sides(size_m), dates=dict(_count(text) for text in dates or ()))
    if as_json:
        console.say(json.dumps({**asdict(found), "total": asdict(found.total)}, indent=1))
        return
    rows = [
        (part.name, f"{part.parameters:,}", part.entries, f"{part.bytes / 2**20:,.1f}", f"{part.flops / 1e9:,.2f}")
        for part in (*found.parts, found.total)
    ]
    console.table(f"model {model}", ["part", "parameters", "entries", "MiB in float32", "GFLOP a sample"], rows)
    images = ", ".join(f"{m} {count} x {height} x {width} px" for m, (count, height, width) in found.pixels.items())
    console.say(f"a sample: {found.size_m[0]:g} x {found.size_m[1]:g} m, {found.cells[0]} x {found.cells[1]} cells; {images}")


def _sides(text: str) -> tuple[float, float]:
    try:
        sides = [float(side) for side in text.split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or not all(0 < side < float("inf") for side in sides):
        raise RecipeError(f"--size-m {text}: expected metres, as 640 or 320x160")
    return sides[0], sides[-1]


def _count(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not count.isdecimal():
        raise RecipeError(f"--dates {text}: expected a modality and a number, as s2=20")
    return name, int(count)
