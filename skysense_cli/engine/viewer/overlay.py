"""A layer as the page gets it: where it lies on the web map, its legend, and, embedded, its numbers.

Classes and values are embedded as numbers, not as a picture: the browser colours them, and a click reads them.
"""

import base64
import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox
from PIL import Image

from skysense_cli.engine.viewer.layers import Layer, crs_name
from skysense_cli.engine.viewer.reading import Reading, read_layer
from skysense_cli.engine.viewer.tracks import Track
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.resample import resample
from skysense_cli.geo.web_mercator import RADIUS_M, WebPlace, lattice, web_place

STEPS = {"uint8": 254, "uint16": 65534}  # of a number that is embedded; the largest means no data
SMALL_PX, FINEST = 1024, 4  # small maps get finer pixels than their own, so that these keep their shape on the warped grid
WEBP_QUALITY = 88
GAMMA = 0.65  # of imagery that is stretched


@dataclass(frozen=True)
class Described:
    """What is said of a layer, in both kinds of page. facts: for the page      codes: in the order of the legend"""

    facts: dict[str, Any]
    codes: np.ndarray


def describe_overlay(layer: Layer, reading: Reading, place: WebPlace, home_lon: float | None) -> Described:
    """home_lon: the longitude that the page is about; a layer on the other side of the antimeridian is moved by a turn."""
    west, south, east, north = place.bounds
    turn = 0.0 if home_lon is None else 360 * round((home_lon - (west + east) / 2) / 360)
    height, width = place.grid.shape
    left, top, size = float(np.radians(west + turn) * RADIUS_M), place.grid.affine.f, place.grid.affine.a
    facts: dict[str, Any] = {
        "name": layer.path.name, "date": layer.date, "crs": crs_name(layer.info.crs), "degrees": layer.degrees,
        "bounds": [[south, west + turn], [north, east + turn]], "extent": [left, top - size * height, left + size * width, top],
        "facts": layer.facts, "notes": _notes(reading, place), "simulated": "SIMULATED" in layer.info.tags,
    }  # fmt: skip
    codes = np.array(sorted(reading.areas), np.int64)
    if layer.coded:
        if len(codes) > STEPS["uint16"]:
            raise DataError(f"{layer.path}: holds {len(codes):,} classes, at most {STEPS['uint16']:,} can be shown")
        total = sum(reading.areas.values()) or 1.0
        facts["classes"] = [
            {"code": code, "name": layer.name(code), "color": "#{:02x}{:02x}{:02x}".format(*layer.color(code)),
             "hectares": round(reading.areas[code] / 10_000, 6), "share": round(reading.areas[code] / total, 6)}
            for code in codes.tolist()
        ]  # fmt: skip
    return Described(facts, codes)


