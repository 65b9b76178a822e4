"""Samples (`.npz`) as scenes: what `build-data` wrote, read again as stored, clouds and nodata included."""

from pathlib import Path

import numpy as np

from skysense_cli.data import npz
from skysense_cli.data.npz import Header, SeriesHeader
from skysense_cli.data.sources import Asset, Bounds, Item, Source, meets, within
from skysense_cli.errors import SourceError
from skysense_cli.geo.grid import lonlat_bounds as in_degrees
from skysense_cli.sensors import Sensor


class Samples(Source):
    """The dates of one modality of the samples at `path`, a file or a list of files.

    modality: the name of the series in the sample; null: the only one of the sensor
    A sample says itself which of its pixels are valid, so no cloud mask is needed, and none can be asked for.
    """

    def __init__(self, *, path: str | list[str], modality: str | None = None) -> None:
        self.paths, self.modality = [path] if isinstance(path, str) else path, modality

    def search(self, sensor: Sensor, lonlat_bounds: Bounds | None, period: tuple[np.datetime64, np.datetime64] | None,
               extra_bands: tuple[str, ...] = ()) -> list[Item]:  # fmt: skip
        items: dict[str, Item] = {}
        for path in self.paths:
            header = npz.header(Path(path))
            if lonlat_bounds is not None and header.crs and not meets(in_degrees(header.bounds, header.crs), lonlat_bounds):
                continue
            name, series = self._series(path, header, sensor)
            absent = [band for band in (*sensor.band_names, *extra_bands) if band not in series.bands]
            if absent:
                raise SourceError(f"{path}: {name} has no band {absent[0]} (found: {', '.join(series.bands)})")
            for date, (time, item_id) in enumerate(zip(series.times, series.items, strict=True)):
                if within(time, period):
                    assets = {band: Asset(path, series.bands.index(band) + 1, sample=(name, date)) for band in sensor.band_names}
                    item_id = item_id if item_id not in items else f"{item_id} of {header.id}"
                    items[item_id] = Item(item_id, time, assets, series.units, {})
        return sorted(items.values(), key=lambda item: (np.isnat(item.time), item.time, item.id))

    def _series(self, path: str, header: Header, sensor: Sensor) -> tuple[str, SeriesHeader]:
        """The series that is meant. Raises SourceError when there is none, or several could be."""
        have = ", ".join(f"{name} ({series.sensor})" for name, series in header.series.items())
        if self.modality is not None:
            found = [name for name in header.series if name == self.modality]
        else:
            found = [name for name, series in header.series.items() if series.sensor == sensor.name]
        if len(found) != 1 or header.series[found[0]].sensor != sensor.name:
            what = f"no series {self.modality!r} of {sensor.name}" if self.modality else f"{len(found)} series of {sensor.name}"
            raise SourceError(f"{path}: has {what}{', say which: `modality`' if len(found) > 1 else ''} (found: {have})")
        return found[0], header.series[found[0]]


build = Samples
