"""A prototype map that was stopped: portions that were finished are kept, and a later run goes on where the earlier one ended."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skysense_cli.data import scene_files
from skysense_cli.engine.parts import Parts
from skysense_cli.engine.prototype_job import PrototypeJob
from skysense_cli.engine.prototype_map import CellRows
from skysense_cli.engine.prototype_mosaic import Piece, Stream
from skysense_cli.engine.prototype_samples import SampleCells
from skysense_cli.engine.prototype_scenes import SceneCells
from skysense_cli.engine.prototype_sheets import Source
from skysense_cli.engine.scene_job import computed_with

NAMES = ("index", "similarity", "region")


def state(job: PrototypeJob, recipe_digest: str) -> dict[str, Any]:
    """All that the cells of a portion depend on, as plain JSON."""
    sources = [source for sheet in job.sheets for source in sheet.sources]
    scenes = {source.id: scene_files.states(source.job.scene) for source in sources if isinstance(source, SceneCells)}
    return {"recipe": recipe_digest, **computed_with(job.bundle), **scenes, "samples": _samples_digest(sources)}


def resumed(streams: Sequence[Stream], parts: Parts, there: Collection[str], sheet: int) -> list[Stream]:
    """The streams of a sheet with portions that are kept once they are made; those that are `there` are not made again."""
    return [_resumed(stream, parts, there, f"s{sheet:03d}_{number:04d}") for number, stream in enumerate(streams)]


def _resumed(stream: Stream, parts: Parts, there: Collection[str], prefix: str) -> Stream:
    def pieces(portions: Sequence[int]) -> Iterator[Piece]:
        names = {portion: f"{prefix}_{portion:07d}" for portion in portions}
        missing = [portion for portion in portions if names[portion] not in there]
        made, kept = stream.pieces(missing), parts.take(names[portion] for portion in portions if names[portion] in there)
        for portion in portions:
            if names[portion] in there:
                yield from _unpacked(next(kept)[1])
                continue
            finished = [next(made) for _ in stream.portions[portion]]
            parts.put(names[portion], _packed(finished))
            yield from finished

    return replace(stream, pieces=pieces)


def _packed(pieces: Iterable[Piece]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for number, piece in enumerate(pieces):
        arrays[f"{number}_place"] = np.array([piece.source, piece.rows.top])
        arrays |= {f"{number}_{name}": getattr(piece.rows, name) for name in NAMES}
    return arrays


def _unpacked(arrays: Mapping[str, np.ndarray]) -> Iterator[Piece]:
    for number in range(len(arrays) // (1 + len(NAMES))):
        source, top = arrays[f"{number}_place"].tolist()
        yield Piece(source, CellRows(top, *(arrays[f"{number}_{name}"] for name in NAMES)))


def _samples_digest(sources: Iterable[Source]) -> str:
    """Hexadecimal SHA-256 of ids, sizes and times of the files of samples."""
    found = hashlib.sha256()
    for source in sources:
        if isinstance(source, SampleCells):
            file = source.job.samples.path(source.number).stat()
            found.update(f"{source.id} {file.st_size} {file.st_mtime_ns}\n".encode())
    return found.hexdigest()
