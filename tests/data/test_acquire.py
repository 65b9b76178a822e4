import tracemalloc

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from skysense_cli import sensors
from skysense_cli.data.acquire import acquire, narrowed
from skysense_cli.data.clouds import CloudMask
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.clouds.scl import Scl
from skysense_cli.data.sources import Asset, Item
from skysense_cli.data.sources.folder import Folder
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.grid import make_grid

S2, GRD, RTC, RGB = (sensors.get(name) for name in ("sentinel2_l2a", "sentinel1_grd", "sentinel1_rtc", "rgb"))
TEN = make_grid(500000, 5600000, 10, 8, 8, "EPSG:32631")
TWENTY = make_grid(500000, 5600000, 20, 4, 4, "EPSG:32631")
TIME = np.datetime64("2021-04-01T10:50:31")


def item_of(path, sensor, *, units=None, extra=None, meta=None, **asset) -> Item:
    assets = {band: Asset(str(path), number, **asset) for number, band in enumerate(sensor.band_names, 1)}
    return Item("item", TIME, assets | (extra or {}), units or sensor.units, meta or {})


def get(item, sensor, grid, mask=None, **options):
    return acquire(item, sensor, grid, bands=sensor.band_names, cloud_mask=mask or NoMask(sensor), **options)


def gradient(size: int = 32) -> np.ndarray:
    """Rises by 10 a pixel to the east and by 3 a pixel to the south."""
    rows, columns = np.mgrid[:size, :size]
    return (1000 + 10 * columns + 3 * rows).astype(np.uint16)


def test_numbers_on_the_grid_come_as_they_are(tmp_path, geotiff):
    raw = np.random.default_rng(0).integers(100, 5000, (10, 8, 8)).astype(np.uint16)
    date = get(item_of(geotiff(tmp_path / "a.tif", raw), S2), S2, TEN)
    assert (date.pixels == raw).all() and date.pixels.dtype == np.uint16
    assert date.valid.all() and date.meta["clipped_share"] == 0


def test_nodata_is_decided_before_the_offset_is_taken_off(tmp_path, geotiff):
    raw = np.full((10, 8, 8), 2500, np.uint16)
    raw[:, 0, :] = 0  # a missing row
    raw[4, 1, :] = 0  # a zero in one band
    date = get(item_of(geotiff(tmp_path / "a.tif", raw), S2, offset=-1000.0, meta={"baseline": "04.00"}), S2, TEN)
    assert not date.valid[0].any() and date.valid[1:].all()
    assert (date.pixels[:, 0] == 0).all()
    assert (date.pixels[4, 1] == 1).all() and (date.pixels[3, 1] == 1500).all()
    assert date.meta["clipped_share"] == pytest.approx(8 / 560, abs=1e-6)
    assert date.meta["offset_applied"] == -1000 and date.meta["baseline"] == "04.00"


def test_an_offset_that_the_numbers_deny_is_not_taken_off(tmp_path, geotiff, capsys):
    path = geotiff(tmp_path / "a.tif", np.full((10, 8, 8), 400, np.uint16))
    date = get(item_of(path, S2, offset=-1000.0, meta={"baseline": "04.00"}), S2, TEN)
    assert (date.pixels == 400).all() and date.meta["offset_contradicted"] is True
    assert "too low to carry the offset of baseline 04.00" in capsys.readouterr().err


def test_scenes_of_another_resolution_and_place_are_brought_onto_the_grid(tmp_path, geotiff):
    fine, coarse = gradient(), gradient()[::2, ::2]
    assets = {}
    for number, band in enumerate(S2.bands):
        pixels, gsd = (fine, 10) if band.native_gsd_m == 10 else (coarse, 20)
        assets[band.name] = Asset(str(geotiff(tmp_path / f"{number}.tif", pixels, gsd=gsd, left=499900, top=5600100)))
    date = get(Item("item", TIME, assets, S2.units), S2, TEN)
    assert (date.pixels[0] == fine[10:18, 10:18]).all()
    assert abs(date.pixels[3].astype(int) - fine[10:18, 10:18].astype(int)).max() <= 8  # a 20 m band between its pixels
    assert date.valid.all()


