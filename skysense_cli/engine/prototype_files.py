"""`map-prototypes` to files: three rasters and a picture for each CRS, a legend with its page, and a comparison with land cover."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skysense_cli import console
from skysense_cli.engine.land_cover import Comparison, LandCover
from skysense_cli.engine.parts import Parts
from skysense_cli.engine.preview import Entry, Reduced, paint, save_classes, save_confusion
from skysense_cli.engine.prototype_census import Census, Tally
from skysense_cli.engine.prototype_job import PrototypeJob
from skysense_cli.engine.prototype_map import NO_PROTOTYPE, NO_REGION, CellRows, hex_color, prototype_color
from skysense_cli.engine.prototype_mosaic import ON_LATTICE, Stream, mosaic
from skysense_cli.engine.prototype_page import Picture, patch_facts, write_page
from skysense_cli.engine.prototype_resume import resumed, state
from skysense_cli.engine.prototype_sheets import Sheet
from skysense_cli.engine.score_map import Color
from skysense_cli.files import write_text
from skysense_cli.geo.cog import GeoTiffStream, Look
from skysense_cli.geo.grid import crs_text, window

INDEX, SIMILARITY, REGION = "prototypes.tif", "prototypes_similarity.tif", "prototypes_region.tif"
PICTURE, LEGEND, PAGE, COMPARISON, CONFUSION = "prototypes.png", "legend.json", "legend.html", "comparison.json", "comparison.png"
SEAM_RULES = {
    "scene": "each tile takes the region in which its centre lies and decides its core alone",
    "scenes": "a cell is decided by the scene that sees it and whose centre is nearest; in a scene "
    "each tile takes the region in which its centre lies and decides its core alone",
    "samples": "a cell is decided by the sample that sees it and whose centre is nearest; "
    "a sample takes the region in which its centre lies",
}


def write_prototypes(
    job: PrototypeJob, folder: Path, recipe_digest: str, land_cover: LandCover | None = None, patches: int = 6, *, overwrite: bool = False
) -> list[str]:
    """Write prototypes.tif (uint16), _similarity.tif (float32), _region.tif (int32), legend.json, .csv and .html, and prototypes.png.

    With several CRSs the rasters and the picture lie in a folder for each. land_cover: also comparison.json and .png
    Every file is whole or absent; no random number is drawn for a map. Cells that an earlier run of the same recipe made
    are not made again; raises OtherPartsError when bundle, scenes or samples have changed since, unless `overwrite`.
    The palette of a prototypes.tif, which has one
    colour per number, is that of the region with most cells. Returns lines for the user.
    """
    census = Census(job.prototypes.per_region, patches)
    parts = Parts(folder / INDEX)
    there = parts.begin(state(job, recipe_digest), overwrite=overwrite)
    made = []
    for number, sheet in enumerate(job.sheets):
        streams = resumed(sheet.streams, parts, there, number)
        made.append(_sheet(job, number, streams, folder, recipe_digest, census, land_cover))
    if land_cover is not None and not census.used:
        console.warn("compare: no cell has a prototype, so there is nothing to compare")
    found = None if land_cover is None or not census.used else land_cover.compare()
    write_text(folder / LEGEND, _json(census, job, made))
    write_text(folder / "legend.csv", _csv(census, found))
    for sheet, one in zip(job.sheets, made, strict=True):
        _picture(folder / sheet.name / PICTURE, census, one.picture.codes, "SIMULATED" in sheet.tags)
    write_page(folder / PAGE, job, census, [one.picture for one in made], found, _notes(job, found))
    _warn(job, census, made)
    cells = sum(tally.cells for tally in census.used.values())
    places = ", ".join(str(folder / sheet.name / INDEX) for sheet in job.sheets[:4]) + (", ..." if len(job.sheets) > 4 else "")
    lines = [f"prototypes: {places} ({len(census.used)} in use on {cells:,} cells)", f"legend: {folder / PAGE}"]
    if found is not None:
        lines += _write_comparison(folder, found, census.per_region)
    parts.remove()
    return lines


@dataclass(frozen=True, eq=False)
class _Made:
    """A sheet that is on disk. deciding: how many of its sources decided a cell"""

    picture: Picture
    deciding: int


def _sheet(
    job: PrototypeJob, number: int, streams: Sequence[Stream], folder: Path, digest: str, census: Census, land_cover: LandCover | None
) -> _Made:  # fmt: skip
    """Write the rasters of a sheet, row by row, and count what is in them."""
    sheet = job.sheets[number]
    shape = sheet.grid.shape[0], sheet.grid.shape[1]
    reduced, deciding = Reduced(shape), set[int]()
    with _Rasters(job, sheet, folder / sheet.name, digest) as rasters:
        for rows in mosaic(streams, sheet.placements, shape):
            rasters.write(rows.cells)
            codes = census.add(rows.cells, sheet.grid, number, rows.source)
            reduced.add(codes)
            deciding.update(np.unique(rows.source).tolist())
            if land_cover is not None:
                last = rows.cells.top + len(codes)
                land_cover.add(codes, window(sheet.grid, slice(rows.cells.top, last), slice(0, shape[1])))
    return _Made(Picture(sheet.name, sheet.grid, reduced.picture, reduced.step), len(deciding - {-1}))


class _Rasters:
    """The three files of a sheet, written together."""

    def __init__(self, job: PrototypeJob, sheet: Sheet, folder: Path, digest: str) -> None:
        per_region, region = job.prototypes.per_region, next(iter(sheet.regions))
        colors = {number: prototype_color(region, number, per_region) for number in range(per_region)}
        tags = {**job.tags(sheet, digest), "SKYSENSE_SEAM_RULE": SEAM_RULES[job.what], "SKYSENSE_PALETTE_REGION": str(region)}
        looks = (
            (INDEX, "uint16", Look(nodata=NO_PROTOTYPE, colors=colors, band_names=["prototype"], tags=tags, overviews="mode")),
            (SIMILARITY, "float32", Look(nodata=np.nan, band_names=["cosine similarity"], tags=tags, overviews="average")),
            (REGION, "int32", Look(nodata=NO_REGION, band_names=["region"], tags=tags, overviews="mode")),
        )
        self._streams = [GeoTiffStream(folder / name, sheet.grid, 1, dtype, look) for name, dtype, look in looks]
        self._stack = ExitStack()

    def __enter__(self) -> _Rasters:
        for stream in self._streams:
            self._stack.enter_context(stream)
        return self

    def write(self, rows: CellRows) -> None:
        for stream, numbers in zip(self._streams, (rows.index, rows.similarity, rows.region), strict=True):
            stream.write(numbers[None], rows.top)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def _picture(path: Path, census: Census, codes: np.ndarray, simulated: bool) -> None:
    total = sum(tally.cells for tally in census.used.values())
    several = len(census.regions()) > 1
    entries, colors = [], {}
    for (region, prototype), tally in sorted(census.used.items()):
        color = colors[census.code(region, prototype)] = prototype_color(region, prototype, census.per_region)
        label = f"{region}: {prototype}" if several else f"prototype {prototype}"
        entries.append(Entry(label, color, tally.cells / total))
    save_classes(path, paint(codes, colors), entries, "nearest prototype of each cell" + (", simulated data" if simulated else ""))


def _json(census: Census, job: PrototypeJob, made: list[_Made]) -> str:
    """legend.json: the rules, and cells, hectares and similarity by sheet, region and prototype."""
    total = sum(tally.cells for tally in census.used.values())
    maps = [
        {"folder": sheet.name or ".", "crs": crs_text(sheet.grid.crs), "rows": sheet.grid.shape[0], "columns": sheet.grid.shape[1],
         "sources": len(sheet.sources), "deciding": one.deciding, "off_grid": sum(at.off > ON_LATTICE for at in sheet.placements)}
        for sheet, one in zip(job.sheets, made, strict=True)
    ]  # fmt: skip
    in_use = {region: sum(one == region for one, _ in census.used) for region in census.regions()}
    regions = [
        {"region": region, "prototypes_in_use": in_use[region], **_tally(tally)} for region, tally in census.regions().items()
    ]  # fmt: skip
    empty = [{"region": region, "cells": tally.cells, "area_ha": round(tally.area_ha, 4)} for region, tally in sorted(census.empty.items())]
    prototypes = [
        {"region": region, "prototype": prototype, "color": _hex(census, region, prototype), **_tally(tally),
         "share": round(tally.cells / total, 6), "typical": [patch_facts(job, cell) for cell in census.most_typical(region, prototype)]}
        for (region, prototype), tally in sorted(census.used.items())
    ]  # fmt: skip
    facts = {
        "cell_m": job.cell_m, "per_region": census.per_region, "seam_rule": SEAM_RULES[job.what], "maps": maps, "regions": regions,
        "regions_without_prototypes": empty, "prototypes": prototypes,
    }  # fmt: skip
    return json.dumps(facts, indent=1) + "\n"


def _csv(census: Census, found: Comparison | None) -> str:
    """A line for each prototype in use; with a comparison also the class that it means."""
    text, total = io.StringIO(), sum(tally.cells for tally in census.used.values())
    writer = csv.writer(text, lineterminator="\n")
    meaning = {} if found is None else found.meaning
    names = ["class", "purity"] if found is not None else []
    writer.writerow(["region", "prototype", "color", "cells", "share", "area_ha", "mean_similarity", *names])
    for (region, prototype), tally in sorted(census.used.items()):
        number, purity = meaning.get(census.code(region, prototype), (None, 0.0))
        own = [] if found is None else ["", ""] if number is None else [found.classes.names[number], f"{purity:.4f}"]
        share, area, similarity = f"{tally.cells / total:.6f}", f"{tally.area_ha:.4f}", f"{tally.mean_similarity:.6f}"
        writer.writerow([region, prototype, _hex(census, region, prototype), tally.cells, share, area, similarity, *own])
    return text.getvalue()


def _write_comparison(folder: Path, found: Comparison, per_region: int) -> list[str]:
    report = found.report(per_region)
    write_text(folder / COMPARISON, json.dumps(report, indent=1, allow_nan=False) + "\n")
    present = (found.mapped.counts[:, :-1].sum(axis=0) + found.mapped.counts.sum(axis=1)) > 0
    counts = found.mapped.counts[:, :-1][present][:, present]
    names = [name for name, kept in zip(found.classes.names, present, strict=True) if kept]
    title = f"prototypes in the place of classes, scored on {report['scored']['tiles']} squares of {report['tiles_m']:g} m"
    save_confusion(folder / CONFUSION, counts, names, title)
    console.table(
        f"compared with {report['raster']}: fitted on {report['fitted']['cells']:,} cells, scored on {report['scored']['cells']:,} others",
        ["", "overall accuracy", "mIoU", "NMI", "ARI"], found.lines(),
    )  # fmt: skip
    return [f"comparison: {folder / COMPARISON}"]


def _notes(job: PrototypeJob, found: Comparison | None) -> list[str]:
    """Sentences for the foot of the page."""
    notes = [
        "No label was used: each cell shows which prototype of its region its feature is most like (cosine similarity).",
        f"Where things meet: {SEAM_RULES[job.what]}.",
        "Patches: the cells most similar to a prototype (outlined), at most one from each square of 32 cells; the median of up to five "
        "dates, all patches stretched alike.",
    ]
    if found is not None:
        notes.append(
            f"Classes: of {found.section.raster.name}, by majority on one half of squares of {found.section.tiles_m:g} m; "
            "the per cent beside a class is the share of the prototype's cells there that are of it."
        )
    return notes


def _warn(job: PrototypeJob, census: Census, made: list[_Made]) -> None:
    known = ", ".join(map(str, sorted(job.prototypes.slot_regions.tolist())[:8])) or "none"
    for region, tally in sorted(census.empty.items()):
        console.warn(f"region {region} has no prototypes, {tally.cells:,} cells are nodata (this bundle learned regions {known})")
    idle = sum(len(sheet.sources) - one.deciding for sheet, one in zip(job.sheets, made, strict=True))
    if idle:
        console.warn(f"{idle} {job.what} decide no cell: no date sees them, or others that are nearer do")


def _tally(tally: Tally) -> dict[str, float]:
    return {"cells": tally.cells, "area_ha": round(tally.area_ha, 4), "mean_similarity": round(tally.mean_similarity, 6)}


def _hex(census: Census, region: int, prototype: int) -> str:
    color: Color = prototype_color(region, prototype, census.per_region)
    return hex_color(color)
