"""Splits by block or by region: neighbours share a split, and no two samples of different splits are nearer than a buffer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely

from skysense_cli.errors import DataError
from skysense_cli.geo.grid import Bounds, Footprint, lonlat, lonlat_bounds
from skysense_cli.geo.vectors import read_marked
from skysense_cli.recipe.schema import SplitsSection

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


@dataclass(frozen=True)
class Share:
    """A footprint with its block and its split."""

    footprint: Footprint
    block: str
    split: str


def planned(footprints: Sequence[Footprint], section: SplitsSection, buffer_m: float) -> tuple[list[Share], int]:
    """The footprints that are built, and how many are left out: too near to another split, or outside of all regions.

    By blocks, by regions, or by periods: then each footprint comes once per split, with that split's days. A block has one split.
    """
    blocks = [block_of(footprint, section.block) for footprint in footprints]
    if section.periods is not None:
        given = [(split, part) for split in SPLITS if (part := getattr(section.periods, split)) is not None]
        spans = {split: (np.datetime64(part.start), np.datetime64(part.end)) for split, part in given}
        pairs = list(zip(footprints, blocks, strict=True))
        return [Share(replace(one, days=span), f"{name}_{split}", split) for split, span in spans.items() for one, name in pairs], 0
    if section.regions is not None:
        labels = by_region(footprints, section.regions)
        blocks = [f"{name}_{split}" for name, split in zip(blocks, labels, strict=True)]
    else:
        split_of = assign(blocks, {split: getattr(section, split) for split in SPLITS}, section.seed)
        labels = [split_of[name] for name in blocks]
    out = left_out(footprints, labels, buffer_m)
    found = zip(footprints, blocks, labels, out.tolist(), strict=True)
    shares = [Share(footprint, name, split) for footprint, name, split, skipped in found if split and not skipped]
    return shares, len(footprints) - len(shares)


def by_region(footprints: Sequence[Footprint], path: Path) -> list[str]:
    """The split of each footprint: that of the region its centre lies in, "" where there is none.

    path: polygons with a property `split`; regions of one split may overlap, a border belongs to the first split of SPLITS
    Raises GridError for a file that cannot be used, DataError for a split that is none of SPLITS, regions of two splits
    that share ground, or no footprint in any region.
    """
    shapes: dict[str, list[shapely.Geometry]] = {}
    for split, shape in read_marked(path, "split"):
        if split not in SPLITS:
            raise DataError(f"{path}: a feature has the split {split!r} (known: {', '.join(SPLITS)})")
        shapes.setdefault(split, []).append(shape)
    regions = {split: shapely.union_all(np.array(shapes[split], dtype=object)) for split in SPLITS if split in shapes}
    for first in regions:
        for second in regions:
            if first < second and shapely.intersection(regions[first], regions[second]).area > 0:
                raise DataError(f"{path}: regions of {first} and {second} share ground")
    centres = shapely.points([lonlat(footprint.bounds, footprint.crs) for footprint in footprints])
    found = np.full(len(footprints), "", dtype=object)
    for split, region in reversed(regions.items()):
        shapely.prepare(region)
        found[shapely.intersects(region, centres)] = split
    if not any(found):
        raise DataError(f"{path}: no footprint has its centre in one of its regions")
    return found.tolist()


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
