"""A sample on disk, schema 1: one `.npz` that tells all about itself.

schema int32, id, crs, bounds (4,), lonlat (2,), modalities (M,), provenance (JSON); for each modality m:
    m/sensor, m/bands (C,), m/pixels (T, C, H, W) in the sensor's dtype, m/times (T,) datetime64[s],
    m/valid (T, H, W) bool, m/transform (6,) affine a b c d e f, m/items (T,), m/units, m/nodata, m/meta (T,) JSON;
and of the label what is known:
    label/raster and label/held_out (H, W) with label/transform, label/names (K,), label/colors (K, 3), label/ids (N,),
    label/boxes (N, 4 or 5), label/values (P,), label/multi (K,), label/period (2,) datetime64[D], label/source.
`Series`, `Label` and `Sample` explain them.

No pickles. Stored members, so that `read_part` maps the dates and the window it needs; fixed order
and zip dates, so that equal samples are equal bytes.
"""

import json
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli.data import fields
from skysense_cli.data.invariants import check_sample, check_series
from skysense_cli.data.members import Members, write_members
from skysense_cli.data.sample import Label, Sample, Series
from skysense_cli.errors import DataError
from skysense_cli.files import whole_file
from skysense_cli.geo.grid import window as window_in

SCHEMA = 1
# series of which a process keeps the layout and the map; each map holds a file open, of which a system often allows 1024 (`ulimit -n`)
MOST_MAPPED = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, 1024)
Window = tuple[slice, slice]  # rows, columns

_LABEL_ARRAYS = {"raster": "raster", "held_out": "held_out", "boxes": "boxes", "classes": "ids", "colors": "colors",
                 "values": "values", "multi": "multi", "period": "period"}  # fmt: skip


@dataclass(frozen=True)
class SeriesHeader:
    """What a file says of one modality without its pixels. shape: (T, C, H, W)"""

    sensor: str
    bands: tuple[str, ...]
    shape: tuple[int, int, int, int]
    times: np.ndarray
    items: tuple[str, ...]
    grid: GeoBox
    units: str


@dataclass(frozen=True)
class Header:
    """What a file says of itself without its pixels."""

    id: str
    crs: str
    bounds: tuple[float, float, float, float]
    lonlat: tuple[float, float]
    series: dict[str, SeriesHeader]
    has_label: bool
    provenance: dict[str, Any]


def write(sample: Sample, path: Path) -> None:
    """Write `sample`, whole or not at all. Raises DataError when it breaks an invariant of the schema."""
    check_sample(sample, str(path))
    with whole_file(path) as temporary:
        write_members(temporary, _arrays(sample))


def read(path: Path) -> Sample:
    """The whole sample in memory, checksums and invariants checked."""
    with Members(path) as members:
        facts = _facts(members)
        series = {name: _series(members, name, facts["crs"], members.load) for name in _modalities(members)}
        sample = Sample(series=series, label=_label(members, facts["crs"]), **facts)
    check_sample(sample, str(path))
    return sample


def read_part(path: Path, modality: str, dates: Sequence[int] | np.ndarray | None = None, window: Window | None = None) -> Series:
    """Some dates (positions, in the order given) and a window of one modality; only these are read from the disk.

    window: rows and columns in pixels of the modality; its grid in the result is cut to match
    The checksum of pixels is not compared here. Raises DataError for a modality the file lacks.
    """
    whole = _whole(path, modality)
    rows, columns = window or (slice(None), slice(None))
    keep = slice(None) if dates is None else np.asarray(dates, dtype=np.int64)
    positions = np.arange(len(whole.times))[keep]
    return Series(
        sensor=whole.sensor, bands=whole.bands, units=whole.units, nodata=whole.nodata,
        pixels=np.array(whole.pixels[:, :, rows, columns][keep], order="C"),
        valid=np.array(whole.valid[:, rows, columns][keep], order="C"),
        times=whole.times[keep],
        items=tuple(whole.items[i] for i in positions),
        meta=tuple(whole.meta[i] for i in positions),
        grid=_cut(whole.grid, (rows, columns)),
    )  # fmt: skip


def forget() -> None:
    """Close the files that `read_part` keeps mapped."""
    _kept.cache_clear()


def read_label(path: Path) -> Label | None:
    """The label of a sample, or None."""
    with Members(path) as members:
        _check_schema(members)
        return _label(members, members.text("crs"))


def header(path: Path) -> Header:
    """Everything small in the file; no pixel is read."""
    with Members(path) as members:
        facts = _facts(members)
        series = {name: _series_header(members, name, facts["crs"]) for name in _modalities(members)}
        return Header(series=series, has_label=any(key.startswith("label/") for key in members), **facts)


def check(path: Path) -> None:
    """Raise DataError naming file, key, found and expected unless the file is a sound sample of this schema."""
    sample = read(path)
    if path.stem != sample.id:
        raise DataError(f"{path}: id is {sample.id!r}, expected {path.stem!r} as the file is called")


def _whole(path: Path, modality: str) -> Series:
    """The whole series of a file, its pixels mapped; a deflated one is read again each time, since it would fill the memory."""
    try:
        found = path.stat()
    except OSError:  # opening it will say why
        return _opened(path, modality)
    stamp = found.st_mtime_ns, found.st_size
    kept = _kept(path, modality, stamp)
    return _opened(path, modality) if kept is None else kept


@lru_cache(maxsize=MOST_MAPPED)
def _kept(path: Path, modality: str, stamp: tuple[int, int]) -> Series | None:
    """`_opened`, remembered; None for a deflated file. stamp: time and size of the file; one that was replaced is opened again."""
    with Members(path) as members:
        return _mapped(members, modality) if all(members.is_stored(key) for key in members) else None


