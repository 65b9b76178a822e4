"""Time and memory of the metadata of a large data set: plan, index, reading, order of training. No pixel is read or written.

    python tests/benchmarks/scale.py [--footprints 100000] [--quick]

The last line is JSON: for each step CPU seconds, MiB by which the process's memory grew at its peak, and bytes a footprint.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shapely

from skysense_cli.data import index, splits
from skysense_cli.data.build import Blocks
from skysense_cli.data.order import StepSampler
from skysense_cli.data.places import Places
from skysense_cli.geo.footprints import each_footprint
from skysense_cli.geo.grid import lonlat
from skysense_cli.recipe.schema.build import SplitsSection

SIZE_M = 640.0
SECTION = SplitsSection(train=0.9, val=0.05, test=0.05, block=16, buffer_m=640)
TIMES = tuple(f"2021-{month:02}-{day:02}T10:50:31" for month in range(1, 11) for day in (5, 20))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--footprints", type=int, default=100_000)
    parser.add_argument("--quick", action="store_true", help="2,000 footprints: only to see that it runs")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), 2000 if asked.quick else asked.footprints)))


def measure(folder: Path, count: int) -> dict[str, Any]:
    """The figures of each step, one after the other; what a step makes is kept for the next."""
    found: dict[str, Any] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        before, start = peak_mib(), time.process_time()
        made = work()
        grown = peak_mib() - before
        found[name] = {"cpu s": round(time.process_time() - start, 2), "MiB": round(grown, 1), "bytes each": round(grown * 2**20 / total)}
        print(name, found[name], flush=True)
        return made

    total = count
    places = step("footprints listed", lambda: Places.of(each_footprint(area(count), crs="utm", size_m=SIZE_M)))
    total = len(places)
    shares, left_out = step("splits and buffer", lambda: splits.planned(places, SECTION, SECTION.buffer_m))
    blocks = Blocks(shares)
    step("index written", lambda: write(folder, blocks))
    step("finished blocks found", lambda: [index.part_facts(folder, block.name) for block in blocks])
    step("one split read", lambda: index.read(folder, "val"))
    rows = step("all rows read", lambda: index.read(folder))
    assert len(rows) == len(shares) == total - left_out
    sampler = StepSampler(len(rows), 256, 0)
    step("1000 steps drawn", lambda: [len(sampler.keys(number)) for number in range(1000)])
    return {"footprints": total, "blocks": len(blocks), "left out": left_out, **found}


def area(count: int) -> shapely.Geometry:
    """A box around 6 degrees east, where two zones meet, that about so many footprints fill."""
    side = (count**0.5) * SIZE_M / 111_320
    return shapely.box(6 - side / 2 / 0.64, 50 - side / 2, 6 + side / 2 / 0.64, 50 + side / 2)


def write(folder: Path, blocks: Blocks) -> None:
    """One part for each block, as a build leaves them."""
    for block in blocks:
        rows = [
            index.Row(
                id=one.id, path=f"samples/{index.shard_of(block.name)}/{one.id}.npz", split=block.split, crs=one.crs, bounds=one.bounds,
                lonlat=lonlat(one.bounds, one.crs), modalities=("s1", "s2"), dates={"s1": TIMES, "s2": TIMES},
            )
            for one in block.footprints
        ]  # fmt: skip
        index.write_part(folder, block.name, rows, {"recipe": "digest", "report": "{}"})


def peak_mib() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
