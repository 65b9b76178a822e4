"""`legend.html`: one self-contained page, a map of the prototypes to point at and, of each, its colour, area and most typical patches.

The size is bounded: of each sheet a picture of at most 1024 pixels a side, of at most MOST_SHEETS sheets; patches of
the MOST_SHOWN prototypes with most cells. What comes from files (names of classes, ids, a CRS) reaches the page as data
that the script sets as text.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli.engine import prototype_chips
from skysense_cli.engine.land_cover import Comparison
from skysense_cli.engine.prototype_census import Census, Typical
from skysense_cli.engine.prototype_job import PrototypeJob
from skysense_cli.engine.prototype_map import hex_color, prototype_color
from skysense_cli.files import write_text

MOST_SHOWN = 192  # prototypes with patches
MOST_ENTRIES = 4096  # prototypes at all; the others are in legend.csv
MOST_SHEETS = 6
QUALITY = 90  # of the patches' JPEG
TEMPLATE = "prototype_page.html"


@dataclass(frozen=True, eq=False)
class Picture:
    """A sheet, reduced. codes: (h, w) int64, -1 = none      step: cells per pixel"""

    name: str
    grid: GeoBox
    codes: np.ndarray
    step: int


def write_page(
    path: Path, job: PrototypeJob, census: Census, pictures: Sequence[Picture], found: Comparison | None, notes: Sequence[str]
) -> None:
    """Write the page. found: what comparing with a land-cover raster gave      notes: sentences for its foot"""
    lines = sorted(census.used, key=lambda pair: (-census.used[pair].cells, pair))
    patches = _patches(job, census, lines[:MOST_SHOWN])
    entries = [_entry(census, pair, patches.get(pair, []), found) for pair in sorted(lines[:MOST_ENTRIES])]
    places = {(one["region"], one["prototype"]): number for number, one in enumerate(entries, 1)}
    largest = sorted(range(len(pictures)), key=lambda k: -int((pictures[k].codes >= 0).sum()))[:MOST_SHEETS]
    kept = sorted(largest)
    for one in entries:
        one["patches"] = [{**patch, "sheet": kept.index(patch["sheet"])} for patch in one["patches"] if patch["sheet"] in kept]
    cells, regions = sum(tally.cells for tally in census.used.values()), list(census.regions())
    hectares = sum(tally.area_ha for tally in census.used.values())
    data = {
        "title": "What the encoder tells apart", "simulated": any("SIMULATED" in sheet.tags for sheet in job.sheets),
        "facts": f"{len(lines)} prototypes in use in {_count(len(regions), 'region')}, "
        f"{cells:,} cells of {job.cell_m:g} m, {hectares:,.0f} ha",
        "notes": list(notes), "regions": regions, "patches": max(census.typical, 1),
        "largest": max((one["share"] for one in entries), default=1), "rest": _rest(len(lines), len(pictures)),
        "sheets": [_sheet(pictures[k], places, census) for k in kept], "entries": entries,
    }  # fmt: skip
    template = files("skysense_cli.engine").joinpath(TEMPLATE).read_text(encoding="utf-8")
    write_text(path, template.replace("{{DATA}}", embedded(data)))


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element whatever texts it holds: nothing in it ends the element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _entry(census: Census, pair: tuple[int, int], patches: list[dict[str, Any]], found: Comparison | None) -> dict[str, Any]:
    """A card of the page."""
    tally, total = census.used[pair], sum(each.cells for each in census.used.values())
    entry: dict[str, Any] = {
        "region": pair[0], "prototype": pair[1], "color": hex_color(prototype_color(*pair, census.per_region)), "cells": tally.cells,
        "share": round(tally.cells / total, 6), "area_ha": round(tally.area_ha, 2), "similarity": round(tally.mean_similarity, 4),
        "patches": patches,
    }  # fmt: skip
    code = census.code(*pair)
    if found is not None and code in found.meaning:
        number, purity = found.meaning[code]
        entry |= {"class": found.classes.names[number], "purity": round(purity, 4)}
        entry["classColor"] = hex_color(tuple(int(part) for part in found.classes.colors[number]))  # type: ignore[arg-type]
    return entry


def _sheet(picture: Picture, places: Mapping[tuple[int, int], int], census: Census) -> dict[str, Any]:
    """A map of the page; numbers of its pixels are places in the list of entries, 0 = none."""
    codes, inverse = np.unique(picture.codes, return_inverse=True)
    numbers = np.array([places.get(divmod(code, census.per_region), 0) if code >= 0 else 0 for code in codes.tolist()], "<u2")
    packed = base64.b64encode(zlib.compress(numbers[inverse].tobytes(), 9)).decode("ascii")
    affine, (height, width) = picture.grid.affine, picture.codes.shape
    crs = str(picture.grid.crs) if len(str(picture.grid.crs)) < 40 else "a CRS of its own"
    caption = f"{picture.grid.shape[0]:,} x {picture.grid.shape[1]:,} cells, {crs}"
    return {
        "crs": crs, "codes64": packed, "width": width, "height": height, "x": affine.c, "y": affine.f,
        "dx": affine.a * picture.step, "dy": affine.e * picture.step, "digits": 0 if abs(affine.a) > 0.1 else 5,
        "columns": width * picture.step, "rows": height * picture.step,
        "caption": caption + (f", every {picture.step}th shown" if picture.step > 1 else "") + "; point at it or at a card, click to keep",
    }  # fmt: skip


def _patches(job: PrototypeJob, census: Census, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """(region, prototype) -> its most typical patches, with pictures."""
    cells = [(pair, cell) for pair in pairs for cell in census.most_typical(*pair)]
    asked = []
    for _, cell in cells:
        sheet = job.sheets[cell.sheet]
        at = sheet.placements[cell.source]
        asked.append((sheet.sources[cell.source], cell.row - at.top, cell.column - at.left))
    chips = prototype_chips.cut(asked)
    found: dict[tuple[int, int], list[dict[str, Any]]] = {pair: [] for pair in pairs}
    for (pair, cell), chip, picture in zip(cells, chips, prototype_chips.stretched(chips), strict=True):
        found[pair].append(
            patch_facts(job, cell) | {"image": _jpeg(picture), "at": [round(part, 4) for part in (chip.x, chip.y, chip.cell)]}
        )
    return found


def patch_facts(job: PrototypeJob, cell: Typical) -> dict[str, Any]:
    """Where a typical cell lies, and how typical it is."""
    sheet = job.sheets[cell.sheet]
    x, y = sheet.grid.affine * (cell.column + 0.5, cell.row + 0.5)
    return {
        "sheet": cell.sheet, "row": cell.row, "column": cell.column, "x": round(x, 6), "y": round(y, 6),
        "similarity": round(cell.similarity, 4), "source": sheet.sources[cell.source].id,
    }  # fmt: skip


def _rest(prototypes: int, sheets: int) -> str:
    words = []
    if prototypes > MOST_SHOWN:
        words.append(f"Patches are shown of the {MOST_SHOWN} prototypes with most cells; legend.csv lists all {prototypes}.")
    if sheets > MOST_SHEETS:
        words.append(f"Shown are the {MOST_SHEETS} of {sheets} maps with most cells.")
    return " ".join(words)


def _jpeg(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, np.ascontiguousarray(picture), format="jpg", pil_kwargs={"quality": QUALITY, "subsampling": 0})
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("s" if number != 1 else "")
