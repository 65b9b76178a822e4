"""Areas of interest, from a vector file, a raster's outline or plain bounds, always in WGS 84 degrees."""

import os
from pathlib import Path

import geopandas
import numpy as np
import pyarrow
import pyogrio.errors
import shapely
from shapely.geometry.base import BaseGeometry

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformer
from skysense_cli.geo.grid import Bounds
from skysense_cli.geo.raster import describe

MOST_BYTES = 512 << 20
MOST_MENDED = 0.01  # of the area: an outline that touches itself is mended, a crossed one is another area
DEGREES = ("EPSG:4326", "OGC:CRS84")
RASTERS = (".tif", ".tiff", ".jp2")
SIGNATURES = {  # the first bytes decide, since GDAL would also follow a file that only points to others
    ".geojson": b"{", ".json": b"{", ".gpkg": b"SQLite format 3\0", ".fgb": b"fgb", ".parquet": b"PAR1", ".shp": b"\0\0\x27\x0a",
}  # fmt: skip


def read_area(given: str | os.PathLike[str] | Bounds) -> BaseGeometry:
    """One geometry that holds all of the area; in several parts where it crosses the antimeridian.

    given: GeoJSON, GeoPackage, GeoParquet, FlatGeobuf or Shapefile (all its features together), a
        raster (its outline), or bounds (left, bottom, right, top) in degrees, left > right across
        the antimeridian
    Raises GridError that names the file and says what is wrong with it.
    """
    if isinstance(given, tuple | list):
        return _box((float(given[0]), float(given[1]), float(given[2]), float(given[3])))
    path = Path(given)
    if path.suffix.lower() in RASTERS:
        grid = describe(path).grid
        if not grid.crs:
            raise GridError(f"{path}: has no CRS, so its outline is no area")
        return _on_globe(shapely.Polygon(grid.extent.exterior.points), crs_text(grid.crs), path)
    frame = _read(path)
    shapes = [shape for shape in frame.geometry if shape is not None and not shape.is_empty]
    if not shapes:
        raise GridError(f"{path}: holds no geometry")
    crs = crs_text(frame.crs.to_wkt()) if frame.crs else ""
    if not crs:
        raise GridError(f"{path}: names no CRS")
    parts = [_on_globe(shape, crs, path) for shape in shapes]
    return shapely.union_all(np.array(parts, dtype=object))


def read_marked(path: Path, name: str) -> list[tuple[str, BaseGeometry]]:
    """(value of the property `name`, geometry in WGS 84 degrees) of every feature of a vector file.

    Raises GridError that names the file when it cannot be read, or a feature lacks the property or a geometry.
    """
    frame = _read(path)
    if name not in frame:
        have = ", ".join(str(column) for column in frame.columns if column != "geometry") or "none"
        raise GridError(f"{path}: its features have no property {name!r} (found: {have})")
    crs = crs_text(frame.crs.to_wkt()) if frame.crs else ""
    if not crs:
        raise GridError(f"{path}: names no CRS")
    found = []
    for number, (value, shape) in enumerate(zip(frame[name], frame.geometry, strict=True), 1):
        if not isinstance(value, str) or shape is None or shape.is_empty:
            raise GridError(f"{path}: feature {number} lacks a geometry or a text for {name!r} (found {value!r})")
        found.append((value, _on_globe(shape, crs, path)))
    if not found:
        raise GridError(f"{path}: holds no geometry")
    return found


def _read(path: Path) -> geopandas.GeoDataFrame:
    signature = SIGNATURES.get(path.suffix.lower())
    if signature is None:
        raise GridError(f"{path}: is no known kind of area file ({', '.join([*SIGNATURES, *RASTERS])})")
    if not path.is_file():
        raise GridError(f"{path}: no such file")
    if path.stat().st_size > MOST_BYTES:
        raise GridError(f"{path}: has {path.stat().st_size:,} bytes, at most {MOST_BYTES:,} are read")
    with path.open("rb") as file:
        start = file.read(64)
    if not start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n" if signature == b"{" else b"").startswith(signature):
        raise GridError(f"{path}: does not hold what its name says")
    try:
        return geopandas.read_parquet(path) if signature == b"PAR1" else geopandas.read_file(path.absolute(), engine="pyogrio")
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.FeatureError, pyarrow.ArrowException,
            shapely.errors.ShapelyError, ValueError, TypeError, KeyError) as error:  # fmt: skip
        raise GridError(f"{path}: cannot be read ({str(error)[:200]})") from error


