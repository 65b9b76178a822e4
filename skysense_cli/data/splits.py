"""Splits by block: neighbours share a split, and no two samples of different splits are nearer than a buffer."""

from collections.abc import Mapping, Sequence

import numpy as np
import shapely

from skysense_cli.geo.grid import Bounds, Footprint, lonlat_bounds

SPLITS = ("train", "val", "test")
METRES_PER_DEGREE = 111_320.0


def block_of(footprint: Footprint, block: int) -> str:
    """Name of the block of `block` x `block` footprints, e.g. `32631_r12_c-3`; blocks of two CRS never mix."""
    prefix = footprint.crs.removeprefix("EPSG:") if footprint.crs.startswith("EPSG:") else "grid"
    return f"{prefix}_r{footprint.row // block}_c{footprint.col // block}"


def assign(blocks: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Block -> split. The numbers of blocks are as near to the shares as whole numbers can be.

    Depends on the set of blocks and the seed only. A split with a share gets a block before another gets its second,
    as long as there are as many blocks as splits with a share.
    """
    names = sorted(set(blocks))
    wanted = [split for split in SPLITS if shares.get(split, 0) > 0]
    counts = {split: int(shares[split] * len(names)) for split in wanted}
    if len(names) >= len(wanted):
        counts = {split: max(count, 1) for split, count in counts.items()}
    while sum(counts.values()) > len(names):
        rich = [split for split in counts if counts[split] > 1] or wanted
        counts[max(rich, key=lambda split: counts[split] - shares[split] * len(names))] -= 1
    while sum(counts.values()) < len(names):
        counts[max(counts, key=lambda split: shares[split] * len(names) - counts[split])] += 1
    order = np.random.default_rng(seed).permutation(len(names))
    labels = [split for split in wanted for _ in range(counts[split])]
    return {names[index]: split for index, split in zip(order.tolist(), labels, strict=True)}


def left_out(footprints: Sequence[Footprint], splits: Sequence[str], buffer_m: float) -> np.ndarray:
    """(N,) bool: too near to another split. Train gives way to val and test, val to test, so that scores keep their ground.

    Footprints of two CRS are compared in degrees, with a margin of 1 %.
    """
    out = np.zeros(len(footprints), dtype=bool)
    if buffer_m <= 0:
        return out
    labels = np.array(splits)
    for split, stronger in (("val", ("test",)), ("train", ("val", "test"))):
        givers = np.flatnonzero(labels == split).tolist()
        takers = np.flatnonzero(np.isin(labels, stronger) & ~out).tolist()
        if givers and takers:
            near = _near([footprints[i] for i in givers], [footprints[i] for i in takers], buffer_m)
            out[np.array(givers)[near]] = True
    return out


def _near(givers: Sequence[Footprint], takers: Sequence[Footprint], buffer_m: float) -> np.ndarray:
    """(len(givers),) bool: nearer than the buffer to some taker."""
    near = np.zeros(len(givers), dtype=bool)
    for crs in {footprint.crs for footprint in takers}:
        same = np.array([footprint.crs == crs for footprint in givers])
        boxes = shapely.box(*np.array([footprint.bounds for footprint in takers if footprint.crs == crs]).T)
        if same.any():
            own = shapely.box(*np.array([footprint.bounds for footprint in givers if footprint.crs == crs]).T)
            near[np.flatnonzero(same)] |= _any_within(own, boxes, buffer_m * (1 - 1e-9))
        if not same.all():
            degrees = shapely.box(*np.array([lonlat_bounds(footprint.bounds, crs) for footprint in takers if footprint.crs == crs]).T)
            other = np.flatnonzero(~same).tolist()
            grown = [_grown(lonlat_bounds(givers[index].bounds, givers[index].crs), buffer_m * 1.01) for index in other]
            near[other] |= _any_within(shapely.box(*np.array(grown).T), degrees, 0)
    return near


def _any_within(own: np.ndarray, others: np.ndarray, distance: float) -> np.ndarray:
    hits = shapely.STRtree(others).query(own, predicate="dwithin", distance=distance)[0]
    found = np.zeros(len(own), dtype=bool)
    found[hits] = True
    return found


def _grown(bounds: Bounds, metres: float) -> Bounds:
    west, south, east, north = bounds
    up = metres / METRES_PER_DEGREE
    along = up / max(np.cos(np.radians(max(abs(south), abs(north)))), 1e-3)
    return west - along, south - up, east + along, north + up
