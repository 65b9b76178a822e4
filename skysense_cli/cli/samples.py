"""`skysense samples`: whether a finished data set is sound, whether its splits are apart, and what it looks like."""

from pathlib import Path
from typing import Annotated

import typer

from skysense_cli import console
from skysense_cli.cli.options import DebugOption
from skysense_cli.errors import ItemsFailed, RecipeError

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True, help="Check, audit and show samples.")

IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="The index folder of a data set, or the data set's own folder.")]
BufferOption = Annotated[float | None, typer.Option("--buffer-m", metavar="METRES", help="Least distance; the recipe's by default.")]
PageOption = Annotated[Path, typer.Option("--out", metavar="PAGE", help="The HTML page to write.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="At most so many samples, evenly spread over the index.")]
SHOWN = 20


@app.command()
def check(index: IndexArgument, debug: DebugOption = False) -> None:
    """Check every sample and row of a data set; each damaged one is named."""
    from skysense_cli.data.soundness import findings

    checked, bad = 0, 0
    for finding in console.progress(findings(_index(index)), "samples"):
        checked += 1
        if finding.problem:
            bad += 1
            console.fail(finding.problem)
    if bad:
        raise ItemsFailed(f"{index}: {bad} of {checked} samples are not sound")
    console.say(f"{checked} samples are sound")


@app.command()
def audit(index: IndexArgument, buffer_m: BufferOption = None, debug: DebugOption = False) -> None:
    """Measure how far val and test samples lie from training samples; too near ones are named."""
    from skysense_cli.data.audit import audit as measure

    folder = _index(index)
    least = _buffer(folder) if buffer_m is None else buffer_m
    found = measure(folder, least)
    console.table("distance of val and test samples from the nearest training sample", ["distance", "samples"], found.histogram())
    counts = ", ".join(f"{name or 'left out'} {count}" for name, count in sorted(found.counts.items()))
    console.say(f"samples: {counts}; buffer {least:g} m")
    if found.unplaced:
        console.warn(f"{found.unplaced} samples have no georeference and were not compared")
    if not found.too_near:
        console.say("no val or test sample overlaps a training sample or lies within the buffer")
        return
    rows = [(pair.held, pair.split, pair.train, f"{pair.metres:.1f}") for pair in found.too_near[:SHOWN]]
    console.table("worst pairs", ["sample", "split", "training sample", "metres"], rows)
    if found.apart_in_time:
        console.say(f"{len(found.too_near)} val and test samples share ground with training samples, but no day: the split is by time")
        return
    raise ItemsFailed(f"{folder}: {len(found.too_near)} val and test samples overlap a training sample or lie nearer than {least:g} m")


@app.command()
def preview(index: IndexArgument, out: PageOption, limit: LimitOption = 50, debug: DebugOption = False) -> None:
    """Write one HTML page that shows samples: their dates, valid pixels, places and facts."""
    from skysense_cli.data.gallery import write_gallery

    shown, total = write_gallery(_index(index), out, limit)
    console.say(f"{shown} of {total} samples in {out}")


def _index(given: Path) -> Path:
    """The index folder that is meant."""
    return given / "index" if (given / "index").is_dir() else given


def _buffer(folder: Path) -> float:
    """The buffer of the recipe beside the index, 0 where there is none."""
    from skysense_cli.recipe.load import load_recipe

    recipe = folder.parent / "recipe.yaml"
    if not recipe.is_file():
        return 0.0
    try:
        return float(load_recipe(recipe, "build-data").splits.buffer_m)
    except RecipeError as error:
        raise RecipeError(f"{recipe}: gives no buffer ({error}); say --buffer-m") from error
