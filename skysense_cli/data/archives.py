"""Archives that many people use: where they are, which collections a recipe can take, and what each of them needs.

    source: {kind: stac, archive: earth_search, collection: sentinel-2-l2a}

fills in the address, the rule for the offset of the numbers, and how files are opened. `table()` is for people.
To add an archive, add it to `ARCHIVES` and to the names that the stac source takes; a catalogue that needs no rule of
its own is used by its `url` as it is.
"""

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from skysense_cli.errors import RecipeError
from skysense_cli.geo.remote import PLANETARY

AMAZON = "an Amazon account that is billed: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REQUEST_PAYER=requester"
PACKAGE = "pip install 'skysense-cli[planetary]'"
SIGNED_HOSTS = ".blob.core.windows.net"
S3_KEYS = "free S3 keys of the Copernicus Data Space: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"


@dataclass(frozen=True)
class Collection:
    """What a collection holds.

    sensors: of recipes that can read it      needs: what the user must have; "" for nothing
    offset: who says what is taken off the numbers: `baseline` of the processing, unless an item says that it is off
        already, or `raster`, the offset that each asset declares
    buckets: of an object store, in which its files lie
    note: what one should know before using it
    """

    sensors: tuple[str, ...]
    needs: str = ""
    offset: Literal["baseline", "raster"] = "baseline"
    buckets: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Archive:
    """A STAC API. signed: files open with a signature only     endpoint: of its object store; "" is Amazon's"""

    url: str
    collections: dict[str, Collection] = field(default_factory=dict)
    signed: bool = False
    endpoint: str = ""


_RGB = ("rgb", "rgbnir")
_UNCALIBRATED = "uncalibrated: calibrated here by the files beside the image; needs `dem`, or `geocoding: flat` or `ellipsoid`"

ARCHIVES: dict[str, Archive] = {
    "earth_search": Archive(
        "https://earth-search.aws.element84.com/v1",
        {
            "sentinel-2-l2a": Collection(
                ("sentinel2_l2a",),
                note="COGs; some items of 2022 to 2025 say that their offset is not off although it is: their numbers decide",
            ),
            "sentinel-2-c1-l2a": Collection(("sentinel2_l2a",), offset="raster", note="COGs of Collection 1, baseline 05.00 and later"),
            "sentinel-2-l1c": Collection(("sentinel2_l1c",), AMAZON, buckets=("sentinel-s2-l1c",), note="JP2"),
            "sentinel-1-grd": Collection(("sentinel1_grd",), AMAZON, buckets=("sentinel-s1-l1c",), note=_UNCALIBRATED),
            "naip": Collection(_RGB, AMAZON, buckets=("naip-analytic",), note="USA, 0.3 to 1 m"),
        },
    ),
    "planetary_computer": Archive(
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        {
            "sentinel-2-l2a": Collection(("sentinel2_l2a",), PACKAGE, note="COGs with their offset"),
            "sentinel-1-rtc": Collection(("sentinel1_rtc",), f"{PACKAGE} and PC_SDK_SUBSCRIPTION_KEY", note="gamma0, linear power"),
            "sentinel-1-grd": Collection(("sentinel1_grd",), PACKAGE, note=_UNCALIBRATED),
            "naip": Collection(_RGB, PACKAGE, note="USA, 0.3 to 1 m"),
        },
        signed=True,
    ),
    "cdse": Archive(
        "https://stac.dataspace.copernicus.eu/v1",
        {
            "sentinel-2-l2a": Collection(("sentinel2_l2a",), S3_KEYS, buckets=("eodata",), note="JP2 with their offset"),
            "sentinel-2-l1c": Collection(("sentinel2_l1c",), S3_KEYS, buckets=("eodata",), note="JP2 with their offset"),
            "sentinel-1-grd": Collection(("sentinel1_grd",), S3_KEYS, buckets=("eodata",), note=_UNCALIBRATED),
        },
        endpoint="https://eodata.dataspace.copernicus.eu",
    ),
}


def find(archive: str, collection: str | None) -> tuple[Archive, Collection]:
    """The archive and its collection. Raises RecipeError that lists the known ones."""
    known = ARCHIVES.get(archive)
    if known is None:
        raise RecipeError(f"source.archive: unknown archive {archive!r} (known: {', '.join(ARCHIVES)})")
    if collection not in known.collections:
        asked = "say which collection" if collection is None else f"unknown collection {collection!r}"
        raise RecipeError(f"source.collection: {asked} of {archive} (known: {', '.join(known.collections)}; others by their `url`)")
    return known, known.collections[collection]


def opened_as(href: str, *, signed: bool, endpoint: str) -> str:
    """The address under which `geo/remote.py` opens a checked one: signed where it must be, at the object store of the archive."""
    if signed and (urlsplit(href).hostname or "").endswith(SIGNED_HOSTS):
        return PLANETARY + href
    return f"s3+{endpoint.rstrip('/')}/{href.removeprefix('s3://')}" if endpoint and href.startswith("s3://") else href


def table() -> list[tuple[str, str, str, str, str]]:
    """One row per collection: archive, collection, sensors, what it needs, what one should know."""
    return [
        (name, key, ", ".join(one.sensors), one.needs or "nothing", one.note)
        for name, archive in ARCHIVES.items()
        for key, one in archive.collections.items()
    ]
