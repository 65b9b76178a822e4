"""Scenes in folders on this machine: one raster per date, or one per band and date."""

import csv as csv_module
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skysense_cli.data.radiometry import REFLECTANCE, baseline_offset
from skysense_cli.data.sources import Asset, Bounds, Item, Source, meets, parse_time, within
from skysense_cli.data.sources.cube import Cube
from skysense_cli.errors import GridError, RecipeError, SourceError
from skysense_cli.geo import raster
from skysense_cli.geo.cube import is_cube
from skysense_cli.geo.grid import bounds_of
from skysense_cli.geo.grid import lonlat_bounds as in_degrees
from skysense_cli.geo.names import path_of, text_of
from skysense_cli.geo.raster import RasterInfo
from skysense_cli.sensors import Sensor

TIME_COLUMNS = ("date", "time", "datetime", "acquisition")
TIME_TAGS = ("ACQUISITION", "TIFFTAG_DATETIME")
FACTS = ("platform", "orbit_pass", "relative_orbit", "baseline")  # named groups and csv columns that go to the record of a date
NAT = np.datetime64("NaT", "s")


@dataclass(frozen=True)
class Extra:
    """Files of an extra band such as SCL, one per date; `pattern` as for the scenes."""

    path: str
    pattern: str = "*.tif"


