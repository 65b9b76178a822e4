"""Graphs to files that other programs run: torch.export archives and ONNX, written whole and compared with eager.

The contract (inputs, units, bands, sizes) lies in the file: `contract.json` of a torch.export archive, the metadata
property `skysense` of an ONNX model.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from skysense_cli.engine.graphs import BATCH, DATES, Graph, Tensors
from skysense_cli.errors import BundleError, RecipeError
from skysense_cli.files import TEMPORARY

Format = Literal["torch-export", "onnx"]
SUFFIX: dict[Format, str] = {"torch-export": ".pt2", "onnx": ".onnx"}
CONTRACT = "contract.json"
PROPERTY = "skysense"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ONE_FILE_BYTES = 1_500_000_000  # an ONNX file ends at 2 GB; above this the weights lie beside it
# float32 in another order: 24 layers differ by about 1e-5, a wrong operator by 1e-2 and more
TOLERANCE = 1e-4
EXAMPLE = {BATCH: 2, DATES: 3}  # of open axes, while tracing; 1 would be taken for a constant
TRIALS = ({BATCH: 1, DATES: 1}, {BATCH: 3, DATES: 4})


@dataclass(frozen=True)
class Difference:
    """Exported against eager over all outputs of one run. relative: to the largest value of the output      share: of what is allowed"""

    axes: dict[str, int]
    absolute: float
    relative: float
    share: float


@dataclass(frozen=True)
class Exported:
    """path: of the file      files: all that were written      differences: one per run, empty when not verified"""

    path: Path
    files: tuple[Path, ...]
    differences: tuple[Difference, ...]


def check_format(format_: Format, path: Path, *, verify: bool) -> None:
    """RecipeError for a suffix that is not the format's, or for packages that are not installed."""
    if path.suffix != SUFFIX[format_] or path.is_dir():
        found = ", this is a folder" if path.is_dir() else ""
        raise RecipeError(f"--out {path}: a file of format {format_} ends in {SUFFIX[format_]}{found}")
    needed = PACKAGES if verify else PACKAGES[:2]
    missing = [name for name in needed if format_ == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(f"--format onnx needs {', '.join(missing)}: pip install 'skysense-cli[export]'")


def sized(path: Path, size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> Path:
    """`path` for a single size, `<name>-<H>x<W><suffix>` for each of several."""
    return path if len(sizes) == 1 else path.with_name(f"{path.stem}-{size[0]}x{size[1]}{path.suffix}")


def write(graph: Graph, path: Path, format_: Format, *, verify: bool, one_file_bytes: int = ONE_FILE_BYTES) -> Exported:
    """Write `graph` to `path`; nothing is left there when it cannot be exported or, with `verify`, differs from eager.

    ONNX weights above `one_file_bytes` lie in `<path>.data` beside it. Raises BundleError.
    """
    inputs = graph.example(EXAMPLE, 0)
    with torch.no_grad():
        expected = graph.reference(*inputs)
        if not (worst := _difference(graph, graph.module(*inputs), expected, {}).share) <= 1:
            raise BundleError(f"{path}: what would be exported is not what the model computes ({worst:.3g} times the tolerance)")
        program = _traced(graph, inputs, path)
        contract = graph.contract | _shapes(graph, program, expected)
        with _beside(path) as folder:
            if format_ == "onnx":
                _write_onnx(program, graph, contract, folder / path.name, one_file_bytes)
                run = _onnx_runner if verify else None
            else:
                _write_archive(program, contract, folder / path.name)
                run = _archive_runner if verify else None
            del program
            differences = tuple(_verified(graph, run(folder / path.name), path)) if run else ()
            files = tuple(path.with_name(file.name) for file in sorted(folder.iterdir()))
    return Exported(path, files, differences)


def read_contract(path: Path) -> dict[str, Any]:
    """What an exported file says of itself."""
    if path.suffix == SUFFIX["onnx"]:
        import onnx

        found = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        return json.loads(found[PROPERTY])
    extra = {CONTRACT: ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra[CONTRACT])


def _traced(graph: Graph, inputs: Tensors, path: Path) -> torch.export.ExportedProgram:
    """The graph of operators, with the axes open that have a name."""
    from torch._dynamo.exc import TorchDynamoException
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    open_axes = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, side in enumerate(shape) if isinstance(side, str)} for shape in graph.inputs.values()
    )
    try:
        return torch.export.export(graph.module, inputs, dynamic_shapes=open_axes, strict=False)
    except (TorchDynamoException, GuardOnDataDependentSymNode) as error:
        reason = str(error).strip().splitlines()[0]
        opened = sorted({side for shape in graph.inputs.values() for side in shape if isinstance(side, str)})
        hint = f"; try fixed numbers with {' and '.join(f'--{name}' for name in opened)}" if opened else ""
        raise BundleError(f"{path}: torch.export cannot hold this model: {reason}{hint}") from error


