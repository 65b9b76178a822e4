"""Scenes that a SpatioTemporal Asset Catalog lists: a static catalogue on disk or over http, or an API."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pystac
import pystac_client
from pystac_client.exceptions import APIError

from skysense_cli.data import archives
from skysense_cli.data.listings import ApiIO, StaticIO, refusal_in
from skysense_cli.data.radiometry import baseline_offset
from skysense_cli.data.sar.placing import Placing, radar_of
from skysense_cli.data.sources import Asset, Bounds, Item, Source, meets, parse_time, within
from skysense_cli.errors import RecipeError, SourceError
from skysense_cli.geo import hrefs
from skysense_cli.sensors import Band, Sensor
from skysense_cli.sensors.sentinel2_l2a import BANDS, OTHERS

NOT_PIXELS = ("thumbnail", "overview", "visual", "metadata", "tiles")  # roles of assets that are no measurement
OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
NAMED = {band.name: band for band in (*BANDS, *OTHERS)}  # extra bands that are reflectance, too
GLOBE = (-180.0, -90.0, 180.0, 90.0)
FACTS = {
    "platform": ("platform",),
    "orbit_pass": ("sat:orbit_state",),
    "relative_orbit": ("sat:relative_orbit",),
    "sun_azimuth_deg": ("view:sun_azimuth", "s2:mean_solar_azimuth"),
    "sun_elevation_deg": ("view:sun_elevation",),
    "view_incidence_deg": ("view:incidence_angle",),
    "baseline": ("s2:processing_baseline", "processing:version"),
}  # fact of a date -> properties it is read from, the first that is there


@dataclass(frozen=True)
class Dem:
    """Heights of the ground for Sentinel-1 GRD, as of the source `safe`."""

    path: str | list[str]
    geoid: float | str


class Stac(Source):
    """Items of a STAC catalogue whose assets are rasters that GDAL opens, on disk, over http or in an object store.

    archive: one of `data/archives.py`, instead of the next three; where they are given too, they replace the archive's own
    url: a `catalog.json`, a `collection.json` or the document of one item (path or address), or the root of a STAC API
    collection: only items of it; an API needs one
    max_cloud: only items with at most so many percent of cloud, by `eo:cloud_cover`. Always checked here:
        servers differ in the query language, and some answer a query they do not know with nothing
    buckets: of an object store, to which `s3://` addresses of the catalogue may point; its keys come from the environment
    endpoint: where that store answers, e.g. https://eodata.dataspace.copernicus.eu; Amazon's by default
    units: what the pixels are, where the catalogue does not say, e.g. "sigma0 linear"
    dem, geocoding: how Sentinel-1 GRD is placed, as of the source `safe`; it is calibrated by the annotations that the
        catalogue lists, and refused where it lists none
    Bands are found by asset name (`B02`, `blue`, `gamma0_vv` ...) or by the asset's `eo:bands`/`bands`.
    The Sentinel-2 offset follows the processing baseline, unless the catalogue says that it is already removed.
    """

    def __init__(self, *, archive: Literal["earth_search", "planetary_computer", "cdse"] | None = None, url: str | None = None,
                 collection: str | None = None, max_cloud: float | None = None, buckets: tuple[str, ...] = (), endpoint: str = "",
                 units: str | None = None, dem: Dem | None = None,
                 geocoding: Literal["refuse", "flat", "ellipsoid"] = "refuse") -> None:  # fmt: skip
        place, rules = archives.find(archive, collection) if archive else (archives.Archive(url or ""), archives.Collection(()))
        self.url, self.collection, self.max_cloud, self.units = url or place.url, collection, max_cloud, units
        if not self.url:
            raise RecipeError(f"source stac: give `archive` ({', '.join(archives.ARCHIVES)}) or `url`")
        self.signed, self.endpoint, self.rules = place.signed, endpoint or place.endpoint, rules
        self.allowed = hrefs.allowed_for(self.url, buckets=buckets or rules.buckets)
        paths = () if dem is None else (dem.path,) if isinstance(dem.path, str) else tuple(dem.path)
        self.placing = Placing(paths, dem.geoid if dem else 0.0, geocoding)

    def search(self, sensor: Sensor, lonlat_bounds: Bounds | None, period: tuple[np.datetime64, np.datetime64] | None,
               extra_bands: tuple[str, ...] = ()) -> list[Item]:  # fmt: skip
        bounds = lonlat_bounds or GLOBE
        try:
            found = {item.id: item for item in self._listed(bounds, period)}
        except (APIError, pystac.STACError, OSError, ValueError, KeyError) as error:
            refused = refusal_in(error)
            raise refused or SourceError(f"{self.url}: cannot read the catalogue: {error or type(error).__name__}") from error
        items = []
        for item in found.values():
            cloud = self._cloud(item)
            cloudy = self.max_cloud is not None and cloud is not None and cloud > self.max_cloud
            time = _time(item)
            if item.bbox and len(item.bbox) not in (4, 6):
                raise SourceError(f"{self.url}: item {hrefs.shown(item.id)} has a bbox of {len(item.bbox)} numbers, expected 4 or 6")
            if cloudy or not within(time, period) or (item.bbox and not meets(_flat(item.bbox), bounds)):
                continue
            items.append(self._item(item, time, sensor, extra_bands))
        return sorted(items, key=lambda item: (np.isnat(item.time), item.time, item.id))

    def _listed(self, bounds: Bounds, period: tuple[np.datetime64, np.datetime64] | None) -> Iterator[pystac.Item]:
        """Items that the catalogue lists for the bounds and the period; more may come, they are filtered later."""
        if not hrefs.names_document(self.url):
            root = pystac_client.Client.open(self.url, stac_io=ApiIO(self.url, self.allowed))
            if not self.collection:
                raise SourceError(f"{self.url}: is a STAC API, say which `collection` of it")
            span = None if period is None else "/".join(str(end.astype("datetime64[D]")) for end in period)
            yield from root.search(collections=[self.collection], bbox=bounds, datetime=span).items()
            return
        top = pystac.read_file(self.url, stac_io=StaticIO(self.url, self.allowed))
        if isinstance(top, pystac.Item):
            yield top
            return
        if not isinstance(top, pystac.Catalog):
            raise SourceError(f"{self.url}: is a STAC {top.STAC_OBJECT_TYPE}, expected an item, a catalogue or a collection")
        for child in _collections(top, bounds):
            if self.collection in (None, child.id):
                yield from child.get_items()

    def _cloud(self, item: pystac.Item) -> float | None:
        """Percent of cloud; None where it is not known, which is not none."""
        cloud = item.properties.get("eo:cloud_cover")
        if cloud is not None and not (isinstance(cloud, int | float) and 0 <= cloud <= 100):
            raise SourceError(f"{self.url}: item {hrefs.shown(item.id)} has the eo:cloud_cover {cloud!r:.40}, expected 0 to 100")
        return cloud

    def _item(self, item: pystac.Item, time: np.datetime64, sensor: Sensor, extra_bands: tuple[str, ...]) -> Item:
        hrefs.identifier(item.id, f"{self.url}: item")
        facts = {name: next((item.properties[key] for key in keys if key in item.properties), None) for name, keys in FACTS.items()}
        if facts["sun_elevation_deg"] is None and "s2:mean_solar_zenith" in item.properties:
            facts["sun_elevation_deg"] = 90 - item.properties["s2:mean_solar_zenith"]
        if sensor.kind == "optical" and facts["baseline"] is None:
            facts["baseline"] = _baseline_of_name(item)
        applied = next((item.properties[key] for key in OFFSET_APPLIED if key in item.properties), None)
        assets = {}
        for band in (*sensor.bands, *(NAMED.get(name, Band(name, (f"{name}_20m",))) for name in extra_bands)):
            key, number = self._find(item, band, sensor.kind)
            extra = band.name in extra_bands and band.name not in NAMED
            assets[band.name] = self._asset(item, key, number, sensor, None if extra else (facts["baseline"], applied))
        units = self.units or _units(item, assets, sensor)
        meta = {name: value for name, value in facts.items() if value is not None}
        found = Item(item.id, time, assets, units, meta)
        return self._calibrated(item, found) if sensor.kind == "sar" and units == "DN" else found

    def _calibrated(self, item: pystac.Item, found: Item) -> Item:
        """The item with what calibrates and places it, or as it is where the catalogue lists no annotations."""
        places = {key: self._place(item, key) for key in item.assets if key.startswith("schema")}
        radar = {band: radar_of(places, band) for band in found.assets}
        if not all(radar.values()):
            return found
        self.placing.check(f"source stac: item {found.id}")
        noise = all(one and one.noise for one in radar.values())
        calibration = "sigma0, thermal noise removed" if noise else "sigma0, thermal noise not annotated"
        assets = {band: replace(asset, radar=radar[band]) for band, asset in found.assets.items()}
        meta = {**found.meta, "calibration": calibration}
        return self.placing.placed(replace(found, assets=assets, units="sigma0 linear", meta=meta))

    def _find(self, item: pystac.Item, band: Band, kind: str) -> tuple[str, int]:
        """(asset key, band number): by the asset's name first, then by the names of its bands."""
        unwanted = set(NOT_PIXELS) - ({"visual"} if kind == "rgb" else set())
        usable = {key: asset for key, asset in item.assets.items() if not set(asset.roles or ()) & unwanted}
        names = {band.name.casefold(), *(alias.casefold() for alias in band.aliases)}
        by_name = [key for key in usable if key.casefold() in names]
        if by_name:
            return min(by_name, key=lambda key: (key.casefold() != band.name.casefold(), key)), 1
        for key, asset in usable.items():
            for number, one in enumerate(_bands(asset), 1):
                if {str(one.get(field, "")).casefold() for field in ("name", "common_name", "eo:common_name")} & names:
                    return key, number
        raise SourceError(f"{self.url}: item {item.id} has no asset for band {band.name} (assets: {', '.join(list(item.assets)[:30])})")

    def _place(self, item: pystac.Item, key: str) -> str:
        """The checked address of an asset, as it is opened."""
        where = f"{self.url}: item {item.id} keeps {key} at"
        href = hrefs.check(item.assets[key].href, self.allowed, base=item.get_self_href() or self.url, where=where)
        return archives.opened_as(href, signed=self.signed, endpoint=self.endpoint)

    def _asset(self, item: pystac.Item, key: str, number: int, sensor: Sensor, offset_facts: tuple[Any, Any] | None) -> Asset:
        """Where the band lies. offset_facts: (baseline, whether the offset is removed), None for an extra band."""
        href = self._place(item, key)
        if offset_facts is None or sensor.kind != "optical":
            return Asset(href, number)
        raster = _raster_facts(item.assets[key], number)
        scale = float(raster.get("scale", 1e-4)) or 1e-4  # to reflectance
        baseline, applied = offset_facts if self.rules.offset == "baseline" else (None, None)
        if applied is not None:
            offset = 0.0 if applied in (True, "true", "True") else baseline_offset(baseline or "04.00")
        elif baseline is not None:
            offset = baseline_offset(baseline)
        else:
            offset = float(raster.get("offset", 0.0)) / scale
        return Asset(href, number, scale=round(scale * 10000, 9), offset=round(offset, 6))