@dataclass
class _File:
    """A raster with what its name or the csv says."""

    path: str
    id: str
    time: np.datetime64 | None = None
    band: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Folder(Source):
    """GeoTIFFs (or other rasters) below `path`, a folder, a file, or a list of files; netCDF and Zarr as `cube` reads them.

    pattern: a glob such as "*.tif", or a regular expression with named groups, matched against the end of
        the path below `path`: date (`20210401`, `2021-04-01T10:50:31` ...), band (one file per band and date),
        platform, orbit_pass, relative_orbit, baseline
    csv: table with a column `file` (relative to the table), a date column, and optionally `band` and the same facts
    bands: the names of the file's bands in their order, where the file itself does not name them
    by_order: take the sensor's own order instead; only on request, since a wrong order is silent
    extra: further bands by name, e.g. {SCL: {path: scl, pattern: "SCL_(?P<date>.{15}).tif"}}, joined by time
    scale, offset: stored counts = (raw + offset) * scale.   offset null: decided by the processing baseline if known
    nodata: overrides what the files declare          units: overrides the UNITS tag and the sensor's own
    A date that neither name nor csv gives is read from the tags ACQUISITION or TIFFTAG_DATETIME, else it is `date`.
    """

    def __init__(
        self, *, path: str | list[str], pattern: str = "*.tif", csv: str | None = None, bands: list[str] | None = None,
        by_order: bool = False, extra: dict[str, Extra] | None = None, scale: float = 1.0, offset: float | None = None,
        nodata: float | None = None, units: str | None = None, date: str | None = None,
    ) -> None:  # fmt: skip
        self.path, self.pattern, self.csv = path, pattern, csv
        self.date = NAT if date is None else parse_time(date)
        if self.date is None:
            raise RecipeError(f"source folder: date {date!r} is no date (expected e.g. 2021-04-01 or 2021-04-01T10:50:31)")
        self.bands, self.by_order = bands, by_order
        self.extra = extra or {}
        self.scale, self.offset, self.nodata, self.units = scale, offset, nodata, units

    def search(self, sensor: Sensor, lonlat_bounds: Bounds | None, period: tuple[np.datetime64, np.datetime64] | None,
               extra_bands: tuple[str, ...] = ()) -> list[Item]:  # fmt: skip
        paths = [self.path] if isinstance(self.path, str) else self.path
        if not self.csv and all(is_cube(path) for path in paths):
            scale, offset = (None if self.scale == 1 else self.scale), self.offset
            cubes = Cube(path=paths, scale=scale, offset=offset, nodata=self.nodata, units=self.units)
            return cubes.search(sensor, lonlat_bounds, period, extra_bands)
        files = _from_csv(Path(self.csv)) if self.csv else _listed(self.path, self.pattern)
        scenes: dict[str, list[_File]] = {}
        for file in files:
            scenes.setdefault(file.id, []).append(file)
        wanted = {name: _by_time(_listed(one.path, one.pattern)) for name, one in self.extra.items() if name in extra_bands}
        items = []
        for name, parts in scenes.items():
            if parts[0].time is not None and not within(parts[0].time, period):
                continue
            try:
                info = raster.describe(parts[0].path)
            except GridError:  # listed all the same: who reads it reports it as a scene that cannot be read
                items.append(_unopened(name, parts[0], sensor, extra_bands))
                continue
            time = self._time(parts[0], info.tags)
            if not within(time, period) or not _touches(info, lonlat_bounds):
                continue
            facts = _facts(parts[0], info.tags)
            assets = self._assets(parts, info, sensor, extra_bands, self._offset(sensor, facts))
            for band in extra_bands:
                if band not in assets:
                    assets[band] = Asset(_joined(wanted.get(band), band, parts[0].path, time))
            items.append(Item(name, time, assets, self._units(sensor, info.tags), facts))
        return sorted(items, key=lambda item: (np.isnat(item.time), item.time, item.id))

    def _time(self, file: _File, tags: dict[str, str]) -> np.datetime64:
        found = _time(file, tags)
        return self.date if np.isnat(found) and self.date is not None else found

    def _units(self, sensor: Sensor, tags: dict[str, str]) -> str:
        if self.units:
            return self.units
        words = tags.get("UNITS", "").casefold().split()  # "dB sigma0", "gamma0 linear" ...
        if sensor.kind == "sar" and words:
            kind = next((word for word in words if word in ("sigma0", "gamma0", "beta0")), sensor.units.split()[0])
            scale = "dB" if "db" in words else "linear" if {"linear", "power"} & set(words) else sensor.units.split()[1]
            return f"{kind} {scale}"
        return sensor.units

    def _offset(self, sensor: Sensor, facts: dict[str, Any]) -> float:
        """As the recipe says, else by the processing baseline of optical scenes."""
        if self.offset is not None or sensor.kind != "optical":
            return self.offset or 0.0
        return baseline_offset(facts.get("baseline"))

    def _assets(
        self, parts: list[_File], info: RasterInfo, sensor: Sensor, extra_bands: tuple[str, ...], offset: float
    ) -> dict[str, Asset]:  # fmt: skip
        """Where each band of the sensor (and each extra band found here) lies."""

        def asset(path: str, number: int, stored: bool) -> Asset:
            return Asset(path, number, self.scale, offset, self.nodata) if stored else Asset(path, number)

        assets = {}
        if parts[0].band is not None:
            for file in parts:
                name = _meaning(file.band or "", sensor, extra_bands)
                if name:
                    assets[name] = asset(file.path, 1, name not in extra_bands or bool(REFLECTANCE.fullmatch(name)))
            missing = [name for name in sensor.band_names if name not in assets]
            if missing:
                have = ", ".join(sorted(str(file.band) for file in parts))
                raise SourceError(f"{parts[0].path}: scene {parts[0].id} has no file for {', '.join(missing)} (found: {have})")
            return assets
        names = self._names(parts[0].path, info, sensor)
        for number, text in enumerate(names, 1):
            name = _meaning(text, sensor, extra_bands)
            if name and name not in assets:
                assets[name] = asset(parts[0].path, number, name not in extra_bands or bool(REFLECTANCE.fullmatch(name)))
        missing = [name for name in sensor.band_names if name not in assets]
        if missing:
            raise SourceError(
                f"{parts[0].path}: no band for {', '.join(missing)} of {sensor.name} among its {info.count} bands "
                f"({', '.join(filter(None, names)) or 'they carry no names'}). Name them in the file's order with `bands: [...]`, "
                f"or set `by_order: true` if they are {', '.join(sensor.band_names)} (after a bundle: --bands NAME,... or --bands order)."
            )
        return assets

    def _names(self, path: str, info: RasterInfo, sensor: Sensor) -> list[str]:
        """The names of a file's bands, by number."""
        given = self.bands or (list(sensor.band_names) if self.by_order else None)
        if given is None:
            return [text or "" for text in info.descriptions]
        if len(given) > info.count:
            raise SourceError(f"{path}: has {info.count} bands, but {len(given)} are named in order ({', '.join(given)})")
        return list(given)


def _unopened(name: str, file: _File, sensor: Sensor, extra_bands: tuple[str, ...]) -> Item:
    """An item whose every band is a file that does not open."""
    assets = {band: Asset(file.path) for band in (*sensor.band_names, *extra_bands)}
    return Item(name, file.time if file.time is not None else NAT, assets, sensor.units, dict(file.facts))


def _meaning(text: str, sensor: Sensor, extra_bands: tuple[str, ...]) -> str | None:
    """The stored band name or extra band that a written name means; units after the name do not matter (`VV_dB`)."""
    plain = re.sub(r"[ _-](db|dn|linear|reflectance|\d+m)$", "", text.strip(), flags=re.IGNORECASE)
    extra = next((band for band in extra_bands if band.casefold() == plain.casefold()), None)
    return extra or sensor.find(text.strip()) or sensor.find(plain)


