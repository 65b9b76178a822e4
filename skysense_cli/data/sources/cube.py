"""Dates of netCDF or Zarr cubes with one variable per band (extra `cubes`)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skysense_cli.data.radiometry import REFLECTANCE
from skysense_cli.data.sources import Asset, Bounds, Item, Source, meets, within
from skysense_cli.errors import SourceError
from skysense_cli.geo import cube
from skysense_cli.geo.cube import CubeInfo, Variable
from skysense_cli.geo.grid import lonlat_bounds as in_degrees
from skysense_cli.sensors import Sensor

COUNTS = 10_000  # of a reflectance of 1
CONVERTED = {"raw": "", "scaled": "scale_factor and add_offset applied", "amplitude": "amplitude to dB"}


class Cube(Source):
    """Cubes at `path`, a file or Zarr folder, or a list of them; those over the same ground are put together by time.

    A variable is a band by its name (`B02`, `blue`, `VV`) or by what follows the last dash (`S2-L2A-B02`).
    scale, offset: stored counts = (raw + offset) * scale; null: what the variable declares (its scale_factor and
        add_offset make reflectance 0 to 1, or dB), else the numbers as they are
    nodata: overrides what the variables declare       units: overrides the sensor's own
    amplitude_db: radar amplitudes, dB = 20 * log10(number) + amplitude_db (openEO's and WorldCereal's composites: -83)
    """

    def __init__(
        self, *, path: str | list[str], scale: float | None = None, offset: float | None = None, nodata: float | None = None,
        units: str | None = None, amplitude_db: float | None = None,
    ) -> None:  # fmt: skip
        self.paths = [path] if isinstance(path, str) else path
        self.scale, self.offset, self.nodata = scale, offset, nodata
        self.units, self.amplitude_db = units, amplitude_db

    def search(self, sensor: Sensor, lonlat_bounds: Bounds | None, period: tuple[np.datetime64, np.datetime64] | None,
               extra_bands: tuple[str, ...] = ()) -> list[Item]:  # fmt: skip
        places: dict[tuple[object, ...], list[CubeInfo]] = {}
        for path in self.paths:
            info = cube.describe_cube(path)
            if lonlat_bounds is None or not info.crs or meets(in_degrees(info.bounds, info.crs), lonlat_bounds):
                places.setdefault((info.crs, *(round(edge) for edge in info.bounds)), []).append(info)
        wanted = (*sensor.band_names, *extra_bands)
        items = []
        for infos in places.values():
            bands = _bands(infos, sensor, extra_bands)
            missing = [name for name in wanted if name not in bands]
            if missing:
                have = ", ".join(variable.name for info in infos for variable in info.variables)
                raise SourceError(f"{infos[0].path}: no variable for {', '.join(missing)} of {sensor.name} (found: {have[:300]})")
            for time in sorted(set.intersection(*(set(variable.times) for _, variable in bands.values()))):
                if within(time, period):
                    assets = {name: self._asset(*bands[name], time, sensor, name) for name in wanted}
                    items.append(Item(_id(infos[0], time), time, assets, self.units or sensor.units, {}))
        return sorted(items, key=lambda item: (np.isnat(item.time), item.time, item.id))

    def _asset(self, info: CubeInfo, variable: Variable, time: np.datetime64, sensor: Sensor, band: str) -> Asset:
        index = variable.times.index(time)
        declared = variable.scale != 1 or variable.offset != 0
        if sensor.kind == "sar":
            form = "amplitude" if self.amplitude_db is not None else "scaled" if declared else "raw"
            place = cube.address(info.path, variable.name, index, form, self.amplitude_db or 0.0)  # type: ignore[arg-type]
            return Asset(place, nodata=self.nodata if form == "raw" else None)
        place = cube.address(info.path, variable.name, index)
        if band not in sensor.band_names and not REFLECTANCE.fullmatch(band):
            return Asset(place)
        scale, offset = 1.0, 0.0
        if declared and self.scale is None and sensor.kind == "optical":
            scale, offset = round(variable.scale * COUNTS, 9), round(variable.offset / variable.scale, 6)
        scale = scale if self.scale is None else self.scale
        return Asset(place, 1, scale, offset if self.offset is None else self.offset, _as_stored(self.nodata, variable))


def _bands(infos: Sequence[CubeInfo], sensor: Sensor, extra_bands: tuple[str, ...]) -> dict[str, tuple[CubeInfo, Variable]]:
    """Band name -> where it lies; the first cube that has it."""
    found: dict[str, tuple[CubeInfo, Variable]] = {}
    for info in infos:
        for variable in info.variables:
            for text in (variable.name, variable.name.rsplit("-", 1)[-1]):
                extra = next((name for name in extra_bands if name.casefold() == text.casefold()), None)
                name = extra or sensor.find(text)
                if name:
                    found.setdefault(name, (info, variable))
                    break
    return found


def _as_stored(nodata: float | None, variable: Variable) -> float | None:
    """-1 of a variable that is stored signed and meant unsigned is its largest number."""
    unsigned = np.dtype(variable.dtype)
    return nodata + 2.0 ** (8 * unsigned.itemsize) if nodata is not None and nodata < 0 and unsigned.kind == "u" else nodata


def _id(info: CubeInfo, time: np.datetime64) -> str:
    stamp = "" if np.isnat(time) else "_" + str(time).replace("-", "").replace(":", "")
    return Path(info.path).stem + stamp


build = Cube
