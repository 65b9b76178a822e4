"""The rows of an index as columns: about 200 bytes a sample, and an object only for the row that is asked for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from skysense_cli.errors import DataError
from skysense_cli.geo.grid import Bounds

COLUMNS = ["id", "path", "split", "crs", "left", "bottom", "right", "top", "lon", "lat", "modalities", "dates", "classes"]
SIDES = ("left", "bottom", "right", "top")
NUMBERS = (*SIDES, "lon", "lat")
REPEATED = ("split", "crs", "modalities", "dates", "classes")  # one text for many samples, kept once
TEXTS = ("id", "path", *REPEATED)


@dataclass(frozen=True)
class Row:
    """One sample.

    path: of its npz, relative to the parent of the index folder, with /
    split: train, val, test, or "" (left out as too near to another split)
    dates: modality -> acquisition times in UTC, ISO 8601 to the second, "NaT" = unknown
    classes: label class id -> number of labelled pixels
    """

    id: str
    path: str
    split: str
    crs: str
    bounds: Bounds
    lonlat: tuple[float, float]
    modalities: tuple[str, ...]
    dates: Mapping[str, tuple[str, ...]]
    classes: Mapping[int, int] = field(default_factory=dict)


class Rows(Sequence[Row]):
    """Rows in a table, each made when it is asked for; slices and `take` share the table's texts."""

    def __init__(self, table: pyarrow.Table) -> None:
        """table: as `checked` gives it"""
        self._table = table.unify_dictionaries().combine_chunks()
        self._columns = {name: _whole(self._table[name]) for name in TEXTS}
        self._numbers = np.stack([self._table[name].to_numpy() for name in NUMBERS], axis=1) if len(table) else np.empty((0, 6))

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Rows":
        """The same rows in a table."""
        if isinstance(rows, Rows):
            return rows
        kinds = {name: pyarrow.float64() if name in NUMBERS else pyarrow.string() for name in COLUMNS}
        return cls(
            checked(pyarrow.table({name: pyarrow.array([cell(row, name) for row in rows], kinds[name]) for name in COLUMNS}), Path())
        )

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        number = range(len(self))[index]
        left, bottom, right, top, lon, lat = self._numbers[number].tolist()
        text = {name: column[number].as_py() for name, column in self._columns.items()}
        return Row(
            text["id"], text["path"], text["split"], text["crs"], (left, bottom, right, top), (lon, lat), modalities_of(text["modalities"]),
            dates_of(text["dates"]), classes_of(text["classes"]),
        )  # fmt: skip

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @property
    def nbytes(self) -> int:
        """Bytes that the table takes."""
        return self._table.nbytes

    def take(self, numbers: np.ndarray) -> "Rows":
        """The rows at these positions, or where a (N,) bool is true."""
        return Rows(self._table.take(np.flatnonzero(numbers) if numbers.dtype == bool else numbers))

    def having(self, name: str) -> np.ndarray:
        """(N,) bool: the row has the modality."""
        return self.where("modalities", lambda text: name in modalities_of(text))

    def sizes_m(self) -> np.ndarray:
        """(N, 2) height and width of the footprints."""
        left, bottom, right, top = self._numbers[:, :4].T
        return np.stack([top - bottom, right - left], axis=1).round(6)

    def first_of_each_place(self) -> np.ndarray:
        """(N,) position of the first row with the same CRS and bounds as each row."""
        if not len(self):
            return np.empty(0, np.int64)
        crs = self._columns["crs"].indices.to_numpy(zero_copy_only=False).astype(float)
        _, first, which = np.unique(np.column_stack([crs, self._numbers[:, :4]]), axis=0, return_index=True, return_inverse=True)
        return first[which.reshape(-1)]

    def where(self, column: str, holds: Any) -> np.ndarray:
        """(N,) bool: whether `holds` is true of the text of a repeated column; it is asked once for each text."""
        held = self._columns[column]
        known = np.array([bool(holds(text)) for text in held.dictionary.to_pylist()], bool)
        return known[held.indices.to_numpy(zero_copy_only=False)] if len(self) else np.empty(0, bool)


def cell(row: Row, name: str) -> str | float:
    """The value of a row in a column; JSON for what is no text or number, so that every format can hold it."""
    if name in SIDES:
        return row.bounds[SIDES.index(name)]
    if name in ("lon", "lat"):
        return row.lonlat[("lon", "lat").index(name)]
    value = getattr(row, name)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def checked(table: pyarrow.Table, path: Path) -> pyarrow.Table:
    """The columns of a part, with repeated texts kept once. Raises DataError that names the part and a sample for what makes no sense."""
    ids = table["id"]
    try:
        columns = {name: table[name].cast(pyarrow.string()) for name in TEXTS}
        columns |= {name: table[name].cast(pyarrow.float64()) for name in NUMBERS}
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: the row of sample {_some(ids, 0)!r} cannot be understood ({error})") from error
    for name in TEXTS:
        if columns[name].null_count:
            raise DataError(f"{path}: a row has no {name}")
    for name in ("lon", "lat"):  # NaN is stored as nothing
        columns[name] = pyarrow.compute.fill_null(columns[name], float("nan"))
    for name in REPEATED:
        columns[name] = columns[name].dictionary_encode()
    for name, understand in (("modalities", modalities_of), ("dates", dates_of), ("classes", classes_of)):
        for text in _whole(columns[name]).dictionary.to_pylist():
            try:
                understand(text)
            except (ValueError, TypeError, AttributeError) as error:
                number = columns[name].cast(pyarrow.string()).index(text).as_py()
                raise DataError(f"{path}: the row of sample {_some(ids, number)!r} cannot be understood ({error})") from error
    for number, place in enumerate(columns["path"].to_pylist()):
        relative = PurePosixPath(place)
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(f"{path}: sample {_some(ids, number)} lies at {place}, expected a path inside the data set")
    return pyarrow.table(columns)


@lru_cache(maxsize=4096)
def dates_of(text: str) -> dict[str, tuple[str, ...]]:
    """Modality -> times, of what a row holds."""
    return {name: tuple(times) for name, times in json.loads(text).items()}


@lru_cache(maxsize=4096)
def modalities_of(text: str) -> tuple[str, ...]:
    """The modalities, of what a row holds."""
    return tuple(json.loads(text))


@lru_cache(maxsize=4096)
def classes_of(text: str) -> dict[int, int]:
    """Class id -> pixels, of what a row holds."""
    return {int(number): int(count) for number, count in json.loads(text).items()}


def _whole(column: pyarrow.ChunkedArray) -> Any:
    """The column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.unify_dictionaries().combine_chunks()


def _some(ids: pyarrow.ChunkedArray, number: int) -> Any:
    return ids[number].as_py()
