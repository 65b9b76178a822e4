"""Whether the numbers of a date can be what its metadata says, judged beside the other dates of its place and season.

Flags about the baseline offset are wrong at times, and a scene without metadata may carry it. A date off by 1000 counts
is found by its dark bands, in which ground varies little with the season, and by what is possible at all: with the offset
still in them no band has numbers much below 1000; without a share that was never there dark ground is cut off at 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from skysense_cli.data.radiometry import BASELINE_OFFSET, DARK_BANDS, FLOOR_DB

SEASON_DAYS = 45  # dates so near in the day of the year, of any year, are compared
LEAST_DATES = 3  # others that a verdict needs
MOST_DATES = 10  # the nearest in the year are enough
LEAST_PIXELS = 30
LEAST_SHARE = 0.05  # of the ground that must be clear
BELIEVED_SHARE = 0.2  # of the dates; where fewer stand near 0 in some band, the ground itself is bright
SIDE_PX = 64  # of the looks: enough for a median and a dark end
TOLERANCE = 150.0  # counts: no ground is darker than this below zero
LEVEL_TOLERANCE = 300.0  # counts: what dark bands vary by within a season
UNEVEN = 170.0  # counts: how much wider than twice the others' the dark half of a date may be
FLOOR_PERCENT = 2.0
LEAST_CONTRAST = 0.6  # of the others': haze and thin cloud raise a date as the offset does, but take contrast, which the offset leaves
LAND = 1200.0  # counts that the brightest band of land reaches; open water stays below
CUT_SHARE = 0.5
YEAR_DAYS = 365
DB_TOLERANCE = 6.0  # what backscatter varies by within a season

Some = TypeVar("Some")


@dataclass(frozen=True, eq=False)
class Look:
    """A thinned date.   pixels: (C, n) float32 in stored units      clear: (n,) bool"""

    pixels: np.ndarray
    clear: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What the other dates say of one.

    offset: counts that its numbers wrongly carry: 1000, -1000, or 0      linear: they are power, not dB
    others: dates it was compared with      shift: how far its dark bands (radar: all bands) stand from theirs, None if not compared
    reason: why it was not compared
    """

    offset: float = 0.0
    linear: bool = False
    others: int = 0
    shift: float | None = None
    reason: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return self.offset == 0 and not self.linear


