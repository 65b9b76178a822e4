"""A bundle: a checkpoint folder with readable facts, weights and a manifest. Knows no model.

    bundle.json           what the weights belong to (engine/spec.py says which keys)
    weights.safetensors   tensors by name
    state/                only in checkpoints: everything that resuming needs, by torch.distributed.checkpoint
    manifest.json         sha256 and size of every other file; written last

A folder without a manifest, or that differs from it, is refused by name. Equal content is equal bytes.
"""

import json
import pickle
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, Metadata
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from skysense_cli.engine import tensor_file
from skysense_cli.errors import BundleError
from skysense_cli.files import sha256, whole_folder

SPEC, WEIGHTS, MANIFEST, STATE = "bundle.json", "weights.safetensors", "manifest.json", "state"
METADATA = ".metadata"  # of torch.distributed.checkpoint, a pickle
CHECKPOINTS = ".checkpoints"  # in the run folder; hidden, since they come and go while `bundle/` is what one uses
MAX_SPEC_BYTES = 4_000_000

# the classes a checkpoint's metadata is made of; nothing else is ever unpickled
_DCP = "torch.distributed.checkpoint"
_ALLOWED = {
    *((f"{_DCP}.metadata", name) for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING",
        "ChunkStorageMetadata", "MetadataIndex",
    )),
    (f"{_DCP}.filesystem", "_StorageInfo"), ("torch", "Size"), ("torch.serialization", "_get_layout"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bundle:
    """spec: the content of bundle.json      tensors: by name, on the CPU      manifest: file -> {sha256, bytes}"""

    path: Path
    spec: dict[str, Any]
    tensors: dict[str, Tensor]
    manifest: dict[str, dict[str, Any]]


def save(
    folder: Path,
    spec: dict[str, Any],
    tensors: Mapping[str, Tensor],
    state: dict[str, Tensor] | None = None,
    *,
    value: Callable[[str], Tensor] | None = None,
) -> None:
    """Write a bundle under a temporary name and rename it to `folder`, replacing what is there.

    value: gives a tensor's content when it is written; then `tensors` may lie on the meta device.
    """
    with whole_folder(folder) as temporary:
        (temporary / SPEC).write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
        tensor_file.write(temporary / WEIGHTS, tensors, value)
        if state is not None:
            _save_state(temporary / STATE, state)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        manifest = {path.relative_to(temporary).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(folder: Path, *, verify: bool = True) -> Bundle:
    """The bundle in `folder`. Raises BundleError that says which file is missing, changed or unreadable.

    verify: compare every file with the manifest first (sizes are always compared)
    """
    manifest = check_files(folder, hashes=verify)
    spec = read_description(folder)
    try:
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
    except safetensors.SafetensorError as error:
        raise BundleError(f"{folder / WEIGHTS}: not readable as safetensors ({error})") from error
    return Bundle(folder, spec, tensors, manifest)


def read_description(folder: Path) -> dict[str, Any]:
    """The content of `folder`'s bundle.json, as it stands. Raises BundleError when it is not readable."""
    return _read_json(folder / SPEC)


def read_state(folder: Path) -> dict[str, Tensor]:
    """The tensors under `state/` of a checkpoint, by name, after its manifest is verified.

    Raises BundleError when there is no state, or its metadata holds anything but descriptions of tensors.
    """
    manifest = check_files(folder)
    if f"{STATE}/{METADATA}" not in manifest:
        raise BundleError(f"{folder}: has weights only, no {STATE}/ to resume from")
    reader = _Reader(folder / STATE)
    state: dict[str, Any] = {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise BundleError(f"{folder / STATE}: {name} is not a tensor")
        state[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "assuming the intent is to load in a single process": it is
        dcp.load(state, storage_reader=reader, no_dist=True)
    return state


def check_files(folder: Path, *, hashes: bool = True) -> dict[str, dict[str, Any]]:
    """The manifest of `folder`, after every file was compared with it. Raises BundleError naming the first that differs."""
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such bundle (a folder with {SPEC}, {WEIGHTS} and {MANIFEST})")
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder}: no {MANIFEST}; this is no bundle, or its writing was interrupted")
    manifest = _read_json(folder / MANIFEST)
    for name in (SPEC, WEIGHTS):
        if name not in manifest:
            raise BundleError(f"{folder / MANIFEST}: does not list {name}")
    for name, facts in manifest.items():
        path = folder / name
        if not isinstance(facts, dict) or not {"bytes", "sha256"} <= set(facts) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError(f"{folder / MANIFEST}: {name!r} is not a file with sha256 and bytes")
        if not path.is_file():
            raise BundleError(f"{path}: listed in {MANIFEST} but missing")
        if path.stat().st_size != facts["bytes"]:
            raise BundleError(f"{path}: has {path.stat().st_size} bytes, {MANIFEST} says {facts['bytes']}")
        if hashes and sha256(path) != facts["sha256"]:
            raise BundleError(f"{path}: content differs from {MANIFEST} (sha256)")
    return manifest


def checkpoint_path(home: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies in the run folder `home`."""
    return home / CHECKPOINTS / f"step_{step:08d}"


def checkpoints(home: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every finished checkpoint of a run, ascending; leftovers of a kill are not among them."""
    found = []
    for path in sorted((home / CHECKPOINTS).glob("step_*")):
        match = re.fullmatch(r"step_(\d{8,})", path.name)
        if match and (path / MANIFEST).is_file():
            found.append((int(match[1]), path))
    return found


def prune(home: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what a kill left unfinished."""
    finished = [path for _, path in checkpoints(home)]
    kept = {path.name for path in finished[-keep:]}
    for path in sorted((home / CHECKPOINTS).glob("step_*")):
        if path.name not in kept:
            (path / MANIFEST).unlink(missing_ok=True)  # first, so that a kill here leaves no damaged checkpoint
            shutil.rmtree(path)


class _Reader(FileSystemReader):
    """Reads metadata through an unpickler that knows only the classes metadata is made of."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = Path(self.path) / METADATA
        with path.open("rb") as file:
            try:
                metadata = _Unpickler(file).load()
            except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
                raise BundleError(f"{path}: not the metadata of a checkpoint ({error})") from error
        if not isinstance(metadata, Metadata):
            raise BundleError(f"{path}: not the metadata of a checkpoint (found {type(metadata).__name__})")
        for info in (metadata.storage_data or {}).values():
            if Path(info.relative_path).name != info.relative_path:
                raise BundleError(f"{path}: points outside its folder ({info.relative_path!r})")
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed there")


def _save_state(folder: Path, state: dict[str, Tensor]) -> None:
    """Write `state` so that equal tensors are equal bytes."""
    folder.mkdir()
    writer = FileSystemWriter(folder, single_file_per_rank=True, sync_files=False, thread_count=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "assuming the intent is to save in a single process": it is
        metadata = dcp.save(dict(sorted(state.items())), storage_writer=writer, no_dist=True)
        if not isinstance(metadata, Metadata):
            with (folder / METADATA).open("rb") as file:  # written a moment ago by this very process
                metadata = pickle.load(file)
    with (folder / METADATA).open("wb") as file:
        pickler = pickle.Pickler(file, protocol=4)
        pickler.fast = True  # no memo: which equal strings are one object differs between a fresh and a resumed run
        pickler.dump(replace(metadata, storage_meta=None))  # it holds a random id and a path


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BundleError(f"{path}: missing")
    if path.stat().st_size > MAX_SPEC_BYTES:
        raise BundleError(f"{path}: {path.stat().st_size} bytes, more than {MAX_SPEC_BYTES}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path}: a JSON object is expected, found {type(content).__name__}")
    return content
