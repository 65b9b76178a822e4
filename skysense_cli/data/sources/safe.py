"""Sentinel products on this machine: SAFE folders or zip archives, read where they lie."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from skysense_cli.data.archive import Product, open_product
from skysense_cli.data.products import listing
from skysense_cli.data.sar.placing import Placing
from skysense_cli.data.sources import Bounds, Item, Source, meets, parse_time, within
from skysense_cli.errors import SourceError
from skysense_cli.sensors import Sensor

Period = tuple[np.datetime64, np.datetime64] | None

NAMED_DAY = re.compile(r"_(\d{8}T\d{6})_")
DAY = np.timedelta64(1, "D")
GLOBE = (-180.0, -91.0, 180.0, 91.0)
MARKS = ("MTD_MSIL1C.xml", "MTD_MSIL2A.xml", "measurement")  # what makes a folder a product, whatever its name


@dataclass(frozen=True)
class Dem:
    """Heights of the ground: one raster or several, in metres above the geoid or the ellipsoid.

    geoid: height of the geoid above the ellipsoid, which is added: metres, or a raster of metres such as EGM2008;
        0 for a DEM above the ellipsoid. There is no default, since 50 m of height are 80 m on the ground
    """

    path: str | list[str]
    geoid: float | str


class Safe(Source):
    """Sentinel-2 L1C and L2A, and Sentinel-1 GRD products below `path`: a product, a folder of products, or a list of such.

    pattern: which entries of a folder are products, a glob such as "S2*" or "*/*.SAFE"; others are passed over
    max_cloud: only products with at most so many percent of cloud by their metadata
    dem: Sentinel-1 is then placed by orbit and height (range-Doppler terrain correction)
    geocoding: Sentinel-1 without a DEM is refused; `ellipsoid` places it on the product's own coarse surface of
        heights and marks it so. Ground that rises above that surface lands elsewhere, by its height over the
        tangent of the incidence angle: 10 m of relief are 10 to 17 m. `flat` does so where the product's heights, which
        are 13 to 20 km apart, show at most 10 m of relief around, and refuses the date by name elsewhere; what lies
        between them it cannot see. Terrain-corrected products (RTC) are better
    verify: compare the images in zip archives with the archive's checksums before their first use in a process,
        which reads them once as a whole (about 1 s per GB)
    Offsets, baseline, times, orbit and angles come from the metadata. Sentinel-1 becomes sigma0 by the product's
    calibration, without its thermal noise where that is annotated.
    A product that lies there twice (folder and zip) counts once.
    """

    def __init__(self, *, path: str | list[str], pattern: str = "*", max_cloud: float | None = None, dem: Dem | None = None,
                 geocoding: Literal["refuse", "flat", "ellipsoid"] = "refuse", verify: bool = True) -> None:  # fmt: skip
        self.path, self.pattern, self.max_cloud = path, pattern, max_cloud
        self.dem, self.verify = dem, verify
        self.geocoding: Literal["refuse", "flat", "ellipsoid"] = geocoding

    def search(self, sensor: Sensor, lonlat_bounds: Bounds | None, period: Period, extra_bands: tuple[str, ...] = ()) -> list[Item]:
        if sensor.kind == "sar":
            self.check_geocoding()
        kind, bands = listing.kind_for(sensor), (*sensor.band_names, *extra_bands)
        items: dict[str, Item] = {}
        others = []
        paths = _listed(self.path, self.pattern)
        for path in paths:
            if _named_outside(path.name, period):
                continue
            product = _opened(path, _stamp(path))
            if listing.kind_of(product) != kind:
                others.append(listing.kind_of(product))
                continue
            item, bounds = _understood(product, bands)
            cloudy = self.max_cloud is not None and item.meta.get("cloud_cover", 0.0) > self.max_cloud
            if cloudy or item.id in items or not within(item.time, period) or not meets(bounds, lonlat_bounds or GLOBE):
                continue
            if self.verify:
                _verify(product, bands)
            items[item.id] = self._placing.placed(item)
        if others and len(others) == len(paths):
            raise SourceError(f"{self.path}: no product of {sensor.name} ({kind}), only {', '.join(sorted(set(others)))}")
        return sorted(items.values(), key=lambda item: (item.time, item.id))

    def check_geocoding(self) -> None:
        """Raise RecipeError unless the options say how Sentinel-1 is placed, GridError for a DEM that is not there."""
        self._placing.check("source safe")

    @property
    def _placing(self) -> Placing:
        dem = self.dem
        if dem is None:
            return Placing(geocoding=self.geocoding)
        return Placing((dem.path,) if isinstance(dem.path, str) else tuple(dem.path), dem.geoid, self.geocoding)


# a build asks for the same products block after block


@lru_cache(maxsize=1024)
def _opened(path: Path, stamp: tuple[int, int]) -> Product:
    return open_product(path)


@lru_cache(maxsize=1024)
def _understood(product: Product, bands: tuple[str, ...]) -> tuple[Item, Bounds]:
    return listing.item_of(product, bands)


@lru_cache(maxsize=1024)
def _verify(product: Product, bands: tuple[str, ...]) -> None:
    for file in listing.images(product, bands).values():
        product.check(file)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when the product does."""
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size


# products


def _listed(path: str | list[str], pattern: str) -> list[Path]:
    """The products at or below `path`, by name."""
    if not isinstance(path, str):
        return [product for one in path for product in _listed(one, pattern)]
    home = Path(path)
    if home.is_file() or is_product(home):
        return [home]
    if not home.is_dir():
        raise SourceError(f"{path}: no such file or folder")
    found = sorted(one for one in home.glob(pattern) if is_product(one) or (one.is_file() and one.suffix.casefold() == ".zip"))
    if not found:
        some = ", ".join(sorted(one.name for one in home.iterdir())[:3]) or "nothing"
        raise SourceError(f"{path}: no product (*.SAFE folder or *.zip) matches {pattern!r} (the folder holds {some} ...)")
    return found


def is_product(path: Path) -> bool:
    """Whether a folder is a product, by its name or by what lies in it."""
    return path.is_dir() and (path.suffix.casefold() == ".safe" or any((path / name).exists() for name in MARKS))


def _named_outside(name: str, period: Period) -> bool:
    """Whether the time in a product's name lies more than a day outside the period, so that it need not be opened."""
    found = NAMED_DAY.search(name)
    time = parse_time(found[1]) if found else None
    return time is not None and period is not None and not within(time, (period[0] - DAY, period[1] + DAY))


build = Safe
