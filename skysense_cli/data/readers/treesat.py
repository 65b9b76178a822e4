"""TreeSatAI time series: a 0.2 m aerial image, Sentinel-2 and Sentinel-1 of a year, and the tree species of one place.

`<name>.tif` and `<name>.h5` (as published) or `<name>_timeseries.npz` beside each other. The species stands in the name:
`Abies_alba_1_1005_WEFL_NLF` is Abies alba.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skysense_cli import __version__, sensors
from skysense_cli.data import radiometry
from skysense_cli.data.members import Members
from skysense_cli.data.readers import Reader
from skysense_cli.data.sample import Label, Sample, Series
from skysense_cli.data.sources import parse_time
from skysense_cli.errors import DataError
from skysense_cli.geo.footprints import Footprint
from skysense_cli.geo.grid import lonlat
from skysense_cli.geo.raster import describe, read_window

NAME = re.compile(r"(?P<species>[A-Za-z]+(_[A-Za-z]+)*)_\d+_\d+_\w+")
OPTICAL = re.compile(r"(?P<platform>S2[A-D])_MSIL2A_(?P<time>\d{8}T\d{6})_N(?P<baseline>\d{4})_R(?P<orbit>\d{3})_\w+")
RADAR = re.compile(r"(?P<platform>S1[A-D])_IW_GRDH_1SDV_(?P<time>\d{8}T\d{6})_\d{8}T\d{6}_(?P<orbit>\d{6})_\w+")
FIRST_ORBIT = {"S1A": 73, "S1B": 27, "S1C": 172}  # absolute orbits less this, modulo 175, plus one, are relative orbits
AERIAL_BANDS = ("R", "G", "B", "N")
AERIAL_ORDER = (4, 2, 3, 1)  # of these in the file, which holds near infrared, green, blue, red; by statistics, it does not say
AERIAL_GSD, GSD = 0.2, 10.0
KEYS = {  # npz -> h5
    "s2": "sen-2-data", "s2_masks_snow_cloud": "sen-2-masks", "s2_products": "sen-2-products", "s1_asc": "sen-1-asc-data",
    "s1_asc_products": "sen-1-asc-products", "s1_des": "sen-1-des-data", "s1_des_products": "sen-1-des-products",
}  # fmt: skip


class TreeSat(Reader):
    """The pairs in the folder `path`.

    clear_below: a Sentinel-2 pixel is valid where snow and cloud are less probable, percent; a date without such a pixel is left out
    classes: species in the order of their ids; by default those in the folder, by name

    The aerial image is cropped around its middle to the ground of the series, whose place the files do not give: `alignment:
    assumed` in the provenance. Radar power is taken as sigma0. The day of the aerial image is not known.
    """

    def __init__(self, path: str, /, *, clear_below: int = 50, classes: tuple[str, ...] = ()) -> None:
        self.path, self.clear_below, self.classes = Path(path), clear_below, classes

    def samples(self) -> Iterator[Sample]:
        images = sorted(self.path.glob("*.tif"))
        if not images:
            raise DataError(f"{self.path}: holds no *.tif, expected pairs such as Abies_alba_1_1005_WEFL_NLF.tif and .h5")
        names = self.classes or tuple(sorted({species_of(image) for image in images}))
        for image in images:
            yield self._sample(image, names)

    def _sample(self, image: Path, names: tuple[str, ...]) -> Sample:
        species = species_of(image)
        if species not in names:
            raise DataError(f"{image}: {species} is none of the classes ({', '.join(names)})")
        place, arrays = _arrays(image)
        optical, dropped = _optical(arrays, place, self.clear_below)
        side_px = optical.shape[-1]
        footprint, aerial = _aerial(image, side_px * GSD)
        series = {"hr": aerial, "s2": _series(optical, footprint), "s1": _series(_radar(arrays, place, side_px), footprint)}
        provenance = {
            "skysense": __version__, "reader": "treesat", "alignment": "assumed", "reference": "",
            "assumed": "the series and the aerial image share their middle; aerial bands are N, G, B, R; radar power is sigma0",
            "dates_without_clear_pixel": dropped, "files": [image.name, place.name],
        }  # fmt: skip
        label = Label(names=names, classes=np.array([names.index(species)], np.int64), source="TreeSatAI, CC-BY 4.0")
        crs = footprint.crs
        return Sample(image.stem, crs, footprint.bounds, lonlat(footprint.bounds, crs), series, label, provenance)


def species_of(image: Path) -> str:
    """`Abies alba` of `Abies_alba_1_1005_WEFL_NLF.tif`. Raises DataError for another form of name."""
    found = NAME.fullmatch(image.stem)
    if found is None:
        raise DataError(f"{image}: gives no species, expected a name such as Abies_alba_1_1005_WEFL_NLF.tif")
    return found["species"].replace("_", " ")


class _Dates:
    """Dates of one modality in order: stored pixels, valid, product names and facts."""

    def __init__(self, sensor: str, pixels: np.ndarray, valid: np.ndarray, products: list[str], facts: list[dict[str, Any]]) -> None:
        times = [facts.pop("time") for facts in facts]
        kept = [k for k in sorted(range(len(times)), key=lambda k: (times[k], products[k])) if valid[k].any()]
        self.sensor = sensors.get(sensor)
        self.pixels, self.valid, self.times = pixels[kept], valid[kept], np.array([times[k] for k in kept], "datetime64[s]")
        self.products, self.facts = tuple(products[k] for k in kept), tuple(facts[k] for k in kept)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pixels.shape


def _series(dates: _Dates, footprint: Footprint) -> Series:
    sensor = dates.sensor
    return Series(
        sensor.name, sensor.band_names, dates.pixels, dates.times, dates.valid, dates.products, footprint.grid(GSD), sensor.units,
        sensor.nodata, dates.facts,
    )  # fmt: skip


def _optical(arrays: Mapping[str, np.ndarray], place: Path, clear_below: int) -> tuple[_Dates, int]:
    """Sentinel-2, and how many of its dates have no clear pixel."""
    raw, poor = arrays["s2"], arrays["s2_masks_snow_cloud"][:, :2]
    sensor = sensors.get("sentinel2_l2a")
    _check(place, "s2", raw, len(sensor.bands))
    products, facts = _products(arrays["s2_products"], OPTICAL, place, "s2_products", len(raw))
    pixels, valid = np.empty(raw.shape, np.uint16), np.empty((len(raw), *raw.shape[2:]), bool)
    for number, date in enumerate(raw):
        offset = radiometry.baseline_offset(facts[number]["baseline"])
        data = radiometry.has_data(date, np.ones(date.shape, bool), 0)
        stored = radiometry.store(sensor, date, data, np.ones(len(date), np.float32), np.full(len(date), offset, np.float32))
        pixels[number], valid[number] = stored.pixels, stored.good & (poor[number] < clear_below).all(axis=0)
        facts[number].update(stored.facts, offset_applied=offset)
    dates = _Dates(sensor.name, pixels, valid, products, facts)
    return dates, len(raw) - len(dates.products)


def _radar(arrays: Mapping[str, np.ndarray], place: Path, side_px: int) -> _Dates:
    """Sentinel-1 of both directions in dB."""
    sensor = sensors.get("sentinel1_grd")
    pixels, valid, names, records = [], [], [], []
    for key, direction in (("s1_asc", "ascending"), ("s1_des", "descending")):
        power = arrays[key]
        _check(place, key, power, len(sensor.bands), side_px)
        whole = np.moveaxis(power, 1, 0).reshape(len(sensor.bands), -1, side_px)
        radiometry.check_numbers(sensor, whole, np.isfinite(whole).all(axis=0), f"{place}: {key}", "sigma0 linear")
        products, facts = _products(arrays[f"{key}_products"], RADAR, place, f"{key}_products", len(power))
        for number, date in enumerate(power):
            stored = radiometry.store_db(date, np.isfinite(date).all(axis=0))
            pixels.append(stored.pixels)
            valid.append(stored.good)
            facts[number].update(stored.facts, orbit_pass=direction, calibration="linear power as published, taken as sigma0")
        names += products
        records += facts
    return _Dates(sensor.name, np.stack(pixels), np.stack(valid), names, records)


def _aerial(image: Path, side_m: float) -> tuple[Footprint, Series]:
    """The middle `side_m` of the aerial image, and its place."""
    info, sensor = describe(image), sensors.get("rgbnir")
    side, (height, width) = round(side_m / AERIAL_GSD), info.shape
    gsd = (abs(info.transform.a), abs(info.transform.e))
    if info.count != 4 or info.dtype != "uint8" or min(height, width) < side or max(abs(one - AERIAL_GSD) for one in gsd) > 1e-6:
        raise DataError(
            f"{image}: is {info.dtype}, {info.count} bands of {height} x {width} pixels of {gsd[0]:g} m, "
            f"expected uint8, 4 bands, at least {side} x {side} pixels of {AERIAL_GSD} m"
        )
    row, col = (height - side) // 2, (width - side) // 2
    pixels, data = read_window(image, AERIAL_ORDER, (slice(row, row + side), slice(col, col + side)))
    left, top = round(info.transform.c + col * AERIAL_GSD, 3), round(info.transform.f - row * AERIAL_GSD, 3)  # it is written to a micron
    footprint = Footprint(info.crs, left, top, side_m, 0, 0)
    stored = radiometry.store(sensor, pixels, np.asarray(data.any(axis=0)), np.ones(4, np.float32), np.zeros(4, np.float32))
    facts = {**stored.facts, "band_order": "assumed"}
    return footprint, Series(
        sensor.name, AERIAL_BANDS, stored.pixels[None], np.array(["NaT"], "datetime64[s]"), stored.good[None], (image.stem,),
        footprint.grid(AERIAL_GSD), sensor.units, sensor.nodata, (facts,),
    )  # fmt: skip


def _products(names: np.ndarray, form: re.Pattern[str], place: Path, key: str, count: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Product names as text, and what they say: time, platform, relative orbit, baseline."""
    texts = [name.decode("ascii", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]
    if len(texts) != count:
        raise DataError(f"{place}: {key} names {len(texts)} products, expected {count}, one for each date")
    facts = []
    for text in texts:
        found = form.fullmatch(text)
        time = parse_time(found["time"]) if found else None
        if found is None or time is None:
            raise DataError(f"{place}: {key} holds {text[:80]!r}, which is no name of a product with a date")
        orbit = int(found["orbit"])
        record = {"time": time, "platform": found["platform"]}
        if form is OPTICAL:
            facts.append({**record, "relative_orbit": orbit, "baseline": f"{found['baseline'][:2]}.{found['baseline'][2:]}"})
        elif found["platform"] in FIRST_ORBIT:
            facts.append({**record, "relative_orbit": (orbit - FIRST_ORBIT[found["platform"]]) % 175 + 1})
        else:
            facts.append(record)
    return texts, facts


def _check(place: Path, key: str, array: np.ndarray, bands: int, side_px: int | None = None) -> None:
    """(T, bands, side, side) and something in it."""
    side = side_px or (array.shape[-1] if array.ndim else 0)
    if array.ndim != 4 or array.shape[1:] != (bands, side, side) or 0 in array.shape:
        raise DataError(f"{place}: {key} has the shape {array.shape}, expected (dates, {bands}, {side}, {side})")


def _arrays(image: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """The file of the series beside an aerial image, and its arrays under their names in KEYS."""
    plain, published = image.with_name(f"{image.stem}_timeseries.npz"), image.with_suffix(".h5")
    if plain.is_file():
        with Members(plain) as members:
            return plain, _taken(plain, members, members.load)
    if not published.is_file():
        raise DataError(f"{image}: has no series beside it, expected {published.name} or {plain.name}")
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{published}: needs h5py; pip install 'skysense-cli[cubes]'") from error
    try:
        with h5py.File(published) as file:
            held = {name: key for name, key in KEYS.items() if key in file}
            return published, _taken(published, held, lambda name: file[held[name]][()])
    except OSError as error:
        raise DataError(f"{published}: cannot be read as HDF5 ({error})") from error


def _taken(place: Path, held: Any, load: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    """All of KEYS. Raises DataError for one that is not there."""
    missing = [name for name in KEYS if name not in held]
    if missing:
        raise DataError(f"{place}: has no {missing[0]}, expected {', '.join(KEYS)}")
    return {name: np.asarray(load(name)) for name in KEYS}


build = TreeSat
