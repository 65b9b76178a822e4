"""Sentinel-2 L1C and L2A products: what MTD_MSIL1C.xml / MTD_MSIL2A.xml and the tile's MTD_TL.xml say."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysense_cli.data.products.document import Document, parse
from skysense_cli.data.radiometry import baseline_offset
from skysense_cli.errors import DataError

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")  # by band_id
PRODUCT_XML = re.compile(r"MTD_MSIL(1C|2A)\.xml")
TILE_XML = re.compile(r"GRANULE/[^/]+/MTD_TL\.xml")
UNITS = {"1C": "toa reflectance*10000", "2A": "reflectance*10000"}
QUANTITY = {"1C": ("QUANTIFICATION_VALUE", "RADIO_ADD_OFFSET"), "2A": ("BOA_QUANTIFICATION_VALUE", "BOA_ADD_OFFSET")}
NATIVE_M = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B01": 60, "B09": 60, "B10": 60}  # all others 20
_IMAGE = re.compile(r"GRANULE/[^/]+/IMG_DATA/(?:R\d\dm/)?[^/]*_(B\d\d|B8A|SCL)(?:_(\d\d)m)?\.(?:jp2|tiff?)", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Optical:
    """What a product says of itself.

    level: `1C` or `2A`     time: start of the datatake, UTC     scale, offset: stored = (raw + offset[band]) * scale
    cloud: percent     meta: facts for the record of a date     tile: (crs, left, top, right, bottom), None without MTD_TL.xml
    """

    level: str
    time: np.datetime64
    scale: float
    offset: dict[str, float]
    cloud: float | None
    meta: dict[str, Any]
    tile: tuple[str, tuple[float, float, float, float]] | None

    @property
    def units(self) -> str:
        """What (raw + offset) * scale is."""
        return UNITS[self.level]


def read(product: bytes, tile: bytes | None, name: str) -> Optical:
    """The facts of a product from the texts of its two metadata files. Raises DataError that names the element.

    From processing baseline 04.00 on the offsets must be there; before, a product without them has none.
    """
    main = parse(product, name)
    found = re.search(r"Level-(1C|2A)_User_Product", main.root.tag)
    if found is None:
        raise DataError(f"{name}: is {main.root.tag[:60]!r}, expected the metadata of a Sentinel-2 Level-1C or Level-2A product")
    level = found[1]
    _check_images(main)
    baseline = main.text(".//PROCESSING_BASELINE")
    quantity, add = QUANTITY[level]
    quantification = main.number(f".//{quantity}", low=1, high=1e6)
    cloud = main.number(".//Cloud_Coverage_Assessment", low=0, high=100) if main.first(".//Cloud_Coverage_Assessment") else None
    meta: dict[str, Any] = {"baseline": baseline}
    for key, path, form in (
        ("platform", ".//SPACECRAFT_NAME", str.casefold),
        ("relative_orbit", ".//SENSING_ORBIT_NUMBER", int),
        ("orbit_pass", ".//SENSING_ORBIT_DIRECTION", str.casefold),
    ):
        if main.first(path):
            meta[key] = main.whole(path, low=1, high=1000) if form is int else main.text(path).casefold()
    if cloud is not None:
        meta["cloud_cover"] = cloud
    place = None
    if tile is not None:
        below = parse(tile, f"{name} (MTD_TL.xml)")
        meta.update(_angles(below))
        place = _tile(below)
    time = main.moment(".//PRODUCT_START_TIME").astype("datetime64[s]")
    return Optical(level, time, 10000 / quantification, _offsets(main, add, baseline), cloud, meta, place)


def images(names: Iterable[str]) -> dict[str, str]:
    """Band (or SCL) -> the product's file of it: at the band's own resolution, else the nearest finer or coarser one."""
    found: dict[str, list[tuple[float, str]]] = {}
    for name in names:
        match = _IMAGE.fullmatch(name)
        if match:
            band = match[1].upper()
            native = NATIVE_M.get(band, 20)
            size = int(match[2]) if match[2] else native
            found.setdefault(band, []).append((abs(size - native), name))
    return {band: min(files)[1] for band, files in found.items()}


def _offsets(main: Document, add: str, baseline: str) -> dict[str, float]:
    """Band -> what is added to its numbers, from the list in the product; none before baseline 04.00."""
    given = main.all(f".//{add}")
    wanted = _by_baseline(main, baseline)
    if not given:
        if wanted:
            raise DataError(f"{main.name}: baseline {baseline} has no {add}; products since 04.00 carry it, so the file is incomplete")
        return dict.fromkeys(BANDS, 0.0)
    offsets = {}
    for one in given:
        number = one.root.get("band_id", "")
        if not number.isdigit() or int(number) >= len(BANDS):
            raise DataError(f"{main.name}: {add} has the band_id {number[:20]!r}, expected 0 to {len(BANDS) - 1}")
        offsets[BANDS[int(number)]] = one.number(".", low=-100_000, high=100_000)
    missing = [band for band in BANDS if band not in offsets]
    if missing:
        raise DataError(f"{main.name}: {add} is missing for {', '.join(missing)}")
    return offsets


def _by_baseline(main: Document, baseline: str) -> float:
    try:
        return baseline_offset(baseline)
    except DataError as error:
        raise DataError(f"{main.name}: PROCESSING_BASELINE: {error}") from error


def _check_images(main: Document) -> None:
    """Bands are found among the product's own files; a list that points elsewhere is a sign of tampering."""
    for one in (*main.all(".//IMAGE_FILE"), *main.all(".//IMAGE_FILE_2A")):
        text = (one.root.text or "").strip()
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", text) or ".." in text.split("/"):
            raise DataError(f"{main.name}: IMAGE_FILE is {text[:80]!r}, expected a path below the product")


def _angles(below: Document) -> dict[str, float]:
    """Sun and mean viewing angles in degrees, as far as the tile's metadata has them."""
    facts = {}
    if below.first(".//Mean_Sun_Angle"):
        facts["sun_azimuth_deg"] = round(below.number(".//Mean_Sun_Angle/AZIMUTH_ANGLE", low=-360, high=360), 3)
        facts["sun_elevation_deg"] = round(90 - below.number(".//Mean_Sun_Angle/ZENITH_ANGLE", low=0, high=180), 3)
    views = [one.number("ZENITH_ANGLE", low=0, high=90) for one in below.all(".//Mean_Viewing_Incidence_Angle")]
    if views:
        facts["view_incidence_deg"] = round(sum(views) / len(views), 3)
    return facts


def _tile(below: Document) -> tuple[str, tuple[float, float, float, float]]:
    crs = below.text(".//HORIZONTAL_CS_CODE")
    left, top = below.number(".//Geoposition[@resolution='10']/ULX"), below.number(".//Geoposition[@resolution='10']/ULY")
    rows = below.whole(".//Size[@resolution='10']/NROWS", low=1)
    columns = below.whole(".//Size[@resolution='10']/NCOLS", low=1)
    return crs, (left, top - 10.0 * rows, left + 10.0 * columns, top)