def test_outside_the_file_there_is_nothing(tmp_path, geotiff):
    date = get(item_of(geotiff(tmp_path / "a.tif", np.full((10, 4, 4), 900, np.uint16)), S2), S2, TEN)
    assert date.valid[:4, :4].all() and date.valid.sum() == 16 and (date.pixels[:, 4:] == 0).all()


def test_a_shift_moves_the_picture_east_and_north(tmp_path, geotiff):
    path = geotiff(tmp_path / "a.tif", np.stack([gradient()] * 10), left=499900, top=5600100)
    still = get(item_of(path, S2), S2, TEN).pixels[0].astype(int)
    moved = get(item_of(path, S2), S2, TEN, shift_m=(5.0, -10.0)).pixels[0].astype(int)
    # half a pixel to the east: 5 less; one pixel to the south: 3 less
    assert abs(moved - still + 8).max() <= 1


def test_after_a_shift_clear_ground_loses_a_pixel_at_its_edge(tmp_path, geotiff):
    raw = np.stack([gradient()] * 10)
    classes = np.full((32, 32), 4, np.uint8)
    classes[14, 14] = 9
    path = geotiff(tmp_path / "a.tif", raw, left=499900, top=5600100)
    scl = Asset(str(geotiff(tmp_path / "scl.tif", classes, left=499900, top=5600100)))
    still = get(item_of(path, S2, extra={"SCL": scl}), S2, TEN, Scl(S2))
    moved = get(item_of(path, S2, extra={"SCL": scl}), S2, TEN, Scl(S2), shift_m=(20.0, 3.0))
    assert np.argwhere(~still.valid).tolist() == [[4, 4]]
    assert sorted(map(tuple, np.argwhere(~moved.valid))) == [(r, c) for r in (3, 4, 5) for c in (5, 6, 7)]


def test_saturated_pixels_are_invalid(tmp_path, geotiff):
    raw = np.full((10, 8, 8), 900, np.uint16)
    raw[2, 3, 3] = 65535
    date = get(item_of(geotiff(tmp_path / "a.tif", raw), S2), S2, TEN)
    assert np.argwhere(~date.valid).tolist() == [[3, 3]] and date.data.all()


def test_reflectance_as_fractions_is_refused_by_name_and_taken_with_a_scale(tmp_path, geotiff):
    path = geotiff(tmp_path / "a.tif", np.full((10, 8, 8), 0.23, np.float32))
    with pytest.raises(DataError, match=r"a.tif \(item\): .*set scale: 10000"):
        get(item_of(path, S2), S2, TEN)
    assert (get(item_of(path, S2, scale=10000.0), S2, TEN).pixels == 2300).all()


def test_some_bands_only(tmp_path, geotiff):
    path = geotiff(tmp_path / "a.tif", np.arange(1, 11, dtype=np.uint16)[:, None, None] * np.full((8, 8), 100, np.uint16))
    few = narrowed(S2, ("B08", "B02"))
    date = acquire(item_of(path, S2), few, TEN, bands=few.band_names, cloud_mask=NoMask(few))
    assert date.pixels[:, 0, 0].tolist() == [700, 100]
    assert few.mean == (S2.mean[6], S2.mean[0])
    with pytest.raises(DataError, match="sensor sentinel2_l2a has no band 'B99'"):
        narrowed(S2, ("B99",))
    with pytest.raises(DataError, match="item: has no band VV"):
        acquire(item_of(path, S2), GRD, TEN, bands=("VV",), cloud_mask=NoMask(GRD))


