"""How detected radar is placed on the ground: what a recipe says, checked, and given to the assets of an item."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from skysense_cli.data.sources import Item, Radar
from skysense_cli.errors import RecipeError
from skysense_cli.geo import raster

Geocoding = Literal["refuse", "flat", "ellipsoid"]


@dataclass(frozen=True)
class Placing:
    """By rasters of heights (with what is added to be above the ellipsoid), or without any on the product's own surface.

    geocoding: what becomes of a product without a DEM: refused, taken where its heights show no relief, or taken
    """

    dem: tuple[str, ...] = ()
    geoid: float | str = 0.0
    geocoding: Geocoding = "refuse"

    def check(self, where: str) -> None:
        """Raise RecipeError unless there are heights or the recipe does without, GridError for a raster that is not there."""
        if not self.dem and self.geocoding == "refuse":
            raise RecipeError(
                f"{where}: Sentinel-1 GRD without a DEM can be placed on the product's coarse surface of heights only, and ground more "
                "than 10 m off that surface lands elsewhere. Use terrain-corrected products (sentinel-1-rtc, recommended), give "
                "`dem: {path: ..., geoid: ...}`, take what looks flat with `geocoding: flat`, or everything with `geocoding: ellipsoid`"
            )
        for path in (*self.dem, *([self.geoid] if isinstance(self.geoid, str) and self.dem else [])):
            raster.describe(path)

    def placed(self, item: Item) -> Item:
        """The item with the heights in its assets, and the way in its facts; other items come back as they are."""
        if not any(asset.radar for asset in item.assets.values()):
            return item
        flat = not self.dem and self.geocoding == "flat"
        assets = {
            name: replace(asset, radar=replace(asset.radar, dem=self.dem, geoid=self.geoid, flat=flat)) if asset.radar else asset
            for name, asset in item.assets.items()
        }
        return replace(item, assets=assets, meta={**item.meta, "geocoding": "range-Doppler" if self.dem else "ellipsoid"})


def radar_of(hrefs: Mapping[str, str], band: str) -> Radar | None:
    """The annotations of a polarisation among the assets of a STAC item, by their usual keys; None where one is missing.

    hrefs: asset key -> checked address, e.g. `schema-product-vv`, `schema-calibration-vv`, `schema-noise-vv`
    """
    found = {}
    for key, href in hrefs.items():
        match = re.fullmatch(r"schema[-_](product|calibration|noise)[-_](\w+)", key.casefold())
        if match and match[2] == band.casefold():
            found[match[1]] = href
    if not {"product", "calibration"} <= set(found):
        return None
    return Radar(found["product"], found["calibration"], found.get("noise"))
