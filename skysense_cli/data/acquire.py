"""One date on one grid, in stored units. The one way pixels come in, for building samples and for prediction."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from scipy import ndimage

from skysense_cli import console
from skysense_cli.data import radiometry
from skysense_cli.data.clouds import CloudMask
from skysense_cli.data.sar.scene import read_power
from skysense_cli.data.sources import Asset, Item
from skysense_cli.data.stored import read_stored
from skysense_cli.errors import DataError
from skysense_cli.geo import raster
from skysense_cli.geo.axes import aligned
from skysense_cli.geo.layer import Layer, Whole, stacked
from skysense_cli.geo.raster import RasterInfo
from skysense_cli.sensors import Sensor

METRES_PER_DEGREE = 111_320.0
COARSEN_FROM = 1.5  # pixels so many times smaller than the grid's are averaged, not sampled
REFINE_FROM = 0.75  # pixels larger than the grid's by the inverse are interpolated linearly
LOOKED_AT = 250_000  # numbers per band that are checked against the sensor's


@dataclass(frozen=True, eq=False)
class Acquisition:
    """One date on a grid.

    pixels: (C, H, W) in the sensor's dtype and units, its nodata value where there is no data
    valid: (H, W) bool, data, not saturated, and clear by the cloud mask
    data: (H, W) bool, data whether clear or not
    meta: the item's facts, its units as delivered, and what was done to the numbers
    """

    pixels: np.ndarray
    valid: np.ndarray
    data: np.ndarray
    meta: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Raw:
    """The bands as read, and the facts of the files."""

    layers: list[Layer]
    infos: tuple[RasterInfo, ...]

    @property
    def data(self) -> np.ndarray:
        """(H, W) bool: some band has a number."""
        some = self.layers[0].known.copy()
        for layer in self.layers[1:]:
            some |= layer.known
        return some


def narrowed(sensor: Sensor, bands: Sequence[str]) -> Sensor:
    """The sensor with the named bands only, in that order. Raises DataError for a band it lacks."""
    mean, std = sensor.statistics(bands)
    chosen = tuple(sensor.bands[sensor.band_names.index(name)] for name in bands)
    return dataclasses.replace(sensor, bands=chosen, mean=mean, std=std)


def acquire(item: Item, sensor: Sensor, grid: GeoBox, *, bands: Sequence[str], cloud_mask: CloudMask,
            shift_m: tuple[float, float] = (0.0, 0.0), judge: bool = True) -> Acquisition:  # fmt: skip
    """The bands of `item` on `grid`, moved by `shift_m` (metres east and north), with everything that decides `valid`.

    The move and the change of resolution are one interpolation; cloud classes and holes move nearest,
    and `valid` then loses a pixel at its edges. Radar is averaged and moved as linear power, dB comes last.
    judge: decide from the numbers whether they still carry the offset, and whether they can be what the item says;
        not for the parts of a scene that was judged as a whole, since each part could decide otherwise
    Raises DataError when the numbers cannot be what the item says, GridError or SourceError for a file.
    """
    if item.parts:
        read = [acquire(p, sensor, grid, bands=bands, cloud_mask=cloud_mask, shift_m=shift_m, judge=judge) for p in item.parts]
        return _side_by_side(read)
    item = item.ready()
    missing = [band for band in (*bands, *cloud_mask.extra_bands) if band not in item.assets]
    if missing:
        raise DataError(f"{item.id}: has no band {missing[0]} (found: {', '.join(item.assets)})")
    moved = any(shift_m)
    if item.assets[bands[0]].sample is not None:  # judged and masked when the sample was built
        stored, valid = read_stored([item.assets[band] for band in bands], sensor, grid, shift_m)
        return Acquisition(stored.pixels, _eroded(valid) if moved else valid, stored.data, {**item.meta, "units": item.units})
    stored = (_radar if sensor.kind == "sar" else _counts)(item, sensor, grid, bands, shift_m, judge)
    plain = stored.facts.get("offset_contradicted", False)
    extra = {name: _extra(item.assets[name], grid, shift_m, plain) for name in cloud_mask.extra_bands}
    valid = stored.good & cloud_mask.valid(stored.pixels, extra, _pixel_m(grid))
    if moved:
        valid = _eroded(valid)
    given = item.assets[bands[0]].nodata  # otherwise as the file declares, or by the rule of its kind
    facts = {"units": item.units} | ({"nodata": given} if given is not None and np.isfinite(given) else {})
    return Acquisition(stored.pixels, valid, stored.data, {**item.meta, **facts, **stored.facts})


def _side_by_side(read: Sequence[Acquisition]) -> Acquisition:
    """One date of several: a pixel is of the first that is valid there, else of the first that has data."""
    pixels, valid, data = read[0].pixels.copy(), read[0].valid.copy(), read[0].data.copy()
    for other in read[1:]:
        taken = (other.valid & ~valid) | (other.data & ~data)
        pixels[:, taken] = other.pixels[:, taken]
        valid |= other.valid
        data |= other.data
    return Acquisition(pixels, valid, data, read[0].meta)


def _eroded(valid: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.binary_erosion(valid, np.ones((3, 3), bool), border_value=1))


def _counts(item: Item, sensor: Sensor, grid: GeoBox, bands: Sequence[str], shift_m: tuple[float, float],
            judge: bool) -> radiometry.Stored:  # fmt: skip
    """Reflectance counts or display counts."""
    assets = [item.assets[band] for band in bands]
    raw = _read(assets, grid, shift_m, lambda info, asset: _nodata_of_counts(info, asset, sensor))
    _check_stretch(sensor, raw.infos, assets)
    data = raw.data
    offset = np.array([asset.offset for asset in assets], np.float32)
    scale = np.array([asset.scale for asset in assets], np.float32)
    offset, contradicted = radiometry.settle_offset(raw.layers, data, offset, bands) if judge else (offset, False)
    if contradicted:
        baseline = item.meta.get("baseline", "?")
        console.warn(f"{item.id}: its numbers are too low to carry the offset of baseline {baseline}; nothing is removed")
    if judge:
        counts, few = _thinned(raw.layers, data)
        counts += offset[:, None, None]
        counts *= scale[:, None, None]
        radiometry.check_numbers(sensor, counts, few, _name(item, assets), sensor.units)
    stored = radiometry.store(sensor, _emptied(raw.layers), data, scale, offset)
    if sensor.kind == "optical":
        stored.facts["offset_applied"] = float(offset.min())
        stored.facts.update({"offset_contradicted": True} if contradicted else {})
    return stored


def _radar(item: Item, sensor: Sensor, grid: GeoBox, bands: Sequence[str], shift_m: tuple[float, float],
           judge: bool) -> radiometry.Stored:  # fmt: skip
    """Backscatter in dB, from dB or from linear power."""
    wanted = sensor.units.split()[0]
    given, _, form = item.units.partition(" ")
    if form not in ("dB", "linear"):
        raise DataError(
            f"{item.id}: holds uncalibrated numbers ({item.units}); {sensor.name} needs {wanted} in dB or linear power, "
            "so calibrate the product first"
        )
    if given != wanted:
        raise DataError(
            f"{item.id}: holds {item.units}, but {sensor.name} is {sensor.units}; one modality never mixes {given} and {wanted}. "
            f"Use the sensor for {given}, or say `units: {wanted} {form}` on the source to take it as {wanted}."
        )
    assets = [item.assets[band] for band in bands]
    facts: dict[str, Any] = {}
    if assets[0].radar is not None:
        numbers, flags, facts = read_power(assets, grid, shift_m)
    else:
        raw = _read(assets, grid, shift_m, _nodata_of_radar if form == "linear" else _declared, power=form == "dB")
        numbers, flags = stacked(raw.layers)
    data = np.asarray(flags.any(axis=0))
    if judge:
        radiometry.check_numbers(sensor, *_thinned(numbers, data), _name(item, assets), item.units)
    if form == "dB":
        return radiometry.floored(np.where(flags, numbers, np.nan), data)
    stored = radiometry.store_db(np.where(flags, numbers, 0), data)
    stored.facts.update({"converted": "linear power to dB", **facts})
    return stored


def _read(assets: Sequence[Asset], grid: GeoBox, shift_m: tuple[float, float], nodata: Callable[[RasterInfo, Asset], float | None],
          power: bool = False) -> _Raw:  # fmt: skip
    """All bands, each file opened once.   power: the numbers are dB, what must be mixed is mixed as power."""
    places: dict[tuple[str, float | None], list[int]] = {}
    for position, asset in enumerate(assets):
        places.setdefault((asset.path, asset.nodata), []).append(position)
    layers: dict[int, Layer] = {}
    infos = []
    for (path, _), positions in places.items():
        with raster.open_raster(path) as dataset:
            info = raster.describe(dataset)
            exact = _same_pixels(info, grid, shift_m)
            found = raster.read_layers(
                dataset, grid, [assets[k].number for k in positions], resampling="nearest" if exact else _method(info, grid, power),
                nodata=nodata(info, assets[positions[0]]), shift_m=shift_m, before=_to_power if power and not exact else None,
            )  # fmt: skip
        infos.append(info)
        layers.update(zip(positions, [_in_db(layer) for layer in found] if power and not exact else found, strict=True))
    return _Raw([layers[k] for k in range(len(assets))], tuple(infos))


def _emptied(layers: list[Layer]) -> Iterator[Layer]:
    """The layers in order, taken out of the list, so that memory holds only those to come."""
    while layers:
        yield layers.pop(0)


def _extra(asset: Asset, grid: GeoBox, shift_m: tuple[float, float], plain: bool) -> np.ndarray:
    """(H, W) of an extra band, nearest; 0 outside its file; reflectance with its offset and scale (plain: no offset, as settled)."""
    pixels, data = raster.read_on_grid(asset.path, grid, [asset.number], resampling="nearest", nodata=asset.nodata, shift_m=shift_m)
    offset = 0.0 if plain else asset.offset
    if offset == 0 and asset.scale == 1:
        return np.where(data[0], pixels[0], pixels.dtype.type(0))
    data[0] &= pixels[0] != 0
    counts = np.clip((pixels[0].astype(np.float32) + offset) * asset.scale, 1, 65534)
    return np.where(data[0], counts, np.float32(0))


# how a file is read


def _same_pixels(info: RasterInfo, grid: GeoBox, shift_m: tuple[float, float]) -> bool:
    """Whether the file's pixels are the grid's, so that nothing is interpolated."""
    if any(shift_m) or bool(info.crs) != bool(grid.crs):
        return False
    steps = aligned(info.grid, grid)
    return steps is not None and all(step.offset(length) is not None for step, length in zip(steps, grid.shape, strict=True))


def _method(info: RasterInfo, grid: GeoBox, power: bool) -> Any:
    """average onto coarser pixels, bilinear onto finer ones, else cubic, which blurs a moved scene least (power: it may ring below 0)."""
    pixel = max(info.gsd) * (METRES_PER_DEGREE if info.crs and CRS(info.crs).geographic else 1.0)
    ratio = _pixel_m(grid) / pixel
    if ratio >= COARSEN_FROM:
        return "average"
    return "bilinear" if power or ratio <= REFINE_FROM or info.dtype.startswith("float") else "cubic"


def _pixel_m(grid: GeoBox) -> float:
    return float(abs(grid.affine.a)) * (METRES_PER_DEGREE if grid.crs and grid.crs.geographic else 1.0)


def _nodata_of_counts(info: RasterInfo, asset: Asset, sensor: Sensor) -> float | None:
    """The recipe's value, else the file's, else zero in all bands; 255 declared for 8-bit imagery is bright ground, not a hole."""
    if asset.nodata is not None:
        return asset.nodata
    if "alpha" in info.colors:
        return float("nan")
    declared = info.nodata[asset.number - 1]
    return sensor.nodata if declared is None or (sensor.dtype == "uint8" and declared == 255) else declared


def _nodata_of_radar(info: RasterInfo, asset: Asset) -> float | None:
    """Power of exactly zero is no data, unless recipe or file say otherwise."""
    declared = info.nodata[asset.number - 1]
    return asset.nodata if asset.nodata is not None else 0.0 if declared is None or np.isnan(declared) else declared


def _declared(info: RasterInfo, asset: Asset) -> float | None:
    return asset.nodata


def _to_power(decibels: np.ndarray) -> np.ndarray:
    return np.power(10.0, decibels.astype(np.float32) / 10).astype(np.float32)


def _in_db(power: Layer) -> Layer:
    with np.errstate(divide="ignore", invalid="ignore"):
        return Whole(10 * np.log10(power[:]), power.known)


# checks


def _check_stretch(sensor: Sensor, infos: Sequence[RasterInfo], assets: Sequence[Asset]) -> None:
    """8-bit imagery from wider numbers needs a stretch that somebody chose, and counts are not found in 8 bits without one."""
    if any(asset.scale != 1 or asset.offset != 0 for asset in assets):
        return
    wide = [info for info in infos if sensor.dtype == "uint8" and info.dtype != "uint8"]
    if wide:
        raise DataError(
            f"{wide[0].path}: is {wide[0].dtype}, {sensor.name} stores {sensor.dtype}; give the stretch explicitly: "
            "scale and offset with stored = (raw + offset) * scale, e.g. scale: 0.0623 for 12 bits"
        )
    narrow = [info for info in infos if sensor.dtype == "uint16" and info.dtype == "uint8"]
    if narrow:
        raise DataError(
            f"{narrow[0].path}: is uint8, a picture for the eye; {sensor.name} stores {sensor.units} in {sensor.dtype}. Use the "
            "product itself, or say how counts come back: scale and offset with stored = (raw + offset) * scale"
        )


def _thinned(bands: Iterable[Layer | np.ndarray], data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every so many rows and columns: enough for a median."""
    step = max(1, int(np.sqrt(data.size / LOOKED_AT)))
    return np.stack([band[::step][:, ::step].astype(np.float32) for band in bands]), data[::step, ::step]


def _name(item: Item, assets: Sequence[Asset]) -> str:
    return item.id if assets[0].path.endswith(item.id) else f"{assets[0].path} ({item.id})"
