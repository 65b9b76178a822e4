"""Lists of Web-Mercator tiles with months, as pretraining data sets are published, and the footprints they mean.

One entry is a JSON object with x, y, z, date_min and date_max, e.g. {"x": 33500, "y": 22000, "z": 16,
"date_min": "201904", "date_max": "201910"}. A list is a file with one entry a line, or an LMDB database with
the key `length` (its number of entries) and the keys `0`, `1`, ... Both are read entry by entry, never as a whole.
"""

import importlib
import importlib.util
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from skysense_cli.data import gcj02
from skysense_cli.errors import DataError, RecipeError
from skysense_cli.geo.footprints import Footprint, footprints_at

AT_ONCE = 4096  # entries that are placed together
LONGEST = 4096  # characters of an entry
DEEPEST = 24  # zoom
MONTH = re.compile(r"(\d{4})-?(\d{2})")
KEYS = ("x", "y", "z", "date_min", "date_max")


@dataclass(frozen=True)
class TileEntry:
    """A tile and its period. days: first and last, both inclusive"""

    x: int
    y: int
    z: int
    days: tuple[np.datetime64, np.datetime64]


def read_entries(path: Path) -> Iterator[TileEntry]:
    """The entries of a list in its order. Raises DataError naming list and entry for what is none, RecipeError for a missing extra."""
    is_database = path.is_dir() or path.suffix in (".lmdb", ".mdb")
    for where, text in _from_database(path) if is_database else _from_lines(path):
        yield _entry(text, f"{path}: {where}")


def read_footprints(path: Path, *, size_m: float, snap_m: float, shifted: bool = False) -> Iterator[Footprint]:
    """A square of `size_m` around the centre of every tile, in its UTM zone and with the entry's period, in the order of the list.

    Its corner is moved to whole multiples of `snap_m` in the zone (by half of it at most in x and in y), so that all
    footprints share the pixels of every modality, and row and column count squares from the zone's origin.
    shifted: the tiles are those of a Chinese map (GCJ-02)
    Raises DataError for an entry that cannot be read, GridError for a tile beyond 80 S or 84 N.
    """
    entries = read_entries(path)
    while some := list(itertools.islice(entries, AT_ONCE)):
        lon, lat = tile_centres(*(np.array([getattr(entry, axis) for entry in some], np.float64) for axis in "xyz"))
        if shifted:
            lon, lat = gcj02.from_gcj02(lon, lat)
        yield from footprints_at(lon, lat, size_m=size_m, snap_m=snap_m, periods=[entry.days for entry in some])


def tile_centres(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude (WGS 84 degrees) of the centres of Web-Mercator tiles."""
    lon = (x + 0.5) / 2.0**z * 360 - 180
    lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (y + 0.5) / 2.0**z))))
    return lon, lat


def common_length(lengths_m: list[float]) -> float:
    """The smallest length that is a whole number of each; 0.3 and 10 give 30."""
    parts = [Fraction(length).limit_denominator(10_000) for length in lengths_m]
    down = np.lcm.reduce([part.denominator for part in parts])
    return float(Fraction(int(np.lcm.reduce([int(part * int(down)) for part in parts])), int(down)))


def _from_lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number in itertools.count(1):
                line = lines.readline(LONGEST + 1)
                if not line:
                    return
                if len(line) > LONGEST:
                    raise DataError(f"{path}: line {number} is longer than {LONGEST} characters; expected one entry a line")
                if line.strip():
                    yield f"line {number}", line
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text; a database needs a folder or a name that ends in .lmdb") from error


def _from_database(path: Path) -> Iterator[tuple[str, str]]:
    if importlib.util.find_spec("lmdb") is None:
        raise RecipeError(f"{path}: reading it needs the package lmdb; get it with: pip install 'skysense-cli[lmdb]'")
    lmdb = importlib.import_module("lmdb")
    try:
        with lmdb.open(str(path), readonly=True, lock=False, create=False, subdir=path.is_dir(), readahead=False) as database:
            for key in range(_length(database, path)):
                with database.begin() as reading:  # short, so that an entry never holds the file back
                    value = reading.get(str(key).encode())
                if value is None:
                    raise DataError(f"{path}: has no entry {key}, although its `length` says so")
                yield f"entry {key}", bytes(value[:LONGEST]).decode("utf-8", "replace")
    except lmdb.Error as error:
        raise DataError(f"{path}: cannot be read as an LMDB database ({error})") from error


def _length(database: Any, path: Path) -> int:
    with database.begin() as reading:
        value = reading.get(b"length")
    text = "" if value is None else bytes(value[:32]).decode("ascii", "replace")
    if not text.isdecimal():
        raise DataError(f"{path}: the key `length` holds {text!r}, expected the number of entries")
    if int(text) > (there := database.stat()["entries"]):
        raise DataError(f"{path}: `length` says {int(text):,} entries, the database has {there - 1:,}")
    return int(text)


def _entry(text: str, where: str) -> TileEntry:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {text.strip()[:60]!r} is no JSON object") from error
    if not isinstance(found, dict) or any(key not in found for key in KEYS):
        raise DataError(f"{where}: {text.strip()[:60]!r} is no tile; expected an object with {', '.join(KEYS)}")
    x, y, z = (found[key] for key in "xyz")
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in (x, y, z))
    if not whole or not 0 <= z <= DEEPEST or not 0 <= x < 2**z or not 0 <= y < 2**z:
        raise DataError(f"{where}: there is no tile x {str(x)[:20]}, y {str(y)[:20]}, z {str(z)[:20]}")
    first, last = (_month(found[key], f"{where}: {key}") for key in ("date_min", "date_max"))
    if last < first:
        raise DataError(f"{where}: date_max {last} lies before date_min {first}")
    return TileEntry(x, y, z, (first.astype("datetime64[D]"), (last + 1).astype("datetime64[D]") - 1))


def _month(given: Any, where: str) -> np.datetime64:
    match = MONTH.fullmatch(str(given)[:20])
    if match is None or not 1 <= int(match[2]) <= 12:
        raise DataError(f"{where} is {str(given)[:20]!r}, expected a month such as 201904 or 2019-04")
    return np.datetime64(f"{match[1]}-{match[2]}", "M")
