"""One process or many: how they find each other, how a model is spread over them, how it is gathered again.

Without a process group nothing is communicated and every helper returns its input.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from skysense_cli.core.collective import rank, ranks
from skysense_cli.core.encoders import Encoder
from skysense_cli.core.fusions import Fusion
from skysense_cli.core.prompting import PromptedEncoder
from skysense_cli.recipe.schema.train import TrainSection


def start(device: str, store: Path | None = None, number: int = 0, count: int = 1) -> str:
    """Join the other processes; returns the device of this one.

    Under torchrun its environment says who takes part. With `store`, a file that does not exist yet, process
    `number` of `count` on one host meets the others there, over loopback. Alone, no group is started.
    """
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if store is not None and count > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(backend, store=dist.FileStore(str(store), count), rank=number, world_size=count)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group(backend)
    if device == "cuda" and ranks() > 1:
        device = f"cuda:{os.environ.get('LOCAL_RANK', number)}"
        torch.cuda.set_device(device)
    return device


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def shard(objective: nn.Module, plan: TrainSection) -> nn.Module:
    """`objective` ready to train, changed in place; the only place that knows how. The order matters.

    1. checkpoint per unit, so that what is recomputed is one compiled region and not a part of one;
    2. compile per unit: units of a kind share one compilation, and a change outside them recompiles nothing;
    3. shard per unit, then per encoder, then the root: each call takes what no earlier one has taken.
    A teacher is an encoder like any other here, so it is sharded like its student. In one process only 1 and 2.
    """
    units = list(_units(objective))
    if plan.checkpoint_activations:
        for unit in units:
            if any(parameter.requires_grad for parameter in unit.parameters()):
                _checkpoint(unit)
    if plan.compile:
        for unit in units:
            unit.compile()
    if ranks() > 1:
        fusions = (module for module in objective.modules() if isinstance(module, Fusion))
        for module in (*units, *_towers(objective), *fusions, objective):
            fully_shard(module)
    return objective


def full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The whole tensors, detached; every rank must call this with the same names in the same order."""
    return {name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach() for name, tensor in tensors.items()}


def load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load whole tensors into `module`, sharded or not; names must match exactly."""
    own = module.state_dict()
    spread = {
        name: distribute_tensor(tensor.to(own[name].device), own[name].device_mesh, own[name].placements)
        if isinstance(own.get(name), DTensor) else tensor
        for name, tensor in tensors.items()
    }  # fmt: skip
    module.load_state_dict(spread)


def like(tensor: Tensor, owner: Tensor) -> Tensor:
    """A whole `tensor` on the device and with the sharding of `owner`, if it has its shape."""
    if isinstance(owner, DTensor) and tensor.shape == owner.shape:
        return cast(Tensor, distribute_tensor(tensor.to(owner.device), owner.device_mesh, owner.placements))
    return tensor.to(owner.device) if tensor.ndim else tensor  # AdamW keeps its step counters on the CPU


def is_first() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if ranks() > 1:
        dist.barrier()


def _towers(objective: nn.Module) -> Iterator[Encoder | PromptedEncoder]:
    """What a model calls to encode. The encoder inside a prompted one is none: its own forward never runs."""
    inside = {id(module.encoder) for module in objective.modules() if isinstance(module, PromptedEncoder)}
    for module in objective.modules():
        if isinstance(module, Encoder | PromptedEncoder) and id(module) not in inside:
            yield module


def _units(objective: nn.Module) -> Iterator[nn.Module]:
    for tower in _towers(objective):
        yield from tower.units
    for module in objective.modules():
        if isinstance(module, Fusion) and isinstance(getattr(module, "layers", None), nn.ModuleList):
            yield from cast(nn.ModuleList, module.layers)


def _checkpoint(unit: nn.Module) -> None:
    """Recompute the unit in backward instead of keeping what it made. The names of its parameters stay."""
    plain = unit.forward

    def forward(*args, **kwargs):
        return checkpoint(plain, *args, use_reentrant=False, **kwargs)

    unit.forward = forward  # type: ignore[method-assign]