def test_linear_power_becomes_decibels_and_says_so(tmp_path, geotiff):
    power = np.random.default_rng(0).gamma(4, 0.02, (2, 8, 8)).astype(np.float32)
    power[:, 0, 0] = 0
    date = get(item_of(geotiff(tmp_path / "a.tif", power), RTC, units="gamma0 linear"), RTC, TEN)
    assert np.allclose(date.pixels[:, 1:], 10 * np.log10(power[:, 1:]), atol=1e-5)
    assert np.isnan(date.pixels[:, 0, 0]).all() and not date.valid[0, 0]
    assert date.meta["converted"] == "linear power to dB"


@pytest.mark.parametrize("units", ["sigma0 dB", "sigma0 linear"])
def test_radar_is_averaged_as_power(tmp_path, geotiff, units):
    power = np.random.default_rng(1).gamma(1, 0.05, (2, 8, 8)).astype(np.float32)
    stored = 10 * np.log10(power) if units.endswith("dB") else power
    date = get(item_of(geotiff(tmp_path / "a.tif", stored.astype(np.float32)), GRD, units=units), GRD, TWENTY)
    mean = power.reshape(2, 4, 2, 4, 2).mean(axis=(2, 4))
    assert np.allclose(date.pixels, 10 * np.log10(mean), atol=1e-3)


def test_radar_is_shifted_as_power(tmp_path, geotiff):
    power = np.tile(np.array([0.01, 1.0], np.float32), (2, 8, 4))
    date = get(item_of(geotiff(tmp_path / "a.tif", 10 * np.log10(power)), GRD), GRD, TEN, shift_m=(5.0, 0.0))
    assert np.allclose(date.pixels[:, :, 2:6], 10 * np.log10(0.505), atol=0.01)  # the mean of the decibels would be -10


def test_decibels_on_the_grid_are_not_touched_but_floored(tmp_path, geotiff):
    decibels = np.random.default_rng(2).uniform(-25, 0, (2, 8, 8)).astype(np.float32)
    decibels[1, 0, 0] = -60
    date = get(item_of(geotiff(tmp_path / "a.tif", decibels), GRD), GRD, TEN)
    assert date.pixels[1, 0, 0] == -35 and (date.pixels[:, 1:] == decibels[:, 1:]).all()
    assert date.meta["floored_share"] == pytest.approx(1 / 128, abs=1e-6)


def test_sigma0_and_gamma0_are_never_mixed(tmp_path, geotiff):
    path = geotiff(tmp_path / "a.tif", np.full((2, 8, 8), -12, np.float32))
    with pytest.raises(DataError, match="holds gamma0 dB, but sentinel1_grd is sigma0 dB; one modality never mixes"):
        get(item_of(path, GRD, units="gamma0 dB"), GRD, TEN)


def test_uncalibrated_radar_is_refused(tmp_path, geotiff):
    path = geotiff(tmp_path / "a.tif", np.full((2, 8, 8), 250, np.uint16))
    with pytest.raises(DataError, match="holds uncalibrated numbers .DN.; sentinel1_grd needs sigma0 in dB or linear power"):
        get(item_of(path, GRD, units="DN"), GRD, TEN)


def test_bright_ground_is_no_hole_in_8_bit_imagery_that_declares_255(tmp_path, geotiff):
    raw = np.full((3, 8, 8), 120, np.uint8)
    raw[:, 0, 0], raw[:, 1, 1] = 255, 0
    path = geotiff(tmp_path / "a.tif", raw, nodata=255)
    date = get(item_of(path, RGB), RGB, TEN)
    assert np.argwhere(~date.valid).tolist() == [[1, 1]] and (date.pixels[:, 0, 0] == 255).all()
    asked = get(item_of(path, RGB, nodata=255.0), RGB, TEN)
    assert np.argwhere(~asked.valid).tolist() == [[0, 0]]


