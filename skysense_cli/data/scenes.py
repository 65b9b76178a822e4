"""Whole scenes for prediction: the dates of every modality on one grid, read strip by strip.

The scene's own grid is the map's grid. It is extended at the right and at the bottom until it holds
whole units (`unit_m`: the smallest square in which every modality has whole encoder strides); what lies
outside the files is nodata. Everything above this file counts in units.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from skysense_cli import console, sensors
from skysense_cli.data.acquire import narrowed
from skysense_cli.data.align import Alignment, align, limits_of
from skysense_cli.data.channel import Channel, cut
from skysense_cli.data.dataset import Input
from skysense_cli.data.days import in_days
from skysense_cli.data.feed import Feed
from skysense_cli.data.sample import Sample, Series
from skysense_cli.data.scene_grids import map_grid, pixel_of, refuse_other_gsd, require_ground
from skysense_cli.data.sources import Item
from skysense_cli.data.stored import describe_asset
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.areas import GridArea, area_on
from skysense_cli.geo.grid import bounds_of, crs_text, lonlat, window
from skysense_cli.geo.raster import RasterInfo
from skysense_cli.recipe.schema.build import DatesSection
from skysense_cli.recipe.schema.section import CoregisterSection


@dataclass(frozen=True)
class SceneOptions:
    """What a recipe says about reading a scene.

    gsd: what to do with pixels that are not the bundle's      period: dates used, both ends inclusive
    dates: modality -> at most so many dates      coregister: lay the dates on each other first, and how
    area: WGS 84 degrees; the dates are judged and chosen by what they show of it
    """

    gsd: Literal["refuse", "resample", "as_is"] = "refuse"
    period: tuple[np.datetime64, np.datetime64] | None = None
    dates: Mapping[str, int] = field(default_factory=dict)
    coregister: CoregisterSection | None = None
    area: BaseGeometry | None = None


@dataclass(frozen=True)
class SceneStack:
    """A scene of one or several modalities.

    reference: the modality whose pixels are the map's       grid: its GeoBox, not extended
    units: rows and columns of the extended scene            unit_m: edge of a unit in the bundle's metres
    tags: facts for the map's file: scene ids, how the ground sampling was taken, SIMULATED if a scene says so
    area: what of `grid` is asked for; None: all
    """

    channels: dict[str, Channel]
    reference: str
    grid: GeoBox
    units: tuple[int, int]
    unit_m: float
    tags: dict[str, str]
    area: GridArea | None = None

    def strip(self, top: int, height: int, left: int = 0, width: int | None = None) -> dict[str, Series]:
        """The series of all modalities over the units `top` to `top + height`, and `left` to `left + width` (None: to the right edge)."""
        right = self.units[1] if width is None else left + width
        return {name: channel.window(slice(top, top + height), slice(left, right)) for name, channel in self.channels.items()}

    def tile(self, strip: Mapping[str, Series], left: int, width: int) -> Sample | None:
        """The units `left` to `left + width` of a strip, counted from its own left edge, without the dates that have no valid pixel there.

        None: no date of any modality has one.
        """
        parts = {}
        for name, series in strip.items():
            px = self.channels[name].unit_px
            part = cut(series, slice(None), slice(left * px, (left + width) * px))
            kept = np.flatnonzero(part.valid.any(axis=(1, 2)))
            if len(kept):
                parts[name] = _nominal(_only(part, kept), self.channels[name].input.gsd_m)
        if not parts:
            return None
        px = self.channels[self.reference].unit_px
        strip_grid = strip[self.reference].grid
        area = window(strip_grid, slice(0, strip_grid.shape[0]), slice(left * px, (left + width) * px))
        return Sample(f"tile at unit {left}", crs_text(area.crs), bounds_of(area), lonlat(area), parts)


def open_scene(
    scene: Mapping[str, Any], inputs: Mapping[str, Input], reference: str, unit_m: float, options: SceneOptions
) -> SceneStack:  # fmt: skip
    """The scene that a recipe describes, ready to be read.

    scene: modality -> what holds `.source` and `.cloud_mask`, parts that build a Source and a CloudMask
    inputs: what the model was trained on; every modality of `scene` must be among them
    Raises GridError when pixels have another size than the bundle's or the area lies elsewhere, DataError when there is
    nothing to read.
    """
    items = {name: _items(name, entry, inputs[name], options.period) for name, entry in scene.items()}
    infos = {name: _headers(found, inputs[name]) for name, found in items.items()}
    for name, headers in infos.items():
        for header in headers:
            require_ground(header)
        if options.gsd == "refuse":
            refuse_other_gsd(name, headers[0], inputs[name])
    grid = map_grid(infos[reference], inputs[reference], options.gsd)
    area = None if options.area is None else area_on(options.area, grid, f"scene {items[reference][0].id}")
    px = {name: round(unit_m / inputs[name].gsd_m) for name in items}
    units = (math.ceil(grid.shape[0] / px[reference]), math.ceil(grid.shape[1] / px[reference]))
    moves = _alignments(scene, inputs, items, grid, options) if options.coregister else {}
    channels = {}
    for name, found in items.items():
        aligned = moves.get(name, {})
        kept = tuple(item for item in found if item.id not in aligned or not aligned[item.id].dropped)
        shifts = {item_id: alignment.shift_m for item_id, alignment in aligned.items()}
        affine = grid.affine * Affine.scale(inputs[name].gsd_m / inputs[reference].gsd_m)
        extended = GeoBox((units[0] * px[name], units[1] * px[name]), affine, grid.crs)
        mask = scene[name].cloud_mask.build(sensors.get(inputs[name].sensor))
        part = None if area is None else _in_pixels_of(area, px[name] / px[reference])
        channels[name] = Channel(inputs[name], kept, mask, extended, px[name], shifts).look(options.dates.get(name), name, part)
    tags = _tags(channels, infos, options.gsd)
    if options.coregister:
        tags["SKYSENSE_COREGISTERED"] = options.coregister.reference
    return SceneStack(channels, reference, grid, units, unit_m, tags, area)


def _in_pixels_of(area: GridArea, ratio: float) -> tuple[slice, slice]:
    """Rows and columns of an area in pixels that are `ratio` to one of its grid's."""
    rows, columns = (slice(math.floor(part.start * ratio), math.ceil(part.stop * ratio)) for part in (area.rows, area.columns))
    return rows, columns


