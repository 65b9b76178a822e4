"""build-data beside the least it could do, and beside odc-stac's load of the same files.

    python tests/benchmarks/build_data.py [--quick]

Dates of 10 Sentinel-2 bands, one COG each (four of 10 m, six of 20 m), are cut into 64 samples. The limit: read every block of
every file once, double the 20 m bands exactly, write the same arrays. CPU seconds; each part runs in a process of its own. Memory
is the peak over the start in cubes (all bands of one date, uint16): of anonymous pages, and of all resident ones, those of mapped files
and of libraries among them. The dates that wait for their sample lie in a scratch file, which is written and not mapped; what the system
caches of files is nobody's memory. Two workers build the same four blocks as one does in this process, by the clock, which wants two idle
cores: on Dask workers that are up (`--cluster`, or the later blocks of a large build), and with the seconds until they are. The last
line is JSON.
"""

import argparse
import datetime
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from skysense_cli import sensors
from skysense_cli.data.members import write_members
from skysense_cli.geo.cog import write_geotiff
from skysense_cli.geo.grid import lonlat_bounds, make_grid
from skysense_cli.geo.opening import open_raster

S2 = sensors.get("sentinel2_l2a")
FINE = ("B02", "B03", "B04", "B08")
LEFT, TOP, CRS = 500000.0, 5600040.0, "EPSG:32631"
ACROSS = 8  # samples along a side


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="2 dates of 512 px: only to see that it runs")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(PARTS[asked.part](asked.folder)))
        return
    dates, side = (2, 512) if asked.quick else (10, 2048)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for number in range(dates):
            scene(folder / "scenes", number, side)
        found: dict[str, Any] = {}
        for part in PARTS:
            command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            if run.returncode:
                sys.exit(run.stderr)
            found[part] = json.loads(run.stdout.splitlines()[-1])
            print(part, found[part], flush=True)
        found["build / limit, CPU"] = round(found["build"]["cpu s"] / found["limit"]["cpu s"], 3)
        found["odc-stac / limit, CPU"] = round(found["odc_stac"]["cpu s"] / found["limit"]["cpu s"], 3)
        two, one = found["two_workers"], found["one_worker"]["wall s"]
        found["two workers / one, wall"] = round(two["wall s"] / one, 3)
        found["two workers with their start / one, wall"] = round((two["wall s"] + two["start s"]) / one, 3)
        found["goals"] = "CPU <= 1.5, build memory <= 3 cubes, two workers <= 0.6"
        print(json.dumps(found))


