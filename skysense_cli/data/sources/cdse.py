"""Products of the Copernicus Data Space Ecosystem: searched through OData, fetched whole when they are first read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

from skysense_cli.data import web
from skysense_cli.data.fetch import Expected, fetch
from skysense_cli.data.sources import Bounds, Item, Source, meets, parse_time, within
from skysense_cli.data.sources import safe as safe_source
from skysense_cli.data.tokens import Account, token_for
from skysense_cli.data.web import Limits
from skysense_cli.errors import SourceError
from skysense_cli.geo import hrefs
from skysense_cli.sensors import Sensor

Period = tuple[np.datetime64, np.datetime64]

ACCOUNT = Account("dataspace.copernicus.eu", "cdse-public", "CDSE")
PAGE = 100
MOST_PAGES = 5000
LIMITS = Limits(read_s=60)
PRODUCTS = {  # sensor -> collection, product type
    "sentinel2_l2a": ("SENTINEL-2", "S2MSI2A"),
    "sentinel2_l1c": ("SENTINEL-2", "S2MSI1C"),
    "sentinel1_grd": ("SENTINEL-1", "IW_GRDH_1S"),
}
FACTS = {
    "orbitDirection": "orbit_pass",
    "relativeOrbitNumber": "relative_orbit",
    "processorVersion": "baseline",
    "cloudCover": "cloud_cover",
}


@dataclass(frozen=True)
class Dem:
    """Heights of the ground for Sentinel-1, as of the source `safe`."""

    path: str | list[str]
    geoid: float | str


class Cdse(Source):
    """Sentinel-2 L1C and L2A, and Sentinel-1 GRD products of the Copernicus Data Space Ecosystem.

    cache: folder for the products, zip archives of about 1 GB each; they are kept there and used again
    max_cloud: only products with at most so many percent of cloud, asked of the server and checked here
    product_type: instead of the sensor's own, e.g. IW_GRDH_1S-COG
    dem, geocoding: how Sentinel-1 is placed, as of the source `safe`, which reads the products
    verify: by the checksum of the catalogue and those inside the archive, or by the latter alone, where a
        server packs the archives as they are asked for
    catalogue_url, download_url, token_url: of a mirror
    The search needs no account, the download does: CDSE_USERNAME and CDSE_PASSWORD in the environment, or an entry
    of ~/.netrc for the machine of token_url. They go to Copernicus only, or to hosts that SKYSENSE_ALLOW names.
    """

    def __init__(
        self, *, cache: str, max_cloud: float | None = None, product_type: str | None = None, dem: Dem | None = None,
        geocoding: Literal["refuse", "flat", "ellipsoid"] = "refuse", verify: Literal["catalogue", "archive"] = "catalogue",
        catalogue_url: str = "https://catalogue.dataspace.copernicus.eu/odata/v1",
        download_url: str = "https://download.dataspace.copernicus.eu/odata/v1",
        token_url: str = "https://identity.dataspace.copernicus.eu/auth/realms/CDSE/protocol/openid-connect/token",
    ) -> None:  # fmt: skip
        self.cache, self.max_cloud, self.product_type = Path(cache), max_cloud, product_type
        self.dem, self.geocoding, self.verify = safe_source.Dem(dem.path, dem.geoid) if dem else None, geocoding, verify
        self.catalogue_url, self.download_url, self.token_url = (url.rstrip("/") for url in (catalogue_url, download_url, token_url))
        self.allowed = hrefs.allowed_for(self.catalogue_url)

    def search(self, sensor: Sensor, lonlat_bounds: Bounds | None, period: Period | None,
               extra_bands: tuple[str, ...] = ()) -> list[Item]:  # fmt: skip
        if sensor.name not in PRODUCTS:
            raise SourceError(f"{self.catalogue_url}: has no products that are read as {sensor.name}, only as {', '.join(PRODUCTS)}")
        if sensor.kind == "sar":
            self._reader("").check_geocoding()  # before products are fetched for nothing
        items: dict[str, Item] = {}
        for bounds in _halves(lonlat_bounds):
            for product in self._listed(self._filter(sensor, bounds, period)):
                item = self._item(product, sensor, lonlat_bounds, extra_bands)
                if item is not None and within(item.time, period):
                    items[item.id] = item
        return sorted(items.values(), key=lambda item: (np.isnat(item.time), item.time, item.id))

    def _filter(self, sensor: Sensor, bounds: Bounds | None, period: Period | None) -> str:
        collection, kind = PRODUCTS[sensor.name]
        terms = [f"Collection/Name eq '{collection}'", _attribute("String", "productType", "eq", f"'{_quoted(self.product_type or kind)}'")]
        if bounds is not None:
            left, bottom, right, top = (f"{number:.6f}" for number in bounds)
            ring = f"{left} {bottom},{right} {bottom},{right} {top},{left} {top},{left} {bottom}"
            terms.append(f"OData.CSC.Intersects(area=geography'SRID=4326;POLYGON(({ring}))')")
        if period is not None:
            first, last = period[0].astype("datetime64[D]"), period[1].astype("datetime64[D]") + 1
            terms += [f"ContentDate/Start ge {first}T00:00:00.000Z", f"ContentDate/Start lt {last}T00:00:00.000Z"]
        if self.max_cloud is not None and sensor.kind == "optical":
            terms.append(_attribute("Double", "cloudCover", "le", f"{self.max_cloud:.2f}"))
        return " and ".join(terms)

    def _listed(self, terms: str) -> Iterator[dict[str, Any]]:
        """The products of all pages."""
        options = {"$filter": terms, "$orderby": "ContentDate/Start", "$top": str(PAGE), "$expand": "Attributes"}
        page = f"{self.catalogue_url}/Products?{urlencode(options, quote_via=quote, safe='$')}"
        seen: set[str] = set()
        while page:
            if page in seen or len(seen) >= MOST_PAGES:
                raise SourceError(f"{self.catalogue_url}: its pages do not end (page {len(seen) + 1} came before, or is one too many)")
            seen.add(page)
            answer = web.read_json(page, allowed=self.allowed, limits=LIMITS)
            found = answer.get("value") if isinstance(answer, dict) else None
            if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
                raise SourceError(f"{self.catalogue_url}: answers without a list of products (`value`); is it an OData address?")
            yield from found
            page = self._next(page, answer.get("@odata.nextLink"))

    def _next(self, page: str, link: object) -> str:
        """The address of the next page, on the catalogue's own server; empty at the end."""
        if not link:
            return ""
        address = hrefs.check(link, self.allowed, base=page, where=f"{self.catalogue_url}: has its next page at")
        if urlsplit(address)[:2] != urlsplit(self.catalogue_url)[:2]:
            raise SourceError(f"{self.catalogue_url}: has its next page on another server, {hrefs.shown(address)}")
        return address

    def _item(self, product: dict[str, Any], sensor: Sensor, bounds: Bounds | None, extra_bands: tuple[str, ...]) -> Item | None:
        """The item of a listed product; None when it is too cloudy or lies elsewhere."""
        where = f"{self.catalogue_url}: product"
        name = hrefs.identifier(product.get("Name"), where).removesuffix(".SAFE")
        key = product.get("Id")
        if not isinstance(key, str) or not re.fullmatch(r"[0-9A-Za-z-]{1,64}", key):
            raise SourceError(f"{where} {name} has the id {hrefs.shown(key)}, expected a UUID")
        facts = _facts(product)
        cloud = facts.get("cloud_cover")
        if cloud is not None and not (isinstance(cloud, int | float) and 0 <= cloud <= 100):
            raise SourceError(f"{where} {name} has the cloudCover {cloud!r:.40}, expected 0 to 100")
        if self.max_cloud is not None and cloud is not None and cloud > self.max_cloud:
            return None
        boxes = _boxes(product.get("GeoFootprint"))
        if bounds is not None and boxes and not any(meets(box, bounds) for box in boxes):
            return None
        dates = product.get("ContentDate")
        time = parse_time(str(dates.get("Start", ""))) if isinstance(dates, dict) else None
        expected = _expected(product) if self.verify == "catalogue" else Expected()
        bring = _Product(self, name, key, time, expected, sensor, extra_bands)
        return Item(name, np.datetime64("NaT", "s") if time is None else time, {}, sensor.units, facts, bring)

    def _reader(self, path: str) -> safe_source.Safe:
        return safe_source.Safe(path=path, dem=self.dem, geocoding=self.geocoding)


