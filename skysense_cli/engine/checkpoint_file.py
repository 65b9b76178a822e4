"""Files of weights made elsewhere, read without running code and without trusting what they claim.

Known forms: what torch saves (zip archives, and the older plain pickles) and safetensors. A zip archive and safetensors
are mapped, so that opening one costs no memory, whatever its size.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from skysense_cli.engine import bundle
from skysense_cli.engine.spec import BundleSpec, read_spec
from skysense_cli.errors import BundleError

WRAPPERS = ("model", "state_dict")  # keys under which trainers keep the weights beside their own state
MAX_WRAPPERS = 4
MAX_KEYS, MAX_NAME = 100_000, 500
MAX_PICKLE_BYTES = 256_000_000  # of a zip archive's description; that of the largest released file has less than one MB
LENGTH_BYTES = 8  # before each storage of an old plain pickle
UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    AssertionError, MemoryError, OverflowError, RecursionError,
)  # fmt: skip
# plain numbers that trainers keep beside the weights, e.g. the best score so far
NUMBERS: list[Any] = [np._core.multiarray.scalar, np.dtype, *(type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "?"))]


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """An opened file.

    form: what kind of file it is, in words        tensors: by the names that the file uses, without its wrappers
    beside: entries that are no weights -> what they are      spec: of a bundle; None for a file made elsewhere
    """

    path: Path
    form: str
    tensors: Mapping[str, Tensor]
    beside: Mapping[str, str] = field(default_factory=dict)
    spec: BundleSpec | None = None


def open_weights(path: Path, *, values: bool = True) -> WeightsFile:
    """The tensors of a file or a bundle. Raises BundleError with one line that says what is wrong with it.

    values: False = names, shapes and types are enough; then nothing is read but the description, and the tensors of an old
    plain pickle have no content. Otherwise such a file is read into memory; all other forms are mapped.
    """
    if path.is_dir():
        return _open_bundle(path, verify=values)
    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    if head.startswith(b"PK\x03\x04"):
        form, content = "torch", _read_archive(path)
    elif head[8:] == b"{":
        return WeightsFile(path, "safetensors", _checked(_map_safetensors(path), path))
    elif head.startswith(b"\x80"):
        form, content = "torch, old form", _read_old(path, values)
    else:
        what = "is empty" if not head else f"begins with {head[:8]!r}"
        raise BundleError(f"{path}: {what}; weights saved by torch (.pth, .ckpt), safetensors or a bundle folder are expected")
    tensors, beside = _unwrap(content, path)
    return WeightsFile(path, form, _checked(tensors, path), beside)


def _open_bundle(path: Path, *, verify: bool) -> WeightsFile:
    bundle.check_files(path, hashes=verify)
    spec = read_spec(bundle.read_description(path), path)
    return WeightsFile(path, "bundle", _checked(_map_safetensors(path / bundle.WEIGHTS), path), spec=spec)


def _map_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise BundleError(f"{path}: not readable as safetensors, or cut short ({_one_line(error)})") from error


def _read_archive(path: Path) -> Any:
    """The content of a zip archive of torch, its tensors mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BundleError(f"{path}: cut short or damaged: its table of contents cannot be read ({error}); fetch it again") from error
    if any("/code/" in entry.filename for entry in entries):
        raise BundleError(f"{path}: holds a program (TorchScript), which is never run; weights alone are expected")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise BundleError(f"{path}: a compressed zip archive, which torch does not make; unpack it and give the file inside")
    pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise BundleError(f"{path}: a zip archive without weights of torch (no data.pkl in it)")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise BundleError(f"{path}: its description has {pickles[0].file_size} bytes, more than {MAX_PICKLE_BYTES}")
    return _load(path, path, mmap=True)


def _read_old(path: Path, values: bool) -> Any:
    """The content of a plain pickle of torch; without memory for its tensors unless `values`."""
    with path.open("rb") as file:
        with FakeTensorMode():
            content = _load(path, file)
        here = path.stat().st_size - file.tell()
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in _tensors(content)}
    claimed = sum(storages.values())
    if claimed + LENGTH_BYTES * len(storages) > here:
        raise BundleError(f"{path}: cut short, or claims more than it holds: {claimed} bytes of tensors, {here} bytes for them")
    return _load(path, path) if values else content


def _load(path: Path, opened: Path | BinaryIO, *, mmap: bool = False) -> Any:
    """`torch.load` of tensors and plain values only; whatever else is in the file is refused, nothing of it is run."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(NUMBERS):
            warnings.simplefilter("ignore")
            return torch.load(opened, map_location="cpu", weights_only=True, mmap=mmap)
    except UNREADABLE as error:
        text = str(error)
        code = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"[Uu]nsupported class\W+([\w.]+)", text)
        if code:
            raise BundleError(
                f"{path}: can only be read by running code that it names ({code[1]}); nothing was run. "
                "Weights alone are expected: ask its author for a file of plain tensors"
            ) from error
        detail = re.search(r"WeightsUnpickler error:\s*([^\n]+)", text)  # the rest is advice to switch the safety off
        why = detail[1].strip()[:100] if detail else _one_line(error)
        raise BundleError(f"{path}: cut short, damaged, or a pickle of other things than tensors ({why}); nothing of it was run") from error


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights inside the wrappers of trainers, and in words what lies beside them."""
    beside: dict[str, str] = {}
    for _ in range(MAX_WRAPPERS):
        if not isinstance(content, Mapping):
            raise BundleError(f"{path}: holds {_describe(content)}; a mapping of names to tensors is expected")
        inside = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if len(inside) > 1:
            raise BundleError(f"{path}: has weights both under {' and '.join(inside)}; keep one of them")
        if not inside:
            break
        beside |= {str(key): _describe(value) for key, value in content.items() if key != inside[0]}
        content = content[inside[0]]
    else:
        raise BundleError(f"{path}: more than {MAX_WRAPPERS} wrappers ({', '.join(WRAPPERS)}) inside each other")
    tensors = {}
    for key, value in content.items():
        if isinstance(value, Tensor):
            tensors[key] = value
        elif any(True for _ in _tensors(value)):
            raise BundleError(f"{path}: {key} is {_describe(value)}, a single tensor is expected (known wrappers: {', '.join(WRAPPERS)})")
        else:
            beside[str(key)] = _describe(value)
    return tensors, beside


def _checked(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    if not tensors:
        raise BundleError(f"{path}: holds no tensors")
    if len(tensors) > MAX_KEYS:
        raise BundleError(f"{path}: holds {len(tensors)} tensors, more than {MAX_KEYS}")
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not 0 < len(key) <= MAX_NAME or not key.isprintable():
            raise BundleError(f"{path}: the name {str(key)[:80]!r} is no name of a tensor (text of 1 to {MAX_NAME} characters)")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise BundleError(f"{path}: {key} is sparse or quantised; plain tensors are expected")
    return tensors


def _tensors(content: Any) -> Iterator[Tensor]:
    """All tensors inside nested containers; each container is entered once, however often it is referred to."""
    waiting, entered = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in entered:
            entered.add(id(value))
            waiting.extend(value.values() if isinstance(value, Mapping) else value)


def _describe(value: Any) -> str:
    count = sum(1 for _ in _tensors(value))
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, Mapping | list | tuple):
        return f"a {type(value).__name__} of {len(value)} entries, {count} tensors in it"
    return type(value).__name__


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + " ..."