def _on_globe(shape: BaseGeometry, crs: str, path: Path) -> BaseGeometry:
    """The geometry in degrees, valid, with longitudes in -180..180."""
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise GridError(f"{path}: holds coordinates that are no numbers")
    _check_outline(shape, path)
    shape = _uncrossed(shapely.force_2d(shapely.make_valid(shape)), crs)
    if crs not in DEGREES:
        left, bottom, right, top = shape.bounds
        dense = shapely.segmentize(shape, max(right - left, top - bottom, 1e-9) / 64)  # straight lines become curves
        change = transformer(crs, "EPSG:4326")
        shape = shapely.transform(dense, lambda points: np.column_stack(change.transform(points[:, 0], points[:, 1])))
        if not np.isfinite(shapely.get_coordinates(shape)).all():
            raise GridError(f"{path}: has coordinates that have no place on the globe in {crs[:60]}")
        if shape.bounds[2] - shape.bounds[0] > 180:  # its ends lie on both sides of the antimeridian
            shape = shapely.transform(shape, lambda points: np.column_stack([points[:, 0] % 360, points[:, 1]]))
    left, bottom, right, top = shape.bounds
    if bottom < -90.0001 or top > 90.0001 or left < -360 or right > 360:
        hint = "are its coordinates projected? Then the file must name its CRS"
        raise GridError(f"{path}: reaches from {left:g}, {bottom:g} to {right:g}, {top:g}, which are no degrees; {hint}")
    return _wrapped(shapely.make_valid(shape))


def _check_outline(shape: BaseGeometry, path: Path) -> None:
    """Raise GridError unless the shape has an area, and the one that it seems to have."""
    if shape.area == 0 and shapely.make_valid(shape).area == 0:
        raise GridError(f"{path}: holds a {shape.geom_type} without an area; expected polygons")
    sound = shapely.make_valid(shape).area
    if abs(sound - shape.area) > MOST_MENDED * sound:
        reason = shapely.is_valid_reason(shape)
        raise GridError(f"{path}: has an outline that is not valid ({reason}), and mending it would change its area; mend it in a GIS")


def _uncrossed(shape: BaseGeometry, crs: str) -> BaseGeometry:
    """The shape in degrees east of 0 where it was drawn across the antimeridian without a cut, so that it seems to go around the globe."""
    lons = shapely.get_coordinates(shape)[:, 0]
    if crs not in DEGREES or np.ptp(lons) <= 180 or (np.abs(lons) < 90).any() or (np.abs(lons) == 180).all():
        return shape
    return shapely.make_valid(shapely.transform(shape, lambda points: np.column_stack([points[:, 0] % 360, points[:, 1]])))


def _wrapped(shape: BaseGeometry) -> BaseGeometry:
    if shape.bounds[0] >= -180 and shape.bounds[2] <= 180:
        return shape
    parts = []
    for turn in (-360, 0, 360):
        part = shapely.intersection(shape, shapely.box(turn - 180, -90, turn + 180, 90))
        parts.append(shapely.transform(part, lambda points, turn=turn: points - [turn, 0]))  # type: ignore[misc]
    return shapely.union_all(np.array(parts, dtype=object))


def _box(bounds: Bounds) -> BaseGeometry:
    left, bottom, right, top = bounds
    if not (np.isfinite(bounds).all() and -180 <= left <= 180 and -180 <= right <= 180 and -90 <= bottom < top <= 90 and left != right):
        raise GridError(f"area {list(bounds)} must be left, bottom, right, top in degrees (longitude first)")
    if left < right:
        return shapely.box(left, bottom, right, top)
    return shapely.MultiPolygon([shapely.box(left, bottom, 180, top), shapely.box(-180, bottom, right, top)])
