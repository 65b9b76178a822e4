import importlib.util

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox

from skysense_cli import sensors
from skysense_cli.data.acquire import acquire
from skysense_cli.data.clouds import _coarser
from skysense_cli.data.clouds.s2cloudless import S2cloudless
from skysense_cli.data.sources.folder import Folder
from skysense_cli.errors import RecipeError, SourceError

SENSOR = sensors.get("sentinel2_l1c")
CLOUDED = ["2015-07-31", "2015-08-20"]
installed = pytest.mark.skipif(importlib.util.find_spec("s2cloudless") is None, reason="needs the extra clouds (s2cloudless)")


@pytest.fixture(scope="module")
def folder(shared_data):
    return Folder(path=str(shared_data("ts_slovenia") / "s2"))


@installed
@pytest.mark.parametrize("at_m", [80, 160])
def test_whole_clouded_dates_of_slovenia_are_found_and_clear_ones_kept(folder, at_m):
    mask = S2cloudless(SENSOR, at_m=at_m)
    assert mask.extra_bands == ("B01", "B09", "B10")
    items = folder.search(SENSOR, None, None, mask.extra_bands)
    with rasterio.open(items[0].assets["B02"].path) as dataset:
        grid = GeoBox(dataset.shape, dataset.transform, dataset.crs)
    for item in items:
        share = acquire(item, SENSOR, grid, bands=SENSOR.band_names, cloud_mask=mask).valid.mean()
        assert share < 0.05 if str(item.time)[:10] in CLOUDED else share > 0.99, item.id


@installed
def test_rejected_pixels_are_blocks_and_grow_in_metres(folder):
    rng = np.random.default_rng(0)
    pixels = rng.integers(400, 900, (10, 40, 40)).astype(np.uint16)
    pixels[:, :8, :8] = 9000  # bright in all bands, and high above the water vapour
    extra = {name: np.full((40, 40), value) for name, value in (("B01", 1000.0), ("B09", 500.0), ("B10", 10.0))}
    for name, value in (("B01", 9000.0), ("B09", 7000.0), ("B10", 3000.0)):
        extra[name][:8, :8] = value
    plain = S2cloudless(SENSOR).valid(pixels, extra, 10)
    assert not plain[:8, :8].any() and plain[8:, 8:].all()
    wider = S2cloudless(SENSOR, grow_m=30).valid(pixels, extra, 10)
    assert not wider[:8, 8:11].any() and wider[:8, 11:].all()


def test_a_folder_without_the_bands_is_named(geotiff, tmp_path):
    geotiff(tmp_path / "a_20200101.tif", np.ones((10, 4, 4), np.uint16), names=SENSOR.band_names)
    with pytest.raises(SourceError, match="the cloud mask needs B01"):
        Folder(path=str(tmp_path), pattern="a_(?P<date>.*).tif").search(SENSOR, None, None, ("B01",))


def test_level_2a_and_impossible_options_are_refused():
    with pytest.raises(RecipeError, match="works on Level-1C only, sentinel2_l2a is reflectance"):
        S2cloudless(sensors.get("sentinel2_l2a"))
    with pytest.raises(RecipeError, match="threshold lies between 0 and 1"):
        S2cloudless(SENSOR, threshold=1.5)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(_coarser.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"cloud_mask s2cloudless: s2cloudless is not installed.*skysense-cli\[clouds\]"):
        S2cloudless(SENSOR)