def _collections(root: pystac.Catalog, bounds: Bounds) -> Iterator[pystac.Catalog]:
    """The catalogue and all below it; a collection whose extent lies elsewhere is not opened further."""
    if isinstance(root, pystac.Collection):
        boxes = [_flat(box) for box in root.extent.spatial.bboxes]
        if boxes and not meets(boxes[0], bounds):
            return
    yield root
    for child in root.get_children():
        yield from _collections(child, bounds)


def _flat(box: list[float]) -> Bounds:
    """left, bottom, right, top of a box that may have heights."""
    return (box[0], box[1], box[3], box[4]) if len(box) == 6 else (box[0], box[1], box[2], box[3])


def _time(item: pystac.Item) -> np.datetime64:
    """The acquisition time in UTC seconds; the start where an item gives a span only."""
    when = item.datetime or item.common_metadata.start_datetime
    time = None if when is None else parse_time(when.strftime("%Y-%m-%dT%H:%M:%S"))
    return np.datetime64("NaT", "s") if time is None else time


def _bands(asset: pystac.Asset) -> list[dict[str, Any]]:
    return asset.extra_fields.get("eo:bands") or asset.extra_fields.get("bands") or []


def _raster_facts(asset: pystac.Asset, number: int) -> dict[str, Any]:
    """scale, offset and unit of a band, from the raster extension 1 (`raster:bands`) or 2 (`bands`)."""
    bands = asset.extra_fields.get("raster:bands") or asset.extra_fields.get("bands") or []
    facts = dict(bands[number - 1]) if len(bands) >= number else {}
    for name in ("scale", "offset"):
        value = facts.get(f"raster:{name}", asset.extra_fields.get(f"raster:{name}"))
        if value is not None:
            facts[name] = value
    return facts


