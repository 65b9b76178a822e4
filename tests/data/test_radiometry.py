import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data import radiometry
from skysense_cli.errors import DataError

S2, RGB, S1 = sensors.get("sentinel2_l2a"), sensors.get("rgb"), sensors.get("sentinel1_grd")
ONE, NONE = np.ones(10, np.float32), np.zeros(10, np.float32)


def test_the_offset_follows_the_processing_baseline():
    assert [radiometry.baseline_offset(text) for text in ("03.01", "02.14", "0399", "N0301", None, "")] == [0.0] * 6
    assert [radiometry.baseline_offset(text) for text in ("04.00", "05.09", "0509", "N0400", 4.0, "5.1")] == [-1000.0] * 6


def test_an_unreadable_baseline_is_refused():
    with pytest.raises(DataError, match="'latest' is no processing baseline"):
        radiometry.baseline_offset("latest")


def test_a_pixel_is_nodata_only_where_all_bands_are():
    raw = np.zeros((10, 1, 3), np.uint16)
    raw[:, 0, 0] = 500
    raw[3, 0, 0] = 0  # a single zero in a clear pixel
    raw[7, 0, 1] = 12
    assert radiometry.has_data(raw, np.ones_like(raw, bool), 0).tolist() == [[True, True, False]]


def test_the_offset_is_removed_and_what_the_clip_changed_is_counted():
    raw = np.full((10, 1, 4), 3000, np.uint16)
    raw[0, 0] = (900, 1000, 1001, 0)
    data = np.array([[True, True, True, False]])
    stored = radiometry.store(S2, raw, data, ONE, NONE - 1000)
    assert stored.pixels[0, 0].tolist() == [1, 1, 1, 0]
    assert stored.pixels[1, 0].tolist() == [2000, 2000, 2000, 0]
    assert stored.pixels.dtype == np.uint16
    assert stored.facts["clipped_share"] == pytest.approx(2 / 30, abs=1e-6)  # -100 and 0; 1 was stored as it is


@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (-1000, 1), (0, 0.5), (30.25, 2)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_numbers_of_any_kind_are_stored_as_the_formula_says(dtype, offset, scale):
    random = np.random.default_rng(0)
    raw = random.uniform(-70000, 70000, (2, 150, 7))
    raw[0, 10:90] = random.uniform(0, 9000, (80, 7))
    raw[:, :3] = [[[65535]], [[65534.6]]]
    if dtype.startswith("float"):
        raw[1, 100:103] = [[np.nan], [np.inf], [-np.inf]]
    else:
        raw = raw.clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    raw, data = raw.astype(dtype), random.random((150, 7)) < 0.9
    found = radiometry.store(S2, raw, data, np.full(2, scale, np.float32), np.full(2, offset, np.float32))
    counts = np.rint((raw.astype(np.float32) + np.float32(offset)) * np.float32(scale))
    kept = np.nan_to_num(counts, nan=1, posinf=65534, neginf=1).clip(1, 65534)
    np.testing.assert_array_equal(found.pixels, np.where(data, kept, 0))
    np.testing.assert_array_equal(found.good, data & ~(raw.astype(np.float64) >= 65534.5).any(axis=0))
    changed = (np.nan_to_num(counts, nan=1, posinf=65534, neginf=1) != kept) & data
    assert found.facts["clipped_share"] == pytest.approx(changed.sum() / (2 * data.sum()), abs=1e-6)


def test_saturated_pixels_are_stored_below_nodata_and_are_not_good():
    raw = np.full((10, 1, 2), 2000, np.uint16)
    raw[4, 0, 0] = 65535
    stored = radiometry.store(S2, raw, np.ones((1, 2), bool), ONE, NONE)
    assert stored.pixels[4, 0, 0] == 65534
    assert stored.good.tolist() == [[False, True]]
    assert stored.data.all()


def test_black_pixels_with_data_stay_apart_from_nodata():
    raw = np.zeros((3, 1, 3), np.uint8)
    raw[1, 0, 1] = 9
    stored = radiometry.store(RGB, raw, np.array([[True, True, False]]), ONE[:3], NONE[:3])
    assert stored.pixels[:, 0].T.tolist() == [[1, 1, 1], [0, 9, 0], [0, 0, 0]]


def test_power_becomes_decibels_with_a_floor_that_is_counted():
    linear = np.array([[[1.0, 0.1, 1e-5, 0.0]]], np.float32)
    stored = radiometry.store_db(linear, np.array([[True, True, True, False]]))
    assert np.allclose(stored.pixels[0, 0, :3], [0, -10, -35])
    assert np.isnan(stored.pixels[0, 0, 3])
    assert stored.facts["floored_share"] == pytest.approx(1 / 3, abs=1e-6)


@pytest.mark.parametrize(
    ("level", "applied"),
    [(300, False), (1300, True)],
    ids=["numbers that are too low to carry it", "numbers that carry it"],
)
def test_a_wrong_flag_about_the_offset_is_found_by_values(level, applied):
    raw = np.random.default_rng(0).integers(level - 100, level + 100, (10, 20, 20)).astype(np.uint16)
    offset, contradicted = radiometry.settle_offset(raw, np.ones((20, 20), bool), NONE - 1000, S2.band_names)
    assert (offset == (-1000 if applied else 0)).all()
    assert contradicted is not applied


def test_reflectance_between_0_and_1_is_refused_with_the_scale_to_set():
    counts = np.full((10, 5, 5), 0.23, np.float32)
    with pytest.raises(DataError, match="scene.tif: the median of a band is 0.23, .*looks like reflectance 0-1: set scale: 10000"):
        radiometry.check_numbers(S2, counts, np.ones((5, 5), bool), "scene.tif", S2.units)


def test_percent_and_negative_numbers_get_their_own_suggestion():
    data = np.ones((5, 5), bool)
    with pytest.raises(DataError, match="in percent: set scale: 100"):
        radiometry.check_numbers(S2, np.full((10, 5, 5), 8.0), data, "a", S2.units)
    with pytest.raises(DataError, match="negative counts"):
        radiometry.check_numbers(S2, np.full((10, 5, 5), -800.0), data, "a", S2.units)


def test_deep_water_and_snow_are_accepted():
    data = np.ones((5, 5), bool)
    water = np.stack([np.full((5, 5), level) for level in (120, 90, 30, 5, 3, 2, 1, 1, 1, 1)])
    radiometry.check_numbers(S2, water, data, "water", S2.units)
    radiometry.check_numbers(S2, np.full((10, 5, 5), 14000), data, "snow", S2.units)


def test_power_called_decibels_and_the_reverse_are_refused():
    random = np.random.default_rng(0)
    power, data = random.uniform(0.01, 0.4, (2, 9, 9)), np.ones((9, 9), bool)
    with pytest.raises(DataError, match="looks like linear power: set units: 'sigma0 linear'"):
        radiometry.check_numbers(S1, power, data, "a", "sigma0 dB")
    with pytest.raises(DataError, match="looks like dB: set units: 'sigma0 dB'"):
        radiometry.check_numbers(S1, 10 * np.log10(power), data, "a", "sigma0 linear")
    with pytest.raises(DataError, match="uncalibrated numbers"):
        radiometry.check_numbers(S1, power * 4000, data, "a", "sigma0 linear")
    radiometry.check_numbers(S1, power, data, "a", "sigma0 linear")
    radiometry.check_numbers(S1, power - 0.015, data, "noise was taken off", "sigma0 linear")
