"""Writes the simulated year as Cloud-Optimized GeoTIFFs and a static STAC catalogue in the conventions of the real collections.

    landscape/catalog.json
    landscape/sentinel-2-l2a/collection.json, <item>/<item>.json, <item>/B02.tif ... SCL.tif     as Earth Search lists Level-2A
    landscape/sentinel-1-rtc/collection.json, <item>/<item>.json, <item>/vv.tif, vh.tif          as the RTC collection, linear gamma0
    landscape/orthophoto/ortho_20210516.tif
    landscape/truth/land_cover.tif, classes.csv, clear.tif, truth.json, area.geojson
Titles, properties and file tags say that everything is simulated.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from odc.geo.geobox import GeoBox

from skysense_cli.demo.landscape import MARGIN_PX, PIXEL_M, World
from skysense_cli.demo.observe import OpticalDate, RadarDate
from skysense_cli.demo.spectra import CLASSES, COLORS
from skysense_cli.demo.year import AREA_M, BASELINE, CRS, LEFT, SIDE_M, TOP
from skysense_cli.files import write_text
from skysense_cli.geo.cog import write_geotiff
from skysense_cli.geo.grid import lonlat, make_grid

TILE = "32UNA"
NOTE = "SIMULATED by skysense demo; no satellite took this image"
LABEL_GSD_M = 10.0
BANDS = {  # band: (asset key, common name, micrometres, gsd)
    "B02": ("blue", "blue", 0.490, 10), "B03": ("green", "green", 0.560, 10), "B04": ("red", "red", 0.665, 10),
    "B05": ("rededge1", "rededge", 0.704, 20), "B06": ("rededge2", "rededge", 0.740, 20), "B07": ("rededge3", "rededge", 0.783, 20),
    "B08": ("nir", "nir", 0.842, 10), "B8A": ("nir08", "nir08", 0.865, 20), "B11": ("swir16", "swir16", 1.610, 20),
    "B12": ("swir22", "swir22", 2.190, 20),
}  # fmt: skip
STAC = "https://stac-extensions.github.io"
S2_EXTENSIONS = [f"{STAC}/{name}/schema.json" for name in ("eo/v1.1.0", "projection/v1.1.0", "raster/v1.1.0", "view/v1.0.0", "mgrs/v1.0.0")]
S1_EXTENSIONS = [f"{STAC}/{name}/schema.json" for name in ("sar/v1.0.0", "sat/v1.0.0", "projection/v1.1.0", "raster/v1.1.0")]
COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True)
class Entry:
    """An item that was written: its collection, id and time."""

    collection: str
    id: str
    time: str


def scene_grid(gsd_m: float) -> GeoBox:
    """The grid of every scene at `gsd_m`."""
    return make_grid(LEFT, TOP, gsd_m, round(SIDE_M / gsd_m), round(SIDE_M / gsd_m), CRS)


def area_bounds() -> tuple[float, float, float, float]:
    """left, bottom, right, top of the area that is cut into samples, in metres of CRS."""
    edge = (SIDE_M - AREA_M) / 2
    return LEFT + edge, TOP - edge - AREA_M, LEFT + edge + AREA_M, TOP - edge


def write_optical(home: Path, date: OpticalDate, images: dict[str, np.ndarray]) -> Entry:
    """One Level-2A item; `images` as observe.sentinel2 gives them."""
    platform = "S2A" if int(date.time[8:10]) % 2 == 0 else "S2B"
    name = f"{platform}_{TILE}_{date.time[:10].replace('-', '')}_0_L2A"
    assets: dict[str, Any] = {}
    for band, pixels in images.items():
        key, common, wavelength, gsd = BANDS.get(band, ("scl", "", 0.0, 20))
        _write(home / "sentinel-2-l2a" / name / f"{band}.tif", pixels, gsd, nodata=0, band=band, time=date.time, average=band != "SCL")
        measured = {"nodata": 0, "data_type": str(pixels.dtype), "spatial_resolution": gsd}
        if band == "SCL":
            assets[key] = _asset(f"{band}.tif", "Scene classification map (SCL)", gsd, measured)
            continue
        measured |= {"bits_per_sample": 15, "scale": 0.0001, "offset": -0.1}
        assets[key] = _asset(f"{band}.tif", f"{common} ({band}), surface reflectance", gsd, measured)
        assets[key]["eo:bands"] = [{"name": band, "common_name": common, "center_wavelength": wavelength}]
        assets[key]["roles"] = ["data", "reflectance"]
    clouds = float(np.isin(images["SCL"], (8, 9, 10)).mean() * 100)
    properties = {
        "platform": f"sentinel-{platform[1:].lower()}", "constellation": "sentinel-2", "instruments": ["msi"],
        "eo:cloud_cover": round(clouds, 2), "view:sun_azimuth": round(date.sun_azimuth_deg, 2),
        "view:sun_elevation": round(date.sun_elevation_deg, 2),
        "mgrs:utm_zone": int(TILE[:2]), "mgrs:latitude_band": TILE[2], "mgrs:grid_square": TILE[3:], "s2:processing_baseline": BASELINE,
        "earthsearch:boa_offset_applied": False,
    }  # fmt: skip
    return _write_item(home, "sentinel-2-l2a", name, date.time, properties, assets, S2_EXTENSIONS)


def write_radar(home: Path, date: RadarDate, power: np.ndarray) -> Entry:
    """One RTC item: linear gamma0, VV and VH."""
    stamp = date.time.replace("-", "").replace(":", "")
    name = f"S1A_IW_GRDH_1SDV_{stamp}_{date.orbit:03d}_rtc"
    assets = {}
    for pixels, band in zip(power, ("vv", "vh"), strict=True):
        _write(home / "sentinel-1-rtc" / name / f"{band}.tif", pixels, 10, nodata=-32768, band=band.upper(), time=date.time, average=True)
        measured = {"nodata": -32768, "data_type": "float32", "spatial_resolution": 10.0}
        assets[band] = _asset(f"{band}.tif", f"{band.upper()}: terrain-corrected gamma nought, linear power", 10, measured)
    properties = {
        "platform": "sentinel-1a", "constellation": "sentinel-1", "instruments": ["c-sar"], "sar:instrument_mode": "IW",
        "sar:frequency_band": "C", "sar:polarizations": ["VV", "VH"], "sar:product_type": "RTC", "sar:looks_equivalent_number": 4.4,
        "sat:orbit_state": "ascending" if date.ascending else "descending", "sat:relative_orbit": date.orbit,
        "view:incidence_angle": date.incidence_deg,
    }  # fmt: skip
    return _write_item(home, "sentinel-1-rtc", name, date.time, properties, assets, S1_EXTENSIONS)


def write_photo(home: Path, date: str, pixels: np.ndarray) -> Path:
    """The 2.5 m orthophoto, uint8 R, G, B."""
    path = home / "orthophoto" / f"ortho_{date.replace('-', '')}.tif"
    tags = {"TIFFTAG_DATETIME": f"{date.replace('-', ':')} 10:00:00", "SIMULATED": NOTE}
    write_geotiff(path, pixels, scene_grid(PIXEL_M), nodata=None, band_names=("R", "G", "B"), tags=tags, overviews="average")
    return path


def land_cover(world: World) -> np.ndarray:
    """(H, W) uint8 class ids at 10 m: the commonest class of each pixel's 4 x 4 fine ones."""
    inside = slice(MARGIN_PX, -MARGIN_PX)
    fine = world.land_cover[inside, inside]
    block = round(LABEL_GSD_M / PIXEL_M)
    size = fine.shape[0] // block
    cells = fine.reshape(size, block, size, block).swapaxes(1, 2).reshape(size, size, block * block)
    return np.argmax([(cells == number).sum(axis=2) for number in range(len(CLASSES))], axis=0).astype(np.uint8)