def scene(folder: Path, number: int, side: int) -> None:
    """One date: smooth ground with noise, so that it packs about as real scenes do."""
    random = np.random.default_rng(number)
    day = datetime.date(2021, 1, 10) + datetime.timedelta(days=30 * number)
    rows, columns = np.mgrid[:side, :side] / side
    ground = 1500 + 600 * np.sin(9 * rows + number) * np.cos(7 * columns)
    for position, band in enumerate(S2.band_names):
        step = 1 if band in FINE else 2
        pixels = ground[::step, ::step] * (1 + 0.1 * position) + random.normal(0, 60, (side // step, side // step))
        grid = make_grid(LEFT, TOP, 10.0 * step, side // step, side // step, CRS)
        write_geotiff(folder / f"S2_{day:%Y%m%d}_{band}.tif", pixels.astype(np.uint16)[None], grid, nodata=0)


def limit(folder: Path) -> dict[str, float]:
    """Every block once, doubled, written."""
    (folder / "limit").mkdir(exist_ok=True)
    dates = sorted({path.name.split("_")[1] for path in (folder / "scenes").iterdir()})
    cubes = []
    with Cost(folder) as cost:
        for day in dates:
            bands = []
            for band in S2.band_names:
                with open_raster(folder / "scenes" / f"S2_{day}_{band}.tif") as dataset:
                    pixels = dataset.read(1)
                bands.append(pixels if band in FINE else doubled(pixels))
            cubes.append(np.stack(bands))
        cost.pause()  # whose samples: `build` holds its dates in files, here they are in memory
        side = len(cubes[0][0]) // ACROSS
        for row in range(ACROSS):
            for column in range(ACROSS):
                part = np.s_[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
                pixels = np.stack([cube[part] for cube in cubes])
                write_members(
                    folder / "limit" / f"{row}_{column}.npz", {"pixels": pixels, "valid": np.ones(pixels[:, 0].shape, bool)}
                )  # fmt: skip
    return cost.found


def doubled(pixels: np.ndarray) -> np.ndarray:
    """(H, W) uint16 -> (2H, 2W), bilinear between centres; sixteenths are exact in float32."""
    values = pixels.astype(np.float32)
    for axis in (0, 1):
        first, last = values.take([0], axis), values.take([-1], axis)
        ahead = np.concatenate([values.take(range(1, values.shape[axis]), axis), last], axis)
        behind = np.concatenate([first, values.take(range(values.shape[axis] - 1), axis)], axis)
        pair = np.stack([0.75 * values + 0.25 * behind, 0.75 * values + 0.25 * ahead], axis + 1)
        values = pair.reshape([2 * n if k == axis else n for k, n in enumerate(values.shape)])
    return np.rint(values).astype(np.uint16)


def recipe(folder: Path, *, block: int, workers: int) -> Any:
    """The recipe of all scenes as 8 x 8 samples."""
    from skysense_cli.recipe.parts import bind
    from skysense_cli.recipe.schema.build import BuildDataRecipe

    first = next((folder / "scenes").glob("*_B02.tif"))
    with open_raster(first) as dataset:
        size_m = 10.0 * dataset.height / ACROSS
    pattern = r"S2_(?P<date>\d{8})_(?P<band>\w{3})\.tif"
    source = bind("data/sources", "folder", {"path": str(folder / "scenes"), "pattern": pattern})
    return BuildDataRecipe.model_validate({
        "recipe": "build-data", "version": 1, "output": folder / "out", "area": first, "workers": workers,
        "period": {"start": datetime.date(2021, 1, 1), "end": datetime.date(2021, 12, 31)},
        "grid": {"size_m": size_m, "anchor": "area", "crs": CRS}, "splits": {"train": 1.0, "val": 0.0, "test": 0.0, "block": block},
        "modalities": {"s2": {"sensor": S2.name, "gsd": 10.0, "source": source}},
    })  # fmt: skip


def build(folder: Path) -> dict[str, float]:
    """The whole build in one process, as one block, checked against the limit's arrays."""
    from skysense_cli.data.build import build as build_data

    asked = recipe(folder, block=ACROSS, workers=1)
    with Cost(folder) as cost:
        build_data(asked, folder / "out", "digest")
    compare(folder)
    return cost.found


def compare(folder: Path) -> None:
    """The samples hold the limit's numbers, to the last bit."""
    from skysense_cli.data import npz

    made = [npz.read(path) for path in sorted((folder / "out" / "samples").rglob("*.npz"))]
    assert len(made) == ACROSS**2
    for sample in made:
        size = sample.bounds[2] - sample.bounds[0]
        row, column = round((TOP - sample.bounds[3]) / size), round((sample.bounds[0] - LEFT) / size)
        with np.load(folder / "limit" / f"{row}_{column}.npz") as expected:
            assert np.array_equal(sample.series["s2"].pixels, expected["pixels"]), sample.id


def odc_stac(folder: Path) -> dict[str, float]:
    """odc-stac's load of the same bands on the same grid, bilinear, without writing."""
    import odc.stac
    import pystac
    import shapely
    from odc.geo.geobox import GeoBox

    with open_raster(next((folder / "scenes").glob("*_B02.tif"))) as dataset:
        height, width, transform = dataset.height, dataset.width, dataset.transform
    box = lonlat_bounds((LEFT, TOP - 10 * height, LEFT + 10 * width, TOP), CRS)
    items = []
    for day in sorted({path.name.split("_")[1] for path in (folder / "scenes").iterdir()}):
        time_of = datetime.datetime.strptime(day + "+0000", "%Y%m%d%z")
        item = pystac.Item(f"S2_{day}", shapely.geometry.mapping(shapely.box(*box)), list(box), time_of, {"proj:code": CRS})
        for band in S2.band_names:
            step = 1 if band in FINE else 2
            facts = {"proj:shape": [height // step, width // step], "proj:transform": [10.0 * step, 0, LEFT, 0, -10.0 * step, TOP]}
            asset = pystac.Asset(str(folder / "scenes" / f"S2_{day}_{band}.tif"), media_type=pystac.MediaType.COG, extra_fields=facts)
            item.add_asset(band, asset)
        items.append(item)
    grid = GeoBox((height, width), transform, CRS)
    config = {"*": {"assets": {"*": {"data_type": "uint16", "nodata": 0}}}}
    with Cost(folder) as cost:
        loaded = odc.stac.load(items, list(S2.band_names), geobox=grid, resampling="bilinear", groupby="id", stac_cfg=config)
    assert loaded["B02"].shape[1:] == (height, width) and int(loaded["B05"].mean()) > 0
    return cost.found


def one_worker(folder: Path) -> dict[str, float]:
    """Four blocks in this process."""
    from skysense_cli.data.build import build as build_data

    asked = recipe(folder, block=ACROSS // 2, workers=1)
    with Cost(folder) as cost:
        build_data(asked, folder / "by_1", "digest")
    return cost.found


def two_workers(folder: Path) -> dict[str, float]:
    """Four blocks by two Dask workers, as `workers: 2` starts them."""
    from distributed import Client

    from skysense_cli.data.build import build as build_data
    from skysense_cli.data.schedule import local_cluster

    asked = recipe(folder, block=ACROSS // 2, workers=2)
    start = time.perf_counter()
    with local_cluster(2) as cluster:
        with Client(cluster) as client:
            client.run(importlib.import_module, "skysense_cli.data.build")
        up = time.perf_counter() - start
        with Cost(folder) as cost:
            build_data(asked, folder / "by_2", "digest", address=cluster.scheduler_address)
    return cost.found | {"start s": round(up, 3)}


WATCH = """
import select, sys, time
def resident():
    lines = dict(line.split(":", 1) for line in open(f"/proc/{sys.argv[1]}/status"))
    return [1024 * int(lines[key].split()[0]) for key in ("RssAnon", "VmRSS")]
start = peak = resident()
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.01)[0]:
    peak = [max(pair) for pair in zip(peak, resident())]
print(*(end - begin for begin, end in zip(start, peak)))
"""


class Cost:
    """CPU and wall seconds of a block, and the peak of its memory in cubes, watched from another process."""

    def __init__(self, folder: Path) -> None:
        with open_raster(next((folder / "scenes").glob("*_B02.tif"))) as dataset:
            self.cube = 2 * len(S2.band_names) * dataset.height * dataset.width
        self.found: dict[str, float] = {}

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", WATCH, str(os.getpid())]
        self._watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._watch.stdout is not None
        self._watch.stdout.readline()
        self._start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        cpu, wall = time.process_time() - self._start[0], time.perf_counter() - self._start[1]
        self.pause()
        self.found = {"cpu s": round(cpu, 3), "wall s": round(wall, 3)} | self.found

    def pause(self) -> None:
        """Watch the memory no longer."""
        if self._watch.poll() is None:
            said, _ = self._watch.communicate("enough\n")
            for name, peak in zip(("memory, cubes", "resident, cubes"), said.split(), strict=True):
                self.found[name] = round(int(peak) / self.cube, 2)


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "limit": limit, "build": build, "odc_stac": odc_stac, "one_worker": one_worker, "two_workers": two_workers,
}  # fmt: skip

if __name__ == "__main__":
    main()
