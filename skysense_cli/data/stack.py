"""All dates of one modality over a block, read once each and kept on disk, so that memory holds one date."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli import console
from skysense_cli.data.acquire import Acquisition, acquire
from skysense_cli.data.align import Alignment
from skysense_cli.data.dates import choose
from skysense_cli.data.feed import Days, Feed, bounds_of
from skysense_cli.data.gate import Look, look
from skysense_cli.data.overpass import JOINED, fill, passes
from skysense_cli.data.radiometry import Contradiction
from skysense_cli.data.sample import Series
from skysense_cli.data.scratch import Dates
from skysense_cli.data.sources import Item, within
from skysense_cli.data.verdicts import corrected, facts_of, refusal, settled, verdicts
from skysense_cli.errors import GridError
from skysense_cli.geo.footprints import Footprint
from skysense_cli.geo.grid import make_grid

LEAST_PIECE = 0.05  # of the block that must be clear in a piece of an overpass for its numbers to be judged
TOO_LITTLE = "valid on at most"  # begins the note of a date that no footprint can use


@dataclass(frozen=True, eq=False)
class Stack:
    """The dates of a feed over the footprints of a block.

    pixels: of T dates (C, H, W), valid: (H, W), on disk      shares: (T, F) valid share of each footprint
    meta: per date, the facts for the sample      notes: per date, why it was dropped for the whole block, or ""
    """

    feed: Feed
    left: float
    top: float
    pixels: Dates
    valid: Dates
    shares: np.ndarray
    meta: list[dict[str, Any]]
    notes: list[str]

    def series(self, number: int, footprint: Footprint, period: Days) -> Series | None:
        """The dates of footprint `number` within the period that the recipe keeps; None when there is none."""
        feed, rule = self.feed, self.feed.dates
        times = np.array([item.time for item in feed.items], "datetime64[s]")
        ids = [item.id for item in feed.items]
        usable = [within(time, period) and not note for time, note in zip(times, self.notes, strict=True)]
        shares = np.where(usable, self.shares[:, number], 0)
        kept = choose(
            times, shares, ids, period, at_most=rule.at_most, min_valid=rule.min_valid, spread=rule.spread,
            one_per_day=rule.one_per_day,
        )  # fmt: skip
        if not kept:
            return None
        rows, columns = window(footprint, self.left, self.top, feed.gsd)
        return Series(
            sensor=feed.sensor.name,
            bands=feed.bands,
            pixels=_windows(self.pixels, kept, rows, columns),
            times=times[kept],
            valid=_windows(self.valid, kept, rows, columns),
            items=tuple(ids[k] for k in kept),
            grid=footprint.grid(feed.gsd),
            units=feed.sensor.units,
            nodata=feed.sensor.nodata,
            meta=tuple(self.meta[k] for k in kept),
        )


def read_stack(feed: Feed, footprints: Sequence[Footprint], alignments: Mapping[str, Alignment], folder: Path,
               *, repair: bool = False) -> Stack:  # fmt: skip
    """Read every item of `feed` over the block once and keep what some footprint may use; items of one overpass become one date.

    A file that cannot be read costs its date, is warned about and noted; so do a refused match and numbers that
    deny their metadata, unless `repair`. Numbers of all dates that do end the block: the recipe is wrong then.
    Raises DataError or SourceError for what is wrong with the recipe or the network.
    """
    left, bottom, right, top = bounds_of(footprints)
    grid = make_grid(left, top, feed.gsd, round((top - bottom) / feed.gsd), round((right - left) / feed.gsd), footprints[0].crs)
    windows = [window(footprint, left, top, feed.gsd) for footprint in footprints]
    count = len(feed.items)
    pixels = Dates(folder / f"{feed.name}-pixels", feed.sensor.dtype, count, (len(feed.bands), *grid.shape))
    valid = Dates(folder / f"{feed.name}-valid", "bool", count, (grid.shape[0], grid.shape[1]))
    shares, meta, notes = np.zeros((count, len(footprints))), [], []
    looks: list[Look | None] = [None] * count
    denied: list[Contradiction] = []
    groups = passes(feed.items)
    pieces = {number for group in groups for number in group}
    for number, item in enumerate(feed.items):
        alignment = alignments.get(item.id)
        facts = _facts(alignment, feed.gsd)
        meta.append(facts)
        if alignment is not None and alignment.dropped:
            notes.append(_refusal(alignment))
            continue
        try:
            date = settled(_reader(feed, grid, alignment), item, repair=repair)
        except GridError as error:
            console.warn(f"{feed.name}: {item.id} is left out: {error}")
            notes.append(f"unreadable: {error}")
            continue
        except Contradiction as error:
            console.warn(f"{feed.name}: {item.id} is refused: {error}")
            notes.append(f"radiometry: {error}")
            denied.append(error)
            continue
        facts.update(date.meta)
        shares[number] = [float(date.valid[place].mean()) for place in windows]
        best = float(shares[number].max())
        note = "" if best >= feed.dates.min_valid and best > 0 else f"{TOO_LITTLE} {best:.0%} of a footprint"
        notes.append(note)
        if not note or number in pieces:
            pixels[number], valid[number] = date.pixels, date.valid
        if not note or (number in pieces and date.valid.mean() >= LEAST_PIECE):
            looks[number] = look(date.pixels, date.valid)
        del date  # before the next one is read
    if denied and len(denied) == count:
        raise denied[0]
    stack = Stack(feed, left, top, pixels, valid, shares, meta, notes)
    _compare(stack, looks, grid, alignments, repair)
    return _without_poor(_joined(stack, groups, windows))


def _joined(stack: Stack, groups: Sequence[tuple[int, ...]], windows: Sequence[tuple[slice, slice]]) -> Stack:
    """The stack with one date per overpass, in the place of its earliest piece; unreadable and refused pieces give nothing."""
    feed, items = stack.feed, list(stack.feed.items)
    for group in groups:
        usable = [number for number in group if not stack.notes[number] or stack.notes[number].startswith(TOO_LITTLE)]
        if len(usable) < 2:
            continue
        given = fill(stack.pixels, stack.valid, usable, feed.sensor.nodata)
        place, name = min(given), JOINED.join(feed.items[number].id for number in given)
        for number in usable:
            stack.shares[number] = [float(stack.valid[number][window].mean()) for window in windows]
            stack.notes[number] = f"part of {name}" if number in given else f"all of its ground is in {name}"
        best = float(stack.shares[place].max())
        stack.notes[place] = "" if best >= feed.dates.min_valid and best > 0 else f"{TOO_LITTLE} {best:.0%} of a footprint"
        parts = {feed.items[number].id: round(share, 4) for number, share in given.items()}
        stack.meta[place] = {**stack.meta[next(iter(given))], **({"parts": parts} if len(parts) > 1 else {})}
        items[place] = replace(feed.items[next(iter(given))], id=name, time=feed.items[place].time)
    return replace(stack, feed=replace(feed, items=tuple(items)))


def _without_poor(stack: Stack) -> Stack:
    """The stack with a note on the dates that see too little of the block as a whole."""
    least = stack.feed.dates.min_valid_block
    for number, share in enumerate(stack.shares.mean(axis=1).tolist()):
        if share < least and not stack.notes[number]:
            stack.notes[number] = f"valid on {share:.0%} of the block, min_valid_block is {least:.0%}"
    return stack


def _reader(feed: Feed, grid: GeoBox, alignment: Alignment | None) -> Callable[[Item], Acquisition]:
    shift = alignment.shift_m if alignment else (0.0, 0.0)
    return partial(acquire, sensor=feed.sensor, grid=grid, bands=feed.bands, cloud_mask=feed.cloud_mask, shift_m=shift)


def _compare(stack: Stack, looks: Sequence[Look | None], grid: GeoBox, alignments: Mapping[str, Alignment], repair: bool) -> None:
    """Refuse or repair the dates that stand apart from the others of their season, and keep in the meta that they were compared."""
    feed = stack.feed
    for number, verdict in enumerate(verdicts(feed.sensor, feed.items, looks)):
        if looks[number] is None or feed.sensor.kind == "rgb":
            continue
        item, facts = feed.items[number], stack.meta[number]
        facts.update(facts_of(verdict))
        if verdict.sound:
            continue
        if repair:
            other, what = corrected(verdict, item, feed.bands)
            date = _reader(feed, grid, alignments.get(item.id))(other)
            facts.update(date.meta, repaired=what)
            stack.pixels[number], stack.valid[number] = date.pixels, date.valid
            console.warn(f"{feed.name}: {item.id} is repaired ({what}): {refusal(verdict, item)}")
            continue
        stack.notes[number], stack.shares[number] = f"radiometry: {refusal(verdict, item)}", 0
        console.warn(f"{feed.name}: {item.id} is refused: {refusal(verdict, item)}")


def window(footprint: Footprint, left: float, top: float, gsd: float) -> tuple[slice, slice]:
    """Rows and columns of a footprint in a grid of `gsd` with the corner (left, top)."""
    side = round(footprint.size_m / gsd)
    row, col = round((top - footprint.top) / gsd), round((footprint.left - left) / gsd)
    return slice(row, row + side), slice(col, col + side)


def date_report(stack: Stack, alignments: Mapping[str, Alignment], used: Mapping[str, int]) -> list[dict[str, Any]]:
    """What became of each item: one entry per date, for `report.json`.   used: item id -> number of samples with it"""
    entries = []
    for number, item in enumerate(stack.feed.items):
        entry: dict[str, Any] = {"item": item.id, "time": str(item.time), "samples": used.get(item.id, 0)}
        entry["valid"] = round(float(stack.shares[number].mean()), 4)
        if item.id in alignments:
            entry.update(_facts(alignments[item.id], stack.feed.gsd))
        facts = stack.meta[number]
        entry.update(
            {name: facts[name] for name in ("clipped_share", "floored_share", "offset_applied", "level_shift", "repaired") if name in facts}
        )
        entry["dropped"] = stack.notes[number] or ("" if entry["samples"] else _spared(stack, item))
        entries.append(entry)
    return entries


def _facts(alignment: Alignment | None, gsd: float) -> dict[str, Any]:
    """shift_px: columns to the right and rows down, as measured; whether it was applied says the decision."""
    if alignment is None:
        return {}
    shift = alignment.shift
    if shift is None:
        return {"decision": alignment.decision}
    return {
        "shift_px": [round(shift.dx_m / gsd, 4), round(-shift.dy_m / gsd, 4)],
        "match_score": shift.score,
        "match_correlation": shift.correlation,
        "decision": alignment.decision,
    }  # fmt: skip


def _refusal(alignment: Alignment) -> str:
    shift = alignment.shift
    if shift is None:
        return "too little clear ground to measure its shift"
    return f"no match with the reference: score {shift.score:.2f}, correlation {shift.correlation:.2f}, {shift.length_m:.1f} m away"


def _spared(stack: Stack, item: Item) -> str:
    return f"other dates were clearer (at_most {stack.feed.dates.at_most}), or its samples were not built"


def _windows(dates: Dates, kept: Sequence[int], rows: slice, columns: slice) -> np.ndarray:
    """(T, ..., h, w) of these dates; each is mapped only while it is copied."""
    first = dates[kept[0]][..., rows, columns]
    out = np.empty((len(kept), *first.shape), first.dtype)
    for position, number in enumerate(kept):
        out[position] = dates[number][..., rows, columns]
    return out
