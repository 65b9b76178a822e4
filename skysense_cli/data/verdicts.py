"""What a verdict of the gate does to a date: it is refused, or, where the recipe says `radiometry: repair`, read again as it should be."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skysense_cli.data import gate
from skysense_cli.data.acquire import Acquisition
from skysense_cli.data.gate import Look, Verdict
from skysense_cli.data.radiometry import Contradiction
from skysense_cli.data.sources import Item
from skysense_cli.sensors import Sensor

Read = Callable[[Item], Acquisition]


def settled(read: Read, item: Item, *, repair: bool) -> Acquisition:
    """`item` as read, if its own numbers do not deny its metadata.

    repair: read it as its numbers say instead, and tell so in `repaired` of its meta
    Raises Contradiction for what is not to be, or cannot be, repaired.
    """
    try:
        date = read(item)
    except Contradiction as error:
        if not (repair and error.units):
            raise
        date = read(replace(item, units=error.units))
        date.meta["repaired"] = f"{item.units} taken as {error.units}"
        return date
    if date.meta.get("offset_contradicted"):
        offset = min(asset.offset for asset in item.assets.values())
        if not repair:
            raise Contradiction(
                f"{item.id}: its numbers are too low to carry the offset of baseline {item.meta.get('baseline', '?')}; "
                "the date is left out, `radiometry: repair` keeps it"
            )
        date.meta["repaired"] = f"offset {offset:+g} not applied"
    return date


def verdicts(sensor: Sensor, items: Sequence[Item], looks: Sequence[Look | None]) -> list[Verdict]:
    """What the dates of a block say of each other; display colours are not judged."""
    times = np.array([item.time for item in items], "datetime64[s]")
    if sensor.kind == "optical":
        return gate.judge_counts(sensor.band_names, times, looks)
    return gate.judge_decibels(times, looks) if sensor.kind == "sar" else [Verdict() for _ in items]


def facts_of(verdict: Verdict) -> dict[str, Any]:
    """What is kept of a verdict with the date."""
    if verdict.shift is None and verdict.sound:
        return {"radiometry": f"not checked: {verdict.reason}"}
    found = {"radiometry": "checked", "compared_dates": verdict.others}
    return found if verdict.shift is None else found | {"level_shift": verdict.shift}


def refusal(verdict: Verdict, item: Item) -> str:
    """Why a date is refused, with what its metadata says of it."""
    said = f"baseline {item.meta['baseline']}" if item.meta.get("baseline") else "no baseline"
    if verdict.linear:
        return f"its numbers are linear power, but it is said to be {item.units} ({verdict.others} other dates of the season)"
    applied = {asset.offset for asset in item.assets.values() if asset.offset} or {0.0}
    what = "too high: the offset is still in them" if verdict.offset > 0 else "too low: the offset was taken off twice"
    return (
        f"its numbers are about {abs(verdict.offset):g} {what} ({verdict.others} other dates of the season; "
        f"metadata: {said}, offset applied here {min(applied):+g}); `radiometry: repair` corrects it"
    )


def corrected(verdict: Verdict, item: Item, bands: Sequence[str]) -> tuple[Item, str]:
    """The item as it is to be read, and what was changed."""
    if verdict.linear:
        units = item.units.replace("dB", "linear")
        return replace(item, units=units), f"{item.units} taken as {units}"
    assets = {
        name: replace(asset, offset=asset.offset - verdict.offset / asset.scale) if name in bands else asset
        for name, asset in item.assets.items()
    }
    return replace(item, assets=assets), f"offset {-verdict.offset:+g}"
