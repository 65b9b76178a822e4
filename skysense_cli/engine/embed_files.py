"""The table that `embed` writes: GeoParquet with a vector per sample or tile, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pyarrow
import pyarrow.parquet
from shapely.geometry.base import BaseGeometry

from skysense_cli.files import whole_file

VECTORS = "vectors.parquet"
FACTS = b"skysense"  # key of our own entry in the parquet metadata, as in an index

Dates = Mapping[str, Sequence[str]]  # modality -> ISO 8601 times, "NaT" = unknown


@dataclass(frozen=True, eq=False)
class Vector:
    """A row of the table.

    split: of a sample, "" where it has none      cells: number of cells that `vector` (d,) is the mean of
    outline: the ground in WGS 84 degrees; None = not georeferenced
    """

    id: str
    split: str
    outline: BaseGeometry | None
    dates: Dates
    cells: int
    vector: np.ndarray


def write_vectors(path: Path, rows: Sequence[Vector], facts: Mapping[str, str]) -> None:
    """Write rows as GeoParquet, in their order; equal rows give equal bytes. facts: kept in the schema's metadata"""
    columns = {
        "id": [row.id for row in rows],
        "split": [row.split for row in rows],
        "first": [_end(row.dates, first=True) for row in rows],
        "last": [_end(row.dates, first=False) for row in rows],
        "dates": [dates_text(row.dates) for row in rows],
        "cells": np.array([row.cells for row in rows], np.int64),
    }
    frame = geopandas.GeoDataFrame(columns, geometry=[row.outline for row in rows], crs="EPSG:4326")
    with whole_file(path) as temporary:
        frame.to_parquet(temporary, index=False)
        table = pyarrow.parquet.read_table(temporary)
        metadata = {**table.schema.metadata, FACTS: json.dumps(dict(facts), sort_keys=True).encode()}
        values = pyarrow.array([row.vector for row in rows], pyarrow.list_(pyarrow.float32()))
        table = table.append_column("embedding", values).replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, temporary)


def vector_facts(path: Path) -> dict[str, str] | None:
    """The facts of a table; None when there is none or it cannot be read."""
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
        return json.loads(metadata.get(FACTS, b"null"))
    except (OSError, pyarrow.ArrowException, json.JSONDecodeError):
        return None


def dates_text(dates: Dates) -> str:
    """JSON of the dates, as in an index."""
    return json.dumps({name: list(times) for name, times in dates.items()}, sort_keys=True, separators=(",", ":"))


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a raster that say where it comes from, without those of the file format."""
    return {name: text for name, text in tags.items() if name.startswith("SKYSENSE_") or name == "SIMULATED"}


def _end(dates: Dates, *, first: bool) -> str | None:
    """The first or last known date of any modality, ISO 8601."""
    known = sorted(time for times in dates.values() for time in times if time != "NaT")
    return (known[0] if first else known[-1])[:10] if known else None