@dataclass(frozen=True)
class _Product:
    """Fetches a product, unless the cache has it, and gives its item."""

    source: Cdse
    name: str
    key: str
    time: np.datetime64 | None
    expected: Expected
    sensor: Sensor
    extra_bands: tuple[str, ...]

    def __call__(self) -> Item:
        source = self.source
        path = fetch(
            f"{source.download_url}/Products({self.key})/$value", source.cache / f"{self.name}.zip", allowed=source.allowed,
            expected=self.expected, credentials=token_for(source.token_url, source.download_url, ACCOUNT), limits=LIMITS,
        )  # fmt: skip
        found = source._reader(str(path)).search(self.sensor, None, None, self.extra_bands)
        if len(found) != 1:
            raise SourceError(f"{path}: holds {len(found)} products of {self.sensor.name}, expected one")
        return replace(found[0], id=self.name, time=found[0].time if self.time is None else self.time)


# what a listing says


def _attribute(kind: str, name: str, operator: str, value: str) -> str:
    place = f"OData.CSC.{kind}Attribute"
    return f"Attributes/{place}/any(att:att/Name eq '{name}' and att/{place}/Value {operator} {value})"


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _halves(bounds: Bounds | None) -> list[Bounds | None]:
    """The bounds, cut at the antimeridian if they cross it."""
    if bounds is None or bounds[0] <= bounds[2]:
        return [bounds]
    left, bottom, right, top = bounds
    return [(left, bottom, 180.0, top), (-180.0, bottom, right, top)]


