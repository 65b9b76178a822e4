"""From the files of a product to an item of a source: what it is, which file holds which band, where it lies."""

import re
from collections.abc import Sequence
from typing import Any

from skysense_cli.data.archive import Product
from skysense_cli.data.products import sentinel1, sentinel2
from skysense_cli.data.products.document import parse
from skysense_cli.data.sources import Asset, Bounds, Item, Radar
from skysense_cli.errors import DataError, SourceError
from skysense_cli.geo import raster
from skysense_cli.geo.grid import bounds_of
from skysense_cli.geo.grid import lonlat_bounds as in_degrees
from skysense_cli.sensors import Sensor

RADAR = "Sentinel-1"
MEASUREMENT = re.compile(r"measurement/([^/]+)\.tiff?")
POLARISATION = re.compile(r"(?:^|-)(vv|vh|hh|hv)(?:-|$)", re.IGNORECASE)


def kind_of(product: Product) -> str:
    """`Sentinel-1`, `Sentinel-2 L1C` or `Sentinel-2 L2A`, by the names of its files. Raises DataError for anything else."""
    for file in product.files:
        match = sentinel2.PRODUCT_XML.fullmatch(file)
        if match:
            return f"Sentinel-2 L{match[1]}"
        if MEASUREMENT.fullmatch(file):
            return RADAR
    some = ", ".join(repr(file[:60]) for file in product.files[:3]) or "nothing"
    raise DataError(
        f"{product.path}: has no MTD_MSIL2A.xml, no MTD_MSIL1C.xml and no measurement/*.tiff, so it is no product (holds {some})"
    )


def kind_for(sensor: Sensor) -> str:
    """The kind of product that a sensor's pixels come from."""
    levels = {units: f"Sentinel-2 L{level}" for level, units in sentinel2.UNITS.items()}
    return RADAR if sensor.kind == "sar" else levels.get(sensor.units, "a product that is not read here")


def item_of(product: Product, bands: Sequence[str]) -> tuple[Item, Bounds]:
    """The item with these bands, and its bounds in degrees (left > right across the antimeridian).

    Raises DataError for damaged metadata, SourceError for a band that the product lacks.
    """
    return (_radar if kind_of(product) == RADAR else _optical)(product, images(product, bands))


def images(product: Product, bands: Sequence[str]) -> dict[str, str]:
    """Band -> the product's file of it. Raises SourceError naming the bands that are missing."""
    if kind_of(product) == RADAR:
        found = {}
        for file in product.files:
            match = MEASUREMENT.fullmatch(file)
            band = POLARISATION.search(match[1]) if match else None
            if band:
                found[band[1].upper()] = file
    else:
        found = sentinel2.images(product.files)
    missing = [band for band in bands if band not in found]
    if missing:
        have = ", ".join(sorted(found)) or "no image at all"
        raise SourceError(f"{product.path}: has no image of {', '.join(missing)} (found: {have}); fetch the whole product")
    return {band: found[band] for band in bands}


def _optical(product: Product, files: dict[str, str]) -> tuple[Item, Bounds]:
    main = next(file for file in product.files if sentinel2.PRODUCT_XML.fullmatch(file))
    tiles = [file for file in product.files if sentinel2.TILE_XML.fullmatch(file)]
    if len(tiles) > 1:
        raise DataError(f"{product.path}: holds {len(tiles)} tiles; only products of one tile (made since December 2016) are read")
    facts = sentinel2.read(product.read(main), product.read(tiles[0]) if tiles else None, product.place(main))
    assets = {}
    for band, file in files.items():
        scale, offset = (facts.scale, facts.offset[band]) if band in facts.offset else (1.0, 0.0)  # SCL holds classes
        assets[band] = Asset(product.place(file), scale=scale, offset=offset)
    if facts.tile:
        bounds = in_degrees(facts.tile[1], facts.tile[0])
    else:
        info = raster.describe(product.place(next(iter(files.values()))))
        bounds = in_degrees(bounds_of(info.grid), info.crs)
    return Item(product.name, facts.time, assets, facts.units, facts.meta), bounds


def _radar(product: Product, files: dict[str, str]) -> tuple[Item, Bounds]:
    assets = {band: Asset(product.place(file), radar=_annotations(product, file)) for band, file in files.items()}
    first = next(iter(files.values()))
    name = f"annotation/{_stem(first)}.xml"
    annotation = sentinel1.read_annotation(product.read(name), product.place(name))
    meta: dict[str, Any] = {
        "platform": f"sentinel-{annotation.mission.removeprefix('S').casefold()}",
        "orbit_pass": annotation.orbit_pass,
        "relative_orbit": annotation.relative_orbit,
        "view_incidence_deg": round(float(annotation.grid.incidence.mean()), 3),
        **_of_manifest(product),
    }
    noise = all(asset.radar and asset.radar.noise for asset in assets.values())
    meta["calibration"] = "sigma0, thermal noise removed" if noise else "sigma0, thermal noise not annotated"
    meta = {key: value for key, value in meta.items() if value is not None}
    return Item(product.name, annotation.start, assets, "sigma0 linear", meta), annotation.grid.bounds


def _annotations(product: Product, measurement: str) -> Radar:
    stem = _stem(measurement)
    files = [f"annotation/{stem}.xml", f"annotation/calibration/calibration-{stem}.xml"]
    missing = [file for file in files if file not in product.files]
    if missing:
        raise SourceError(
            f"{product.path}: has no {missing[0]}, so its digital numbers cannot be calibrated and placed; fetch the whole product, "
            "or use terrain-corrected ones (sentinel-1-rtc)"
        )
    noise = f"annotation/calibration/noise-{stem}.xml"
    return Radar(product.place(files[0]), product.place(files[1]), product.place(noise) if noise in product.files else None)


def _of_manifest(product: Product) -> dict[str, Any]:
    """Relative orbit and version of the processor, where there is a manifest."""
    if "manifest.safe" not in product.files:
        return {}
    manifest, facts = parse(product.read("manifest.safe"), product.place("manifest.safe")), {}
    if manifest.first(".//relativeOrbitNumber"):
        facts["relative_orbit"] = manifest.whole(".//relativeOrbitNumber", low=1, high=1000)
    software = manifest.first(".//software[@name='Sentinel-1 IPF']")
    version = software.root.get("version") if software else None
    return {**facts, **({"baseline": version} if version else {})}


def _stem(measurement: str) -> str:
    match = MEASUREMENT.fullmatch(measurement)
    assert match, "chosen by this pattern"
    return match[1]