def test_an_alpha_band_decides(tmp_path, geotiff):
    raw = np.full((4, 8, 8), 120, np.uint8)
    raw[:3, 0, 0] = 0  # black and opaque
    raw[3, 2, 2] = 0
    path = geotiff(tmp_path / "a.tif", raw)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    date = get(item_of(path, RGB), RGB, TEN)
    assert np.argwhere(~date.valid).tolist() == [[2, 2]] and date.pixels[:, 0, 0].tolist() == [1, 1, 1]


def test_wider_imagery_needs_an_explicit_stretch(tmp_path, geotiff):
    path = geotiff(tmp_path / "a.tif", np.full((3, 8, 8), 1600, np.uint16))
    with pytest.raises(DataError, match=r"a.tif: is uint16, rgb stores uint8; give the stretch explicitly"):
        get(item_of(path, RGB), RGB, TEN)
    assert (get(item_of(path, RGB, scale=0.0625), RGB, TEN).pixels == 100).all()


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "broken.tif"
    path.write_bytes(b"II*\0 not a tiff")
    with pytest.raises(GridError, match="broken.tif"):
        get(item_of(path, S2), S2, TEN)


def test_the_opaque_cloud_of_2018_11_12_that_scl_calls_snow_is_not_valid(shared_data):
    home = shared_data("ts_belgium_A")
    scl, path = home / "scl", next((home / "s2").glob("S2_20181112*.tif"))
    item = item_of(path, S2, extra={"SCL": Asset(str(next(scl.glob("SCL_20181112*.tif"))))})
    grid = make_grid(574680, 5622440, 10, 64, 64, "EPSG:32631")
    assert get(item, S2, grid, Scl(S2)).valid.mean() < 0.05
    assert get(item, S2, grid, Scl(S2, reject=(3, 8, 9, 10))).valid.mean() > 0.9


def test_reflectance_that_only_the_cloud_mask_reads_has_its_offset_removed(geotiff, tmp_path):
    class Spy(CloudMask):
        extra_bands = ("B01", "SCL")

        def valid(self, pixels, extra, gsd_m):
            self.seen = extra
            return np.ones(pixels.shape[-2:], bool)

    sensor = narrowed(sensors.get("sentinel2_l1c"), ["B02"])
    path = geotiff(
        tmp_path / "a_20230101.tif", [np.full((4, 4), value, np.uint16) for value in (2500, 1700, 4)], names=("B02", "B01", "SCL")
    )
    (item,) = Folder(path=str(path), offset=-1000).search(sensor, None, None, Spy.extra_bands)
    spy = Spy()
    acquire(item, sensor, make_grid(500000, 5600000, 10, 4, 4, "EPSG:32631"), bands=["B02"], cloud_mask=spy)
    assert (spy.seen["B01"] == 700).all() and (spy.seen["SCL"] == 4).all()


@pytest.mark.parametrize("hole", [False, True])
def test_a_date_of_ten_bands_never_needs_the_memory_of_three(tmp_path, geotiff, hole):
    """Four bands of 10 m, six of 20 m, one file each; with a hole nothing is doubled exactly."""
    side, random, assets = 1024, np.random.default_rng(0), {}
    for number, band in enumerate(S2.band_names):
        step = 1 if number in (0, 1, 2, 6) else 2
        pixels = random.integers(100, 5000, (side // step, side // step)).astype(np.uint16)
        pixels[:3, :5] = 0 if hole else 7
        assets[band] = Asset(str(geotiff(tmp_path / f"{band}.tif", pixels, gsd=10 * step)), 1)
    item = Item("item", TIME, assets, S2.units, {})
    grid = make_grid(500000, 5600000, 10, side, side, "EPSG:32631")
    get(item, S2, grid)  # imports and caches
    tracemalloc.start()
    try:
        date = get(item, S2, grid)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert date.valid.all() != hole
    assert most <= 3 * date.pixels.nbytes, f"{most / date.pixels.nbytes:.2f}"
