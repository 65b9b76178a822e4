"""Sentinel-1 GRD measurements on a grid: only the window that is needed, calibrated, then placed; linear power throughout."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.data.archive import read_text
from skysense_cli.data.products.sentinel1 import Annotation, Noise, Vectors, read_annotation, read_calibration, read_noise
from skysense_cli.data.sar import terrain
from skysense_cli.data.sar.calibrate import sigma0
from skysense_cli.data.sar.geocode import Surface
from skysense_cli.data.sources import Asset, Radar
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo import raster
from skysense_cli.geo.crs import crs_text, transformer
from skysense_cli.geo.grid import shifted

MOST_RELIEF_M = 10.0
COARSEN_FROM = 1.5  # pixels so many times larger than the image's are the mean of several places


@dataclass(frozen=True, eq=False)
class Scene:
    """One polarisation of a product, understood."""

    annotation: Annotation
    calibration: Vectors
    noise: Noise | None
    surface: Surface


def understood(product: bytes, calibration: bytes, noise: bytes | None, names: tuple[str, str, str]) -> Scene:
    """The scene that three XML texts describe; `names` are used in messages.

    Raises DataError when one is damaged or they are of different images.
    """
    annotation, table = read_annotation(product, names[0]), read_calibration(calibration, names[1])
    if table.lines[0] > annotation.shape[0] or max(one[-1] for one in table.samples) < annotation.shape[1] // 2:
        raise DataError(f"{names[1]}: does not cover the image of {names[0]} ({annotation.shape[0]} lines, {annotation.shape[1]} samples)")
    return Scene(annotation, table, read_noise(noise, names[2]) if noise is not None else None, Surface(annotation.grid))


def read_power(assets: Sequence[Asset], grid: GeoBox, shift_m: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """sigma0 (C, H, W) float32 on `grid`, where it is data (C, H, W), and facts for the record of the date.

    assets: each with `radar`, of one product       shift_m: the scene is moved by so much eastward and northward
    With a DEM: relief_m is the largest height of the ground over (or under) the product's grid surface. Without: relief_seen_m is
    what the heights of the grid's points around show of it, at least; ground with more than MOST_RELIEF_M is refused if it is to be flat.
    A digital number of 0 is no data. Raises GridError for whatever is wrong with one of the files.
    """
    powers, flags, known = [], [], None
    facts: dict[str, Any] = {}
    for asset in assets:
        assert asset.radar is not None, "the caller asks for radar"
        scene = _loaded(asset.radar)
        _check_image(asset, scene.annotation)
        times = _fineness(grid, scene.annotation)
        if known is None or not _same_geometry(known[0], scene.annotation):
            lines, samples, facts = _places(scene, asset.radar, _finer(shifted(grid, -shift_m[0], -shift_m[1]), times))
            known = (scene.annotation, lines, samples)
        power, found = _sampled(asset, scene, known[1], known[2])
        power, found = _mean(power, found, times)
        powers.append(power)
        flags.append(found)
    return np.stack(powers), np.stack(flags), facts


@lru_cache(maxsize=8)
def _loaded(radar: Radar) -> Scene:
    """The scene of these places. Damaged metadata costs a date, as a damaged raster does, hence GridError."""
    try:
        noise = read_text(radar.noise) if radar.noise else None
        names = (radar.product, radar.calibration, radar.noise or "")
        return understood(read_text(radar.product), read_text(radar.calibration), noise, names)
    except DataError as error:
        raise GridError(str(error)) from error


def _check_image(asset: Asset, annotation: Annotation) -> None:
    info = raster.describe(asset.path)
    if info.shape != annotation.shape:
        raise GridError(
            f"{asset.path}: has {info.shape[0]} lines of {info.shape[1]} samples, its annotation says {annotation.shape[0]} of "
            f"{annotation.shape[1]}; calibration and place would be wrong"
        )
    if not info.dtype.startswith("uint"):
        raise GridError(f"{asset.path}: holds {info.dtype}, expected digital numbers of amplitude (uint16)")


def _same_geometry(one: Annotation, other: Annotation) -> bool:
    return one.first_line == other.first_line and one.shape == other.shape and np.array_equal(one.grid.lon, other.grid.lon)


# places


def _fineness(grid: GeoBox, annotation: Annotation) -> int:
    ratio = abs(grid.affine.a) / annotation.sample_spacing_m
    return max(1, round(ratio)) if ratio >= COARSEN_FROM else 1


def _finer(grid: GeoBox, times: int) -> GeoBox:
    height, width = grid.shape
    return GeoBox((height * times, width * times), grid.affine * Affine.scale(1 / times), grid.crs)


def _places(scene: Scene, radar: Radar, grid: GeoBox) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Lines and samples (H, W) of the grid's centres, by the DEM if there is one, else by the product's grid."""
    if not grid.crs:
        raise GridError(f"{radar.product}: the grid that it is read on has no coordinate reference system")
    crs = crs_text(grid.crs)
    rows, columns = np.meshgrid(np.arange(grid.shape[0]) + 0.5, np.arange(grid.shape[1]) + 0.5, indexing="ij")
    a, b, c, d, e, f = grid.affine[:6]
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    flat = scene.surface.places(x, y, crs)
    if not radar.dem:
        seen = scene.surface.relief(flat.line, flat.sample)
        if radar.flat and seen > MOST_RELIEF_M:
            raise GridError(
                f"{radar.product}: the ground here departs by {seen:.0f} m or more from the surface that the product is placed on, at most "
                f"{MOST_RELIEF_M:g} m are taken for flat; give `dem`, or take it as it is with `geocoding: ellipsoid`"
            )
        return flat.line, flat.sample, {"relief_seen_m": round(seen, 1)}
    height = _heights(radar, grid)
    lon, lat = transformer(crs, "EPSG:4326").transform(x, y)
    inside = np.isfinite(flat.line)
    try:
        line, sample = terrain.places(scene.annotation, np.where(inside, lon, np.nan), lat, height)
    except DataError as error:
        raise GridError(str(error)) from error
    relief = np.abs(height - flat.height)[inside & np.isfinite(height)]
    return line, sample, {"relief_m": round(float(relief.max()), 1)} if relief.size else {}


