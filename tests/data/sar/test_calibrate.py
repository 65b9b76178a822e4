import numpy as np
import pytest

from skysense_cli.data.products.sentinel1 import AzimuthNoise, Noise, Vectors, read_calibration, read_noise
from skysense_cli.data.sar.calibrate import noise_power, sigma0, table

TABLE = Vectors(np.array([0.0, 10.0]), (np.array([0.0, 40, 80]), np.array([0.0, 80])), (np.array([10.0, 20, 40]), np.array([100.0, 200])))


def slow(vectors, line, sample):
    """One value: along the two lines around, then between them."""
    k = max(i for i in range(len(vectors.lines)) if vectors.lines[i] <= max(line, vectors.lines[0]))
    along = [np.interp(sample, vectors.samples[i], vectors.values[i]) for i in (k, min(k + 1, len(vectors.lines) - 1))]
    share = (line - vectors.lines[k]) / (vectors.lines[k + 1] - vectors.lines[k]) if k + 1 < len(vectors.lines) else 0
    return along[0] * (1 - max(share, 0)) + along[1] * max(share, 0)


def test_a_table_is_bilinear_between_its_vectors():
    found = table(TABLE, slice(0, 12), slice(0, 90))
    assert found[0, [0, 20, 60, 85]].tolist() == [10, 15, 30, 40]  # after the last sample the last value holds
    assert found[5, 40] == (20 + 150) / 2 and found[10, 40] == 150 and found[11, 40] == 150


def test_noise_is_taken_off_the_squared_numbers_before_the_division():
    flat = Vectors(np.array([0.0]), (np.array([0.0]),), (np.array([100.0]),))
    noise = Noise(flat, (AzimuthNoise((0, 9, 2, 3), np.array([0.0, 10.0]), np.array([1.0, 2.0])),))
    numbers = np.full((4, 4), 20, np.uint16)
    power = sigma0(numbers, Vectors(flat.lines, flat.samples, (np.array([10.0]),)), noise, slice(5, 9), slice(0, 4))
    assert np.allclose(power[:, :2], (400 - 100) / 100)  # outside the block there is no factor
    assert np.allclose(power[:, 2:], (400 - 100 * (1 + np.arange(5, 9) / 10))[:, None] / 100)
    dark = sigma0(np.full((4, 4), 9, np.uint16), flat, noise, slice(5, 9), slice(0, 4))
    assert (dark == 0).all()  # 81 - 100 is no power
    assert sigma0(numbers, flat, None, slice(5, 9), slice(0, 4))[0, 0] == pytest.approx(400 / 1e4)


@pytest.mark.parametrize("polarisation", ["vv", "vh"])
def test_the_real_tables_agree_with_one_value_at_a_time(grd_tree, polarisation):
    home = grd_tree / "annotation" / "calibration"
    calibration = read_calibration(next(home.glob(f"calibration-*-{polarisation}-*.xml")).read_bytes(), "c")
    noise = read_noise(next(home.glob(f"noise-*-{polarisation}-*.xml")).read_bytes(), "n")
    rows, columns = slice(13300, 13380), slice(8700, 8800)  # across a vector's line and the border of two subswaths
    numbers = np.random.default_rng(0).integers(1, 400, (80, 100)).astype(np.uint16)
    power, thermal = sigma0(numbers, calibration, noise, rows, columns), noise_power(noise, rows, columns)
    for r, c in [(0, 0), (41, 59), (42, 60), (79, 99)]:
        line, sample = 13300 + r, 8700 + c
        block = noise.by_azimuth[0 if sample <= 8759 else 1]
        expected = slow(noise.by_range, line, sample) * np.interp(line, block.lines, block.values)
        assert thermal[r, c] == pytest.approx(expected, rel=1e-5)
        amplitude = float(numbers[r, c])
        assert power[r, c] == pytest.approx(max(amplitude**2 - expected, 0) / slow(calibration, line, sample) ** 2, rel=1e-4)


def test_a_literal_value_of_the_real_product(grd_tree):
    home = grd_tree / "annotation" / "calibration"
    calibration = read_calibration(next(home.glob("calibration-*-vv-*.xml")).read_bytes(), "c")
    noise = read_noise(next(home.glob("noise-*-vv-*.xml")).read_bytes(), "n")
    one = sigma0(np.array([[200]], np.uint16), calibration, noise, slice(0, 1), slice(0, 1))
    assert one[0, 0] == pytest.approx((200**2 - 2392.147 * 1.040491) / 662.8682**2, rel=1e-5)
