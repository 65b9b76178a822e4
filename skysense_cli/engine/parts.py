"""Finished strips of an output that is not finished, kept so that a later run goes on where an earlier one ended.

    .map.tif.parts/            hidden beside the output; gone when the output is there
        facts.json                    from what the strips are made: bundle, recipe, scenes; written first
        r000003_c000000-000021.npz    the arrays of one finished strip, by name
        finished-0.jsonl              a line for each strip: name, sha256, bytes; each process that computes has its own file

A strip counts when a manifest names it and its bytes have that digest; any other is made again. So nothing needs a
sync, and whatever a kill or a crash leaves is either used whole or not at all.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skysense_cli import console
from skysense_cli.errors import SkySenseError
from skysense_cli.files import TEMPORARY, write_text

FACTS, SUFFIX = "facts.json", ".npz"
SHOWN = 4  # differences named in a message


class OtherPartsError(SkySenseError):
    """What an earlier run left belongs to another bundle, recipe or scene."""

    exit_code = 2


class Parts:
    """The finished strips of `output`. writer: number of this process among those that compute

    One process calls `begin`; all may `put`. A strip is a name and arrays; a raster's are its pixels by kind of
    output, a vector's the columns of its boxes.
    """

    def __init__(self, output: Path, writer: int = 0) -> None:
        self.output = Path(output)
        self.folder = self.output.with_name(f".{self.output.name}.parts")
        self._manifest = self.folder / f"finished-{writer}.jsonl"

    def begin(self, facts: Mapping[str, Any], *, overwrite: bool = False) -> set[str]:
        """The names of the strips that are there already, their bytes checked.

        facts: from what strips are made; plain JSON, nested at most once
        Raises OtherPartsError, naming what differs, when an earlier run made them from something else; with
        `overwrite` they are removed.
        """
        if (changed := self.changed(facts)) and not overwrite:
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            raise OtherPartsError(
                f"{self.output}: an earlier run that did not end made a part of it from something else "
                f"({'; '.join(changed[:SHOWN])}{more}); give --overwrite to start anew, or choose another --out"
            )
        if changed or not self.begun:
            self.remove()
            write_text(self.folder / FACTS, json.dumps(facts, indent=1, sort_keys=True) + "\n")
        return self._sound()

    @property
    def begun(self) -> bool:
        """Whether some process said from what strips are made."""
        return (self.folder / FACTS).exists()

    def changed(self, facts: Mapping[str, Any]) -> list[str]:
        """How `facts` differ from those of the strips that are there, a phrase each; empty when there are none."""
        try:
            before = json.loads((self.folder / FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return differences(before, json.loads(json.dumps(facts)))

    def finished(self) -> dict[str, tuple[str, int]]:
        """Name -> (sha256, bytes) of the strips that the manifests name and that have their size."""
        found: dict[str, tuple[str, int]] = {}
        for manifest in sorted(self.folder.glob("finished-*.jsonl")):
            for line in manifest.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    found[str(entry["name"])] = str(entry["sha256"]), int(entry["bytes"])
                except (ValueError, KeyError, TypeError):
                    continue  # a line that was cut off
        return {name: entry for name, entry in found.items() if self._size(name) == entry[1]}

    def put(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a finished strip. Raises OSError, which names the file, when the disk does not take it."""
        packed = io.BytesIO()
        np.savez(packed, **arrays)  # type: ignore[arg-type]
        path = self.folder / f"{name}{SUFFIX}"
        temporary = path.with_name(path.name + TEMPORARY)
        line = json.dumps({"name": name, "sha256": hashlib.sha256(packed.getbuffer()).hexdigest(), "bytes": packed.getbuffer().nbytes})
        try:
            temporary.write_bytes(packed.getbuffer())
            temporary.replace(path)
            with self._manifest.open("a", encoding="utf-8") as manifest:
                manifest.write("\n" + line)  # the line before may have been cut off
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(error.filename or path)) from error

    def take(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """(name, arrays) of these strips, in this order. Raises OtherPartsError for one whose bytes are not those that were kept."""
        known = self.finished()
        for name in names:
            packed = self._read(name)
            if packed is None or name not in known or hashlib.sha256(packed).hexdigest() != known[name][0]:
                raise OtherPartsError(f"{self.folder / name}{SUFFIX}: was changed while it was used; run the same command again")
            with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
                yield name, {key: arrays[key] for key in arrays.files}

    def remove(self) -> None:
        """Leave nothing."""
        (self.folder / FACTS).unlink(missing_ok=True)  # first: without it the rest counts for nothing
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _sound(self) -> set[str]:
        found = set()
        for name, (digest, _) in self.finished().items():
            packed = self._read(name)
            if packed is not None and hashlib.sha256(packed).hexdigest() == digest:
                found.add(name)
            else:
                console.warn(f"{self.folder / name}{SUFFIX} is damaged; this strip is made again")
                (self.folder / f"{name}{SUFFIX}").unlink(missing_ok=True)
        return found

    def _size(self, name: str) -> int | None:
        try:
            return (self.folder / f"{name}{SUFFIX}").stat().st_size
        except OSError:
            return None

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / f"{name}{SUFFIX}").read_bytes()
        except OSError:
            return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two sets of facts differ in, a phrase each: `bundle was 3f2a..., is 99ab...`."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{key}: {phrase}" for phrase in differences(old, new)]
        elif old != new:
            found.append(f"{key} was {_short(old)}, is {_short(new)}")
    return found


def _short(value: Any) -> str:
    if value is None:
        return "absent"
    text = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
    return text if len(text) < 60 else f"{text[:12]}..."