def _heights(radar: Radar, grid: GeoBox) -> np.ndarray:
    """(H, W) metres above the ellipsoid, NaN where no DEM has one."""
    height = np.full(grid.shape, np.nan)
    for path in radar.dem:
        some = _surface_on(path, grid)
        height = np.where(np.isnan(height), some, height)
    if np.isnan(height).all():
        raise GridError(f"{radar.dem[0]}: the DEM has no height here; give one that covers the area, without it the image cannot be placed")
    return height + (_surface_on(radar.geoid, grid) if isinstance(radar.geoid, str) else radar.geoid)


def _surface_on(path: str, grid: GeoBox) -> np.ndarray:
    """A raster of metres on the grid, bilinear, NaN where it has none."""
    metres, known = raster.read_on_grid(path, grid, [1], resampling="bilinear")
    return np.where(known[0], metres[0].astype(float), np.nan)


# numbers


def _sampled(asset: Asset, scene: Scene, lines: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sigma0 at fractional lines and samples, bilinear over what is data; data where the nearest number is."""
    assert asset.radar is not None, "the caller asks for radar"
    window = tuple(_span(places, length) for places, length in zip((lines, samples), scene.annotation.shape, strict=True))
    rows, columns = window[0], window[1]
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return np.zeros(lines.shape, np.float32), np.zeros(lines.shape, bool)
    numbers, data = raster.read_window(asset.path, [asset.number], (rows, columns))
    known = data[0] & (numbers[0] != 0)
    power = np.where(known, sigma0(numbers[0], scene.calibration, scene.noise, rows, columns), np.float32(0))
    return _interpolated(power, known, lines - rows.start, samples - columns.start)


def _span(places: np.ndarray, length: int) -> slice:
    """What linear interpolation at `places` needs of an axis."""
    finite = places[np.isfinite(places)]
    if not finite.size:
        return slice(0, 0)
    low, high = np.clip([np.floor(finite.min()), np.floor(finite.max()) + 2], 0, length).astype(int)
    return slice(int(low), int(high))


def _interpolated(power: np.ndarray, known: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    placed = np.isfinite(rows) & np.isfinite(columns)
    rows, columns = np.where(placed, rows, -9), np.where(placed, columns, -9)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    total, weight = np.zeros(rows.shape), np.zeros(rows.shape)
    for down in (0, 1):
        for across in (0, 1):
            r, c = top + down, left + across
            inside = (r >= 0) & (r < power.shape[0]) & (c >= 0) & (c < power.shape[1])
            r, c = np.clip(r, 0, power.shape[0] - 1), np.clip(c, 0, power.shape[1] - 1)
            share = (1 - np.abs(rows - (top + down))) * (1 - np.abs(columns - (left + across))) * (inside & known[r, c])
            total += share * power[r, c]
            weight += share
    r, c = np.floor(rows + 0.5).astype(int), np.floor(columns + 0.5).astype(int)
    inside = (r >= 0) & (r < power.shape[0]) & (c >= 0) & (c < power.shape[1])
    found = inside & known[np.clip(r, 0, power.shape[0] - 1), np.clip(c, 0, power.shape[1] - 1)] & (weight > 0)
    return np.divide(total, weight, out=np.zeros_like(total), where=found).astype(np.float32), found


def _mean(power: np.ndarray, found: np.ndarray, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of `times` x `times` places, over those that are data."""
    if times == 1:
        return power, found
    height, width = power.shape[0] // times, power.shape[1] // times
    total = np.where(found, power, 0).reshape(height, times, width, times).sum(axis=(1, 3))
    count = found.reshape(height, times, width, times).sum(axis=(1, 3))
    return (total / np.maximum(count, 1)).astype(np.float32), count > 0
