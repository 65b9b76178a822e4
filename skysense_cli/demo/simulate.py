"""Draws the landscape, lets the satellites pass and writes what they saw: the input of the demo."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from skysense_cli import console
from skysense_cli.demo import catalog
from skysense_cli.demo.landscape import PIXEL_M, make_world
from skysense_cli.demo.observe import day_of_year, orthophoto, sentinel1, sentinel2
from skysense_cli.demo.year import PHOTO_DATE, SEED, SIDE_M, optical_dates, radar_dates


def simulate(home: Path) -> None:
    """Write the landscape's catalogue, orthophoto and truth below `home`; the same bytes in every run.

    The root of the catalogue is written last: a folder that has it is complete and left as it is.
    """
    if (home / "catalog.json").exists():
        return
    world = make_world(round(SIDE_M / PIXEL_M), SEED)
    size = SIDE_M // 10
    optical, clear = [], []
    for date in console.progress(optical_dates(), "Sentinel-2 dates"):
        images, weather = sentinel2(world, date, size)
        optical.append((catalog.write_optical(home, date, images), date))
        clear.append(weather.clear)
    radar = [catalog.write_radar(home, date, sentinel1(world, date, size)) for date in _shown(radar_dates())]
    catalog.write_photo(home, PHOTO_DATE, orthophoto(world, day_of_year(PHOTO_DATE), round(SIDE_M / PIXEL_M)))
    catalog.write_truth(home, catalog.land_cover(world), np.stack(clear), optical, radar)
    catalog.write_catalog(home, [*(entry for entry, _ in optical), *radar])


def _shown(dates: Iterable) -> Iterable:
    return console.progress(dates, "Sentinel-1 dates")
