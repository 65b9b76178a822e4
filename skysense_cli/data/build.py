"""From a recipe to samples on disk, block by block.

A block is a group of neighbouring footprints that share their scenes and their split. `build_block` is a
pure function of recipe and block: every date is read once for the whole block and cut into its samples.
The index part of a block is written last and carries the recipe's digest, so a block that has one is done.
"""

import functools
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skysense_cli import __version__, console
from skysense_cli.data import index, npz, schedule, splits
from skysense_cli.data.align import align, limits_of
from skysense_cli.data.feed import bounds_of, days, open_feeds
from skysense_cli.data.labels import IGNORE, HeldOutFields, LabelPlan, cut, read_classes, warn_of_unlisted
from skysense_cli.data.places import Places
from skysense_cli.data.sample import Label, Sample, Series
from skysense_cli.data.shifts import Shifts
from skysense_cli.data.stack import Stack, date_report, read_stack
from skysense_cli.data.tile_lists import common_length, read_footprints
from skysense_cli.data.totals import write_report
from skysense_cli.errors import DataError, GridError, SkySenseError
from skysense_cli.files import TEMPORARY
from skysense_cli.geo.footprints import Footprint, each_footprint
from skysense_cli.geo.grid import WHOLE_PX, lonlat
from skysense_cli.geo.vectors import read_area
from skysense_cli.recipe.schema.build import BuildDataRecipe, LabelSection, TileList

LONGEST_DAYS = 366
SCRATCH = "scratch-"  # folder of a block in work; it goes when the block is done
APART_M = 0.001
REACH = 1.25  # of max_shift_m: how far the histogram of shifts goes


@dataclass(frozen=True)
class Block:
    """Neighbouring footprints of one CRS and one split."""

    name: str
    split: str
    footprints: tuple[Footprint, ...]


class Blocks(Sequence[Block]):
    """The blocks of a plan in the order of their names, each made from a table when it is asked for."""

    def __init__(self, shares: splits.Shares) -> None:
        self._shares = shares
        self._order = sorted(range(len(shares.names)), key=shares.names.__getitem__)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: Any) -> Any:
        number = self._order[index]
        return Block(self._shares.names[number], self._shares.splits[number], tuple(self._shares.members(number)))


@dataclass(frozen=True)
class Plan:
    """What a recipe asks for.

    footprints: number of them in all blocks      left_out: those that lie too near to another split, or in no region
    """

    blocks: Sequence[Block]
    footprints: int
    left_out: int


def make_plan(recipe: BuildDataRecipe) -> Plan:
    """The blocks of a recipe, in the order of their names; reads the area and the label's header, no scene.

    Raises GridError for an area, sizes or strides that cannot be used, DataError for a label that cannot.
    """
    grid = recipe.grid
    _check_sides(recipe)
    if recipe.label is not None:
        warn_of_unlisted(label_plan(recipe.label), read_classes(recipe.label.classes))
    if recipe.period and (recipe.period.end - recipe.period.start).days + 1 > LONGEST_DAYS:
        span = (recipe.period.end - recipe.period.start).days + 1
        console.warn(f"the period spans {span} days, but dates are told apart by day of the year only")
    buffer_m = recipe.splits.buffer_m
    if isinstance(recipe.area, TileList):
        snap_m = common_length([modality.gsd for modality in recipe.modalities.values()])
        listed = read_footprints(recipe.area.tiles, size_m=grid.size_m, snap_m=snap_m, shifted=recipe.area.gcj02)
        listed_places = Places.of(listed)
        all_ = listed_places.take(~listed_places.repeated())
        buffer_m = max(buffer_m, APART_M)  # listed tiles may overlap
        if not len(all_):
            raise DataError(f"{recipe.area.tiles}: holds no tile")
    else:
        area = read_area(recipe.area)
        all_ = Places.of(each_footprint(area, crs=grid.crs, size_m=grid.size_m, stride_m=grid.stride_m, anchor=grid.anchor))
    shares, left_out = splits.planned(all_, recipe.splits, buffer_m)
    return Plan(Blocks(shares), len(shares), left_out)


