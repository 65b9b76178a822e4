"""How every item of a block is moved: measured once per item against the reference modality, on the whole block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli import console
from skysense_cli.data import coregister
from skysense_cli.data.acquire import Acquisition, acquire
from skysense_cli.data.coregister import Edges, Limits, Shift
from skysense_cli.data.dates import bin_of
from skysense_cli.data.feed import Days, Feed
from skysense_cli.data.radiometry import Contradiction
from skysense_cli.data.sources import Item
from skysense_cli.errors import GridError
from skysense_cli.geo.grid import Bounds, make_grid
from skysense_cli.recipe.schema.section import CoregisterSection

LEAST_SIDE_M = 5120  # a smaller block is measured with the ground around it, as far as scenes reach: 640 m of radar carry no match
MOST_SIDE_PX = 1024  # of a larger block the middle is measured
REFERENCE_DATES = 9  # the clearest of as many bins of the period make the reference
CLEAR_ENOUGH = 0.5  # of the ground measured, for a date of the reference
RADAR_DATES = 24  # of one orbit are averaged; speckle falls with their number


@dataclass(frozen=True)
class Alignment:
    """What was measured for an item and what is done.

    decision: `moved`, `below min_shift` (left as it is), `refused` or `not measurable` (the date is dropped; the second
        has too little clear ground, and no shift), `kept as geocoded` (radar without a match: its geocoding rests on
        the orbit, not on what it shows)
    """

    shift: Shift | None
    decision: str

    @property
    def dropped(self) -> bool:
        """Whether the item is left out."""
        return self.decision in ("refused", "not measurable")

    @property
    def shift_m(self) -> tuple[float, float]:
        """Metres east and north to move the item by."""
        return (self.shift.dx_m, self.shift.dy_m) if self.shift and self.decision == "moved" else (0.0, 0.0)


def limits_of(section: CoregisterSection) -> Limits:
    """What a recipe asks of a match."""
    return Limits(section.max_shift_m, section.min_shift_m, section.min_score, section.min_correlation)


def align(feeds: Sequence[Feed], reference: str, bounds: Bounds, crs: str, limits: Limits, period: Days) -> dict[str, dict[str, Alignment]]:
    """Modality -> item id -> Alignment, for every item that can be read.

    The reference is the median of the clearest dates of modality `reference`, laid on each other; its place
    is the mean place of all dates that match it. Radar is measured as the temporal mean of each relative
    orbit, since a single date is mostly speckle. Modalities of two resolutions meet on the coarser grid.
    """
    chosen = next(feed for feed in feeds if feed.name == reference)
    own, clearest = _align_reference(chosen, _match_grid(bounds, chosen.gsd, crs), limits, period)
    found = {reference: own}
    targets: dict[float, Edges | None] = {}
    for feed in feeds:
        if feed.name != reference:
            gsd = max(feed.gsd, chosen.gsd)
            grid = _match_grid(bounds, gsd, crs)
            if gsd not in targets:
                targets[gsd] = _reference_edges(chosen, [item for item in clearest if not own[item.id].dropped], own, grid)
            target = targets[gsd]
            if target is None:
                console.warn(f"no date of {reference} is clear enough to co-register {feed.name} with it; {feed.name} stays as it is")
                continue
            measure = _align_radar if feed.sensor.kind == "sar" else _align_dates
            found[feed.name] = measure(feed, target, grid, limits)
    return found


def _match_grid(bounds: Bounds, gsd: float, crs: str) -> GeoBox:
    """The block in pixels of `gsd`, grown around its middle to LEAST_SIDE_M or cut to MOST_SIDE_PX."""
    left, bottom, right, top = bounds
    pixels = [max(round((right - left) / gsd), 1), max(round((top - bottom) / gsd), 1)]
    least = min(int(np.ceil(LEAST_SIDE_M / gsd)), MOST_SIDE_PX)
    sides = [min(max(side, least), MOST_SIDE_PX) for side in pixels]
    start = [(side - whole) // 2 for side, whole in zip(sides, pixels, strict=True)]  # negative: inside the block
    return make_grid(left - start[0] * gsd, top + start[1] * gsd, gsd, sides[1], sides[0], crs)


def _align_reference(feed: Feed, grid: GeoBox, limits: Limits, period: Days) -> tuple[dict[str, Alignment], list[Item]]:
    """Each date of the reference modality against their common median, and the items that make the median."""
    edges: dict[str, Edges] = {}
    clearest: dict[int, tuple[float, Item, Acquisition]] = {}
    for item, image in _images(feed, grid):
        edges[item.id] = _kept_small(coregister.edges(image.pixels, image.valid))
        share, place = float(image.valid.mean()), bin_of(item.time, period, REFERENCE_DATES)
        if share > (clearest[place][0] if place in clearest else 0.0):
            clearest[place] = (share, item, image)
    ranked = sorted(clearest.values(), key=lambda one: -one[0])
    ranked = [one for one in ranked if one[0] >= CLEAR_ENOUGH * ranked[0][0]]
    items = [item for _, item, _ in ranked]
    if len(edges) < 2 or not ranked:
        return {name: Alignment(Shift(0.0, 0.0, 1.0, 1.0), "below min_shift") for name in edges}, items
    images, valids = [image.pixels for *_, image in ranked], [image.valid for *_, image in ranked]
    target = coregister.build_reference(images, valids, gsd_m=_gsd(grid), limits=limits)
    shifts = {name: _measured(one, target, grid, limits) for name, one in edges.items()}
    accepted = [shift for shift in shifts.values() if shift and limits.decide(shift) != "refused"]
    middle = np.mean([(shift.dx_m, shift.dy_m) for shift in accepted], axis=0) if len(accepted) > 2 else np.zeros(2)
    return {name: _decided(_less(shift, middle), limits) for name, shift in shifts.items()}, items


def _reference_edges(feed: Feed, items: Sequence[Item], known: dict[str, Alignment], grid: GeoBox) -> Edges | None:
    """Edges of the median of these dates of the reference modality on `grid`, each moved to where it belongs."""
    images = [image for _, image in _images(feed, grid, items, {item.id: known[item.id].shift_m for item in items}) if image.valid.any()]
    return coregister.median_edges([image.pixels for image in images], [image.valid for image in images]) if images else None


def _align_dates(feed: Feed, target: Edges, grid: GeoBox, limits: Limits) -> dict[str, Alignment]:
    """Each date of another optical modality against the reference."""
    found = {}
    for item, image in _images(feed, grid):
        shift = _measured(coregister.edges(image.pixels, image.valid), target, grid, limits)
        found[item.id] = _decided(shift, limits)
    return found


def _align_radar(feed: Feed, target: Edges, grid: GeoBox, limits: Limits) -> dict[str, Alignment]:
    """The temporal mean of each relative orbit against the reference; all its dates move alike."""
    orbits: dict[str, list[Item]] = {}
    for item in feed.items:
        orbits.setdefault(f"{item.meta.get('relative_orbit', '?')} {item.meta.get('orbit_pass', '?')}", []).append(item)
    found = {}
    for items in orbits.values():
        some = [items[k] for k in sorted({round(place) for place in np.linspace(0, len(items) - 1, RADAR_DATES)})]
        total, count = np.zeros((1, *grid.shape)), np.zeros(grid.shape)
        for _, image in _images(feed, grid, some):
            total = total + np.where(image.data, 10 ** (np.nan_to_num(image.pixels).astype(np.float64) / 10), 0)
            count = count + image.data
        if not count.any():
            continue
        mean = 10 * np.log10(np.maximum(total / np.maximum(count, 1), 1e-6))
        shift = _measured(coregister.edges(mean, count >= 0.5 * count.max()), target, grid, limits)
        clear = shift is not None and limits.is_clear(shift)
        alignment = _decided(shift, replace(limits, min_correlation=0.0)) if clear else Alignment(shift, "kept as geocoded")
        found.update(dict.fromkeys((item.id for item in items), alignment))
    return found


def _images(feed: Feed, grid: GeoBox, items: Sequence[Item] | None = None,
            shifts: dict[str, tuple[float, float]] | None = None) -> Iterator[tuple[Item, Acquisition]]:  # fmt: skip
    """The sharpest bands of each item; a file that cannot be read is left out here, and reported when its date is read as a whole."""
    finest = min(band.native_gsd_m or feed.sensor.gsd_m for band in feed.sensor.bands)
    bands = [band.name for band in feed.sensor.bands if (band.native_gsd_m or feed.sensor.gsd_m) == finest]
    for item in feed.items if items is None else items:
        try:
            shift = (shifts or {}).get(item.id, (0.0, 0.0))
            yield item, acquire(item, feed.sensor, grid, bands=bands, cloud_mask=feed.cloud_mask, shift_m=shift)
        except (GridError, Contradiction):
            continue


def _measured(moving: Edges, target: Edges, grid: GeoBox, limits: Limits) -> Shift | None:
    return coregister.estimate(
        Edges(moving.strength.astype(np.float32), moving.valid), target, gsd_m=_gsd(grid), max_shift_m=limits.max_shift_m
    )


def _kept_small(edges: Edges) -> Edges:
    """Half the memory, while all dates of a block wait for their reference."""
    return Edges(edges.strength.astype(np.float16), edges.valid)


def _less(shift: Shift | None, middle: np.ndarray) -> Shift | None:
    if shift is None:
        return None
    return replace(shift, dx_m=round(shift.dx_m - float(middle[0]), 4), dy_m=round(shift.dy_m - float(middle[1]), 4))


def _decided(shift: Shift | None, limits: Limits) -> Alignment:
    return Alignment(shift, limits.decide(shift) if shift else "not measurable")


def _gsd(grid: GeoBox) -> float:
    return float(abs(grid.affine.a))