def write_truth(
    home: Path, classes: np.ndarray, clear: np.ndarray, optical: list[tuple[Entry, OpticalDate]], radar: Iterable[Entry]
) -> None:
    """Land cover, the true clear pixels of every date (one band a date, on the grid of its image), shifts and the area."""
    truth = home / "truth"
    names = dict(enumerate(CLASSES))
    colors = dict(enumerate(COLORS))
    write_geotiff(truth / "land_cover.tif", classes[None], scene_grid(LABEL_GSD_M), nodata=255, colors=colors, names=names,
                  tags={"SIMULATED": NOTE}, overviews="mode")  # fmt: skip
    lines = [f"{number},{name},#{''.join(f'{part:02x}' for part in COLORS[number])}" for number, name in names.items()]
    write_text(truth / "classes.csv", "\n".join(["code,name,color", *lines]) + "\n")
    write_geotiff(truth / "clear.tif", clear.astype(np.uint8), scene_grid(10), nodata=None, overviews="none",
                  band_names=tuple(entry.id for entry, _ in optical), tags={"SIMULATED": NOTE})  # fmt: skip
    dates = [{"id": entry.id, "time": entry.time, "sky": date.sky.kind, "shift_m": date.shift_m} for entry, date in optical]
    facts = {"simulated": True, "note": NOTE, "sentinel-2-l2a": dates, "sentinel-1-rtc": [{"id": e.id, "time": e.time} for e in radar]}
    write_text(truth / "truth.json", json.dumps(facts, indent=1) + "\n")
    outline = _outline(area_bounds(), inset_m=100)  # wholly inside, so that no neighbouring footprint is touched
    area = {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"name": NOTE}, "geometry": outline}]}
    write_text(truth / "area.geojson", json.dumps(area, indent=1) + "\n")


