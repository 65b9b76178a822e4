"""Labels of footprints, cut from a class raster, and the part of them that is held out for scoring."""

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox
from scipy import ndimage

from skysense_cli import console
from skysense_cli.data.sample import Label
from skysense_cli.errors import DataError
from skysense_cli.geo import raster
from skysense_cli.geo.footprints import Footprint
from skysense_cli.geo.grid import WHOLE_PX, crs_text, make_grid

IGNORE = 255
MOST_CLASSES = 255
MOST_FIELD_PIXELS = 400_000_000  # a raster whose fields are told apart is read as a whole
LANDMARKS = (
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (250, 190, 212),
    (0, 128, 128),
    (220, 190, 255),
    (170, 110, 40),
    (255, 250, 200),
    (128, 0, 0),
    (170, 255, 195),
    (128, 128, 0),
    (255, 215, 180),
    (0, 0, 128),
    (128, 128, 128),
)  # fmt: skip  colours for classes that name none


@dataclass(frozen=True, eq=False)
class Classes:
    """What a class table says; index = id.   codes: values in the raster     colors: (K, 3) uint8"""

    codes: np.ndarray
    names: tuple[str, ...]
    colors: np.ndarray

    def ids(self, codes: np.ndarray) -> np.ndarray:
        """uint8 ids of raster codes, 255 for a code that the table does not list."""
        found = np.full(codes.shape, IGNORE, np.uint8)
        for number, code in enumerate(self.codes):
            found[codes == code] = number
        return found


@dataclass(frozen=True)
class HeldOutFields:
    """Whole connected fields of these codes are held out, about `share` of the fields of each code."""

    codes: tuple[int, ...]
    share: float
    seed: int


@dataclass(frozen=True)
class LabelPlan:
    """A class raster and what is done with it: the label section of a recipe, in plain data.

    ignore: codes that mean unlabelled      checkerboard_px or fields: what is held out, at most one
    period: first and last day on which the labels hold
    """

    raster: Path
    classes: Path
    ignore: tuple[int, ...] = ()
    checkerboard_px: int | None = None
    fields: HeldOutFields | None = None
    period: tuple[np.datetime64, np.datetime64] | None = None


def read_classes(path: Path) -> Classes:
    """The table `code,name[,color]` (colour as #rrggbb); ids follow the order of its lines.

    Raises DataError that names the line of a wrong code or colour, or of a code given twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file (expected a table with code,name[,color])")
    with path.open(newline="", encoding="utf-8-sig") as text:
        rows = list(csv.DictReader(text))
    if not rows or not {"code", "name"} <= set(rows[0]):
        raise DataError(f"{path}: needs the columns code and name (found: {', '.join(rows[0]) if rows else 'no line'})")
    if len(rows) > MOST_CLASSES:
        raise DataError(f"{path}: lists {len(rows)} classes; ids are 0-254, so at most {MOST_CLASSES}")
    codes: list[int] = []
    colors = []
    for number, row in enumerate(rows, 2):
        code = str(row["code"] or "").strip()
        if not code.lstrip("-").isdigit() or int(code) in codes:
            raise DataError(f"{path}: line {number}: code {code!r} is {'given twice' if code.lstrip('-').isdigit() else 'no whole number'}")
        codes.append(int(code))
        colors.append(_color(row.get("color") or "", LANDMARKS[(number - 2) % len(LANDMARKS)], f"{path}: line {number}"))
    return Classes(np.array(codes), tuple(str(row["name"]) for row in rows), np.array(colors, np.uint8))


def cut(plan: LabelPlan, classes: Classes, footprint: Footprint, gsd_m: float) -> Label | None:
    """The label of a footprint; None where nothing in it is labelled, held out or not.

    The raster is taken nearest onto pixels of its own size where they fill the footprint, else of `gsd_m`.
    The checkerboard is counted in pixels of the raster from its upper left corner, so it is one board for
    all footprints; fields are connected pixels (4 neighbours) of one code in the whole raster.
    """
    info = raster.describe(plan.raster)
    own = abs(info.transform.a)
    whole = abs(footprint.size_m / own - round(footprint.size_m / own)) < WHOLE_PX
    same_crs = info.crs == footprint.crs
    grid = footprint.grid(own if whole and same_crs and info.transform.e == -own else gsd_m)
    pixels, data = raster.read_on_grid(plan.raster, grid, [1], resampling="nearest")
    codes = pixels[0].astype(np.int64)
    labelled = data.reshape(-1, *codes.shape).any(axis=0) & ~np.isin(codes, plan.ignore)
    ids = np.where(labelled, classes.ids(codes), np.uint8(IGNORE))
    if not (ids != IGNORE).any():
        return None
    out = _held_out(plan, grid)
    held_out = None if out is None else np.where(out, ids, np.uint8(IGNORE))
    kept = ids if out is None else np.where(out, np.uint8(IGNORE), ids)
    period = None if plan.period is None else np.array(plan.period, "datetime64[D]")
    return Label(kept, grid, held_out, classes.names, classes.colors, period=period, source=plan.raster.name)


def unlisted(plan: LabelPlan, classes: Classes) -> list[int]:
    """Codes in an overview of the raster that the table does not list and `ignore` does not name; they are ignored with a warning."""
    codes = {int(code) for code in np.unique(_whole(str(plan.raster))[0])}
    info = raster.describe(plan.raster)
    known = {*map(int, classes.codes), *plan.ignore, *(() if info.nodata[0] is None else (int(info.nodata[0]),))}
    return sorted(codes - known)


def _held_out(plan: LabelPlan, grid: GeoBox) -> np.ndarray | None:
    """(H, W) bool on `grid`: held out; None when nothing is."""
    if plan.checkerboard_px is None and plan.fields is None:
        return None
    info = raster.describe(plan.raster)
    rows, columns = _source_pixels(info, grid)
    if plan.checkerboard_px is not None:
        return (rows[:, None] // plan.checkerboard_px + columns[None, :] // plan.checkerboard_px) % 2 == 1
    board = _fields_out(str(plan.raster), plan.fields)  # type: ignore[arg-type]
    inside = (rows >= 0) & (rows < board.shape[0]), (columns >= 0) & (columns < board.shape[1])
    picked = board[np.clip(rows, 0, board.shape[0] - 1)][:, np.clip(columns, 0, board.shape[1] - 1)]
    return picked & inside[0][:, None] & inside[1][None, :]


def _source_pixels(info: raster.RasterInfo, grid: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Row and column in the label raster of the pixel centres of `grid`, which shares its CRS and axes."""
    if info.crs != crs_text(grid.crs):
        raise DataError(
            f"{info.path}: is in {info.crs or 'no CRS'}, the samples are in {crs_text(grid.crs)}; "
            "hold_out needs the label raster in the samples' CRS (set grid.crs, or reproject the raster)"
        )
    columns = (grid.affine.c + (np.arange(grid.shape[1]) + 0.5) * grid.affine.a - info.transform.c) / info.transform.a
    rows = (grid.affine.f + (np.arange(grid.shape[0]) + 0.5) * grid.affine.e - info.transform.f) / info.transform.e
    return np.floor(rows + WHOLE_PX).astype(int), np.floor(columns + WHOLE_PX).astype(int)


