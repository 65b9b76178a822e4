"""A prototype map beside a land-cover raster: which class each prototype means, fitted on one half of the ground, scored on the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli import console
from skysense_cli.data.labels import IGNORE, Classes, read_classes
from skysense_cli.engine.agreement import NO_CLASS, Mapped, ari, entropy, hungarian, majority, nmi, shuffled
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.raster import describe, read_on_grid
from skysense_cli.recipe.schema.maps import CompareSection

FIT, SCORE = 0, 1
DRAWS = 20  # shuffled maps that the chance level is a mean of
BITS = np.log(2)


def halves(grid: GeoBox, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) which half each cell of a north-up grid belongs to, 0 fit or 1 score, and (h, w) the number of its square.

    The plane is cut into squares of `side` cells, counted from the origin of the CRS, so every map of the same ground
    is cut alike. Of every two squares side by side a seeded coin takes one for fitting, the other is scored.
    """
    origin = [round(corner / size) for corner, size in ((grid.affine.f, grid.affine.e), (grid.affine.c, grid.affine.a))]
    rows, columns = ((first + np.arange(length)) // side for first, length in zip(origin, grid.shape, strict=True))
    coins = _hashed(_hashed(rows.astype(np.uint64), seed)[:, None] ^ (columns // 2).astype(np.uint64)[None, :], seed) & np.uint64(1)
    return (coins.astype(np.int64) ^ (columns % 2)[None, :]), rows[:, None] * (1 << 32) + columns[None, :]


@dataclass
class LandCover:
    """A class raster that a map is compared with. side: of the squares, in cells      per_region: N_p"""

    section: CompareSection
    classes: Classes
    side: int
    _counts: Counter[tuple[int, int, int]] = field(default_factory=Counter)  # half, code, class
    _squares: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))
    _unlisted: Counter[int] = field(default_factory=Counter)

    @classmethod
    def open(cls, section: CompareSection, cell_m: float) -> LandCover:
        """Raises DataError for a table that is none, GridError for a raster without a place on the ground."""
        info = describe(section.raster)
        if not info.crs:
            raise GridError(f"compare.raster: {section.raster} has no coordinate reference system, so it lies nowhere on the map")
        return cls(section, read_classes(section.classes), max(round(section.tiles_m / cell_m), 1))

    def require_halves(self, ground: Iterable[tuple[GeoBox, np.ndarray]]) -> None:
        """Raise DataError when no cell of the ground, or of one half of it, has a class; read until both halves have some.

        ground: grids, and (h, w) bool which of their cells are mapped. A map may still leave these cells without a prototype.
        """
        found = set[int]()
        for grid, mapped in ground:
            known = mapped & (self._read(grid)[0] != IGNORE)
            found.update(np.unique(halves(grid, self.side, self.section.seed)[0][known]).tolist())
            if len(found) == 2:
                return
        self._refuse(found, "no cell of the map has a class")

    def add(self, codes: np.ndarray, grid: GeoBox) -> None:
        """Count cells: codes (h, w) of (region, prototype), -1 = none, on `grid`."""
        classes, strangers = self._read(grid)
        self._unlisted.update(strangers)
        known = (codes >= 0) & (classes != IGNORE)
        if not known.any():
            return
        half, square = halves(grid, self.side, self.section.seed)
        seen, counts = np.unique(np.stack([half[known], codes[known], classes[known].astype(np.int64)]), axis=1, return_counts=True)
        for one, count in zip(seen.T.tolist(), counts.tolist(), strict=True):
            self._counts[one[0], one[1], one[2]] += count
        for number, squares in enumerate(self._squares):
            squares.update(np.unique(square[known & (half == number)]).tolist())

    def compare(self) -> Comparison:
        """What was counted. Raises DataError when no cell of the map, or of one half of it, has a class."""
        name = self.section.raster
        if self._unlisted:
            shown = ", ".join(f"{code} ({cells:,} cells)" for code, cells in sorted(self._unlisted.items())[:5])
            console.warn(f"{name}: codes that {self.section.classes} does not list are left out: {shown}")
        codes = sorted({code for _, code, _ in self._counts})
        tables = np.zeros((2, len(codes), len(self.classes.names)), np.int64)
        place = {code: number for number, code in enumerate(codes)}
        for (half, code, number), count in self._counts.items():
            tables[half, place[code], number] = count
        labelled = {half for half in (FIT, SCORE) if tables[half].any()}
        if len(labelled) < 2:
            self._refuse(labelled, "no cell of the map with a prototype has a class")
        tiles = len(self._squares[FIT]), len(self._squares[SCORE])
        return Comparison(self.section, self.classes, tuple(codes), tables[FIT], tables[SCORE], tiles)

    def _refuse(self, labelled: set[int], nothing: str) -> NoReturn:
        """Raise DataError for halves of which at most one has classes."""
        if not labelled:
            raise DataError(f"compare: {nothing} in {self.section.raster}; does the raster cover it?")
        what = "fit on" if SCORE in labelled else "score"
        raise DataError(f"compare: squares of {self.section.tiles_m:g} m leave no labelled cell to {what}; make compare.tiles_m smaller")

    def _read(self, grid: GeoBox) -> tuple[np.ndarray, dict[int, int]]:
        """(h, w) uint8 class ids, 255 = none, and code -> cells of codes that no class has.

        The nearest pixel counts, as the map's cells are the finer or equal ones in the usual case.
        """
        pixels, data = read_on_grid(self.section.raster, grid, [1], resampling="nearest")
        values = pixels[0]
        codes = np.where(data[0], values, 0).astype(np.int64)
        ignored = (self.section.ignore,) if isinstance(self.section.ignore, int) else self.section.ignore
        labelled = data[0] & ~np.isin(codes, ignored)
        ids = np.where(labelled, self.classes.ids(codes), np.uint8(IGNORE))
        strangers, counts = np.unique(codes[labelled & (ids == IGNORE)], return_counts=True)
        return ids, dict(zip(strangers.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Comparison:
    """codes: of the prototypes that meet a class      fitted, scored: (P, C) counts on the two halves      tiles: squares of each"""

    section: CompareSection
    classes: Classes
    codes: tuple[int, ...]
    fitted: np.ndarray
    scored: np.ndarray
    tiles: tuple[int, int]

    @property
    def meaning(self) -> dict[int, tuple[int, float]]:
        """Code -> the class that it means by majority on the fitted half, and the share of its cells there that are of it."""
        best = majority(self.fitted)
        cells = self.fitted.sum(axis=1)
        return {code: (int(best[k]), float(self.fitted[k, best[k]] / cells[k])) for k, code in enumerate(self.codes) if cells[k]}

    @property
    def mapped(self) -> Mapped:
        """The scored half with each prototype in the place of its class by majority."""
        return Mapped.of(self.scored, majority(self.fitted))

    def report(self, per_region: int) -> dict[str, Any]:
        """The content of comparison.json."""
        scored = self.scored.sum(axis=1)
        return {
            "raster": self.section.raster.name, "classes": list(self.classes.names),
            "tiles_m": self.section.tiles_m, "seed": self.section.seed,
            "fitted": {"tiles": self.tiles[0], "cells": int(self.fitted.sum()), **self._scores(self.fitted)},
            "scored": {"tiles": self.tiles[1], "cells": int(self.scored.sum()), **self._scores(self.scored)},
            "chance": self._chance(),
            "prototypes": {"used": int((scored > 0).sum()), "entropy_bits": _plain(entropy(scored) / BITS)},
            "iou": {name: _plain(value) for name, value in zip(self.classes.names, self.mapped.iou, strict=True)},
            "confusion": self.mapped.counts[:, :-1].tolist(),
            "mapping": self._mapping(per_region),
        }  # fmt: skip

    def lines(self) -> list[tuple[str, str, str, str, str]]:
        """Rows for the console: what, majority OA and mIoU, NMI, ARI."""
        scored, chance = self._scores(self.scored), self._chance()
        rows: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
            ("prototypes, classes by majority", scored["majority"], scored),
            ("prototypes, one for each class", scored["hungarian"], {}),
            ("chance: the same prototypes dealt out anew", chance["shuffled"]["majority"], chance["shuffled"]),
            ("chance: the commonest class everywhere", chance["commonest"], {}),
        )
        return [(what, _text(own["oa"]), _text(own["miou"]), _text(both.get("nmi")), _text(both.get("ari"))) for what, own, both in rows]

    def _scores(self, table: np.ndarray) -> dict[str, Any]:
        """Of one half; classes are always those fitted."""
        one_to_one = Mapped.of(table, hungarian(self.fitted))
        return {
            "nmi": _plain(nmi(table)), "ari": _plain(ari(table)),
            "majority": _accuracy(Mapped.of(table, majority(self.fitted))),
            "hungarian": {**_accuracy(one_to_one), "covered": _plain(one_to_one.covered)},
        }  # fmt: skip

    def _chance(self) -> dict[str, Any]:
        """The commonest fitted class everywhere; and the mean of DRAWS maps with the same prototypes on shuffled cells."""
        commonest = int(self.fitted.sum(axis=0).argmax())
        draws = []
        for draw in range(DRAWS):
            rng = np.random.default_rng([self.section.seed, draw])
            fitted, scored = shuffled(self.fitted, rng), shuffled(self.scored, rng)
            by_majority, one_to_one = Mapped.of(scored, majority(fitted)), Mapped.of(scored, hungarian(fitted))
            draws.append((nmi(scored), ari(scored), by_majority.oa, by_majority.miou, one_to_one.oa, one_to_one.miou))
        mean = [_plain(value) for value in np.mean(draws, axis=0)]
        return {
            "commonest": {"class": self.classes.names[commonest], **_accuracy(Mapped.of(self.scored, np.full(len(self.codes), commonest)))},
            "shuffled": {"draws": DRAWS, "nmi": mean[0], "ari": mean[1], "majority": {"oa": mean[2], "miou": mean[3]},
                         "hungarian": {"oa": mean[4], "miou": mean[5]}},
        }  # fmt: skip

    def _mapping(self, per_region: int) -> list[dict[str, Any]]:
        best, single = majority(self.fitted), hungarian(self.fitted)
        names, cells = self.classes.names, self.fitted.sum(axis=1)
        return [
            {"region": code // per_region, "prototype": code % per_region, "majority": names[best[k]],
             "purity": _plain(self.fitted[k, best[k]] / cells[k]) if cells[k] else None,
             "hungarian": None if single[k] == NO_CLASS else names[single[k]],
             "fitted_cells": int(cells[k]), "scored_cells": int(self.scored[k].sum())}
            for k, code in enumerate(self.codes)
        ]  # fmt: skip


def _accuracy(mapped: Mapped) -> dict[str, float | None]:
    return {"oa": _plain(mapped.oa), "miou": _plain(mapped.miou)}


def _hashed(values: np.ndarray, seed: int) -> np.ndarray:
    """uint64 -> uint64 in which every bit of the input moves about half of the bits (the finalizer of SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % (1 << 64))
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
