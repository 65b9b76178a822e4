"""A STAC item beside a map: where and when it is, what its files hold, from what it was made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from shapely.geometry import mapping

from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.files import sha256, write_text
from skysense_cli.geo.cog import class_names
from skysense_cli.geo.grid import bounds_of, crs_text
from skysense_cli.geo.outlines import outline
from skysense_cli.geo.raster import describe

VERSION = "1.0.0"
VECTOR_TYPES = {
    ".gpkg": "application/geopackage+sqlite3", ".parquet": "application/vnd.apache.parquet", ".geojson": "application/geo+json",
}  # fmt: skip
EXTENSIONS = {
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "classification": "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "file": "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "processing": "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
}


def write_item(
    path: Path, job: SceneJob, rasters: Mapping[str, Path], tags: Mapping[str, str], vectors: Mapping[str, Path] | None = None
) -> None:
    """Write the item of `rasters` and `vectors` (kind -> file), which must be there; equal files make equal items.

    An item needs a time: that of the scenes, from the first to the last date; undated ones count as the time before all
    others. A map without a place on the ground has no geometry.
    """
    write_text(path, json.dumps(item_of(path, job, rasters, tags, vectors or {}), indent=1, ensure_ascii=False) + "\n")


def item_of(path: Path, job: SceneJob, rasters: Mapping[str, Path], tags: Mapping[str, str], vectors: Mapping[str, Path]) -> dict[str, Any]:
    """The item as plain JSON."""
    grid = job.grid
    geometry = outline(bounds_of(grid), crs_text(grid.crs)) if grid.crs else None
    code = grid.crs.to_epsg() if grid.crs else None
    place = {"proj:code": f"EPSG:{code}" if code else None, **_lattice(grid)}
    if grid.crs and not code:
        place["proj:wkt2"] = grid.crs.to_wkt()
    found = {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": sorted(EXTENSIONS.values()),
        "id": path.name.removesuffix(".stac.json"),
        "geometry": None if geometry is None else json.loads(json.dumps(mapping(geometry))),
        "properties": {**_times(job), **place, "processing:software": {"skysense": tags["SKYSENSE_VERSION"]}, **_facts(tags)},
        "links": [],
        "assets": {what: _asset(raster, what, grid) for what, raster in rasters.items()}
        | {what: _vector_asset(file, what) for what, file in vectors.items()}
        | _picture(path),
    }
    if geometry is not None:
        found["bbox"] = list(geometry.bounds)
    return found


def _times(job: SceneJob) -> dict[str, str | None]:
    times = np.array([item.time for channel in job.scene.channels.values() for item in channel.items], "datetime64[s]")
    dated = times[~np.isnat(times)]
    if not len(dated):
        return {"datetime": "1970-01-01T00:00:00Z", "skysense:undated": "true"}
    first, last = (str(time) + "Z" for time in (dated.min(), dated.max()))
    return {"datetime": first} if first == last else {"datetime": None, "start_datetime": first, "end_datetime": last}


def _facts(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of the files under `skysense:`."""
    return {f"skysense:{name.removeprefix('SKYSENSE_').lower()}": value for name, value in sorted(tags.items())}


def _lattice(grid: GeoBox) -> dict[str, Any]:
    return {"proj:shape": list(grid.shape), "proj:transform": list(grid.affine[:6])}


def _asset(raster: Path, what: str, grid: GeoBox) -> dict[str, Any]:
    """grid: of the item; a raster on another one says so."""
    info = describe(raster)
    bands: list[dict[str, Any]] = []
    for name, nodata in zip(info.descriptions, info.nodata, strict=True):
        band: dict[str, Any] = {"name": name, "data_type": info.dtype}
        if nodata is not None:
            band["nodata"] = "nan" if np.isnan(nodata) else int(nodata)
        if what not in ("class", "value") and info.dtype == "uint8":
            band["scale"] = 0.005
        bands.append(band)
    asset: dict[str, Any] = {
        "href": f"./{raster.name}",
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "title": what,
        "roles": ["data"],
        **_file(raster),
        "raster:bands": bands,
    }
    if info.grid.shape != grid.shape or not info.grid.affine.almost_equals(grid.affine):
        asset |= _lattice(info.grid)
    if names := class_names(info.tags):
        asset["classification:classes"] = [{"value": number, "name": name, "title": name} for number, name in names.items()]
    return asset


def _vector_asset(path: Path, what: str) -> dict[str, Any]:
    return {"href": f"./{path.name}", "type": VECTOR_TYPES[path.suffix.lower()], "title": what, "roles": ["data"], **_file(path)}


def _file(path: Path) -> dict[str, Any]:
    return {"file:size": path.stat().st_size, "file:checksum": f"1220{sha256(path)}"}  # multihash: 12 sha2-256, 20 bytes 32


def _picture(path: Path) -> dict[str, Any]:
    """The preview beside the item, if there is one."""
    picture = path.with_name(path.name.removesuffix(".stac.json") + ".png")
    return {"preview": {"href": f"./{picture.name}", "type": "image/png", "roles": ["overview"]}} if picture.exists() else {}