def embed(layer: Layer, track: Track, longest_px: int, home_lon: float | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the layer with its numbers, the lattice of its coordinates), both for the page.

    Raises GridError naming the file for one that a web map cannot show.
    """
    placed(layer, layer.info.grid, longest_px)  # what no web map can show is not read first
    reading = read_layer(layer, longest_px)
    finer = max(1, min(FINEST, SMALL_PX // max(reading.grid.shape)))
    place = placed(layer, reading.grid, longest_px, finer)
    data = np.broadcast_to(reading.data, reading.numbers.shape)
    numbers, known = resample(reading.numbers, data, reading.grid, place.grid, "nearest")
    described = describe_overlay(layer, reading, place, home_lon)
    facts = described.facts | {"width": place.grid.shape[1], "height": place.grid.shape[0]}
    if layer.kind == "image":
        facts["picture"] = _picture(stretched(numbers, track.limits, layer), np.logical_and.reduce(known))
    elif layer.coded:
        place_of_code = np.searchsorted(described.codes, numbers[0]) if len(described.codes) else numbers[0]
        facts |= _packed(place_of_code, known[0], "uint8" if len(described.codes) <= STEPS["uint8"] else "uint16")
    else:
        facts |= _values(numbers[0], known[0], layer)
    return facts, coordinates(layer, place.grid)


def placed(layer: Layer, grid: GeoBox, longest_px: int, finer: int = 1) -> WebPlace:
    """Where a layer that was read on `grid` lies; errors name the file."""
    try:
        return web_place(grid, longest_px, finer)
    except GridError as error:
        text = str(error)
        raise GridError(text if str(layer.path) in text else f"{layer.path}: {text}") from error


def stretched(bands: np.ndarray, limits: tuple[float, float], layer: Layer) -> np.ndarray:
    """Imagery (3, h, w) as bytes: from dark to bright between the limits."""
    if layer.info.dtype == "uint8" and limits == (0.0, 255.0):
        return np.clip(np.rint(bands), 0, 255).astype(np.uint8)
    low, high = limits
    share = np.clip((np.nan_to_num(bands.astype(np.float32)) - low) / (high - low), 0, 1)
    return np.rint(share**GAMMA * 255).astype(np.uint8)


def coordinates(layer: Layer, grid: GeoBox) -> dict[str, Any]:
    """The layer's own coordinates at places spread over it, row by row; linear between them."""
    x, y = lattice(layer.info.grid, grid)
    digits = 9 if layer.degrees else 3
    return {"crs": crs_name(layer.info.crs), "nodes": len(x), "x": _rounded(x, digits), "y": _rounded(y, digits)}


# private


def _notes(reading: Reading, place: WebPlace) -> list[str]:
    notes = []
    if reading.factor > 1 and reading.exact:
        how = "the commonest class" if reading.areas else "the mean"
        notes.append(f"Reduced: a pixel shown is {how} of {reading.factor} x {reading.factor} pixels of the file. Areas count every pixel.")
    if not reading.exact and reading.areas:
        notes.append("Areas are estimated from an overview of the file.")
    if place.cut:
        notes.append("Cut at 85.05 degrees, where Web Mercator ends.")
    return notes


def _rounded(numbers: np.ndarray, digits: int) -> list[float | None]:
    return [round(number, digits) if np.isfinite(number) else None for number in numbers.ravel().tolist()]


def _values(values: np.ndarray, known: np.ndarray, layer: Layer) -> dict[str, Any]:
    """Whole numbers as they are where they fit, others in 65534 steps. A value is `first` + number * `step`."""
    kept = values[known & np.isfinite(values)] if values.dtype.kind == "f" else values[known]
    low, high = (float(kept.min()), float(kept.max())) if kept.size else (0.0, 0.0)
    whole = values.dtype.kind in "iu" and high - low <= STEPS["uint16"]
    dtype = "uint8" if whole and high - low <= STEPS["uint8"] else "uint16"
    step = 1.0 if whole else (high - low) / STEPS["uint16"] or 1.0
    known = known & np.isfinite(values)
    numbers = np.rint((np.where(known, values, low).astype(np.float64) - low) / step)
    return _packed(numbers, known, dtype) | {"first": low * layer.scale + layer.add, "step": step * layer.scale}


def _packed(numbers: np.ndarray, known: np.ndarray, dtype: str) -> dict[str, Any]:
    """Numbers (h, w) with the largest one for no data, deflated, little-endian, base64."""
    whole = np.where(known, numbers, STEPS[dtype] + 1).astype(np.dtype(dtype).newbyteorder("<"))
    return {"dtype": dtype, "numbers": base64.b64encode(zlib.compress(whole.tobytes(), 9)).decode()}


def _picture(bands: np.ndarray, known: np.ndarray) -> str:
    """A data address of (3, h, w) bytes, transparent without data."""
    pixels = np.concatenate([bands, np.where(known, 255, 0).astype(np.uint8)[None]]).transpose(1, 2, 0)
    file = io.BytesIO()
    small = pixels.shape[0] * pixels.shape[1] <= SMALL_PX * SMALL_PX // 4
    Image.fromarray(np.ascontiguousarray(pixels), "RGBA").save(file, "WEBP", quality=WEBP_QUALITY, lossless=small, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
