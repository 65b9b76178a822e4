"""Writing safetensors one tensor at a time, byte for byte as the library does; it wants all of them in memory at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

# in the library's order: wide types first, so that all are aligned, then by name
TYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write(path: Path, tensors: Mapping[str, Tensor], value: Callable[[str], Tensor] | None = None) -> None:
    """Write `tensors` by name. At most one of them is copied at a time, and none that lies contiguous on the CPU.

    value: gives a tensor's content when its turn comes; then shapes and types alone are read from `tensors`, which may
    lie on the meta device.
    """
    order = list(TYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header, start = {}, 0
    for name in names:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            said = tensors[name]
            tensor = (said if value is None else value(name)).detach()
            if (tensor.shape, tensor.dtype) != (said.shape, said.dtype):
                raise ValueError(f"{name}: {tensor.shape} {tensor.dtype} was given where {said.shape} {said.dtype} was said")
            file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