def build(recipe: BuildDataRecipe, home: Path, digest: str, *, address: str | None = None) -> dict[str, Any]:
    """Build every block that is not done yet and write `report.json`, which comes back, `blocks.jsonl` and `coregistration.png`.

    address: of a Dask scheduler that others started, whose workers see the same files; None: `recipe.workers` processes here

    Raises ItemsFailed when some blocks or files failed (the rest is on disk; the same command tries the blocks
    again), the blocks' own error when all of them failed, DataError when no sample could be made at all.
    """
    plan = make_plan(recipe)
    remove_leftovers(home)
    todo = [number for number, block in enumerate(plan.blocks) if _finished(home, block, digest) is None]
    if len(todo) < len(plan.blocks):
        console.say(f"{len(plan.blocks) - len(todo)} of {len(plan.blocks)} blocks are there already")
    work = functools.partial(_built, recipe, home, digest)
    results = schedule.run(
        work, (plan.blocks[number] for number in todo), name=_name, total=len(todo), workers=recipe.workers, address=address
    )  # fmt: skip
    failed = {block.name: result for block, result in results if isinstance(result, SkySenseError)}
    if failed and len(failed) == len(plan.blocks):
        raise failed[min(failed)]
    facts = {
        "recipe": digest,
        "skysense": __version__,
        "footprints": plan.footprints,
        "left_out_near_other_split": plan.left_out,
        "failed": {name: str(error) for name, error in sorted(failed.items())},
    }
    reports = (found for block in plan.blocks if (found := _finished(home, block, digest)) is not None)
    section = recipe.coregister
    gsds = {name: modality.gsd for name, modality in recipe.modalities.items()}
    shifts = Shifts(section.reference, gsds, REACH * section.max_shift_m) if section else None
    report = write_report(home, facts, reports, shifts)
    if recipe.geopackage:
        index.to_geopackage(home / "index", home / "index.gpkg")
    return report


def build_block(recipe: BuildDataRecipe, home: Path, digest: str, block: Block) -> dict[str, Any]:
    """Read, mask, co-register, cut and write the samples of one block, then its index part; its report comes back."""
    period = days(recipe, block.footprints)
    feeds = open_feeds(recipe, block.footprints)
    place, crs = bounds_of(block.footprints), block.footprints[0].crs
    section = recipe.coregister
    limits = limits_of(section) if section else None
    aligned = align(feeds, section.reference, place, crs, limits, period) if section and limits else {}
    scratch = home / f"{SCRATCH}{block.name}{TEMPORARY}"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        repair = recipe.radiometry == "repair"
        stacks = [read_stack(feed, block.footprints, aligned.get(feed.name, {}), scratch, repair=repair) for feed in feeds]
        label = label_plan(recipe.label) if recipe.label else None
        classes = read_classes(label.classes) if label else None
        rows, skipped, used = [], {}, {stack.feed.name: Counter[str]() for stack in stacks}
        provenance = {"recipe": digest, "skysense": __version__, "block": block.name, "reference": section.reference if section else ""}
        for number, footprint in enumerate(block.footprints):
            found, reason = _dates(stacks, number, footprint, recipe)
            if reason:
                skipped[footprint.id] = reason
                continue
            ground = cut(label, classes, footprint, min(feed.gsd for feed in feeds)) if label and classes else None
            sample = Sample(
                footprint.id, crs, footprint.bounds, lonlat(footprint.bounds, crs), found, ground, provenance
            )  # fmt: skip
            path = f"samples/{index.shard_of(block.name)}/{footprint.id}.npz"
            npz.write(sample, home / path)
            rows.append(_row(sample, path, block.split))
            for name, series in found.items():
                used[name].update(series.items)
        dates = {name: date_report(stack, aligned.get(name, {}), used[name]) for stack in stacks if (name := stack.feed.name)}
        report = {"block": block.name, "split": block.split, "samples": len(rows), "skipped": skipped, "dates": dates}
        index.write_part(home / "index", block.name, rows, {"recipe": digest, "report": json.dumps(report, sort_keys=True)})
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return report


