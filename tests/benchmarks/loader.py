"""Reading training samples from stored files, beside gathering the same numbers from memory in the same layout.

    python tests/benchmarks/loader.py [--quick]

Random 20 of 60 dates and 64 px windows of random samples of 96 px, through `npz.read_part`, as data sets read them; in random order, so
that every read is of another file. What is compared, in CPU seconds (other work on the machine counts little; the files lie in the page
cache):
    memory   the same dates and windows of arrays (T, C, H, W) that are held in memory
    known    files that this process has read before and keeps mapped: a data set of up to `npz.MOST_MAPPED` series for each worker
             (1024, or a quarter of the files that the system lets a process open) after its first epoch
    first    files that it opens anew: the zip's directory, every array header, the dates' facts and the invariants are read and
             checked, and the pages of the window are mapped; every read of a larger data set begins so
    views    two windows of each file that is opened anew, as pretraining reads its two views
A rate is that of samples by file over that from memory, the median of the rounds. The goal is for reading samples, not for opening
files, so it is held against `known`. The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli import sensors
from skysense_cli.data import npz
from skysense_cli.data.sample import Sample, Series
from skysense_cli.geo.grid import lonlat

GOAL = 0.8  # of the rate from memory
S2 = sensors.get("sentinel2_l2a")
DATES, TAKEN, SIDE, WINDOW = 60, 20, 96, 64  # stored dates, dates of a view, pixels of a sample, of a view
Ask = tuple[int, np.ndarray, tuple[slice, slice]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="few files and rounds: only to see that it runs")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), files=4 if quick else 24, rounds=3 if quick else 15), indent=None))


def measure(folder: Path, *, files: int, rounds: int) -> dict[str, float | str]:
    """CPU ms a sample by file and from memory, and the rate by file over the rate from memory (median of rounds)."""
    random = np.random.default_rng(0)
    held = [write(folder / f"p{number}.npz", number) for number in range(files)]
    paths = [folder / f"p{number}.npz" for number in range(files)]

    def by_file(asks: Sequence[Ask]) -> None:
        for number, dates, window in asks:
            npz.read_part(paths[number], "s2", dates, window)

    def by_memory(asks: Sequence[Ask]) -> None:
        for number, dates, (rows, columns) in asks:
            pixels, valid = held[number]
            np.array(pixels[:, :, rows, columns][dates], order="C")
            np.array(valid[:, rows, columns][dates], order="C")

    times: dict[str, list[float]] = {"known": [], "first": [], "views": [], "memory": []}
    by_file(asked(random, files))
    for _ in range(rounds):
        asks = asked(random, files)
        times["memory"].append(spent(by_memory, asks))
        times["known"].append(spent(by_file, asks))
        npz.forget()
        times["first"].append(spent(by_file, asks))
        npz.forget()
        times["views"].append(spent(by_file, [ask for pair in zip(asks, again(random, asks), strict=True) for ask in pair]))
    found: dict[str, float | str] = {f"ms {name}": round(1000 * statistics.median(each), 3) for name, each in times.items()}
    for name in ("known", "first", "views"):
        found[f"{name} / memory, rate"] = round(statistics.median(a / b for a, b in zip(times["memory"], times[name], strict=True)), 3)
    return {**found, "goal": f"known >= {GOAL}"}


def asked(random: np.random.Generator, files: int) -> list[Ask]:
    """Every file once, in random order: ascending dates and a window of it."""
    asks = []
    for number in random.permutation(files).tolist():
        dates = np.sort(random.permutation(DATES)[:TAKEN])
        row, column = random.integers(0, SIDE - WINDOW + 1, 2).tolist()
        asks.append((number, dates, (slice(row, row + WINDOW), slice(column, column + WINDOW))))
    return asks


def again(random: np.random.Generator, asks: Sequence[Ask]) -> list[Ask]:
    """The same files in the same order, other dates and windows."""
    others = {ask[0]: ask for ask in asked(random, len(asks))}
    return [others[number] for number, *_ in asks]


def spent(call: Callable[[Sequence[Ask]], None], asks: Sequence[Ask]) -> float:
    """CPU seconds for one of `asks`."""
    start = time.process_time()
    call(asks)
    return (time.process_time() - start) / len(asks)


def write(path: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A sample file; its pixels and valid in memory."""
    random = np.random.default_rng(number)
    pixels = random.integers(1, 10000, (DATES, len(S2.band_names), SIDE, SIDE)).astype(np.uint16)
    valid = random.random((DATES, SIDE, SIDE)) < 0.9
    grid = GeoBox((SIDE, SIDE), Affine(10, 0, 500000, 0, -10, 5600000), "EPSG:32631")
    times = np.datetime64("2021-01-01T10:00:00", "s") + np.arange(DATES) * np.timedelta64(6 * 86400, "s")
    meta = tuple({"platform": "S2A", "relative_orbit": 108, "offset_applied": -1000.0, "shift_px": [0.1, -0.2]} for _ in range(DATES))
    series = Series(
        sensor=S2.name, bands=S2.band_names, pixels=pixels, times=times, valid=valid, grid=grid, units=S2.units, nodata=0.0, meta=meta,
        items=tuple(f"S2A_MSIL2A_2021{k:04}_R108_T31UFS" for k in range(DATES)),
    )  # fmt: skip
    bounds = (500000.0, 5600000.0 - 10 * SIDE, 500000.0 + 10 * SIDE, 5600000.0)
    npz.write(Sample(path.stem, "EPSG:32631", bounds, lonlat(bounds, "EPSG:32631"), {"s2": series}, None, {"recipe": "benchmark"}), path)
    return pixels.copy(), valid.copy()


if __name__ == "__main__":
    main()