def _facts(product: dict[str, Any]) -> dict[str, Any]:
    """Facts of the date that are known without the product; its own metadata tell more."""
    listed = product.get("Attributes")
    given = {one["Name"]: one.get("Value") for one in listed if isinstance(one, dict) and "Name" in one} if isinstance(listed, list) else {}
    facts = {ours: given[theirs] for theirs, ours in FACTS.items() if given.get(theirs) is not None}
    if "orbit_pass" in facts:
        facts["orbit_pass"] = str(facts["orbit_pass"]).casefold()
    if "platformShortName" in given:
        facts["platform"] = f"{given['platformShortName']}{given.get('platformSerialIdentifier') or ''}".casefold()
    return facts


def _boxes(footprint: Any) -> list[Bounds]:
    """Bounds of each polygon of a GeoJSON Polygon or MultiPolygon; none where there is no such footprint."""
    if not isinstance(footprint, dict) or footprint.get("type") not in ("Polygon", "MultiPolygon"):
        return []
    polygons: Any = footprint.get("coordinates")
    try:
        rings = [polygon[0] for polygon in (polygons if footprint["type"] == "MultiPolygon" else [polygons])]
        corners = [np.array([(float(x), float(y)) for x, y, *_ in ring]) for ring in rings]
    except (TypeError, ValueError, IndexError):
        return []
    return [(*map(float, ring.min(axis=0)), *map(float, ring.max(axis=0))) for ring in corners if len(ring)]  # type: ignore[misc]


def _expected(product: dict[str, Any]) -> Expected:
    """Digest and size, where the catalogue has a digest that we can compute; a size alone is of the unpacked product at times."""
    listed = product.get("Checksum")
    digests = {
        str(one["Algorithm"]).casefold().replace("-", ""): str(one["Value"]).casefold()
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict) and one.get("Algorithm") and re.fullmatch(r"[0-9a-fA-F]{32,128}", str(one.get("Value")))
    }
    expected = Expected(digests=digests)
    size = product.get("ContentLength")
    return replace(expected, size=size) if expected.algorithm() and isinstance(size, int) and size > 0 else expected


build = Cdse
