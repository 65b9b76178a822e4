"""Splits by block or by region: neighbours share a split, and no two samples of different splits are nearer than a buffer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from skysense_cli.data.places import Places
from skysense_cli.errors import DataError
from skysense_cli.geo.footprints import Footprint
from skysense_cli.geo.grid import Bounds, lonlat_bounds
from skysense_cli.geo.vectors import read_marked
from skysense_cli.recipe.schema.build import SplitsSection

SPLITS = ("train", "val", "test")
METRES_PER_DEGREE = 111_320.0
AT_ONCE = 100_000  # footprints that are compared together


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


class Shares(Sequence[Share]):
    """What is built: the places, ordered by block, each with its block and its split."""

    def __init__(self, places: Places, block: np.ndarray, names: Sequence[str], splits: Sequence[str]) -> None:
        """block: (N,) number of each place's block      names, splits: of the blocks"""
        used, block = np.unique(block, return_inverse=True)
        self.names, self.splits = [names[number] for number in used.tolist()], [splits[number] for number in used.tolist()]
        order = np.argsort(block, kind="stable")
        self.places, self.block = places.take(order), block[order]
        self.starts = np.searchsorted(self.block, np.arange(len(self.names) + 1))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        number = int(self.block[index])
        return Share(self.places[index], self.names[number], self.splits[number])

    def members(self, number: int) -> Places:
        """The places of a block."""
        return self.places[int(self.starts[number]) : int(self.starts[number + 1])]


def planned(footprints: Sequence[Footprint], section: SplitsSection, buffer_m: float) -> tuple[Shares, int]:
    """The footprints that are built, and how many are left out: too near to another split, or outside of all regions.

    By blocks, by regions, or by periods: then each footprint comes once per split, with that split's days. A block has one split.
    """
    places = _table(footprints)
    block, names = places.blocks(section.block)
    if section.periods is not None:
        given = [(split, part) for split in SPLITS if (part := getattr(section.periods, split)) is not None]
        spans = [(split, np.datetime64(part.start), np.datetime64(part.end)) for split, part in given]
        everywhere = Places(np.concatenate([places.within(*days).table for _, *days in spans]), places.crs, places.size_m)
        each = np.concatenate([block + len(names) * number for number in range(len(spans))])
        labels = [split for split, *_ in spans for _ in names]
        return Shares(everywhere, each, [f"{name}_{split}" for split, *_ in spans for name in names], labels), 0
    if section.regions is not None:
        codes = np.array([SPLITS.index(split) if split else -1 for split in by_region(places, section.regions)], np.int8)
        names = [f"{name}_{split}" for name in names for split in SPLITS]
        block, of_blocks = block * len(SPLITS) + codes, list(SPLITS) * (len(names) // len(SPLITS))
    else:
        split_of = assign(names, {split: getattr(section, split) for split in SPLITS}, section.seed)
        of_blocks = [split_of[name] for name in names]
        codes = np.array([SPLITS.index(split) for split in of_blocks], np.int8)[block]
    keep = (codes >= 0) & ~_left_out(places, codes, buffer_m)
    return Shares(places.take(keep), block[keep], names, of_blocks), int((~keep).sum())


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
    centres = shapely.points(_table(footprints).lonlat())
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
    return _left_out(_table(footprints), np.array([SPLITS.index(split) if split else -1 for split in splits], np.int8), buffer_m)


def _left_out(places: Places, codes: np.ndarray, buffer_m: float) -> np.ndarray:
    """As `left_out`.   codes: (N,) positions in SPLITS, -1 for none"""
    out = np.zeros(len(places), dtype=bool)
    if buffer_m <= 0:
        return out
    for split, stronger in (("val", ("test",)), ("train", ("val", "test"))):
        givers = np.flatnonzero(codes == SPLITS.index(split))
        takers = np.flatnonzero(np.isin(codes, [SPLITS.index(name) for name in stronger]) & ~out)
        if len(givers) and len(takers):
            out[givers[_near(places, givers, takers, buffer_m)]] = True
    return out


def _near(places: Places, givers: np.ndarray, takers: np.ndarray, buffer_m: float) -> np.ndarray:
    """(len(givers),) bool: nearer than the buffer to some taker.   givers, takers: positions"""
    near = np.zeros(len(givers), dtype=bool)
    numbers, bounds = places.table["crs"], places.bounds
    for crs in range(len(places.crs)):
        own, others = np.flatnonzero(numbers[givers] == crs), takers[numbers[takers] == crs]
        if len(own) and len(others):
            tree = shapely.STRtree(shapely.box(*bounds[others].T))
            for some in np.array_split(own, len(own) // AT_ONCE + 1):
                near[some] |= _any_within(shapely.box(*bounds[givers[some]].T), tree, buffer_m * (1 - 1e-9))
    if len(places.crs) > 1:
        near |= _near_across(places, givers, takers, buffer_m)
    return near


def _near_across(places: Places, givers: np.ndarray, takers: np.ndarray, buffer_m: float) -> np.ndarray:
    """As `_near`, for pairs of two CRS; only those whose centres could be near enough are compared as they are."""
    near = np.zeros(len(givers), dtype=bool)
    numbers, centres = places.table["crs"], places.lonlat()
    reach = buffer_m * 1.02 + 2 * places.size_m
    for crs in np.unique(numbers[takers]).tolist():
        others, own = takers[numbers[takers] == crs], np.flatnonzero(numbers[givers] != crs)
        around = _all_grown(np.tile(centres[givers[own]], 2), reach)
        pairs = shapely.STRtree(shapely.points(centres[others])).query(shapely.box(*around.T))
        own, others = own[np.unique(pairs[0])], others[np.unique(pairs[1])]
        if len(own):
            degrees = [lonlat_bounds(places[k].bounds, places.crs[crs]) for k in others.tolist()]
            grown = [_grown(lonlat_bounds(one.bounds, one.crs), buffer_m * 1.01) for one in places.take(givers[own])]
            near[own] |= _any_within(shapely.box(*np.array(grown).T), shapely.STRtree(shapely.box(*np.array(degrees).T)), 0)
    return near


def _any_within(own: np.ndarray, others: shapely.STRtree, distance: float) -> np.ndarray:
    found = np.zeros(len(own), dtype=bool)
    found[others.query(own, predicate="dwithin", distance=distance)[0]] = True
    return found


def _table(footprints: Sequence[Footprint]) -> Places:
    return footprints if isinstance(footprints, Places) else Places.of(footprints)


def _all_grown(bounds: np.ndarray, metres: float) -> np.ndarray:
    """`_grown` of (N, 4)."""
    up = metres / METRES_PER_DEGREE
    along = up / np.maximum(np.cos(np.radians(np.abs(bounds[:, [1, 3]]).max(axis=1))), 1e-3)
    return bounds + np.column_stack([-along, np.full(len(bounds), -up), along, np.full(len(bounds), up)])


def _grown(bounds: Bounds, metres: float) -> Bounds:
    west, south, east, north = bounds
    up = metres / METRES_PER_DEGREE
    along = up / max(np.cos(np.radians(max(abs(south), abs(north)))), 1e-3)
    return west - along, south - up, east + along, north + up
