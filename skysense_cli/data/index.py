"""The index of a data set: one row per sample as GeoParquet, one part per block, so that workers never share a file.

Parts, and samples beside them, lie in up to 4096 folders by the name of their block: no folder outgrows a file system.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import geopandas
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pyogrio
import shapely
from shapely.geometry.base import BaseGeometry

from skysense_cli.data.rows import COLUMNS, NUMBERS, Row, Rows, cell, checked
from skysense_cli.errors import DataError
from skysense_cli.files import whole_file
from skysense_cli.geo.grid import lonlat_bounds

FACTS = b"skysense"  # key of our own entry in the parquet metadata


def shard_of(block: str) -> str:
    """Name of the folder for what belongs to a block: three hexadecimal digits of the SHA-256 of its name."""
    return hashlib.sha256(block.encode()).hexdigest()[:3]


def part_path(folder: Path, block: str) -> Path:
    """Where the part of a block lies, e.g. `index/0fa/part-32631_r0_c0.parquet`."""
    return folder / shard_of(block) / f"part-{block}.parquet"


def write_part(folder: Path, block: str, rows: Sequence[Row], facts: Mapping[str, str] | None = None) -> Path:
    """Write the rows of one block as its part, sorted by id; equal rows give equal bytes.

    facts: kept in the part, e.g. the digest of the recipe that made it; `part_facts` gives them back
    """
    rows = sorted(rows, key=lambda row: row.id)
    frame = geopandas.GeoDataFrame(
        {name: [cell(row, name) for row in rows] for name in COLUMNS}, geometry=[_outline(row) for row in rows], crs="EPSG:4326"
    ).astype(dict.fromkeys(("left", "bottom", "right", "top", "lon", "lat"), "float64"))
    path = part_path(folder, block)
    with whole_file(path) as temporary:
        frame.to_parquet(temporary, index=False)
        table = pyarrow.parquet.read_table(temporary)
        extra = {FACTS: json.dumps(dict(facts or {}), sort_keys=True).encode()}
        pyarrow.parquet.write_table(table.replace_schema_metadata({**table.schema.metadata, **extra}), temporary)
    return path


def part_facts(folder: Path, block: str) -> dict[str, str] | None:
    """The facts of a block's part; None when there is no such part or it cannot be read."""
    try:
        metadata = pyarrow.parquet.read_schema(part_path(folder, block)).metadata or {}
        return json.loads(metadata.get(FACTS, b"null"))
    except (OSError, pyarrow.ArrowException, json.JSONDecodeError):
        return None


def read(folder: Path, split: str | None = None) -> Rows:
    """Rows of all parts, sorted by id; those of one split, or of all.

    Raises DataError for a folder without parts, a damaged part, an id that appears twice, or a path
    that leads out of the data set.
    """
    tables, ids, splits = [], [], set[str]()
    for path in _parts(folder):
        table = _table(path)
        if not len(table):
            continue
        table = checked(table, path)
        ids.append(table["id"].combine_chunks())
        splits.update(table["split"].unique().to_pylist())
        tables.append(table if split is None else table.filter(pyarrow.compute.equal(table["split"].cast(pyarrow.string()), split)))
    _check_ids(folder, ids)
    found = pyarrow.concat_tables(tables) if tables else None
    if found is None or not len(found):
        if split is None:
            return Rows(found if found is not None else checked(_empty(), folder))
        known = sorted(name for name in splits if name)
        raise DataError(f"{folder}: no sample in split {split!r} (has: {', '.join(known) or 'no samples at all'})")
    found = found.unify_dictionaries().combine_chunks()
    return Rows(found.take(pyarrow.compute.sort_indices(found["id"])))


def _check_ids(folder: Path, ids: Sequence[pyarrow.Array]) -> None:
    """Raise DataError when an id is there twice."""
    if not ids:
        return
    every = pyarrow.concat_arrays(ids)
    every = every.take(pyarrow.compute.sort_indices(every))
    twice = pyarrow.compute.equal(every[1:], every[:-1])
    if len(every) > 1 and pyarrow.compute.any(twice).as_py():
        raise DataError(f"{folder}: sample {every[twice.index(True).as_py()].as_py()} is listed twice")


def to_geopackage(folder: Path, path: Path) -> None:
    """Write the whole index as one layer `samples`, for a GIS; equal rows give equal bytes."""
    frames = [_frame(part) for part in _parts(folder)]
    frame = geopandas.pd.concat([frame for frame in frames if len(frame)] or frames[:1]).sort_values("id")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1980-01-01T00:00:00Z"})  # the format records when it was written
    try:
        with whole_file(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*filename extension")  # it ends with .tmp until it is whole
            temporary.unlink(missing_ok=True)
            frame.to_file(temporary, driver="GPKG", layer="samples", engine="pyogrio")
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


def _parts(folder: Path) -> list[Path]:
    parts = sorted(folder.glob("*/part-*.parquet"))
    if not parts:
        hint = "there is no such folder" if not folder.is_dir() else "it holds no */part-*.parquet"
        raise DataError(f"{folder}: is no index ({hint}); build-data makes one")
    return parts


def _table(path: Path) -> pyarrow.Table:
    """The rows of a part as they are stored, without their outlines, which take most of the time."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
            table = file.read(columns=COLUMNS, use_threads=False)
    except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as GeoParquet ({error}). Build the data set again.") from error
    if missing:
        raise DataError(f"{path}: has no column {missing[0]!r}")
    return table


def _empty() -> pyarrow.Table:
    return pyarrow.table({name: pyarrow.array([], pyarrow.float64() if name in NUMBERS else pyarrow.string()) for name in COLUMNS})


def _frame(path: Path) -> geopandas.GeoDataFrame:
    try:
        return geopandas.read_parquet(path)
    except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as GeoParquet ({error}). Build the data set again.") from error


def _outline(row: Row) -> BaseGeometry:
    """The footprint in degrees: a box, in two parts where it crosses the antimeridian; empty if not georeferenced."""
    if not row.crs:
        return shapely.Polygon()
    left, bottom, right, top = lonlat_bounds(row.bounds, row.crs)
    if left <= right:
        return shapely.box(left, bottom, right, top)
    return shapely.MultiPolygon([shapely.box(left, bottom, 180, top), shapely.box(-180, bottom, right, top)])
