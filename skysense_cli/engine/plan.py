"""What a training command is about to do, as tables: inputs, shapes down to the cells, parameters, memory, disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from skysense_cli import console
from skysense_cli.core.batch import Batch, Views
from skysense_cli.core.model import SkySense
from skysense_cli.engine.assemble import Assembly, check_cells, strides
from skysense_cli.recipe.schema.train import TrainSection

MIB = 2**20
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and rows."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[object]]


def training_plan(assembly: Assembly, plan: TrainSection, batch: Batch | Views, device: str) -> list[Table]:
    """The tables of a plan. batch: one of a single sample; its step is run forward once to measure what it keeps."""
    return [_data(assembly, plan), _shapes(assembly), _parameters(assembly), _costs(assembly, plan, batch, device)]


def show(tables: Sequence[Table]) -> None:
    """Print them."""
    for table in tables:
        console.table(table.title, table.columns, table.rows)


def _data(assembly: Assembly, plan: TrainSection) -> Table:
    data = assembly.data
    crop = "whole samples" if data.crop_m is None else f"crops of {data.crop_m:g} m"
    rows = [("samples", f"{len(data.rows)} in {data.folder}, {crop}"),
            ("steps", f"{plan.steps} x {plan.batch} samples = {plan.steps * plan.batch / len(data.rows):.1f} epochs")]  # fmt: skip
    if assembly.val is not None:
        rows.append(("validation", f"{len(assembly.val.rows)} samples"))
    if data.classes:
        rows.append(("classes", ", ".join(fact.name for fact in data.classes)))
    return Table("data", ("what", "value"), rows)


def _shapes(assembly: Assembly) -> Table:
    """One line per modality: from its pixels to the shared cells."""
    spec, model = assembly.spec, cast(SkySense, assembly.objective.export()["model"])
    cells = check_cells(spec.size_m, spec.inputs, strides(model), spec.model.cell_m)
    rows = []
    for name, facts in spec.inputs.items():
        encoder, lift = model.parts(name)
        sides = [round(side / facts.gsd_m) for side in spec.size_m]
        having = int(assembly.data.rows.having(name).sum())
        pyramid = " ".join(
            f"{channels}x{sides[0] // stride}x{sides[1] // stride}"
            for channels, stride in zip(encoder.tap_channels, encoder.tap_strides, strict=True)
        )
        rows.append((
            name, facts.sensor, having, f"{spec.dates[name]}x{len(facts.bands)}x{sides[0]}x{sides[1]} at {facts.gsd_m:g} m", pyramid,
            f"x{lift.scale}", f"{lift.width}x{cells[0]}x{cells[1]}",
        ))  # fmt: skip
    features = model.spec
    rows.append(("fused", "", len(assembly.data.rows), "", "", "", f"{features.fused}x{cells[0]}x{cells[1]}"))
    return Table(
        f"shapes (cells of {spec.model.cell_m:g} m; dates x bands x rows x columns)",
        ("input", "sensor", "samples", "read", "pyramid", "lift", "cells"), rows,
    )  # fmt: skip


def _parameters(assembly: Assembly) -> Table:
    """Parameters per part; what is not exported (teacher, projectors) is training only."""
    parts: dict[str, int] = {}
    for name, module in _parts(assembly.objective):
        parts[name] = parts.get(name, 0) + sum(parameter.numel() for parameter in module.parameters())
    parts["all"] = sum(parameter.numel() for parameter in assembly.objective.parameters())
    return Table("parameters", ("part", "parameters"), [(name, f"{count:,}") for name, count in parts.items() if count])


def _parts(objective: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of the model one by one, everything else by its name in the objective."""
    for name, child in objective.named_children():
        if name != "model":
            yield name, child
            continue
        for part, module in child.named_children():
            if isinstance(module, nn.ModuleDict):
                yield from ((f"{part}.{key}", entry) for key, entry in module.items())
            else:
                yield part, module


def _costs(assembly: Assembly, plan: TrainSection, batch: Batch | Views, device: str) -> Table:
    """Memory while training and disk at the end, estimated from one forward pass of one sample."""
    objective = assembly.objective
    state = sum(t.numel() * t.element_size() for t in objective.state_dict().values())
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad) * FLOAT_BYTES
    exported = sum(t.numel() * t.element_size() for part in objective.export().values() for t in part.state_dict().values())
    kept = _kept_by_autograd(objective, batch) * plan.batch
    pixels = _bytes(batch) * plan.batch
    memory = state + 3 * trained + kept + pixels  # weights; gradients and two moments; activations; pixels
    checkpoint = state + 2 * trained + exported
    count = min(plan.keep, -(-plan.steps // plan.save_every))
    return Table("costs (estimated)", ("what", "MiB"), [
        (f"memory on {device}: weights and buffers", _mib(state)), ("  gradients and optimizer", _mib(3 * trained)),
        (f"  activations of {plan.batch} samples, without recomputing", _mib(kept)), ("  one batch of pixels", _mib(pixels)),
        ("  together", _mib(memory)), (f"disk: {count} checkpoints, one more while saving", _mib((count + 1) * checkpoint)),
        ("  final bundle", _mib(exported)),
    ])  # fmt: skip


def _kept_by_autograd(objective: nn.Module, batch: Batch | Views) -> int:
    """Bytes that a forward pass keeps for backward, weights not counted. Leaves buffers as they were."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*objective.parameters(), *objective.buffers())}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    before = {name: buffer.clone() for name, buffer in objective.named_buffers()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = objective(batch)
        total = torch.stack(list(losses.values())).sum()  # keeps the graph, and so the storages, until here
    del total
    for name, buffer in objective.named_buffers():
        buffer.copy_(before[name])
    return sum(found.values())


def _bytes(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, dict) else vars(value).values() if hasattr(value, "__dict__") else ()
    return sum(_bytes(item) for item in items)


def _mib(count: int) -> str:
    return f"{count / MIB:,.1f}"
