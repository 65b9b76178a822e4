"""The index of a data set: one row per sample as GeoParquet, one part per block, so that workers never share a file.

Parts, and samples beside them, lie in up to 4096 folders by the name of their block: no folder outgrows a file system.
"""

import hashlib
import itertools
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

import geopandas
import pyarrow
import pyarrow.parquet
import pyogrio
import shapely
from shapely.geometry.base import BaseGeometry

from skysense_cli.errors import DataError
from skysense_cli.files import whole_file
from skysense_cli.geo.grid import Bounds, lonlat_bounds

COLUMNS = ["id", "path", "split", "crs", "left", "bottom", "right", "top", "lon", "lat", "modalities", "dates", "classes"]
FACTS = b"skysense"  # key of our own entry in the parquet metadata


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
        {name: [_cell(row, name) for row in rows] for name in COLUMNS}, geometry=[_outline(row) for row in rows], crs="EPSG:4326"
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


def read(folder: Path, split: str | None = None) -> list[Row]:
    """Rows of all parts, sorted by id; those of one split, or of all.

    Raises DataError for a folder without parts, a damaged part, an id that appears twice, or a path
    that leads out of the data set.
    """
    rows, ids, splits = [], [], set()
    for path in _parts(folder):
        for record in _records(path):
            ids.append(record["id"])
            splits.add(record["split"])
            if split is None or record["split"] == split:
                rows.append(_row(record, path))
    ids.sort()
    for before, after in itertools.pairwise(ids):
        if before == after:
            raise DataError(f"{folder}: sample {after} is listed twice")
    if split is not None and not rows:
        known = sorted(name for name in splits if name)
        raise DataError(f"{folder}: no sample in split {split!r} (has: {', '.join(known) or 'no samples at all'})")
    rows.sort(key=lambda row: row.id)
    return rows


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


def _records(path: Path) -> list[dict]:
    """The rows of a part as they are stored, without their outlines, which take most of the time."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
            table = file.read(columns=COLUMNS, use_threads=False)
    except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as GeoParquet ({error}). Build the data set again.") from error
    if missing:
        raise DataError(f"{path}: has no column {missing[0]!r}")
    return table.to_pylist()


def _number(value: float | None) -> float:
    """NaN is stored as nothing."""
    return float("nan") if value is None else float(value)


@lru_cache(maxsize=4096)
def _dates(text: str) -> dict[str, tuple[str, ...]]:
    """Remembered, so that the samples of a block, which have the same dates for the most part, share one dictionary."""
    return {sys.intern(name): tuple(times) for name, times in json.loads(text).items()}


@lru_cache(maxsize=4096)
def _modalities(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


def _frame(path: Path) -> geopandas.GeoDataFrame:
    try:
        return geopandas.read_parquet(path)
    except (OSError, ValueError, TypeError, KeyError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as GeoParquet ({error}). Build the data set again.") from error


def _row(record: dict, path: Path) -> Row:
    try:
        relative = PurePosixPath(record["path"])
        row = Row(
            id=str(record["id"]),
            path=str(relative),
            split=sys.intern(str(record["split"])),
            crs=sys.intern(str(record["crs"])),
            bounds=(float(record["left"]), float(record["bottom"]), float(record["right"]), float(record["top"])),
            lonlat=(_number(record["lon"]), _number(record["lat"])),
            modalities=_modalities(record["modalities"]),
            dates=_dates(record["dates"]),
            classes={int(number): int(count) for number, count in json.loads(record["classes"]).items()},
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: the row of sample {record.get('id')!r} cannot be understood ({error})") from error
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{path}: sample {row.id} lies at {record['path']}, expected a path inside the data set")
    return row


def _cell(row: Row, name: str) -> str | float:
    """The value of a column; JSON for what is no text or number, so that every format can hold it."""
    if name in ("left", "bottom", "right", "top"):
        return row.bounds[("left", "bottom", "right", "top").index(name)]
    if name in ("lon", "lat"):
        return row.lonlat[("lon", "lat").index(name)]
    value = getattr(row, name)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _outline(row: Row) -> BaseGeometry:
    """The footprint in degrees: a box, in two parts where it crosses the antimeridian; empty if not georeferenced."""
    if not row.crs:
        return shapely.Polygon()
    left, bottom, right, top = lonlat_bounds(row.bounds, row.crs)
    if left <= right:
        return shapely.box(left, bottom, right, top)
    return shapely.MultiPolygon([shapely.box(left, bottom, 180, top), shapely.box(-180, bottom, right, top)])
