"""The shifts that are measured on real data, without a threshold: Sentinel-2 dates and Sentinel-1 on `ts_belgium_A`.

    python tests/benchmarks/coregistration.py [DATA] [--quick]

DATA: folder of the shared data (SKYSENSE_DATA_DIR by default). Sentinel-2 dates are measured against their common median, Sentinel-1
(ascending passes) as the mean of all its dates, as a build does, and as means of 10 and as single dates, which shows the scatter.
The patch is 640 m wide, and 32 pixels of 20 m are too few for a match, so Sentinel-1 is measured in pixels of 10 m.
Shifts are metres by which an image must move east and north to lie on Sentinel-2; first, second and third quartile. `refused`: by what a
build asks of a match, of radar (which then stays as geocoded) only a peak that stands alone and is no chance.
The last line is JSON.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from skysense_cli import sensors
from skysense_cli.data.align import Alignment, align
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.clouds.scl import Scl
from skysense_cli.data.coregister import Limits
from skysense_cli.data.feed import Feed
from skysense_cli.data.sources import Item
from skysense_cli.data.sources.folder import Extra, Folder
from skysense_cli.geo.grid import bounds_of
from skysense_cli.geo.raster import describe
from skysense_cli.recipe.schema.build import DatesSection

GROUPS = {"single dates": 1, "means of 10 dates": 10, "mean of all dates": 1000}
LIMITS = Limits(max_shift_m=30, min_shift_m=2, min_score=0.2)  # Sentinel-1 is shown whatever its score
PERIOD = (np.datetime64("2018-08-01"), np.datetime64("2019-11-30"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", default=os.environ.get("SKYSENSE_DATA_DIR", "../shared/data"), type=Path)
    parser.add_argument("--quick", action="store_true", help="a sixth of the dates: only to see that it runs")
    given = parser.parse_args()
    print(json.dumps(measure(given.data / "ts_belgium_A", 6 if given.quick else 1)))


def measure(home: Path, step: int) -> dict[str, dict[str, Any]]:
    """Per kind of image the number measured, its shifts' quartiles east and north and lengths, and the share that a build would refuse."""
    sensor, radar = sensors.get("sentinel2_l2a"), sensors.get("sentinel1_grd")
    scenes = Folder(
        path=str(home / "s2"),
        pattern=r"S2_(?P<date>\d{8}T\d{6})\.tif",
        extra={"SCL": Extra(str(home / "scl"), r"SCL_(?P<date>\d{8}T\d{6})\.tif")},
    )
    feeds = [Feed("s2 dates", sensor, 10.0, Scl(sensor), DatesSection(), tuple(scenes.search(sensor, None, PERIOD, ("SCL",))[::step]))]
    items = Folder(path=str(home / "s1"), pattern=r"S1_(?P<date>\d{8}T\d{6})_ASC\.tif").search(radar, None, PERIOD)[::step]
    for name, dates in GROUPS.items():  # `align` makes one mean of what has one orbit, so each group is given one of its own
        grouped = tuple(replace(item, meta={"relative_orbit": number // dates}) for number, item in enumerate(items))
        feeds.append(Feed(f"s1 {name}", radar, 10.0, NoMask(radar), DatesSection(), grouped))
    grid = describe(next((home / "s2").glob("*.tif"))).grid
    found = align(feeds, "s2 dates", bounds_of(grid), "EPSG:32631", LIMITS, PERIOD)
    return {feed.name: spread([found[feed.name][item.id] for item in one_each(feed)]) for feed in feeds}


def one_each(feed: Feed) -> list[Item]:
    """One item of each group; every date of Sentinel-2."""
    return list({item.meta.get("relative_orbit", item.id): item for item in feed.items}.values())


def spread(measured: Sequence[Alignment]) -> dict[str, Any]:
    """Quartiles of what was measured; without a shift: too little clear ground."""
    shifts = [one.shift for one in measured if one.shift is not None]
    quartiles = {
        name: np.quantile([getattr(shift, key) for shift in shifts], [0.25, 0.5, 0.75]).round(2).tolist()
        for name, key in (
            ("east m", "dx_m"),
            ("north m", "dy_m"),
            ("length m", "length_m"),
            ("score", "score"),
            ("correlation", "correlation"),
        )
    }
    refused = sum(one.decision in ("refused", "kept as geocoded") for one in measured if one.shift)
    return {"measured": len(shifts), "of": len(measured), **quartiles, "refused": refused}


if __name__ == "__main__":
    main()
