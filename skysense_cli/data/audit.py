"""Whether the splits of a finished data set are apart: how far each held-back sample lies from its nearest training sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import shapely

from skysense_cli.data.soundness import part_paths
from skysense_cli.errors import DataError
from skysense_cli.geo.crs import transformed

COLUMNS = ["id", "split", "crs", "left", "bottom", "right", "top", "lon", "lat", "dates"]
BATCH = 200_000  # training samples in memory at a time
NEAR_DEGREES = 0.5  # across two CRS only so near samples are measured
EDGES_M = (0.0, 320.0, 640.0, 1280.0, 2560.0, 5120.0, 10240.0, np.inf)
EXACT = 1 - 1e-9  # a distance of exactly the buffer is far enough


@dataclass(frozen=True)
class Pair:
    """A held-back sample and the nearest training sample, `metres` apart; 0 where they share ground."""

    held: str
    split: str
    train: str
    metres: float


@dataclass(frozen=True, eq=False)
class Audit:
    """The distances of all held-back samples.

    metres: (N,) to the nearest training sample, inf where none is near      too_near: pairs below the buffer, worst first
    apart_in_time: no day of the training samples lies between the held-back samples' first and last, or the reverse
    unplaced: samples without a georeference, which are not compared
    """

    counts: dict[str, int]
    metres: np.ndarray
    too_near: list[Pair]
    apart_in_time: bool
    unplaced: int

    def histogram(self) -> list[tuple[str, int]]:
        """(distance, number of held-back samples), overlapping ones first."""
        rows = [("overlaps or touches", int((self.metres <= 0).sum()))]
        for low, high in pairwise(EDGES_M):
            inside = (self.metres > low) & (self.metres <= high) if np.isfinite(high) else self.metres > low
            rows.append((f"{low:g} to {high:g} m" if np.isfinite(high) else f"more than {low:g} m", int(inside.sum())))
        return rows


@dataclass(frozen=True, eq=False)
class _Rows:
    """Samples as columns. bounds: (N, 4)      lonlat: (N, 2)"""

    ids: np.ndarray
    splits: np.ndarray
    crs: np.ndarray
    bounds: np.ndarray
    lonlat: np.ndarray

    def __getitem__(self, some: np.ndarray) -> "_Rows":
        return _Rows(self.ids[some], self.splits[some], self.crs[some], self.bounds[some], self.lonlat[some])


def audit(folder: Path, buffer_m: float) -> Audit:
    """Compare every val and test sample of the index with every training sample.

    Memory holds the held-back samples and a batch of training samples. Samples of two CRS are measured in the training sample's.
    Raises DataError when the index cannot be read or has no held-back sample.
    """
    counts: dict[str, int] = {}
    held_parts, spans = [], {True: (np.inf, -np.inf), False: (np.inf, -np.inf)}
    unplaced = 0
    for rows, days in _batches(folder):
        for split, number in zip(*np.unique(rows.splits, return_counts=True), strict=True):
            counts[str(split)] = counts.get(str(split), 0) + int(number)
        held = np.isin(rows.splits, ("val", "test"))
        unplaced += int((rows.crs == "").sum())
        held_parts.append(rows[held & (rows.crs != "")])
        for which, chosen in ((True, held), (False, rows.splits == "train")):
            some = days[chosen & np.isfinite(days[:, 0])]
            if len(some):
                spans[which] = (min(spans[which][0], some[:, 0].min()), max(spans[which][1], some[:, 1].max()))
    held_rows = _joined(held_parts)
    if not len(held_rows.ids):
        raise DataError(f"{folder}: has no sample in val or test, so there is nothing to audit (has: {counts})")
    nearest, partner = np.full(len(held_rows.ids), np.inf), np.full(len(held_rows.ids), "", dtype=object)
    for rows, _ in _batches(folder):
        train = rows[(rows.splits == "train") & (rows.crs != "")]
        for crs in sorted(set(train.crs.tolist())):
            _update(nearest, partner, held_rows, train[train.crs == crs], str(crs))
    order = np.argsort(nearest, kind="stable")
    near = [k for k in order.tolist() if nearest[k] <= 0 or nearest[k] < buffer_m * EXACT]
    pairs = [Pair(str(held_rows.ids[k]), str(held_rows.splits[k]), str(partner[k]), float(nearest[k])) for k in near]
    apart = spans[True][0] > spans[False][1] or spans[True][1] < spans[False][0]
    return Audit(counts, nearest, pairs, bool(apart), unplaced)


def _update(nearest: np.ndarray, partner: np.ndarray, held: _Rows, train: _Rows, crs: str) -> None:
    """Take what is nearer among these training samples of one CRS."""
    boxes = shapely.box(*_shrunk(train.bounds).T)
    tree = shapely.STRtree(boxes)
    for other in sorted(set(held.crs.tolist())):
        chosen = np.flatnonzero(held.crs == other)
        if other == crs:
            shapes = shapely.box(*_shrunk(held.bounds[chosen]).T)
        else:
            chosen = chosen[_near_in_degrees(held.lonlat[chosen], train.lonlat)]
            if not len(chosen):
                continue
            shapes = _carried(held.bounds[chosen], str(other), crs)
        (own, found), metres = tree.query_nearest(shapes, return_distance=True, all_matches=False)
        better = metres < nearest[chosen[own]]
        nearest[chosen[own[better]]] = metres[better]
        partner[chosen[own[better]]] = train.ids[found[better]]


def _shrunk(bounds: np.ndarray) -> np.ndarray:
    """Neighbours share an edge, not ground: by a millimetre they do not touch."""
    return bounds + np.array([5e-4, 5e-4, -5e-4, -5e-4])


def _carried(bounds: np.ndarray, source: str, target: str) -> np.ndarray:
    """Boxes of one CRS as quadrilaterals of another."""
    corners = _shrunk(bounds)[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (N, 4) -> (N, 4, 2)
    x, y = transformed(source, target, corners[..., 0].ravel(), corners[..., 1].ravel())
    return np.asarray(shapely.polygons(np.stack([x, y], axis=-1).reshape(-1, 4, 2)))


def _near_in_degrees(own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(len(own),) bool: within NEAR_DEGREES of the bounds of the others, also across the antimeridian."""
    middle = others[0, 0]
    along = (others[:, 0] - middle + 180) % 360 - 180
    low, high = along.min() - NEAR_DEGREES * 2, along.max() + NEAR_DEGREES * 2
    mine = (own[:, 0] - middle + 180) % 360 - 180
    up = (own[:, 1] >= others[:, 1].min() - NEAR_DEGREES) & (own[:, 1] <= others[:, 1].max() + NEAR_DEGREES)
    return (mine >= low) & (mine <= high) & up


