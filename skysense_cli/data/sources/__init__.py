"""Sources: where scenes come from. One kind per file.

To add one, write `data/sources/<kind>.py`:

    class MySource(Source):
        def __init__(self, *, url: str, collection: str) -> None: ...
    build = MySource

A source whose scenes must be fetched first lists them without assets and with `bring`; whoever reads pixels or
headers of an item asks for `item.ready()` before, so only what is used is fetched, and nothing by a search.
"""

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skysense_cli.sensors import Sensor

Bounds = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Radar:
    """What makes sigma0 on the ground of a detected image: places of its annotation, calibration and noise XML.

    noise: None where the product has none       dem: rasters of heights in metres; none: the product's own grid surface
    geoid: what is added to them to be above the ellipsoid: metres, or a raster of metres
    flat: without heights, ground that shows relief against that surface is refused
    """

    product: str
    calibration: str
    noise: str | None = None
    dem: tuple[str, ...] = ()
    geoid: float | str = 0.0
    flat: bool = False


@dataclass(frozen=True)
class Asset:
    """Where one band lies: `path` (a file, a member of a zip or an http url) and the 1-based band number in it.

    scale, offset: stored counts = (raw + offset) * scale, e.g. offset -1000 for Sentinel-2 baseline 04.00
    nodata: overrides what the file declares (None: take the file's)
    radar: of an image in lines and samples, which is calibrated and geocoded when it is read; units are then `sigma0 linear`
    sample: (modality, date) of an `.npz` sample, whose numbers are stored ones already; `path` is the sample's
    """

    path: str
    number: int = 1
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    radar: Radar | None = None
    sample: tuple[str, int] | None = None


@dataclass(frozen=True)
class Item:
    """A scene as its source lists it.

    id: unique in the source      time: UTC, or NaT if not known
    assets: band name of the sensor, or name of an extra band such as "SCL" -> Asset
    units: what the raw pixels are: "reflectance*10000", "sigma0 dB", "sigma0 linear", "gamma0 dB", "gamma0 linear", "DN"
    meta: facts for the sample's per-date record (platform, orbit_pass, relative_orbit, baseline, offset_applied,
        sun_azimuth_deg, calibration, geocoding ...); an unknown fact is an absent key
    bring: fetches the scene and gives the item again, with its assets; None: it can be read as it is
    parts: the items, side by side on one day, that this one stands for; none for an ordinary one
    """

    id: str
    time: np.datetime64
    assets: dict[str, Asset]
    units: str
    meta: dict[str, Any] = field(default_factory=dict)
    bring: Callable[[], "Item"] | None = field(default=None, compare=False, repr=False)
    parts: "tuple[Item, ...]" = ()

    def ready(self) -> "Item":
        """The item with assets that can be read now, under the same id. May download, once; raises SourceError when that fails."""
        return self if self.bring is None else self.bring()


class Source:
    """A collection of scenes. Everything is lazy: `search` reads listings and headers, never pixels."""

    def search(self, sensor: Sensor, lonlat_bounds: Bounds | None, period: tuple[np.datetime64, np.datetime64] | None,
               extra_bands: tuple[str, ...] = ()) -> list[Item]:  # fmt: skip
        """Items that touch the bounds within the period (both ends inclusive), ascending by time, then id.

        lonlat_bounds: WGS 84 degrees; left > right means across the antimeridian; None = anywhere
        extra_bands: further assets wanted, e.g. ("SCL",)
        Raises SourceError naming url or path when the source cannot be read, or an item lacks a wanted band.
        """
        raise NotImplementedError


_TIME = re.compile(r"(\d{4})[-:/]?(\d{2})[-:/]?(\d{2})(?:[T _-]?(\d{2})[:-]?(\d{2})(?:[:-]?(\d{2})(?:\.\d+)?)?)?(?:Z|[+-]00:?00)?")


def parse_time(text: str) -> np.datetime64 | None:
    """UTC seconds of `20210401`, `2021-04-01T10:50:31Z`, `2021:04:01 10:50:31` ...; None for anything else."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return None
    numbers = [int(part) for part in found.groups(default="0")]
    try:
        return np.datetime64(datetime.datetime(*numbers)).astype("datetime64[s]")  # type: ignore[arg-type]
    except ValueError:  # month 13 and the like
        return None


def within(time: np.datetime64, period: tuple[np.datetime64, np.datetime64] | None) -> bool:
    """Whether `time` lies on a day of the period, both ends inclusive; an unknown time always does."""
    if period is None or np.isnat(time):
        return True
    first, last = (end.astype("datetime64[D]") for end in period)
    return bool(first <= time.astype("datetime64[D]") <= last)


def meets(a: Bounds, b: Bounds) -> bool:
    """Whether two WGS 84 bounds share ground; each may cross the antimeridian (left > right)."""
    spans = [[(left, right)] if left <= right else [(left, 180.0), (-180.0, right)] for left, _, right, _ in (a, b)]
    across = any(first[0] < second[1] and second[0] < first[1] for first in spans[0] for second in spans[1])
    return across and a[1] < b[3] and b[1] < a[3]