def _opened(path: Path, modality: str) -> Series:
    with Members(path) as members:
        return _mapped(members, modality)


def _mapped(members: Members, modality: str) -> Series:
    _check_schema(members)
    if modality not in _modalities(members):
        raise DataError(f"{members.path}: has no modality {modality!r} (has: {', '.join(_modalities(members))})")
    series = _series(members, modality, members.text("crs"), members.view)
    check_series(series, modality, str(members.path))
    return series


# writing


def _arrays(sample: Sample) -> dict[str, np.ndarray]:
    arrays: dict[str, Any] = {
        "schema": np.int32(SCHEMA),
        "id": sample.id,
        "crs": sample.crs,
        "bounds": np.array(sample.bounds, np.float64),
        "lonlat": np.array(sample.lonlat, np.float64),
        "modalities": sorted(sample.series),
        "provenance": _json(sample.provenance),
    }
    for name, series in sorted(sample.series.items()):
        facts = {
            "sensor": series.sensor,
            "bands": list(series.bands),
            "pixels": series.pixels,
            "times": series.times.astype("datetime64[s]"),
            "valid": series.valid,
            "transform": np.array(series.grid.affine[:6], np.float64),
            "items": list(series.items),
            "units": series.units,
            "nodata": series.pixels.dtype.type(series.nodata),
            "meta": [_json(facts) for facts in series.meta],
        }
        arrays |= {f"{name}/{key}": value for key, value in facts.items()}
    return {key: np.asarray(value) for key, value in (arrays | _label_arrays(sample.label)).items()}


def _label_arrays(label: Label | None) -> dict[str, Any]:
    if label is None:
        return {}
    arrays: dict[str, Any] = {key: getattr(label, field) for field, key in _LABEL_ARRAYS.items() if getattr(label, field) is not None}
    if label.grid is not None:
        arrays["transform"] = np.array(label.grid.affine[:6], np.float64)
    if label.names:
        arrays["names"] = list(label.names)
    arrays["source"] = label.source
    return {f"label/{key}": value for key, value in arrays.items()}


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


# reading


def _check_schema(members: Members) -> None:
    if "schema" not in members:
        raise DataError(f"{members.path}: has no schema; it is no skysense sample (known: schema {SCHEMA})")
    schema = members.load("schema")
    if schema.shape != () or schema.dtype.kind not in "iu" or int(schema) != SCHEMA:
        raise DataError(f"{members.path}: schema is {schema}, this version knows {SCHEMA}. Rebuild the sample.")


def _facts(members: Members) -> dict[str, Any]:
    """What a Sample and a Header share."""
    _check_schema(members)
    return {
        "id": members.text("id"),
        "crs": members.text("crs"),
        "bounds": tuple(fields.floats(members, "bounds", 4)),
        "lonlat": tuple(fields.floats(members, "lonlat", 2)),
        "provenance": fields.json_object(members, "provenance", members.text("provenance")),
    }


def _modalities(members: Members) -> tuple[str, ...]:
    return fields.texts(members, "modalities")


def _series(members: Members, name: str, crs: str, pixels_by: Any) -> Series:
    head = _series_header(members, name, crs)
    nodata = members.load(f"{name}/nodata")
    if nodata.shape != () or nodata.dtype.kind not in "iuf":
        raise DataError(f"{members.path}: {name}/nodata is {nodata.dtype} {nodata.shape}, expected one number")
    return Series(
        sensor=head.sensor, bands=head.bands, times=head.times, items=head.items, grid=head.grid, units=head.units,
        pixels=pixels_by(f"{name}/pixels"), valid=pixels_by(f"{name}/valid"), nodata=float(nodata),
        meta=tuple(fields.objects(members, f"{name}/meta")),
    )  # fmt: skip


def _series_header(members: Members, name: str, crs: str) -> SeriesHeader:
    shape = members.header(f"{name}/pixels").shape
    if len(shape) != 4 or 0 in shape:
        raise DataError(f"{members.path}: {name}/pixels has the shape {shape}, expected (T, C, H, W), none of them 0")
    times = members.load(f"{name}/times")
    if times.dtype != np.dtype("datetime64[s]") or times.ndim != 1:
        raise DataError(f"{members.path}: {name}/times is {times.dtype} {times.shape}, expected datetime64[s] (T,)")
    return SeriesHeader(
        sensor=members.text(f"{name}/sensor"), bands=fields.texts(members, f"{name}/bands"), shape=shape, times=times,
        items=fields.texts(members, f"{name}/items"), units=members.text(f"{name}/units"),
        grid=fields.grid(members, f"{name}/transform", shape[2:], crs),
    )  # fmt: skip


def _label(members: Members, crs: str) -> Label | None:
    if not any(key.startswith("label/") for key in members):
        return None
    arrays = {field: members.load(f"label/{key}") for field, key in _LABEL_ARRAYS.items() if f"label/{key}" in members}
    grid = None
    if "raster" in arrays:
        if arrays["raster"].ndim != 2:
            raise DataError(f"{members.path}: label/raster has the shape {arrays['raster'].shape}, expected (H, W)")
        grid = fields.grid(members, "label/transform", arrays["raster"].shape, crs)
    names = fields.texts(members, "label/names") if "label/names" in members else ()
    return Label(grid=grid, names=names, source=members.text("label/source") if "label/source" in members else "", **arrays)


def _cut(grid: GeoBox, part: Window) -> GeoBox:
    rows, columns = (slice(*taken.indices(side)[:2]) for taken, side in zip(part, grid.shape, strict=True))
    return window_in(grid, rows, columns)
