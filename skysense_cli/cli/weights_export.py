"""`skysense weights export`: an encoder, or encoder and head, as a file that runs without this package."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from skysense_cli import console
from skysense_cli.cli.options import DebugOption
from skysense_cli.errors import RecipeError

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder of a training run.")]
FormatOption = Annotated[Literal["torch-export", "onnx"], typer.Option("--format", help="The kind of file.")]
SizeOption = Annotated[list[str], typer.Option("--size", metavar="HxW", help="Height and width in pixels; several times: one file each.")]
FileOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="The file, .pt2 or .onnx; NAME-HxW.onnx for several sizes.")]
ModalityOption = Annotated[str | None, typer.Option("--modality", help="Whose encoder; the model's anchor by default.")]
HeadOption = Annotated[bool, typer.Option("--with-head", help="From all dates of the anchor to class scores, instead of one encoder.")]
BatchOption = Annotated[int | None, typer.Option("--batch", min=1, help="A fixed number of samples; any number by default.")]
DatesOption = Annotated[int | None, typer.Option("--dates", min=1, help="With --with-head: a fixed number of dates; any by default.")]
NormalisedOption = Annotated[bool, typer.Option("--normalised", help="The file takes (pixel - mean) / std, not stored units.")]
VerifyOption = Annotated[bool, typer.Option("--verify", help="Run the file on random input and compare with the model.")]


def export(
    bundle: BundleArgument,
    size: SizeOption,
    out: FileOption,
    format_: FormatOption = "torch-export",
    modality: ModalityOption = None,
    with_head: HeadOption = False,
    batch: BatchOption = None,
    dates: DatesOption = None,
    normalised: NormalisedOption = False,
    verify: VerifyOption = False,
    debug: DebugOption = False,
) -> None:
    """Write an encoder, or encoder and head, as a torch.export archive or an ONNX model."""
    from skysense_cli.engine.assemble import load_bundle
    from skysense_cli.engine.export import check_format, sized, write
    from skysense_cli.engine.graphs import encoder_graph, model_graph

    sizes = [_size(text) for text in dict.fromkeys(size)]
    if dates is not None and not with_head:
        raise RecipeError("--dates goes with --with-head; an encoder sees one date at a time")
    check_format(format_, out, verify=verify)
    loaded = load_bundle(bundle)
    name = loaded.model.anchor if modality is None else modality
    if with_head:
        graphs = [model_graph(loaded, name, hw, batch=batch, dates=dates, normalised=normalised) for hw in sizes]
    else:
        graphs = [encoder_graph(loaded, name, hw, batch=batch, normalised=normalised) for hw in sizes]
    rows = []
    for hw, graph in zip(sizes, graphs, strict=True):
        exported = write(graph, sized(out, hw, sizes), format_, verify=verify)
        for path in exported.files:
            console.say(f"{path}: {path.stat().st_size:,} bytes")
        for found in exported.differences:
            axes = ", ".join(f"{axis} {count}" for axis, count in found.axes.items()) or "fixed"
            rows.append((exported.path.name, axes, f"{found.absolute:.2e}", f"{found.relative:.2e}", f"{found.share:.3f}"))
    if verify:
        console.table("file against model", ["file", "run", "largest difference", "over largest value", "share of tolerance"], rows)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if not found:
        raise RecipeError(f"--size {text}: height and width in pixels are expected, e.g. 64x64")
    return int(found[1]), int(found[2])
