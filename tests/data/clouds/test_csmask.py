import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import rasterio

from skysense_cli import sensors
from skysense_cli.data.acquire import narrowed
from skysense_cli.data.clouds import _coarser
from skysense_cli.data.clouds.csmask import Csmask
from skysense_cli.errors import RecipeError

SENSOR = sensors.get("sentinel2_l2a")
installed = pytest.mark.skipif(
    importlib.util.find_spec("ukis_csmask") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="needs the extra clouds (ukis-csmask, a wheel of 145 MB)",
)
REJECTED = (0, 1, 3, 8, 9, 10, 11)


@pytest.fixture(scope="module")
def mask():
    return Csmask(SENSOR)


@installed
def test_agrees_with_scl_on_a_whole_tile(shared_data):
    home = shared_data("scene_29RKH")
    with rasterio.open(home / "S2A_29RKH_20200219_10band_100m.tif") as dataset:
        pixels = dataset.read(window=((0, 512), (0, 512)))
    with rasterio.open(home / "S2A_29RKH_20200219_SCL_100m.tif") as dataset:
        clear = ~np.isin(dataset.read(1, window=((0, 512), (0, 512))), REJECTED)
    assert np.mean(Csmask(SENSOR, at_m=100).valid(pixels, {}, 100) == clear) > 0.85


@installed
def test_agrees_with_scl_on_dates_of_belgium(shared_data, mask):
    """Both clear and clouded dates; small patches are beyond the network's context, see its docstring."""
    home = shared_data("ts_belgium_A")
    agreement = []
    for path in sorted((home / "s2").glob("*.tif"))[::9]:
        with rasterio.open(path) as dataset:
            pixels = dataset.read()
        with rasterio.open(home / "scl" / path.name.replace("S2_", "SCL_")) as dataset:
            clear = ~np.isin(dataset.read(1), REJECTED)
        agreement.append(np.mean(mask.valid(pixels, {}, 10) == clear))
    assert np.median(agreement) > 0.95 and np.mean(agreement) > 0.7, agreement


@installed
def test_left_out_bands_come_as_extra_bands(shared_data, mask):
    path = next(iter(sorted((shared_data("ts_belgium_A") / "s2").glob("*.tif"))))
    with rasterio.open(path) as dataset:
        pixels = dataset.read()
    few = Csmask(narrowed(SENSOR, ["B04", "B08"]))
    assert few.extra_bands == ("B02", "B03", "B11", "B12")
    extra = {name: pixels[SENSOR.band_names.index(name)] for name in few.extra_bands}
    np.testing.assert_array_equal(few.valid(pixels[[2, 6]], extra, 10), mask.valid(pixels, {}, 10))


def test_what_is_no_reflectance_is_refused():
    with pytest.raises(RecipeError, match="works on Sentinel-2 reflectance, not on sentinel1_grd"):
        Csmask(sensors.get("sentinel1_grd"))
    with pytest.raises(RecipeError, match="grow_m not negative"):
        Csmask(SENSOR, grow_m=-1)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(_coarser.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"cloud_mask csmask: onnxruntime is not installed.*skysense-cli\[clouds\]"):
        Csmask(replace(SENSOR))


def test_averages_count_pixels_with_data_only():
    counts = np.zeros((2, 3, 4), np.uint16)
    counts[:, :2, :2] = 1000
    counts[:, 0, 0] = 0
    counts[1, 2, 3] = 4000
    found = _coarser.averaged(counts, 2)
    np.testing.assert_allclose(found, [[[0.1, 0], [0, 0]], [[0.1, 0], [0, 0.4]]])
    np.testing.assert_array_equal(_coarser.spread(found[0], 2, (3, 4)) > 0, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
