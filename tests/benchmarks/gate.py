"""The radiometry gate on the real series of the shared data: false alarms, and how many single planted mistakes are found.

    python tests/benchmarks/gate.py [DATA] [--quick]

DATA: the folder of the series (SKYSENSE_DATA_DIR, else ../shared/data). For each series: dates, `judged` (with enough clear ground and
enough others of the season to compare with), `alarms` on the numbers as they are, and for 1000 counts too much, 1000 too few (power
called dB for radar) planted on one judged date after the other: `found` by that date and kind alone, `others` as wrong alarms beside it.
The last line is JSON. Nothing here is tuned on any of them but ts_belgium_A.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import rasterio
import xarray

from skysense_cli import sensors
from skysense_cli.data import gate
from skysense_cli.data.sources import parse_time

DATA = Path(os.environ.get("SKYSENSE_DATA_DIR", Path(__file__).resolve().parents[3] / "shared" / "data"))
TEN = sensors.get("sentinel2_l2a").band_names
REJECTED = (0, 1, 3, 8, 9, 10, 11)
MIN_VALID = 0.8


@dataclass(frozen=True, eq=False)
class Series:
    """bands, times (T,), pixels (T, C, H, W), valid (T, H, W)"""

    bands: tuple[str, ...]
    times: np.ndarray
    pixels: np.ndarray
    valid: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    parser.add_argument("--quick", action="store_true", help="every eighth date: only to see that it runs")
    asked = parser.parse_args()
    step = 8 if asked.quick else 1
    found = {}
    for name, read in OPTICAL.items():
        found[name] = of_counts(read(asked.data), step)
        print(name, found[name], flush=True)
    for name, read in RADAR.items():
        found[name] = of_decibels(*read(asked.data), step)
        print(name, found[name], flush=True)
    print(json.dumps(found))


def of_counts(series: Series, step: int) -> dict[str, Any]:
    """Figures of an optical series."""
    looks = [
        gate.look(image, clear) if clear.mean() >= MIN_VALID else None for image, clear in zip(series.pixels, series.valid, strict=True)
    ]
    verdicts = gate.judge_counts(series.bands, series.times, looks)
    judged = [k for k, verdict in enumerate(verdicts) if verdict.shift is not None]
    result: dict[str, Any] = {"dates": len(looks), "judged": len(judged), "alarms": sum(not verdict.sound for verdict in verdicts)}
    for offset in (1000, -1000):
        hits = others = 0
        for k in judged[::step]:
            moved = np.where((series.pixels[k] != 0).any(axis=0), np.clip(series.pixels[k].astype(int) + offset, 1, 65534), 0)
            planted = [*looks[:k], gate.look(moved.astype(np.uint16), series.valid[k]), *looks[k + 1 :]]
            found = gate.judge_counts(series.bands, series.times, planted)
            hits += found[k].offset == offset
            others += sum(not verdict.sound for j, verdict in enumerate(found) if j != k)
        result[f"{offset:+d}"] = {"planted": len(judged[::step]), "found": hits, "others": others}
    return result


def of_decibels(times: np.ndarray, images: np.ndarray, step: int) -> dict[str, Any]:
    """Figures of a radar series in dB, images (T, C, H, W)."""
    looks = [gate.look(image, np.isfinite(image).all(axis=0)) for image in images]
    verdicts = gate.judge_decibels(times, looks)
    judged = [k for k, verdict in enumerate(verdicts) if verdict.shift is not None]
    hits = others = 0
    for k in judged[::step]:
        planted = [*looks[:k], gate.look(10 ** (images[k] / 10), np.isfinite(images[k]).all(axis=0)), *looks[k + 1 :]]
        found = gate.judge_decibels(times, planted)
        hits += found[k].linear
        others += sum(not verdict.sound for j, verdict in enumerate(found) if j != k)
    swapped = {"planted": len(judged[::step]), "found": hits, "others": others}
    return {"dates": len(looks), "judged": len(judged), "alarms": sum(not verdict.sound for verdict in verdicts), "power": swapped}


# the series


def belgium_a(data: Path) -> Series:
    """72 dates of Level-2A with its classes."""
    home = data / "ts_belgium_A"
    scenes, classes = sorted((home / "s2").glob("*.tif")), sorted((home / "scl").glob("*.tif"))
    pixels = np.stack([numbers(path) for path in scenes])
    valid = ~np.isin(np.stack([numbers(path)[0] for path in classes]), REJECTED)
    return Series(TEN, times_of(path.stem.split("_")[1] for path in scenes), pixels, valid & (pixels != 0).any(axis=1))


def belgium_c(data: Path) -> Series:
    """146 dates of the six bands of 20 m only."""
    bands = ("B05", "B06", "B07", "B8A", "B11", "B12")
    cube = xarray.open_dataset(next((data / "ts_belgium_C_20m_only" / "original_nc").glob("S2*.nc")), mask_and_scale=False)
    pixels = np.stack([cube[band].values for band in bands], axis=1)
    valid = ~np.isin(cube["SCL"].values, REJECTED) & (pixels != 0).any(axis=1)
    return Series(bands, cube["timestamp"].values.astype("datetime64[s]"), pixels, valid)


def belgium_monthly(data: Path) -> Series:
    """Twelve monthly composites of nine bands."""
    bands = tuple(band for band in TEN if band != "B8A")
    cube = xarray.open_dataset(data / "ts_belgium_monthly_100px" / "worldcereal_preprocessed_inputs.nc", mask_and_scale=False)
    pixels = np.stack([cube[f"S2-L2A-{band}"].values for band in bands], axis=1).view(np.uint16)
    return Series(bands, cube["t"].values.astype("datetime64[s]"), pixels, (pixels != 65535).all(axis=1))


def treesat(data: Path) -> Series:
    """146 dates of a forest of 60 m, snow and cloud by their probabilities."""
    held = np.load(next((data / "trimodal_treesat").glob("*.npz")))
    clear = (held["s2_masks_snow_cloud"] <= 10).all(axis=1)
    return Series(TEN, times_of(held["s2_dates"].tolist()), held["s2"], clear & (held["s2"] != 0).any(axis=1))


def slovenia(data: Path) -> Series:
    """Five dates of Level-1C, of which two are cloud; the others of the year would have to be there to judge them."""
    home = data / "ts_slovenia"
    scenes = sorted((home / "s2").glob("*.tif"))
    pixels = np.stack([numbers(path) for path in scenes])[:, [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]]
    masks = np.stack([numbers(home / "cloud" / path.name.replace("S2L1C", "CLOUDMASK"))[0] for path in scenes])
    return Series(TEN, times_of(path.stem.split("_")[1] for path in scenes), pixels, masks == 0)


def world_pixels(data: Path) -> Series:
    """Twelve months of 500 single pixels of Uganda and South Sudan."""
    table = pandas.read_parquet(data / "pixels_worldcereal" / "test_public_extractions.parquet")
    tens = [next(size for size in (10, 20) if f"OPTICAL-{band}-ts0-{size}m" in table) for band in TEN]
    columns = [[f"OPTICAL-{band}-ts{month}-{size}m" for band, size in zip(TEN, tens, strict=True)] for month in range(12)]
    pixels = np.stack([table[names].to_numpy().T[:, None] for names in columns]).astype(np.uint16)  # (T, C, 1, N)
    times = np.array([f"2017-{month:02}-15" for month in range(1, 13)], "datetime64[s]")
    return Series(TEN, times, pixels, (pixels != 65535).all(axis=1))


def radar_of(folder: str) -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    """The dates in dB below a folder."""

    def read(data: Path) -> tuple[np.ndarray, np.ndarray]:
        paths = sorted((data / folder / "s1").glob("*.tif"))
        return times_of(path.stem.split("_")[1] for path in paths), np.stack([numbers(path).astype(np.float32) for path in paths])

    return read


def treesat_radar(pass_: str) -> Callable[[Path], tuple[np.ndarray, np.ndarray]]:
    """The dates of one direction of flight; linear power, taken to dB."""

    def read(data: Path) -> tuple[np.ndarray, np.ndarray]:
        held = np.load(next((data / "trimodal_treesat").glob("*.npz")))
        with np.errstate(divide="ignore"):
            return times_of(held[f"s1_{pass_}_dates"].tolist()), 10 * np.log10(held[f"s1_{pass_}"])

    return read


OPTICAL = {
    "ts_belgium_A": belgium_a,
    "ts_belgium_C, six bands": belgium_c,
    "ts_belgium_monthly, nine bands": belgium_monthly,
    "trimodal_treesat, 36 px": treesat,
    "ts_slovenia, L1C": slovenia,
    "pixels_worldcereal": world_pixels,
}
RADAR = {
    "ts_belgium_A s1": radar_of("ts_belgium_A"),
    "ts_belgium_C s1": radar_of("ts_belgium_C_20m_only"),
    "trimodal_treesat s1 ascending": treesat_radar("asc"),
    "trimodal_treesat s1 descending": treesat_radar("des"),
}


def numbers(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def times_of(texts: Any) -> np.ndarray:
    return np.array([parse_time(text) for text in texts], "datetime64[s]")


if __name__ == "__main__":
    main()