def _alignments(
    scene: Mapping[str, Any], inputs: Mapping[str, Input], items: Mapping[str, Sequence[Item]], grid: GeoBox, options: SceneOptions
) -> dict[str, dict[str, Alignment]]:  # fmt: skip
    """Modality -> item id -> how it is moved, measured on (the middle of) the scene as build-data does on a block."""
    section = options.coregister
    assert section is not None, "asked for only with a section"
    if options.gsd == "as_is" or not grid.crs or grid.crs.geographic:
        raise GridError("coregister needs scenes in metres; leave it out with scene_gsd: as_is or scenes in degrees")
    feeds = []
    for name, found in items.items():
        sensor = narrowed(sensors.get(inputs[name].sensor), inputs[name].bands)
        mask = scene[name].cloud_mask.build(sensor)
        feeds.append(Feed(name, sensor, inputs[name].gsd_m, mask, DatesSection(), tuple(found)))
    times = np.array([item.time for found in items.values() for item in found], "datetime64[D]")
    if np.isnat(times).any():
        raise DataError("coregister needs dated scenes; give `pattern` with (?P<date>...), or a `csv`")
    limits = limits_of(section)
    moves = align(feeds, section.reference, bounds_of(grid), crs_text(grid.crs), limits, options.period or (times.min(), times.max()))
    for name, found_moves in moves.items():
        dropped = sorted(item_id for item_id, alignment in found_moves.items() if alignment.dropped)
        moved = sum(any(alignment.shift_m) for alignment in found_moves.values())
        left = f", left out without a match: {', '.join(dropped)}" if dropped else ""
        console.say(f"{name}: {moved} of {len(found_moves)} dates moved onto {section.reference}{left}")
    return moves


