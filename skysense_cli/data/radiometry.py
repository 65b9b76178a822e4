"""From raw numbers to stored units: nodata, baseline offset, clipping, decibels, and whether the numbers can be right.

`valid` is decided on raw numbers: after an offset and a clip a dark pixel and a missing one look the same.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysense_cli.errors import DataError
from skysense_cli.geo.layer import Layer
from skysense_cli.sensors import Sensor

FLOOR_DB = -35.0  # below the noise of every Sentinel-1 mode
SATURATED = 65535
STRIP_ROWS = 64
BASELINE_OFFSET = -1000.0  # added to digital numbers since processing baseline 04.00
REFLECTANCE = re.compile(r"B(0[1-9]|1[0-2]|8A)")  # names of bands that carry reflectance, unlike SCL and other classes
DARK_BANDS = ("B02", "B03", "B04")  # in these no scene has a clearly negative median reflectance
BELOW_ZERO = 150.0  # counts by which dark water may fall below zero


class Contradiction(DataError):
    """The numbers of a date cannot be what its metadata says.   units: what they look like, "" if that is not known"""

    def __init__(self, message: str, units: str = "") -> None:
        super().__init__(message)
        self.units = units


@dataclass(frozen=True, eq=False)
class Stored:
    """Pixels in stored units with facts for the record of the date.

    pixels: (C, H, W) in the sensor's dtype; its nodata value where `data` is False
    data: (H, W) bool, some band has a number          good: (H, W) bool, data and no band saturated
    """

    pixels: np.ndarray
    data: np.ndarray
    good: np.ndarray
    facts: dict[str, Any]


def baseline_offset(baseline: str | float | None) -> float:
    """-1000 from processing baseline 04.00 on, else 0; never decided by the date, since old scenes are reprocessed.

    Takes `04.00`, `4.0`, `N0400` or `0509`. Raises DataError for what is no baseline.
    """
    if baseline is None or baseline == "":
        return 0.0
    text = str(baseline).strip().upper().removeprefix("N")
    number = text if "." in text else f"{text[:-2]}.{text[-2:]}" if len(text) == 4 else text
    try:
        return BASELINE_OFFSET if float(number) >= 4 else 0.0
    except ValueError as error:
        raise DataError(f"{baseline!r} is no processing baseline (expected e.g. 04.00)") from error


def has_data(raw: np.ndarray, flags: np.ndarray, nodata: float | None) -> np.ndarray:
    """(H, W) bool: some band has a number. A zero in one band is an ordinary dark pixel, zeros in all are nodata.

    raw: (C, H, W)      flags: (H, W) or (C, H, W) bool, as the reader found them (mask, alpha, outside the file)
    """
    some = np.ones(raw.shape, dtype=bool) if nodata is None else ~np.isnan(raw) if np.isnan(nodata) else raw != nodata
    return (some & flags).any(axis=0)


def store(sensor: Sensor, raw: Iterable[Layer | np.ndarray], data: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> Stored:
    """Counts of an optical or RGB sensor: (raw + offset) * scale, clipped to what the sensor stores.

    raw: C bands of (H, W), asked for one by one      data: (H, W) bool      scale, offset: (C,)
    clipped_share is the share of numbers with data that the clip changed.
    """
    low, high = (1, 65534) if sensor.dtype == "uint16" else (0, 255)
    pixels, saturated, clipped = np.empty((len(scale), *data.shape), sensor.dtype), np.zeros_like(data), 0
    for band, given in enumerate(raw):
        for start in range(0, len(data), STRIP_ROWS):  # strip by strip: all that is done to one stays in the processor's cache
            rows = slice(start, start + STRIP_ROWS)
            numbers = given[rows]
            if sensor.dtype == "uint16":
                saturated[rows] |= numbers >= (SATURATED if numbers.dtype.kind in "iu" else SATURATED - 0.5)
            counts = _rounded(numbers, scale[band], offset[band])
            if counts.size and not (low <= float(counts.min()) and float(counts.max()) <= high):  # NaN is neither
                counts = np.nan_to_num(counts.astype(np.float32), nan=low, posinf=high, neginf=low)
                clipped += int((((counts < low) | (counts > high)) & data[rows]).sum())
                counts = np.clip(counts, low, high)
            pixels[band, rows] = counts
    if low == 0:  # black pixels with data are kept apart from nodata, which is zero in all bands
        pixels[:, data & ~pixels.any(axis=0)] = 1
    if not data.all():
        pixels[:, ~data] = sensor.nodata
    share = clipped / max(int(data.sum()) * len(scale), 1)
    return Stored(pixels, data, data & ~saturated, {"clipped_share": round(share, 6)})


def _rounded(numbers: np.ndarray, scale: np.float32, offset: np.float32) -> np.ndarray:
    """(numbers + offset) * scale as whole numbers: those of whole numbers that nothing changes, else float32."""
    if offset == 0 and scale == 1:
        return numbers if numbers.dtype.kind in "iu" else np.rint(numbers.astype(np.float32, copy=False))
    counts = numbers.astype(np.float32)
    counts += offset
    counts *= scale
    return np.rint(counts, out=counts)


def store_db(linear: np.ndarray, data: np.ndarray) -> Stored:
    """Backscatter in dB of linear power (C, H, W), floored at -35 dB; NaN where there is no data.

    A pixel has data where every band has a positive or zero power; zero goes to the floor.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        decibels = 10 * np.log10(np.maximum(linear, 0)).astype(np.float32)
    return floored(decibels, data)


