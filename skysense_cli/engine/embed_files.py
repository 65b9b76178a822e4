"""The files that `embed` writes: GeoParquet with vectors, and the picture of a scene's features."""

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

from skysense_cli.engine.preview import EMPTY, Reduced
from skysense_cli.files import whole_file
from skysense_cli.geo.cog import Look

VECTORS = "vectors.parquet"
FACTS = b"skysense"  # key of our own entry in the parquet metadata, as in an index
PICTURE_BYTES = 256 << 20  # of the cells kept for a picture
FITTED_CELLS = 2048  # from which the principal components are found
STRETCH = (2, 98)  # percentiles that become black and full colour

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


def cells_look(feature: str, width: int, tags: Mapping[str, str]) -> Look:
    """How a GeoTIFF of features presents itself: a band per channel, NaN where no date sees the cell.

    No overviews: averaged features are not features of anything, and building them takes several times as long as the map.
    """
    return Look(nodata=np.nan, band_names=[f"{feature} {number}" for number in range(width)], tags=tags, overviews="none")


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a raster that say where it comes from, without those of the file format."""
    return {name: text for name, text in tags.items() if name.startswith("SKYSENSE_") or name == "SIMULATED"}


def thinned(shape: tuple[int, int], width: int) -> Reduced:
    """What collects cells for a picture of at most PICTURE_BYTES, (n, W, d) rows."""
    side = int((PICTURE_BYTES / (4 * width)) ** 0.5)
    return Reduced(shape, largest_px=max(min(side, 1024), 1))


def principal_colors(cells: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: the first three principal components of cells (h, w, d) as red, green and blue; white where NaN.

    Each is stretched from its 2nd to its 98th percentile; its largest loading is positive, so the colours do not flip.
    """
    picture = np.full((*cells.shape[:2], 3), EMPTY, np.uint8)
    known = ~np.isnan(cells[..., 0])
    values = cells[known]
    if len(values):
        fitted = values[:: -(-len(values) // FITTED_CELLS)].astype(np.float64)
        centre = fitted.mean(axis=0)
        scores = (values - centre.astype(np.float32)) @ _components(fitted - centre).astype(np.float32)
        low, high = np.percentile(scores, STRETCH, axis=0)
        flat = high - low <= 1e-6 * max(float(np.abs(values).max()), 1e-12)  # nothing but rounding
        share = np.where(flat, 0.5, (scores - low) / np.where(flat, 1, high - low))
        picture[known] = np.round(255 * np.clip(share, 0, 1))
    return picture


def _components(values: np.ndarray) -> np.ndarray:
    """(d, 3): the directions in which centred values (n, d) vary most; zeros where there are fewer."""
    found = np.zeros((values.shape[1], 3))
    if values.shape[0] >= values.shape[1]:
        strongest = np.linalg.eigh(values.T @ values)[1][:, ::-1][:, :3]
    else:  # the smaller of the two matrices has the same directions
        strongest = values.T @ np.linalg.eigh(values @ values.T)[1][:, ::-1][:, :3]
        strongest /= np.maximum(np.linalg.norm(strongest, axis=0), 1e-12)
    signs = np.sign(np.take_along_axis(strongest, np.abs(strongest).argmax(axis=0)[None], axis=0))
    found[:, : strongest.shape[1]] = strongest * signs
    return found


def _end(dates: Dates, *, first: bool) -> str | None:
    """The first or last known date of any modality, ISO 8601."""
    known = sorted(time for times in dates.values() for time in times if time != "NaT")
    return (known[0] if first else known[-1])[:10] if known else None