def look(pixels: np.ndarray, valid: np.ndarray) -> Look:
    """The look at a date, pixels (C, H, W) and valid (H, W)."""
    step = max(-(-max(valid.shape) // SIDE_PX), 1)
    thinned = pixels[:, ::step, ::step].reshape(len(pixels), -1).astype(np.float32)
    return Look(thinned, valid[::step, ::step].reshape(-1) & np.isfinite(thinned).all(axis=0))


def judge_counts(bands: Sequence[str], times: np.ndarray, looks: Sequence[Look | None]) -> list[Verdict]:
    """A verdict per date of an optical series; None is a date without clear ground.

    A date without a number much below 1000 in any band may carry the offset, one whose dark land is cut off at 1 lacks a
    share; the others are believed. A suspect is compared with believed dates of its season, and believed or corrected itself
    from then on, so that a run of wrong dates is followed from its edge. Where hardly any date is believed, as on bright
    desert, most dates of the season decide.
    """
    dates = [_Date.of(each, bands) if each is not None else None for each in looks]
    days = _days_of_year(times)
    usable = [k for k, date in enumerate(dates) if date is not None and days[k] >= 0]
    near = {k: [other for other in usable if other != k and _apart(days[k], days[other]) <= SEASON_DAYS] for k in usable}
    verdicts = [Verdict(reason=_why_not(k, near)) for k in range(len(looks))]
    waiting = {k for k in usable if len(near[k]) >= LEAST_DATES}
    for k in [k for k in waiting if _known(dates[k]).cut]:
        verdicts[k] = Verdict(offset=BASELINE_OFFSET, others=len(near[k]))
        waiting.remove(k)
    right = {k for k in usable if not _known(dates[k]).cut}
    believed = {k for k in right if not _known(dates[k]).high}
    if len(believed) < BELIEVED_SHARE * len(right):
        believed = right
    while waiting:
        k = max(waiting, key=lambda k: (len(believed.intersection(near[k])), -k))
        waiting.remove(k)
        group = sorted((other for other in near[k] if other in believed), key=lambda other: (_apart(days[k], days[other]), other))
        verdict = _against(_known(dates[k]), [_known(dates[other]) for other in group[:MOST_DATES]])
        if verdict is None:
            continue
        verdicts[k] = verdict
        if verdict.offset < 0:
            believed = believed - {k}
        elif verdict.offset > 0:
            believed = believed | {k}
            dates[k] = _known(dates[k]).without(verdict.offset)
    return verdicts


def judge_decibels(times: np.ndarray, looks: Sequence[Look | None]) -> list[Verdict]:
    """A verdict per date of a radar series in dB: whether its numbers are linear power that was called dB."""
    days = _days_of_year(times)
    usable = [k for k, each in enumerate(looks) if each is not None and each.clear.sum() >= LEAST_PIXELS and days[k] >= 0]
    medians = {k: np.median(_known(looks[k]).pixels[:, _known(looks[k]).clear], axis=1) for k in usable}
    near = {k: [other for other in usable if other != k and _apart(days[k], days[other]) <= SEASON_DAYS] for k in usable}
    verdicts = [Verdict(reason=_why_not(k, near)) for k in range(len(looks))]
    for k in usable:
        if len(near[k]) < LEAST_DATES:
            continue
        reference = np.median([medians[other] for other in near[k]], axis=0)
        taken = 10 * np.log10(np.maximum(medians[k], 10 ** (FLOOR_DB / 10)))
        off, better = np.abs(medians[k] - reference), np.abs(taken - reference)
        linear = bool((off > DB_TOLERANCE).all() and (better < np.minimum(off, DB_TOLERANCE)).all())
        verdicts[k] = Verdict(linear=linear, others=len(near[k]), shift=round(float(np.mean(medians[k] - reference)), 2))
    return verdicts


@dataclass(frozen=True, eq=False)
class _Date:
    """A look with what is asked of it often.

    dark: positions of the dark bands      floors: (C,) dark ends      spread: (dark,) from the dark end to the median
    contrast: (C,) from the dark end to the bright one
    high: no band has numbers much below 1000      cut: most dark land is cut off at 1
    """

    pixels: np.ndarray
    clear: np.ndarray
    dark: list[int]
    floors: np.ndarray
    spread: np.ndarray
    contrast: np.ndarray
    high: bool
    cut: bool

    @classmethod
    def of(cls, seen: Look, bands: Sequence[str]) -> "_Date | None":
        """None when it has too little clear ground."""
        if seen.clear.sum() < max(LEAST_PIXELS, LEAST_SHARE * seen.clear.size):
            return None
        own = seen.pixels[:, seen.clear]
        floors, middle, tops = np.percentile(own, [FLOOR_PERCENT, 50, 100 - FLOOR_PERCENT], axis=1)
        dark = [k for k, name in enumerate(bands) if name in DARK_BANDS] or np.argsort(floors)[:3].tolist()
        land = own.max(axis=0) >= LAND
        cut = bool(land.sum() >= LEAST_PIXELS and _cut_share(own[dark][:, land]) >= CUT_SHARE)
        high = bool(floors.min() >= -BASELINE_OFFSET - TOLERANCE)
        return cls(seen.pixels, seen.clear, dark, floors, (middle - floors)[dark], tops - floors, high, cut)

    def without(self, offset: float) -> "_Date":
        """The date with the offset taken off."""
        return replace(self, pixels=self.pixels - offset, floors=self.floors - offset)


def _against(date: _Date, others: Sequence[_Date]) -> Verdict | None:
    """The verdict on a date beside others, None when they share too little clear land."""
    if not others:
        return None
    seen = np.stack([np.where(other.clear, other.pixels, np.nan) for other in others])  # (N, C, n)
    shared = date.clear & (np.isfinite(seen[:, 0]).sum(axis=0) >= min(LEAST_DATES, len(others)))
    if shared.sum() < LEAST_PIXELS:
        return None
    reference = np.nanmedian(seen[:, :, shared], axis=0)
    land = reference.max(axis=0) >= LAND
    if land.sum() < LEAST_PIXELS:
        return None
    own, reference = date.pixels[:, shared][:, land], reference[:, land]
    dark_own, dark_reference = own[date.dark], reference[date.dark]
    shift = float(np.median(dark_own - dark_reference, axis=1).mean())
    misfit = {
        offset: float(np.abs(np.median(dark_own - np.maximum(dark_reference + offset, 1), axis=1)).mean())
        for offset in (0.0, -BASELINE_OFFSET, BASELINE_OFFSET)
    }
    best = min(misfit, key=lambda offset: misfit[offset])
    too_low = best < 0 and (_cut_share(dark_own) >= CUT_SHARE / 2 or _carries_less(date, others))
    found = too_low or (best > 0 and _carries(date, others))
    return Verdict(offset=best if found else 0.0, others=len(others), shift=round(shift, 1))


def _carries(date: _Date, others: Sequence[_Date]) -> bool:
    """Whether 1000 too much explains a date: no band near 0, dark ends 1000 higher, as even and as rich in contrast as the others.

    Haze is not: it lies unevenly, or, over small ground, evenly but with less contrast below it.
    """
    floors = np.median([other.floors for other in others], axis=0)
    spread = np.median([other.spread for other in others], axis=0)
    level = float((date.floors - floors)[date.dark].mean())
    even = float((date.spread - 2 * spread).mean()) <= UNEVEN
    contrast = np.median([other.contrast for other in others], axis=0)
    few = len(others) <= LEAST_DATES  # then the median is that of one date
    clear = few or float(np.median(date.contrast / np.maximum(contrast, 1))) >= LEAST_CONTRAST
    return bool(date.high and even and clear and abs(level + BASELINE_OFFSET) <= LEVEL_TOLERANCE)


def _carries_less(date: _Date, others: Sequence[_Date]) -> bool:
    """Whether 1000 too little explains a date of bright ground, of which nothing was cut off: the others carry 1000 beside it."""
    middle = [replace(other, floors=other.floors + BASELINE_OFFSET) for other in others]
    bright = min(float(other.floors.min()) for other in others) >= -BASELINE_OFFSET - TOLERANCE
    floors = np.median([other.floors for other in middle], axis=0)
    spread = np.median([other.spread for other in others], axis=0)
    even = float(np.abs(date.spread - spread).mean()) <= TOLERANCE
    return bool(bright and even and float(np.abs((date.floors - floors)[date.dark]).mean()) <= LEVEL_TOLERANCE)


def _cut_share(dark: np.ndarray) -> float:
    """Share of pixels (bands, n) that most of the dark bands have at 1 or below."""
    return float(((dark <= 1).sum(axis=0) * 2 > len(dark)).mean())


def _why_not(k: int, near: dict[int, list[int]]) -> str:
    """The reason that stands unless a comparison takes its place."""
    if k not in near:
        return "too little clear ground, or no date"
    if len(near[k]) < LEAST_DATES:
        return f"{len(near[k])} other dates within {SEASON_DAYS} days of the season, {LEAST_DATES} are needed"
    return "shares too little clear land with dates that are believed"


def _days_of_year(times: np.ndarray) -> list[int]:
    """0..365 per date, -1 for an unknown time."""
    known = ~np.isnat(times)
    days = times.astype("datetime64[D]")
    return np.where(known, (days - days.astype("datetime64[Y]")).astype(np.int64), -1).tolist()


def _apart(a: int, b: int) -> int:
    gap = abs(int(a) - int(b))
    return min(gap, YEAR_DAYS - gap)


def _known(given: Some | None) -> Some:
    assert given is not None
    return given
