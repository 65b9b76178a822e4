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
from skysense_cli.data.align import align
from skysense_cli.data.coregister import Limits
from skysense_cli.data.feed import bounds_of, days, open_feeds
from skysense_cli.data.labels import IGNORE, HeldOutFields, LabelPlan, cut, read_classes, warn_of_unlisted
from skysense_cli.data.sample import Label, Sample, Series
from skysense_cli.data.stack import Stack, date_report, read_stack
from skysense_cli.data.tile_lists import common_length, read_footprints
from skysense_cli.errors import DataError, GridError, ItemsFailed, SkySenseError
from skysense_cli.files import TEMPORARY, write_text
from skysense_cli.geo.grid import WHOLE_PX, Footprint, footprints, lonlat
from skysense_cli.geo.vectors import read_area
from skysense_cli.recipe.schema import BuildDataRecipe, LabelSection, TileList

LONGEST_DAYS = 366
APART_M = 0.001


@dataclass(frozen=True)
class Block:
    """Neighbouring footprints of one CRS and one split."""

    name: str
    split: str
    footprints: tuple[Footprint, ...]


@dataclass(frozen=True)
class Plan:
    """What a recipe asks for.   left_out: footprints that lie too near to another split, or in no region"""

    blocks: tuple[Block, ...]
    left_out: int

    @property
    def footprints(self) -> int:
        """Number of footprints in all blocks."""
        return sum(len(block.footprints) for block in self.blocks)


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
        all_ = list({footprint.id: footprint for footprint in listed}.values())
        buffer_m = max(buffer_m, APART_M)  # listed tiles may overlap
        if not all_:
            raise DataError(f"{recipe.area.tiles}: holds no tile")
    else:
        all_ = footprints(read_area(recipe.area), crs=grid.crs, size_m=grid.size_m, stride_m=grid.stride_m, anchor=grid.anchor)
    shares, left_out = splits.planned(all_, recipe.splits, buffer_m)
    members: dict[str, list[Footprint]] = {}
    for share in shares:
        members.setdefault(share.block, []).append(share.footprint)
    split_of = {share.block: share.split for share in shares}
    blocks = [Block(name, split_of[name], tuple(members[name])) for name in sorted(members)]
    return Plan(tuple(blocks), left_out)


def build(recipe: BuildDataRecipe, home: Path, digest: str, *, address: str | None = None) -> dict[str, Any]:
    """Build every block that is not done yet and write `report.json`; the report comes back.

    Raises ItemsFailed when some blocks or files failed (the rest is on disk; the same command tries the blocks
    again), the blocks' own error when all of them failed, DataError when no sample could be made at all.
    """
    plan = make_plan(recipe)
    remove_leftovers(home)
    todo = [block for block in plan.blocks if _finished(home, block, digest) is None]
    if len(todo) < len(plan.blocks):
        console.say(f"{len(plan.blocks) - len(todo)} of {len(plan.blocks)} blocks are there already")
    work = functools.partial(build_block, recipe, home, digest)
    results = schedule.run(work, todo, names=[block.name for block in todo], workers=recipe.workers, address=address)
    failed = {block.name: result for block, result in zip(todo, results, strict=True) if isinstance(result, SkySenseError)}
    reports = [report for block in plan.blocks if (report := _finished(home, block, digest)) is not None]
    if not reports and failed:
        raise next(iter(failed.values()))
    report = _summary(plan, reports, failed, digest)
    write_text(home / "report.json", json.dumps(report, indent=1, sort_keys=True) + "\n")
    _raise_if_incomplete(report, home)
    if recipe.geopackage:
        index.to_geopackage(home / "index", home / "index.gpkg")
    return report


def build_block(recipe: BuildDataRecipe, home: Path, digest: str, block: Block) -> dict[str, Any]:
    """Read, mask, co-register, cut and write the samples of one block, then its index part; its report comes back."""
    period = days(recipe, block.footprints)
    feeds = open_feeds(recipe, block.footprints)
    place, crs = bounds_of(block.footprints), block.footprints[0].crs
    section = recipe.coregister
    limits = Limits(section.max_shift_m, section.min_shift_m, section.min_score) if section else None
    aligned = align(feeds, section.reference, place, crs, limits, period) if section and limits else {}
    scratch = home / f"scratch-{block.name}{TEMPORARY}"
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
            path = home / "samples" / f"{footprint.id}.npz"
            npz.write(sample, path)
            rows.append(_row(sample, f"samples/{path.name}", block.split))
            for name, series in found.items():
                used[name].update(series.items)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    dates = {stack.feed.name: date_report(stack, aligned.get(stack.feed.name, {}), used[stack.feed.name]) for stack in stacks}
    report = {"block": block.name, "split": block.split, "samples": len(rows), "skipped": skipped, "dates": dates}
    index.write_part(home / "index", block.name, rows, {"recipe": digest, "report": json.dumps(report, sort_keys=True)})
    return report


def remove_leftovers(home: Path) -> None:
    """Remove what a killed run left half done."""
    for path in sorted(home.rglob(f"*{TEMPORARY}")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


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


# reports


def _finished(home: Path, block: Block, digest: str) -> dict[str, Any] | None:
    """The report of a block that was built with this recipe; None when it must be built."""
    facts = index.part_facts(home / "index", block.name)
    if not facts or facts.get("recipe") != digest:
        return None
    return json.loads(facts["report"])


def _summary(plan: Plan, reports: Sequence[dict[str, Any]], failed: dict[str, Any], digest: str) -> dict[str, Any]:
    samples: Counter[str] = Counter()
    for report in reports:
        samples[report["split"]] += report["samples"]
    return {
        "recipe": digest,
        "skysense": __version__,
        "footprints": plan.footprints,
        "left_out_near_other_split": plan.left_out,
        "samples": dict(samples),
        "dates": {name: _counted([date for report in reports for date in report["dates"][name]]) for name in _names(reports)},
        "failed": {name: str(error) for name, error in failed.items()},
        "blocks": list(reports),
    }


def _names(reports: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({name for report in reports for name in report["dates"]})


def _counted(dates: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many (block, date) pairs were kept and why others were not."""
    return {
        "kept": sum(date["samples"] > 0 for date in dates),
        "refused": sum(date.get("decision") == "refused" for date in dates),
        "moved": sum(date.get("decision") == "moved" for date in dates),
        "unreadable": sum(date["dropped"].startswith("unreadable") for date in dates),
        "radiometry": sum(date["dropped"].startswith("radiometry") for date in dates),
        "not_valid_enough": sum(date["dropped"].startswith(("valid on", "too little clear")) for date in dates),
        "all": len(dates),
    }


def _raise_if_incomplete(report: dict[str, Any], home: Path) -> None:
    unreadable = sum(counts["unreadable"] for counts in report["dates"].values())
    if not sum(report["samples"].values()):
        reasons = Counter(reason for block in report["blocks"] for reason in block["skipped"].values())
        most = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        raise DataError(f"{home}: no footprint of {report['footprints']} makes a sample ({most or 'no block was built'}); see report.json")
    if report["failed"] or unreadable:
        raise ItemsFailed(
            f"{home}: {len(report['failed'])} blocks failed and {unreadable} dates could not be read; "
            "what could be built is there, see report.json. The same command tries failed blocks again."
        )