@lru_cache(maxsize=2)
def _fields_out(path: str, fields: HeldOutFields) -> np.ndarray:
    """(H, W) bool over the whole raster: pixels of the fields that are held out; the same for equal raster, codes and seed."""
    codes, _ = _whole(path)
    out = np.zeros(codes.shape, dtype=bool)
    for code in sorted(fields.codes):
        parts, count = ndimage.label(codes == code)
        if count == 0:
            raise DataError(f"{path}: hold_out.fields: no pixel has the code {code}")
        order = np.random.default_rng((fields.seed, code)).permutation(count) + 1
        out |= np.isin(parts, order[: max(round(fields.share * count), 1)])
    return out


@lru_cache(maxsize=2)
def _whole(path: str) -> tuple[np.ndarray, GeoBox]:
    info = raster.describe(path)
    height, width = info.shape
    if height * width > MOST_FIELD_PIXELS:
        raise DataError(
            f"{path}: {height} x {width} px are too many to tell its fields apart (at most {MOST_FIELD_PIXELS:,}); use checkerboard_px"
        )
    grid = make_grid(info.transform.c, info.transform.f, abs(info.transform.a), height, width, info.crs)
    pixels, _ = raster.read_on_grid(path, grid, [1], resampling="nearest")
    return pixels[0], grid


def _color(text: str, other: tuple[int, int, int], where: str) -> tuple[int, ...]:
    plain = text.strip().removeprefix("#")
    if not plain:
        return other
    try:
        return tuple(bytes.fromhex(plain)) if len(plain) == 6 else tuple(int(part) for part in plain.split())
    except ValueError as error:
        raise DataError(f"{where}: color {text!r} is neither #rrggbb nor three numbers") from error


def warn_of_unlisted(plan: LabelPlan, classes: Classes) -> None:
    """Say which codes of the raster have no class; a raster too large to be read whole is not looked at."""
    info = raster.describe(plan.raster)
    if info.shape[0] * info.shape[1] <= MOST_FIELD_PIXELS:
        missing = unlisted(plan, classes)
        if missing:
            console.warn(f"{plan.raster}: codes {', '.join(map(str, missing[:20]))} are not in {plan.classes}; their pixels are ignored")
