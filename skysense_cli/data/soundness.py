"""Whether a finished data set is sound: every sample, every row of its index, and that they belong together."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from skysense_cli import sensors
from skysense_cli.data import npz
from skysense_cli.data.radiometry import SATURATED, check_numbers
from skysense_cli.data.sample import Sample, Series
from skysense_cli.errors import DataError

SAMPLES = "samples"
COLUMNS = ["id", "path", "crs", "left", "bottom", "right", "top", "modalities"]
LEAST_CLEAR = 16  # pixels of a date whose median says something


@dataclass(frozen=True)
class Finding:
    """One sample, or part of the index, that was looked at.   problem: "" when it is sound"""

    name: str
    problem: str


def part_paths(folder: Path) -> list[Path]:
    """The parts of an index, sorted. Raises DataError where there are none."""
    parts = sorted(folder.rglob("part-*.parquet")) if folder.is_dir() else []
    if not parts:
        raise DataError(f"{folder}: is no index (it holds no part-*.parquet); build-data makes one")
    return parts


def findings(folder: Path) -> Iterator[Finding]:
    """Every sample that the index in `folder` lists, then every file that it does not list; one sample is in memory at a time."""
    home, listed, ids = folder.parent, set[int](), set[int]()
    for part in part_paths(folder):
        try:
            rows = pyarrow.parquet.read_table(part, columns=COLUMNS).to_pylist()
        except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
            yield Finding(str(part), f"{part}: cannot be read as a part of an index ({str(error)[:200]})")
            continue
        for row in rows:
            twice = hash(row["id"]) in ids
            ids.add(hash(row["id"]))
            listed.add(hash(str(row["path"])))
            yield Finding(str(row["id"]), f"{part}: sample {row['id']} is listed twice" if twice else _problem(home, row))
    for path in sorted_files(home / SAMPLES):
        relative = path.relative_to(home).as_posix()
        if hash(relative) not in listed:
            yield Finding(path.stem, f"{path}: has no row in the index")


def sorted_files(folder: Path) -> Iterator[Path]:
    """The npz files below a folder, folder by folder."""
    if not folder.is_dir():
        return
    entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.is_dir():
            yield from sorted_files(entry)
        elif entry.suffix == ".npz":
            yield entry


def check_radiometry(sample: Sample, where: str) -> None:
    """Raise DataError beginning with `where` unless units, nodata and numbers of each modality are what its sensor stores."""
    for name, series in sample.series.items():
        sensor = sensors.get(series.sensor)
        if series.units != sensor.units:
            raise DataError(f"{where}: {name}/units is {series.units!r}, {sensor.name} stores {sensor.units!r}. Rebuild the sample.")
        if not (series.nodata == sensor.nodata or (np.isnan(series.nodata) and np.isnan(sensor.nodata))):
            raise DataError(f"{where}: {name}/nodata is {series.nodata}, {sensor.name} has {sensor.nodata}. Rebuild the sample.")
        _check_valid(series, name, where)
        for date, clear in enumerate(series.valid):
            if clear.sum() >= LEAST_CLEAR:
                place = f"{where}: {name}/pixels at {series.times[date]}"
                check_numbers(sensor, series.pixels[date].astype(np.float32), clear, place, sensor.units)


def _check_valid(series: Series, name: str, where: str) -> None:
    """No pixel without data, and none that is saturated, is called valid."""
    for date, clear in enumerate(series.valid):
        pixels = series.pixels[date]
        empty = np.isnan(pixels).any(axis=0) if pixels.dtype.kind == "f" else (pixels == series.nodata).all(axis=0)
        wrong = int((empty & clear).sum())
        if wrong:
            raise DataError(f"{where}: {name}/valid calls {wrong} pixels valid at {series.times[date]} that hold no data")
        if pixels.dtype == np.uint16 and (pixels == SATURATED).any():
            raise DataError(f"{where}: {name}/pixels holds {SATURATED} at {series.times[date]}, which is never stored")


def _problem(home: Path, row: dict) -> str:
    """What is wrong with a sample and its row; "" for nothing."""
    path = home / str(row["path"])
    if ".." in Path(str(row["path"])).parts or not path.is_file():
        return f"{path}: is not there, but the index lists it as sample {row['id']}"
    try:
        sample = npz.read(path)
        if path.stem != sample.id:
            raise DataError(f"{path}: id is {sample.id!r}, expected {path.stem!r} as the file is called")
        check_radiometry(sample, str(path))
        _check_row(sample, row, str(path))
    except DataError as error:
        return str(error)
    return ""


def _check_row(sample: Sample, row: dict, where: str) -> None:
    bounds = tuple(float(row[key]) for key in ("left", "bottom", "right", "top"))
    names = "[" + ",".join(f'"{name}"' for name in sorted(sample.series)) + "]"
    for key, found, expected in (("id", sample.id, row["id"]), ("crs", sample.crs, row["crs"]), ("modalities", names, row["modalities"])):
        if found != expected:
            raise DataError(f"{where}: {key} is {found!r}, the index says {expected!r}")
    if any(abs(a - b) > 1e-6 for a, b in zip(sample.bounds, bounds, strict=True)):
        raise DataError(f"{where}: bounds is {sample.bounds}, the index says {bounds}")
