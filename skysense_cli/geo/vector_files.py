"""Polygons out, feature by feature: GeoPackage, GeoParquet or GeoJSON by the file's name.

Whole or absent, and equal bytes for equal features, however they were handed over: dates are fixed, and features
are written in lots of one size. GeoPackage and GeoParquet keep the map's CRS; GeoJSON is in WGS 84 degrees (RFC
7946), counter-clockwise, cut at the antimeridian.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import geopandas
import numpy as np
import pyarrow
import pyarrow.parquet
import pyogrio
import pyogrio.errors
import shapely

from skysense_cli.errors import DiskError, GridError
from skysense_cli.files import whole_file
from skysense_cli.geo.crs import understood
from skysense_cli.geo.outlines import on_globe

LOT = 10_000  # features written at once
SETTINGS = {  # the time of writing is no part of a result; no second file beside the one that is written
    "OGR_CURRENT_DATE": "2000-01-01T00:00:00.000Z",
    "OGR_SQLITE_JOURNAL": "MEMORY",
}
TAGS = "skysense"  # key of the tags in GeoParquet and GeoJSON
DECIMALS = 7  # of degrees: a centimetre
PROBLEMS = (
    OSError, pyarrow.ArrowException, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FeatureError,
    pyogrio.errors.FieldError, pyogrio.errors.GeometryError,
)  # fmt: skip
OF_FEATURES = pyogrio.errors.FieldError, pyogrio.errors.GeometryError  # the others say that the file cannot be written

Values = Mapping[str, np.ndarray]  # column -> one value per feature: text (object), whole numbers or floats


class _Writer(Protocol):
    def write(self, shapes: np.ndarray, values: Values) -> None: ...

    def close(self) -> None: ...


class VectorStream:
    """Features that are written as they come; on a clean exit of the block they are the file at `path`.

    path: ends in .gpkg, .parquet or .geojson      crs: of the polygons, "" if not georeferenced
    columns: name -> numpy dtype, "object" for text; the same of every feature
    layer: name of the table in a GeoPackage      tags: what `read_tags` finds again
    `count` is the number of features so far, `parts` that of the features cut in two at the antimeridian.
    Raises GridError that names the file, DiskError for what the disk does not take.
    """

    def __init__(self, path: Path, crs: str, columns: Mapping[str, str], layer: str, tags: Mapping[str, str] | None = None) -> None:
        if path.suffix.lower() not in WRITERS:
            raise GridError(f"{path}: polygons are written as {', '.join(WRITERS)}")
        if path.suffix.lower() == ".geojson" and not crs:
            raise GridError(f"{path}: GeoJSON is in degrees of the globe, and this map has no CRS; give a name that ends in .gpkg")
        self.path, self.crs, self.columns, self.layer = path, crs, dict(columns), layer
        self.tags = dict(sorted((tags or {}).items()))
        self.count = self.parts = 0
        self._lot: list[tuple[np.ndarray, Values]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._named():
            self._temporary = self._stack.enter_context(whole_file(self.path))
            self._temporary.unlink(missing_ok=True)
            self._writer: _Writer = WRITERS[self.path.suffix.lower()](self._temporary, self)
        return self

    def write(self, shapes: np.ndarray, values: Values) -> None:
        """Add features: shapely polygons (N,), and for every column N values."""
        self._lot.append((shapes, values))
        self.count += len(shapes)
        waiting = sum(len(part) for part, _ in self._lot)
        while waiting >= LOT:
            self._flush(LOT)
            waiting -= LOT

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._stack.__exit__(kind, error, trace)  # removes what is there
            return
        with self._named(), self._stack:
            self._flush(LOT)
            self._writer.close()

    def _flush(self, most: int) -> None:
        shapes = np.concatenate([np.zeros(0, object), *(part for part, _ in self._lot)])
        values = {
            name: np.concatenate([np.zeros(0, dtype), *(part[name] for _, part in self._lot)]).astype(dtype)
            for name, dtype in self.columns.items()
        }
        with self._named():
            self._writer.write(shapes[:most], {name: column[:most] for name, column in values.items()})
        self._lot = [(shapes[most:], {name: column[most:] for name, column in values.items()})]

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except PROBLEMS as problem:
            kind = GridError if isinstance(problem, OF_FEATURES) else DiskError
            reason = " ".join(str(problem).split())[:200]
            raise kind(f"{self.path}: cannot be written ({reason})") from problem


class _GeoPackage:
    def __init__(self, path: Path, stream: VectorStream) -> None:
        self._path, self._stream, self._begun = path, stream, False

    def write(self, shapes: np.ndarray, values: Values) -> None:
        if not len(shapes) and self._begun:
            return
        frame = geopandas.GeoDataFrame(dict(values), geometry=shapes, crs=self._stream.crs or None)
        with _settings(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(file)?name extension|.*file extension|.*'crs' was not provided")
            pyogrio.write_dataframe(
                frame, self._path, driver="GPKG", layer=self._stream.layer, append=self._begun, geometry_type="Polygon",
                promote_to_multi=False, identifier=self._stream.layer, layer_metadata=None if self._begun else self._stream.tags or None,
            )  # fmt: skip
        self._begun = True

    def close(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*file extension")
            written = pyogrio.read_info(self._path, layer=self._stream.layer, force_feature_count=True)["features"]
        if written != self._stream.count:
            raise OSError(f"{written} of {self._stream.count} features are there; is the disk full?")


class _GeoParquet:
    """GeoParquet 1.1.0, one row group per lot."""

    def __init__(self, path: Path, stream: VectorStream) -> None:
        self._stream = stream
        fields = [pyarrow.field(name, _arrow(dtype)) for name, dtype in stream.columns.items()]
        self._schema = pyarrow.schema([*fields, pyarrow.field("geometry", pyarrow.binary())])
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._bounds: list[np.ndarray] = []

    def write(self, shapes: np.ndarray, values: Values) -> None:
        columns = [pyarrow.array(values[name], type=self._schema.field(name).type) for name in self._stream.columns]
        wkb = pyarrow.array(shapely.to_wkb(shapes, flavor="iso"), type=pyarrow.binary())
        self._writer.write_table(pyarrow.Table.from_arrays([*columns, wkb], schema=self._schema))
        if len(shapes):
            self._bounds.append(shapely.total_bounds(shapes))

    def close(self) -> None:
        crs = understood(self._stream.crs).to_json_dict() if self._stream.crs else None
        column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"] if self._bounds else [], "crs": crs}
        if self._bounds:
            low, high = np.min(self._bounds, axis=0)[:2], np.max(self._bounds, axis=0)[2:]
            column["bbox"] = [*low.tolist(), *high.tolist()]
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        self._writer.add_key_value_metadata({"geo": json.dumps(geo), TAGS: json.dumps(self._stream.tags, ensure_ascii=False)})
        self._writer.close()


class _GeoJson:
    def __init__(self, path: Path, stream: VectorStream) -> None:
        self._stream, self._begun = stream, False
        self._file = path.open("w", encoding="utf-8")
        tags = json.dumps(stream.tags, ensure_ascii=False)
        self._file.write(f'{{"type": "FeatureCollection", "{TAGS}": {tags}, "features": [')

    def write(self, shapes: np.ndarray, values: Values) -> None:
        for number, shape in enumerate(shapes):
            placed = on_globe(shape, self._stream.crs)
            self._stream.parts += placed.geom_type == "MultiPolygon"
            polygons = [_rings(part) for part in shapely.get_parts(placed)]
            geometry = {"type": placed.geom_type, "coordinates": polygons if len(polygons) > 1 else polygons[0]}
            properties = {name: column[number].item() if column.dtype != object else column[number] for name, column in values.items()}
            feature = {"type": "Feature", "properties": properties, "geometry": geometry}
            self._file.write(("," if self._begun else "") + "\n" + json.dumps(feature, ensure_ascii=False, allow_nan=False))
            self._begun = True

    def close(self) -> None:
        self._file.write("\n]}\n")
        self._file.close()


WRITERS: dict[str, Any] = {".gpkg": _GeoPackage, ".parquet": _GeoParquet, ".geojson": _GeoJson}


def _arrow(dtype: str) -> pyarrow.DataType:
    return pyarrow.string() if dtype == "object" else pyarrow.from_numpy_dtype(np.dtype(dtype))


def _rings(polygon: shapely.Polygon) -> list[list[list[float]]]:
    """Coordinates as RFC 7946 wants them: the outer ring counter-clockwise, holes clockwise."""
    polygon = shapely.geometry.polygon.orient(polygon)
    rings = [polygon.exterior, *polygon.interiors]
    return [shapely.get_coordinates(ring).round(DECIMALS).tolist() for ring in rings]


@contextmanager
def _settings() -> Iterator[None]:
    before = {name: pyogrio.get_gdal_config_option(name) for name in SETTINGS}
    pyogrio.set_gdal_config_options(SETTINGS)
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)


def read_tags(path: Path) -> dict[str, str]:
    """The tags of a file that `VectorStream` wrote. Raises GridError that names the file when it is none."""
    try:
        if path.suffix.lower() == ".gpkg":
            return dict(pyogrio.read_info(path)["layer_metadata"] or {})
        if path.suffix.lower() == ".parquet":
            return dict(json.loads((pyarrow.parquet.read_metadata(path).metadata or {})[TAGS.encode()]))
        with path.open(encoding="utf-8") as file:
            return dict(json.loads(file.readline(1 << 20).rstrip() + "]}")[TAGS])
    except (*PROBLEMS, ValueError, KeyError, TypeError) as error:
        raise GridError(f"{path}: is no file of polygons that skysense wrote ({str(error)[:100]})") from error
