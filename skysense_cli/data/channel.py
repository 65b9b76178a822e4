"""One modality of a scene: which dates are read, and how they come onto a grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli import console, sensors
from skysense_cli.data.acquire import Acquisition, acquire, narrowed
from skysense_cli.data.clouds import CloudMask
from skysense_cli.data.dataset import Input
from skysense_cli.data.dates import choose
from skysense_cli.data.sample import Series
from skysense_cli.data.sources import Item
from skysense_cli.data.stored import describe_asset
from skysense_cli.errors import DataError
from skysense_cli.geo.grid import window as part_of
from skysense_cli.sensors import Sensor

CLOUD_MARGIN_M = 200  # read around rows, so that clouds just outside grow into them
LOOK_PX = 1024  # a scene up to this side is looked at as a whole, a larger one through 3 x 3 windows of a third of it
CLEAR_ENOUGH = 0.5  # of what the dates see together; a date with less is chosen only when none has more


@dataclass(frozen=True)
class Channel:
    """One modality of a scene: what the model wants, and the dated items that give it.

    grid: of the extended scene in this modality's pixels      unit_px: pixels along a unit
    shifts: item id -> metres east and north by which it is moved; an item that is not there stays
    """

    input: Input
    items: tuple[Item, ...]
    cloud_mask: CloudMask
    grid: GeoBox
    unit_px: int
    shifts: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def sensor(self) -> Sensor:
        """The sensor with the bands that the model sees."""
        return narrowed(sensors.get(self.input.sensor), self.input.bands)

    def block_row_bytes(self, share: float) -> int:
        """Decoded bytes of a row of blocks of all rasters, as far as it meets a share of their columns; by those of the first date."""
        total = 0
        for part in self.items[0].parts or self.items[:1]:
            bands: dict[str, int] = {}
            for band in (*self.input.bands, *self.cloud_mask.extra_bands):
                if band in part.assets and part.assets[band].radar is None:
                    bands[part.assets[band].path] = bands.get(part.assets[band].path, 0) + 1
            for path, count in bands.items():
                info = describe_asset(next(asset for asset in part.assets.values() if asset.path == path))
                total += info.block_row_bytes(count, round(info.shape[1] * share))
        return total * len(self.items)

    def window(self, rows: slice, columns: slice) -> Series:
        """All dates of a window in units; clouds that lie outside it grow into it."""
        margin = math.ceil(CLOUD_MARGIN_M / self.input.gsd_m) if self.cloud_mask.extra_bands else 0
        read, inside = [], []
        for units, side in zip((rows, columns), self.grid.shape, strict=True):
            first, last = units.start * self.unit_px, units.stop * self.unit_px
            read.append(slice(max(first - margin, 0), min(last + margin, side)))
            inside.append(slice(first - read[-1].start, last - read[-1].start))
        return cut(self.read(self.grid[read[0], read[1]]), *inside)

    def read(self, grid: GeoBox) -> Series:
        """All dates on `grid`; each is opened once. Their numbers are not judged again."""
        sensor = self.sensor
        read = [self.acquire(item, grid, judge=False) for item in self.items]
        return Series(
            sensor=sensor.name,
            bands=self.input.bands,
            pixels=np.stack([one.pixels for one in read]),
            times=np.array([item.time for item in self.items], "datetime64[s]"),
            valid=np.stack([one.valid for one in read]),
            items=tuple(item.id for item in self.items),
            grid=grid,
            units=sensor.units,
            nodata=sensor.nodata,
            meta=tuple(one.meta for one in read),
        )

    def look(self, at_most: int | None, name: str, part: tuple[slice, slice] | None = None) -> "Channel":
        """The channel with at most so many dates, their numbers judged; what clouds hide is read once here.

        part: rows and columns of the grid that are asked for, which then decide alone; None: all.
        When there are too many, the clearest of each part of the period are taken.
        Raises DataError when the numbers of a date cannot be what they are said to be, or no date has a clear pixel.
        """
        windows = _windows(self.grid if part is None else self.grid[part])
        ground = [np.zeros(window.shape, bool) for window in windows]  # where some date has data
        items, clear = [], []
        for item in console.progress(self.items, f"{name}: looking at each date"):
            try:
                seen, settled = _look(self, item, windows)
            except DataError:
                if part is None:
                    raise
                _look(self, item, _windows(self.grid))  # an area may be all water: then its scene is looked at
                seen, settled = [self.acquire(item, window, judge=False) for window in windows], item
            items.append(settled)
            clear.append(sum(int(one.valid.sum()) for one in seen))
            for total, one in zip(ground, seen, strict=True):
                total |= one.data
        if at_most is not None and len(items) > at_most:
            shares = np.array(clear) / max(sum(int(total.sum()) for total in ground), 1)
            items = [items[k] for k in _clearest(items, shares, at_most, name)]
        return replace(self, items=tuple(items))

    def acquire(self, item: Item, grid: GeoBox, judge: bool) -> Acquisition:
        """One date on `grid`."""
        shift_m = self.shifts.get(item.id, (0.0, 0.0))
        return acquire(item, self.sensor, grid, bands=self.input.bands, cloud_mask=self.cloud_mask, shift_m=shift_m, judge=judge)


def cut(series: Series, rows: slice, columns: slice) -> Series:
    """A window of a series."""
    spans = [slice(*part.indices(side)) for part, side in zip((rows, columns), series.grid.shape, strict=True)]
    grid = part_of(series.grid, *spans)
    return replace(series, pixels=series.pixels[:, :, rows, columns], valid=series.valid[:, rows, columns], grid=grid)


def _clearest(items: Sequence[Item], shares: np.ndarray, at_most: int, name: str) -> list[int]:
    """Positions of the dates to keep. shares: of the ground that some date sees, what each sees clearly"""
    times, ids = np.array([item.time for item in items], "datetime64[s]"), [item.id for item in items]
    dated = times[~np.isnat(times)]
    kept: list[int] = []
    for least in (CLEAR_ENOUGH, 0.0):
        kept = kept or choose(times, shares, ids, (dated.min(), dated.max()), at_most=at_most, min_valid=least, spread=True)
    if not kept:
        raise DataError(f"scene.{name}: none of the {len(ids)} dates has a clear pixel")
    console.say(f"{name}: {len(kept)} of {len(ids)} dates, the clearest of each part of the period")
    return kept


def _look(channel: Channel, item: Item, windows: Sequence[GeoBox]) -> tuple[list[Acquisition], Item]:
    """One date through the windows, and the item as it is to be read from now on.

    Its numbers are refused only when no window has plausible ones: one may be all water. Whether a baseline
    offset is still in the numbers is decided here for the whole scene, by most windows, since strips that
    decided it alone could differ.
    """
    seen, refused = [], []
    for window in windows:
        try:
            seen.append(channel.acquire(item, window, judge=True))
        except DataError as error:
            refused.append(error)
            seen.append(channel.acquire(item, window, judge=False))
    with_data = [one for one in seen if one.data.any()]
    if refused and len(refused) >= len(with_data):
        raise refused[0]
    without = sum(bool(one.meta.get("offset_contradicted")) for one in with_data)
    if 2 * without > len(with_data):
        item = _without_offset(item, channel.input.bands)
    return seen, item


def _without_offset(item: Item, bands: Sequence[str]) -> Item:
    assets = {band: replace(asset, offset=0.0) if band in bands else asset for band, asset in item.assets.items()}
    return replace(item, assets=assets, parts=tuple(_without_offset(part, bands) for part in item.parts))


def _windows(grid: GeoBox) -> list[GeoBox]:
    """The whole grid if it is small, else 3 x 3 windows spread over it."""
    spans = []
    for side in grid.shape:
        size = LOOK_PX // 3
        starts = [0] if side <= LOOK_PX else [round(part * (side - size)) for part in (0.1, 0.5, 0.9)]
        spans.append([slice(start, side if side <= LOOK_PX else start + size) for start in starts])
    return [grid[rows, columns] for rows in spans[0] for columns in spans[1]]