# items and their headers


def _items(name: str, entry: Any, wanted: Input, period: tuple[np.datetime64, np.datetime64] | None) -> list[Item]:
    """The items of one modality, at most one of them without a date."""
    sensor = narrowed(sensors.get(wanted.sensor), wanted.bands)
    mask = entry.cloud_mask.build(sensor)
    items = [item.ready() for item in entry.source.build().search(sensor, None, period, mask.extra_bands)]
    if not items:
        within = f" between {period[0]} and {period[1]}" if period else ""
        raise DataError(f"scene.{name}: {entry.source.kind} source {entry.source.options} has no item{within}")
    items = in_days(items, lambda parts: _apart([_header(part, wanted) for part in parts]))
    undated = [item.id for item in items if np.isnat(item.time)]
    if len(undated) > 1:
        shown = ", ".join(undated[:3]) + (", ..." if len(undated) > 3 else "")
        raise DataError(
            f"scene.{name}: {len(undated)} scenes have no date ({shown}); give `pattern` with (?P<date>...), a `csv`, "
            "or a TIFFTAG_DATETIME tag in the files (after a bundle: name them one by one, each becomes a map of its own)"
        )
    if undated:
        console.warn(f"scene.{name}: {undated[0]} has no date, the model sees it without one")
    return items


def _apart(infos: Sequence[RasterInfo]) -> bool:
    """Whether rasters lie side by side: none covers half of another."""
    boxes = [shapely.box(*bounds_of(info.grid)) for info in infos]
    if len({info.crs for info in infos}) > 1:
        return False
    pairs = itertools.combinations(boxes, 2)
    return all(one.intersection(other).area < 0.5 * min(one.area, other.area) for one, other in pairs)


def _header(item: Item, wanted: Input) -> RasterInfo:
    return describe_asset(item.ready().assets[wanted.bands[0]])


def _headers(items: Sequence[Item], wanted: Input) -> list[RasterInfo]:
    """One header per item, and per part of one, of the band with the smallest pixels of the first item."""
    items = [part for item in items for part in item.parts or (item,)]
    assets = {items[0].assets[band].path: band for band in wanted.bands}
    sharpest = min(assets.values(), key=lambda band: pixel_of(describe_asset(items[0].assets[band])))
    return [describe_asset(item.assets[sharpest]) for item in items]


# dates and facts


def _tags(channels: Mapping[str, Channel], infos: Mapping[str, Sequence[RasterInfo]], gsd: str) -> dict[str, str]:
    """What the map's file says about its scenes."""
    tags = {"SKYSENSE_SCENE_GSD": gsd}
    for name, channel in channels.items():
        tags[f"SKYSENSE_SCENES_{name.upper()}"] = " ".join(item.id for item in channel.items)
        if gsd == "as_is":
            tags[f"SKYSENSE_PIXEL_{name.upper()}"] = f"{pixel_of(infos[name][0]):g} taken as {channel.input.gsd_m:g} m"
    simulated = [info.tags["SIMULATED"] for headers in infos.values() for info in headers if "SIMULATED" in info.tags]
    if simulated:
        tags["SIMULATED"] = simulated[0]
    return tags


def _nominal(series: Series, gsd_m: float) -> Series:
    """The series as if its pixels had exactly the size the model was trained on."""
    affine = series.grid.affine
    return replace(series, grid=GeoBox(series.grid.shape, Affine(gsd_m, 0, affine.c, 0, -gsd_m, affine.f), series.grid.crs))


def _only(series: Series, dates: np.ndarray) -> Series:
    if len(dates) == len(series.times):
        return series
    return replace(
        series,
        pixels=series.pixels[dates],
        valid=series.valid[dates],
        times=series.times[dates],
        items=tuple(series.items[i] for i in dates),
        meta=tuple(series.meta[i] for i in dates),
    )