def remove_leftovers(home: Path) -> None:
    """Remove what a killed run left half done; the scratch folders tell in which blocks, so no folder of samples is searched."""
    for path in sorted(home.glob(f"*{TEMPORARY}")):
        if not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        shard = index.shard_of(path.name.removeprefix(SCRATCH).removesuffix(TEMPORARY))
        for half in [half for part in ("samples", "index") for half in (home / part / shard).glob(f"*{TEMPORARY}")]:
            half.unlink(missing_ok=True)
        shutil.rmtree(path)  # last: a kill on the way leaves it to the next run


def label_plan(section: LabelSection) -> LabelPlan:
    """The label section in the words of `data/labels.py`."""
    out = section.hold_out
    fields = HeldOutFields(out.fields.codes, out.fields.share, out.fields.seed) if out and out.fields else None
    ignore = section.ignore if isinstance(section.ignore, tuple) else (section.ignore,)
    period = (np.datetime64(section.period.start), np.datetime64(section.period.end)) if section.period else None
    return LabelPlan(section.raster, section.classes, ignore, out.checkerboard_px if out else None, fields, period)


def _check_sides(recipe: BuildDataRecipe) -> None:
    """Raise GridError unless size and stride are whole pixels of every modality."""
    stride = recipe.grid.stride_m or recipe.grid.size_m
    for name, modality in recipe.modalities.items():
        for key, length in (("size_m", recipe.grid.size_m), ("stride_m", stride)):
            pixels = length / modality.gsd
            if abs(pixels - round(pixels)) > WHOLE_PX or round(pixels) < 1:
                raise GridError(f"grid.{key}: {length:g} m is not a whole number of {modality.gsd:g} m pixels of modality {name}")


def _dates(stacks: Sequence[Stack], number: int, footprint: Footprint, recipe: BuildDataRecipe) -> tuple[dict[str, Series], str]:
    """The series of a footprint, or why it makes no sample."""
    found = {}
    for stack in stacks:
        series = stack.series(number, footprint, footprint.days or days(recipe, [footprint]))
        have, least = 0 if series is None else len(series.times), stack.feed.dates.at_least
        if have < least:
            return {}, f"{stack.feed.name}: {have} dates are valid enough, at_least is {least}"
        if series is not None:
            found[stack.feed.name] = series
    return found, "" if found else "no modality has a date"


def _row(sample: Sample, path: str, split: str) -> index.Row:
    return index.Row(
        id=sample.id,
        path=path,
        split=split,
        crs=sample.crs,
        bounds=sample.bounds,
        lonlat=sample.lonlat,
        modalities=tuple(sorted(sample.series)),
        dates={name: tuple(str(time) for time in series.times) for name, series in sorted(sample.series.items())},
        classes=_class_counts(sample.label),
    )


def _class_counts(label: Label | None) -> dict[int, int]:
    if label is None or label.raster is None:
        return {}
    ids, counts = np.unique(label.raster[label.raster != IGNORE], return_counts=True)
    return {int(number): int(count) for number, count in zip(ids, counts, strict=True)}


# what is done


def _built(recipe: BuildDataRecipe, home: Path, digest: str, block: Block) -> None:
    """`build_block` without its report, which lies in the index part: a scheduler has no use for it."""
    build_block(recipe, home, digest, block)


def _name(block: Block) -> str:
    return block.name


def _finished(home: Path, block: Block, digest: str) -> dict[str, Any] | None:
    """The report of a block that was built with this recipe; None when it must be built."""
    facts = index.part_facts(home / "index", block.name)
    if not facts or facts.get("recipe") != digest:
        return None
    return json.loads(facts["report"])
