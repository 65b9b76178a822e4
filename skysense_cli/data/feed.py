"""One modality of a build, opened: what is wanted, and the items that can give it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skysense_cli import sensors
from skysense_cli.data.acquire import narrowed
from skysense_cli.data.clouds import CloudMask
from skysense_cli.data.sources import Item
from skysense_cli.geo.footprints import Footprint
from skysense_cli.geo.grid import Bounds, lonlat_bounds
from skysense_cli.recipe.schema.build import BuildDataRecipe, DatesSection
from skysense_cli.sensors import Sensor

Days = tuple[np.datetime64, np.datetime64]


@dataclass(frozen=True, eq=False)
class Feed:
    """A modality with its items for some ground, ascending by time, then id.

    sensor: with the wanted bands only      gsd: of the samples, metres      dates: which of them a sample keeps
    """

    name: str
    sensor: Sensor
    gsd: float
    cloud_mask: CloudMask
    dates: DatesSection
    items: tuple[Item, ...]

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands in stored order."""
        return self.sensor.band_names


def open_feeds(recipe: BuildDataRecipe, footprints: Sequence[Footprint]) -> list[Feed]:
    """The modalities of the recipe with the items that touch the footprints within the period.

    Raises SourceError when a source cannot be read.
    """
    place = lonlat_bounds(bounds_of(footprints), footprints[0].crs)
    feeds = []
    for name, section in recipe.modalities.items():
        whole = sensors.get(section.sensor)
        sensor = narrowed(whole, section.bands) if section.bands else whole
        mask = section.cloud_mask.build(sensor)
        items = section.source.build().search(sensor, place, days(recipe, footprints), mask.extra_bands)
        feeds.append(Feed(name, sensor, section.gsd, mask, section.dates, tuple(items)))
    return feeds


def bounds_of(footprints: Sequence[Footprint]) -> Bounds:
    """left, bottom, right, top of footprints of one CRS."""
    corners = np.array([footprint.bounds for footprint in footprints])
    low, high = corners.min(axis=0), corners.max(axis=0)
    return float(low[0]), float(low[1]), float(high[2]), float(high[3])


def days(recipe: BuildDataRecipe, footprints: Sequence[Footprint]) -> Days:
    """First and last day of the recipe's period, or of all periods of footprints that have their own."""
    own = [footprint.days for footprint in footprints if footprint.days]
    if recipe.period is None or len(own) == len(footprints):
        return min(first for first, _ in own), max(last for _, last in own)
    return np.datetime64(recipe.period.start), np.datetime64(recipe.period.end)
