"""Items of one day, put together as one date: the model tells dates apart by their day."""

from collections.abc import Callable, Sequence

import numpy as np

from skysense_cli.data.sources import Item

Key = tuple[object, ...]


def in_days(items: Sequence[Item], side_by_side: Callable[[Sequence[Item]], bool]) -> list[Item]:
    """The items, those of one day and one orbit as one; ascending by time, undated ones last.

    side_by_side: whether undated items show different ground, so that they are one image together; otherwise they
        stay apart, since nobody knows in which order they were taken
    """
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(_key(item), []).append(item)
    undated = groups.get(("undated",), [])
    if len(undated) > 1 and not side_by_side(undated):
        groups |= {("undated", item.id): [item] for item in groups.pop(("undated",))}
    return [parts[0] if len(parts) == 1 else _together(parts) for parts in groups.values()]


def _key(item: Item) -> Key:
    if np.isnat(item.time):
        return ("undated",)
    return (str(item.time.astype("datetime64[D]")), item.meta.get("orbit_pass"), item.meta.get("relative_orbit"))


def _together(parts: Sequence[Item]) -> Item:
    first = parts[0]
    return Item("+".join(part.id for part in parts), first.time, first.assets, first.units, first.meta, parts=tuple(parts))