def _batches(folder: Path) -> Iterator[tuple[_Rows, np.ndarray]]:
    """The index in batches, with first and last day (N, 2) of each sample, NaN where unknown."""
    waiting: list[pyarrow.Table] = []
    for path in part_paths(folder):
        try:
            waiting.append(pyarrow.parquet.read_table(path, columns=COLUMNS))
        except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as a part of an index ({str(error)[:200]})") from error
        if sum(len(table) for table in waiting) >= BATCH:
            yield _columns(waiting)
            waiting = []
    if waiting:
        yield _columns(waiting)


def _columns(tables: list[pyarrow.Table]) -> tuple[_Rows, np.ndarray]:
    table = pyarrow.concat_tables([each.replace_schema_metadata(None) for each in tables], promote_options="permissive")
    texts = {name: np.array(table[name].to_pylist(), dtype=object) for name in ("id", "split", "crs", "dates")}
    numbers = {name: table[name].to_numpy().astype(np.float64) for name in COLUMNS[3:9]}
    bounds = np.stack([numbers[name] for name in ("left", "bottom", "right", "top")], axis=1)
    rows = _Rows(texts["id"], texts["split"].astype(str), texts["crs"], bounds, np.stack([numbers["lon"], numbers["lat"]], axis=1))
    return rows, np.array([_span(text) for text in texts["dates"]], np.float64).reshape(-1, 2)


def _span(dates: str) -> tuple[float, float]:
    """First and last day of the JSON of a row, as days since 1970; read by pieces, since a day has a fixed place in ISO 8601."""
    days = [text[:10] for text in dates.split('"') if len(text) == 19 and text[4] == "-"]
    if not days:
        return np.nan, np.nan
    return float(np.datetime64(min(days)).astype(np.int64)), float(np.datetime64(max(days)).astype(np.int64))


def _joined(parts: list[_Rows]) -> _Rows:
    fields = ("ids", "splits", "crs", "bounds", "lonlat")
    return _Rows(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))
