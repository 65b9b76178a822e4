"""What a build would do, before it does it: for `--dry-run`."""

from collections import Counter

import numpy as np

from skysense_cli.data.build import Plan
from skysense_cli.data.feed import open_feeds
from skysense_cli.recipe.schema.build import BuildDataRecipe


def outlook(recipe: BuildDataRecipe, plan: Plan) -> list[list[str]]:
    """(what, value) rows: footprints, splits, items and shapes per modality, the most disk and memory it may take.

    Lists every source once for the whole area. Raises SourceError when one cannot be read.
    """
    splits = Counter({block.split: 0 for block in plan.blocks})
    for block in plan.blocks:
        splits[block.split] += len(block.footprints)
    rows = [
        ["footprints", f"{plan.footprints} of {recipe.grid.size_m:g} m in {len(plan.blocks)} blocks"],
        ["splits", ", ".join(f"{name} {count}" for name, count in sorted(splits.items()))],
    ]
    if plan.left_out:
        rows.append(["left out", f"{plan.left_out} footprints nearer than {recipe.splits.buffer_m:g} m to another split"])
    if not plan.blocks:
        return rows
    per_sample, scratch = 0, 0
    largest = max(len(block.footprints) for block in plan.blocks)
    zones: dict[str, list] = {}
    for block in plan.blocks:
        zones.setdefault(block.footprints[0].crs, []).extend(block.footprints)
    feeds = [open_feeds(recipe, footprints) for footprints in zones.values()]
    for number, (name, section) in enumerate(recipe.modalities.items()):
        found = [zone[number] for zone in feeds]
        items = {item.id: item for feed in found for item in feed.items}
        dates = sorted(str(item.time)[:10] for item in items.values() if not np.isnat(item.time))
        side = round(recipe.grid.size_m / section.gsd)
        bands = len(found[0].bands)
        size = bands * side * side * np.dtype(found[0].sensor.dtype).itemsize
        per_sample += min(section.dates.at_most, max(len(items), 1)) * (size + side * side)
        scratch += len(items) * size * largest
        span = f", {dates[0]} to {dates[-1]}" if dates else ""
        shape = f"{section.dates.at_least}-{section.dates.at_most} dates x {bands} x {side} x {side} {found[0].sensor.dtype}"
        rows.append([name, f"{len(items)} items of {section.sensor}{span}; {shape}"])
    workers = min(recipe.workers, len(plan.blocks))
    rows.append(["disk", f"at most {_size(per_sample * plan.footprints)} for the samples, {_size(scratch * workers)} on the way"])
    return rows


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