def _baseline_of_name(item: pystac.Item) -> str | None:
    """The processing baseline that a product name carries, e.g. `_N0214_`."""
    names = (item.id, *(str(item.properties.get(key, "")) for key in ("s2:product_uri", "sentinel:product_id")))
    found = next((match for match in (re.search(r"_N(\d{2})(\d{2})_", name) for name in names) if match), None)
    return f"{found[1]}.{found[2]}" if found else None


def _units(item: pystac.Item, assets: dict[str, Asset], sensor: Sensor) -> str:
    """What the pixels are. Radar: RTC products carry linear gamma0; detected products carry uncalibrated numbers."""
    if sensor.kind != "sar":
        return sensor.units
    paths = {Path(asset.path).name for asset in assets.values()}
    own = [(key, asset) for key, asset in item.assets.items() if Path(asset.href).name in paths]
    said = {str(_raster_facts(asset, 1).get("unit", "")).casefold() for _, asset in own}
    words = " ".join([*(key for key, _ in own), str(item.properties.get("sar:product_type", "")), str(item.collection_id)]).casefold()
    kind = "gamma0" if "gamma0" in words or "rtc" in words else "sigma0" if "sigma0" in words else None
    if "db" in said:
        return f"{kind or sensor.units.split()[0]} dB"
    if kind is None and "grd" in words:
        return "DN"
    return f"{kind or sensor.units.split()[0]} linear"


build = Stac