def write_catalog(home: Path, entries: Iterable[Entry]) -> None:
    """The root and one collection file per collection; written last, so that a catalogue that opens is whole."""
    entries = list(entries)
    titles = {"sentinel-2-l2a": "Sentinel-2 Level-2A", "sentinel-1-rtc": "Sentinel-1 radiometrically terrain-corrected"}
    for collection, title in titles.items():
        mine = [entry for entry in entries if entry.collection == collection]
        times = sorted(entry.time for entry in mine)
        links = [{"rel": "item", "href": f"./{entry.id}/{entry.id}.json", "type": "application/geo+json"} for entry in mine]
        body = {
            "type": "Collection", "stac_version": "1.0.0", "id": collection, "title": f"{title} (SIMULATED)", "description": NOTE,
            "license": "Apache-2.0",
            "extent": {"spatial": {"bbox": [_box()]}, "temporal": {"interval": [[f"{times[0]}Z", f"{times[-1]}Z"]]}},
            "links": [*_links(".."), *links],
        }  # fmt: skip
        write_text(home / collection / "collection.json", json.dumps(body, indent=1) + "\n")
    children = [{"rel": "child", "href": f"./{name}/collection.json", "type": "application/json", "title": f"{title} (SIMULATED)"}
                for name, title in titles.items()]  # fmt: skip
    body = {
        "type": "Catalog", "stac_version": "1.0.0", "id": "skysense-demo", "title": "Landscape of skysense demo (SIMULATED)",
        "description": NOTE, "links": [{"rel": "root", "href": "./catalog.json", "type": "application/json"}, *children],
    }  # fmt: skip
    write_text(home / "catalog.json", json.dumps(body, indent=1) + "\n")


def _write(path: Path, pixels: np.ndarray, gsd: float, *, nodata: float, band: str, time: str, average: bool) -> None:
    tags = {"SIMULATED": NOTE, "ACQUISITION": time}
    write_geotiff(
        path, pixels[None], scene_grid(gsd), nodata=nodata, band_names=(band,), tags=tags, overviews="average" if average else "nearest"
    )


def _asset(href: str, title: str, gsd: float, measured: dict[str, Any]) -> dict[str, Any]:
    grid = scene_grid(gsd)
    return {
        "href": f"./{href}", "type": COG, "title": f"{title} (SIMULATED)", "gsd": gsd, "roles": ["data"], "raster:bands": [measured],
        "proj:shape": list(grid.shape), "proj:transform": [float(value) for value in grid.affine[:6]],
    }  # fmt: skip


def _write_item(home: Path, collection: str, name: str, time: str, properties: dict[str, Any], assets: dict[str, Any],
                extensions: list[str]) -> Entry:  # fmt: skip
    common = {
        "datetime": f"{time}Z",
        "title": f"{name} (SIMULATED)",
        "description": NOTE,
        "skysense:simulated": True,
        "proj:epsg": int(CRS[5:]),
    }
    item = {
        "type": "Feature", "stac_version": "1.0.0", "stac_extensions": extensions, "id": name, "collection": collection,
        "bbox": _box(), "geometry": _outline(_scene_bounds()), "properties": common | properties,
        "links": [*_links("../.."), {"rel": "collection", "href": "../collection.json", "type": "application/json"}], "assets": assets,
    }  # fmt: skip
    write_text(home / collection / name / f"{name}.json", json.dumps(item, indent=1) + "\n")
    return Entry(collection, name, time)


def _links(up: str) -> list[dict[str, str]]:
    parent = "../collection.json" if up == "../.." else "../catalog.json"
    return [
        {"rel": "root", "href": f"{up}/catalog.json", "type": "application/json"},
        {"rel": "parent", "href": parent, "type": "application/json"},
    ]


def _scene_bounds() -> tuple[float, float, float, float]:
    return LEFT, TOP - SIDE_M, LEFT + SIDE_M, TOP


def _outline(bounds: tuple[float, float, float, float], inset_m: float = 0) -> dict[str, Any]:
    """GeoJSON polygon in WGS 84 degrees of bounds in metres."""
    left, bottom, right, top = bounds[0] + inset_m, bounds[1] + inset_m, bounds[2] - inset_m, bounds[3] - inset_m
    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    ring = [tuple(round(value, 7) for value in lonlat((x, y, x, y), CRS)) for x, y in corners]
    return shapely.geometry.mapping(shapely.Polygon(ring))


def _box() -> list[float]:
    return list(shapely.geometry.shape(_outline(_scene_bounds())).bounds)