def floored(decibels: np.ndarray, data: np.ndarray) -> Stored:
    """dB (C, H, W) as stored: float32, not below -35, NaN where there is no data."""
    data = data & ~np.isnan(decibels).any(axis=0)
    below = (decibels < FLOOR_DB) & data
    pixels = np.where(data, np.maximum(decibels, FLOOR_DB), np.nan).astype(np.float32)
    share = float(below.sum()) / max(int(data.sum()) * len(decibels), 1)
    return Stored(pixels, data, data, {"floored_share": round(share, 6)})


def settle_offset(raw: Sequence[Layer | np.ndarray], data: np.ndarray, offset: np.ndarray, bands: Sequence[str]) -> tuple[np.ndarray, bool]:
    """The offset to add, and whether the numbers contradicted the catalogue.

    Flags that say whether a source has already removed the baseline offset are wrong at times. Numbers
    that still carry it lie about 1000 too high, so a visible band whose median is clearly below 1000 does not.
    """
    visible = [number for number, name in enumerate(bands) if name in DARK_BANDS and offset[number] == BASELINE_OFFSET]
    if not visible or not data.any():
        return offset, False
    removed = min(float(np.median(raw[number][:][data])) for number in visible) < -BASELINE_OFFSET - BELOW_ZERO
    return (np.zeros_like(offset), True) if removed else (offset, False)


def check_numbers(sensor: Sensor, counts: np.ndarray, data: np.ndarray, name: str, units: str) -> None:
    """Raise Contradiction when the numbers cannot be what they are said to be, with a suggestion.

    counts: (C, H, W) before any clip: (raw + offset) * scale, or dB, or linear power (see `units`).
    The brightest band's median is never below 0.1 x, the darkest band's never above 10 x the typical range,
    not even over deep water or snow.
    """
    if not data.any():
        return
    if sensor.kind == "sar":
        _check_radar(counts[:, data], name, units)
        return
    medians = np.array([np.nanmedian(band[data]) for band in counts])
    low, high = sensor.typical
    if medians.max() >= 0.1 * low and medians.min() <= 10 * high:
        return
    median = float(medians.max() if medians.max() < 0.1 * low else medians.min())
    raise Contradiction(
        f"{name}: the median of a band is {median:.4g}, but {sensor.name} stores {sensor.units} with medians from "
        f"{low:g} to {high:g}; {_suggestion(median, sensor)}"
    )


def _suggestion(median: float, sensor: Sensor) -> str:
    if sensor.units.endswith("reflectance*10000") and 0 < median <= 1.5:
        return "looks like reflectance 0-1: set scale: 10000"
    if sensor.units.endswith("reflectance*10000") and 1.5 < median <= 100:
        return "looks like reflectance in percent: set scale: 100"
    if median < 0:
        return "negative counts: check scale and offset"
    return "set scale and offset so that stored counts = (raw + offset) * scale"


def _check_radar(some: np.ndarray, name: str, units: str) -> None:
    low, median, high = (float(np.nanpercentile(some, share)) for share in (1, 50, 99))
    if units.endswith("linear") and low < -1:  # power that noise was taken off may be a little below 0
        raise Contradiction(
            f"{name}: is said to be linear power, but 1 % of its numbers lie below {low:.3g}; looks like dB: set units: '{units[:6]} dB'",
            f"{units[:6]} dB",
        )
    if units.endswith("dB") and low >= 0 and high < 100:
        raise Contradiction(
            f"{name}: is said to be dB, but its numbers run from {low:.3g} to {high:.3g}; looks like linear power: "
            f"set units: '{units[:6]} linear'",
            f"{units[:6]} linear",
        )
    decibels = 10 * np.log10(max(median, 1e-12)) if units.endswith("linear") else median
    if not -60 <= decibels <= 20:
        raise Contradiction(
            f"{name}: the median backscatter would be {decibels:.0f} dB; looks like uncalibrated numbers, "
            "which have no use before calibration"
        )