def _shapes(graph: Graph, program: torch.export.ExportedProgram, expected: Tensors) -> dict[str, Any]:
    """Names, shapes and types of inputs and outputs, and how large the open axes may be."""
    examples = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"][-len(graph.inputs) :]
    inputs = [
        {"name": name, "shape": list(shape), "type": str(value.dtype).removeprefix("torch.")}
        for (name, shape), value in zip(graph.inputs.items(), examples, strict=True)
    ]
    first = next(iter(graph.inputs.values()))[0]
    outputs = [
        {"name": name, "shape": [first, *value.shape[1:]], "type": str(value.dtype).removeprefix("torch.")}
        for name, value in zip(graph.outputs, expected, strict=True)
    ]
    return {"inputs": inputs, "outputs": outputs}


def _write_archive(program: torch.export.ExportedProgram, contract: dict[str, Any], path: Path) -> None:
    torch.export.save(program, path, extra_files={CONTRACT: json.dumps(contract, indent=1)})


def _write_onnx(program: torch.export.ExportedProgram, graph: Graph, contract: dict[str, Any], path: Path, one_file_bytes: int) -> None:
    names = (list(graph.inputs), list(graph.outputs))
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about itself
        try:
            made = torch.onnx.export(program, (), input_names=names[0], output_names=names[1], dynamo=True, verbose=False)
        except torch.onnx.errors.OnnxExporterError as error:
            raise BundleError(f"{path.name}: ONNX cannot hold this model: {str(error).strip().splitlines()[0]}") from error
    model = cast(Any, made).model
    model.metadata_props[PROPERTY] = json.dumps(contract)
    _name_axes(model.graph, graph)
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    cast(Any, made).save(path, external_data=size > one_file_bytes)


def _name_axes(made: Any, graph: Graph) -> None:
    """Open axes of an ONNX graph called as in `graph.inputs`, in place of the tracer's symbols."""
    names = {}
    for value, shape in zip(made.inputs, graph.inputs.values(), strict=True):
        names.update({str(value.shape[axis]): side for axis, side in enumerate(shape) if isinstance(side, str)})
    for value in (*made.inputs, *(value for node in made for value in node.outputs)):
        for axis, side in enumerate(value.shape or ()):
            if not isinstance(side, int) and side.value is not None:
                value.shape[axis] = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), str(side.value))


def _archive_runner(path: Path) -> Callable[[Tensors], Tensors]:
    module = torch.export.load(path).module()
    return lambda inputs: module(*inputs)


def _onnx_runner(path: Path) -> Callable[[Tensors], Tensors]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Tensors) -> Tensors:
        fed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(value) for value in session.run(None, fed))

    return run


def _verified(graph: Graph, run: Callable[[Tensors], Tensors], path: Path) -> Iterator[Difference]:
    """How far the file is from eager, for one run per trial. Raises BundleError above the tolerance."""
    for seed, axes in enumerate(TRIALS, start=1):
        inputs = graph.example(axes, seed)
        found = _difference(graph, run(inputs), graph.reference(*inputs), axes)
        if not found.share <= 1:  # also NaN
            raise BundleError(
                f"{path}: differs from the model by {found.absolute:.3g}, {found.share:.3g} times what is allowed "
                f"({TOLERANCE:g} + {TOLERANCE:g} x value); not written"
            )
        yield found


def _difference(graph: Graph, found: Sequence[Tensor], expected: Sequence[Tensor], axes: dict[str, int]) -> Difference:
    absolute = relative = share = 0.0
    for a, b in zip(found, expected, strict=True):
        apart = (a - b).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)  # max() below would pass over NaN
        absolute = max(absolute, float(apart.max()))
        relative = max(relative, float(apart.max() / b.abs().nan_to_num(nan=1.0).max().clamp(min=torch.finfo(b.dtype).tiny)))
        share = max(share, float((apart / (TOLERANCE + TOLERANCE * b.abs())).nan_to_num(nan=torch.inf, posinf=torch.inf).max()))
    named = {side for shape in graph.inputs.values() for side in shape if isinstance(side, str)}
    return Difference({name: value for name, value in axes.items() if name in named}, absolute, relative, share)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A fresh folder beside `path` whose files are synced and moved to `path`'s folder at the end, `path` itself last.

    An ONNX file names the file of its weights, so both are written under their own names.
    """
    folder = path.with_name(path.name + TEMPORARY)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            os.replace(file, path.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Loggers that speak of their own progress say nothing."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
