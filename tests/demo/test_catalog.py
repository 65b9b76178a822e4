import csv
import json

import numpy as np
import pystac
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from skysense_cli import sensors
from skysense_cli.data.sources.stac import Stac
from skysense_cli.demo import catalog
from skysense_cli.demo.observe import sentinel1, sentinel2
from skysense_cli.demo.spectra import CLASSES
from skysense_cli.demo.year import optical_dates, radar_dates


@pytest.fixture(scope="module")
def home(world, tmp_path_factory):
    """A catalogue of two dates each; the images show 2 km and are repeated to fill the scene."""
    folder = tmp_path_factory.mktemp("landscape")
    optical, clear = [], []
    for date in optical_dates()[:2]:
        images, weather = sentinel2(world, date, 200)
        optical.append((catalog.write_optical(folder, date, {name: np.tile(image, (2, 2)) for name, image in images.items()}), date))
        clear.append(np.tile(weather.clear, (2, 2)))
    radar = [catalog.write_radar(folder, date, np.tile(sentinel1(world, date, 200), (1, 2, 2))) for date in radar_dates()[:2]]
    catalog.write_truth(folder, np.tile(catalog.land_cover(world), (2, 2)), np.stack(clear), optical, radar)
    catalog.write_catalog(folder, [*(entry for entry, _ in optical), *radar])
    return folder


def test_the_catalogue_opens_with_all_its_items(home):
    root = pystac.Catalog.from_file(str(home / "catalog.json"))
    assert {child.id: len(list(child.get_items())) for child in root.get_children()} == {"sentinel-2-l2a": 2, "sentinel-1-rtc": 2}


def test_everything_says_that_it_is_simulated(home):
    for path in home.rglob("*.json"):
        assert "SIMULATED" in path.read_text(), path
    for path in home.rglob("*.tif"):
        with rasterio.open(path) as dataset:
            assert "SIMULATED" in dataset.tags()["SIMULATED"], path


def test_every_raster_is_a_valid_cloud_optimized_geotiff(home):
    for path in home.rglob("*.tif"):
        valid, errors, warnings = cog_validate(path, strict=True)
        assert valid, (path, errors, warnings)


def test_the_stac_source_finds_bands_offset_and_baseline(home):
    source = Stac(url=str(home / "catalog.json"), collection="sentinel-2-l2a")
    items = source.search(sensors.get("sentinel2_l2a"), None, None, ("SCL",))
    assert [item.time for item in items] == sorted(item.time for item in items)
    assert items[0].assets["B8A"].offset == -1000
    assert items[0].assets["SCL"].path.endswith("SCL.tif")
    assert items[0].meta["baseline"] == "05.00"


def test_the_stac_source_takes_radar_for_linear_gamma0(home):
    items = Stac(url=str(home / "catalog.json"), collection="sentinel-1-rtc").search(sensors.get("sentinel1_rtc"), None, None)
    assert {item.units for item in items} == {"gamma0 linear"}
    assert {item.meta["relative_orbit"] for item in items} == {15, 139}


def test_item_footprints_lie_where_the_rasters_lie(home):
    path = next((home / "sentinel-2-l2a").glob("*/*.json"))
    item = json.loads(path.read_text())
    with rasterio.open(path.parent / "B05.tif") as dataset:
        assert list(dataset.shape) == item["assets"]["rededge1"]["proj:shape"]
        assert list(dataset.transform)[:6] == item["assets"]["rededge1"]["proj:transform"]
        bounds = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    assert item["bbox"] == pytest.approx(bounds, abs=1e-3)


def test_the_truth_names_every_class_and_the_shift_of_every_date(home):
    with (home / "truth" / "classes.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == list(CLASSES)
    truth = json.loads((home / "truth" / "truth.json").read_text())
    assert [tuple(date["shift_m"]) for date in truth["sentinel-2-l2a"]] == [date.shift_m for date in optical_dates()[:2]]


def test_shifts_of_the_year_are_as_large_as_promised():
    length_px = np.array([np.hypot(*date.shift_m) for date in optical_dates()]) / 10
    assert 0.6 <= np.median(length_px) <= 1.4
    assert length_px.max() < 2