def _listed(path: str | list[str], pattern: str) -> list[_File]:
    """The files below `path` that the pattern matches, in the order of their names."""
    if not isinstance(path, str):
        return [file for one in path for file in _listed(one, pattern)]
    regular = re.compile(f"(?:{pattern})\\Z") if "(?P<" in pattern else None
    home = path_of(path)
    if re.match(r"https?://", path) or home.is_file():
        name = path.rsplit("/", 1)[-1]
        found = regular.search(name) if regular else None
        return [_named(path, name, found)]
    if not home.is_dir():
        raise SourceError(f"{path}: no such file or folder")
    paths = sorted(one for one in (home.rglob("*") if regular else home.glob(pattern)) if one.is_file())
    names = [(text_of(one), text_of(one.relative_to(home))) for one in paths]
    matches = [(place, below, regular.search(below) if regular else None) for place, below in names]
    files = [_named(place, below, found) for place, below, found in matches if found or not regular]
    if not files:
        some = ", ".join(sorted(one.name for one in home.iterdir())[:3]) or "nothing"
        raise SourceError(f"{path}: no file matches {pattern!r} (the folder holds {some} ...)")
    return files


def _named(path: str, below: str, found: re.Match[str] | None) -> _File:
    """A file with what its name says; files that differ only in the band group share their id."""
    groups = {key: value for key, value in (found.groupdict() if found else {}).items() if value is not None}
    name = below
    if found and "band" in groups:
        start, end = found.span("band")
        name = below[:start] + below[end:]
    identity = name.removesuffix(Path(below).suffix).rstrip("/_.-") or "scene"
    time = parse_time(groups["date"]) if "date" in groups else None
    if "date" in groups and time is None:
        raise SourceError(f"{path}: the pattern takes {groups['date']!r} for a date (expected e.g. 20210401 or 20210401T105031)")
    return _File(path, identity, time, groups.get("band"), {key: groups[key] for key in FACTS if key in groups})


def _from_csv(path: Path) -> list[_File]:
    """The files that a table lists."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    with path.open(newline="", encoding="utf-8-sig") as text:
        rows = list(csv_module.DictReader(text))
    columns = list(rows[0]) if rows else []
    column = next((name for name in TIME_COLUMNS if name in columns), None)
    if "file" not in columns or column is None:
        raise SourceError(f"{path}: needs the columns `file` and one of {', '.join(TIME_COLUMNS)} (found: {', '.join(columns) or 'none'})")
    files = []
    for number, row in enumerate(rows, 2):
        time = parse_time(row[column]) if row[column] else NAT
        if time is None:
            raise SourceError(f"{path}: line {number}: {row[column]!r} is no date (expected e.g. 2021-04-01T10:50:31)")
        facts = {key: row[key] for key in FACTS if row.get(key)}
        band = row.get("band") or None
        stem = Path(row["file"]).with_suffix("").as_posix()
        identity = re.sub(rf"[/_.-]*{re.escape(band)}$", "", stem) if band else stem
        files.append(_File(str(path.parent / row["file"]), identity, time, band, facts))
    return files


def _time(file: _File, tags: dict[str, str]) -> np.datetime64:
    """What the name or the csv says, else what the file's tags say, else NaT."""
    if file.time is not None:
        return file.time
    found = (parse_time(tags[tag]) for tag in TIME_TAGS if tag in tags)
    return next((time for time in found if time is not None), NAT)


def _facts(file: _File, tags: dict[str, str]) -> dict[str, Any]:
    facts = dict(file.facts)
    if tags.get("ORBIT", "").casefold() in ("ascending", "descending"):
        facts.setdefault("orbit_pass", tags["ORBIT"].casefold())
    if "relative_orbit" in facts:
        facts["relative_orbit"] = int(facts["relative_orbit"])
    return facts


def _by_time(files: Iterable[_File]) -> dict[np.datetime64, str]:
    """Time -> path of an extra band; a file whose name gives no date is asked itself."""
    found = {}
    for file in files:
        time = file.time if file.time is not None else _time(file, raster.describe(file.path).tags)
        if np.isnat(time):
            raise SourceError(f"{file.path}: has no date, so it cannot be joined to a scene; give a pattern with (?P<date>...)")
        found[time] = file.path
    return found


def _joined(files: dict[np.datetime64, str] | None, band: str, path: str, time: np.datetime64) -> str:
    """The extra file of the same time, or the only one of the same day."""
    if files is None:
        raise SourceError(f"{path}: the cloud mask needs {band}; say where it lies with `extra: {{{band}: {{path: ..., pattern: ...}}}}`")
    if time in files:
        return files[time]
    same_day = [name for other, name in files.items() if other.astype("datetime64[D]") == time.astype("datetime64[D]")]
    if len(same_day) != 1:
        raise SourceError(f"{path}: found {len(same_day)} {band} files for {time} (expected one)")
    return same_day[0]


def _touches(info: RasterInfo, lonlat_bounds: Bounds | None) -> bool:
    """Whether the raster meets the bounds; one without a georeference always does (reading it gives the reason)."""
    if lonlat_bounds is None or not info.crs:
        return True
    return meets(in_degrees(bounds_of(info.grid), info.crs), lonlat_bounds)


build = Folder
