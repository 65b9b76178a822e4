"""Items of one overpass: pieces of one picture, which together are one date of a block."""

from collections.abc import Sequence

import numpy as np

from skysense_cli.data.dates import SAME_PASS_S
from skysense_cli.data.scratch import Dates
from skysense_cli.data.sources import Item

JOINED = "+"  # between the ids of the pieces


def passes(items: Sequence[Item]) -> list[tuple[int, ...]]:
    """Positions of items that belong to one overpass, groups of two or more, each in the order in which its pieces are laid.

    Neighbours in time of one platform, of one relative orbit where both say theirs, less than five minutes after the
    first of them, in the same units. An item that does not say its platform is a date of its own, as one without a time is.
    The newest processing comes first, then the smaller id: of two versions of a product the older fills holes only.
    items: ascending by time
    """
    groups: list[list[int]] = []
    for number, item in enumerate(items):
        home = next((group for group in reversed(groups) if _belongs(item, items[group[0]])), None)
        if home is None:
            groups.append([number])
        else:
            home.append(number)
    return [tuple(sorted(group, key=lambda k: _rank(items[k]))) for group in groups if len(group) > 1]


def fill(pixels: Dates | np.ndarray, valid: Dates | np.ndarray, pieces: Sequence[int], nodata: float) -> dict[int, float]:
    """Lay the pieces of a date: the first one's holes are filled from the second, then from the third ...

    pixels: T dates (C, H, W) in stored units, `nodata` in all bands where there is no data      valid: T dates (H, W)
    pieces: positions in T. The date goes to the earliest that gave something, the others are valid nowhere afterwards
    Gives the share of the block of each piece that gave something. No number is mixed or changed.
    """
    whole, clear = np.array(pixels[pieces[0]]), np.array(valid[pieces[0]])
    known = _data(whole, nodata)
    shares = {pieces[0]: float(known.mean())}
    for piece in pieces[1:]:
        other = pixels[piece]
        new = _data(other, nodata) & ~known
        shares[piece] = float(new.mean())
        for band, values in zip(whole, other, strict=True):
            band[new] = values[new]
        clear[new] = valid[piece][new]
        known |= new
    for piece in pieces:
        valid[piece] = np.zeros_like(clear)
    given = {piece: share for piece, share in shares.items() if share} or {pieces[0]: 0.0}
    pixels[min(given)], valid[min(given)] = whole, clear
    return given


def _belongs(item: Item, first: Item) -> bool:
    """Whether `item` was taken in the overpass that began with `first`."""
    if np.isnat(item.time) or np.isnat(first.time):
        return False
    near = abs((item.time - first.time).astype("timedelta64[s]").astype(int)) <= SAME_PASS_S
    platforms = {str(one.meta.get("platform", "")).casefold() for one in (item, first)}
    orbits = {str(one.meta["relative_orbit"]) for one in (item, first) if "relative_orbit" in one.meta}
    return bool(near) and len(platforms) == 1 and "" not in platforms and len(orbits) < 2 and item.units == first.units


def _rank(item: Item) -> tuple[float, str]:
    try:
        return -float(item.meta.get("baseline", 0)), item.id
    except (TypeError, ValueError):
        return 0.0, item.id


def _data(pixels: np.ndarray, nodata: float) -> np.ndarray:
    """(H, W) bool of stored pixels (C, H, W): some band has a number."""
    some = np.zeros(pixels.shape[1:], bool)
    for band in pixels:
        some |= ~np.isnan(band) if np.isnan(nodata) else band != nodata
    return some
