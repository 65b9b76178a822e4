"""Shifts of whole modalities: another resolution, radar by orbit, what is refused and what stays."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from skysense_cli import sensors
from skysense_cli.data.align import align
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.coregister import Limits
from skysense_cli.data.feed import Feed
from skysense_cli.data.sources import Asset, Item
from skysense_cli.recipe.schema.build import DatesSection

S2, RGB, GRD = (sensors.get(name) for name in ("sentinel2_l2a", "rgb", "sentinel1_grd"))
CRS, LEFT, TOP, SIDE = "EPSG:32631", 500000.0, 5600000.0, 128  # px of 10 m
BOUNDS = (LEFT, TOP - SIDE * 10, LEFT + SIDE * 10, TOP)
YEAR = (np.datetime64("2021-01-01"), np.datetime64("2021-12-31"))
LIMITS = Limits(max_shift_m=20, min_shift_m=1, min_score=0.2)
DAYS = ("2021-03-01", "2021-05-01", "2021-07-01", "2021-09-01")


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    """(bands, rows, columns) of 2.5 m pixels: fields of random brightness."""
    random = np.random.default_rng(3)
    size = SIDE + 16
    points = random.uniform(0, size, (size * size // 200, 2))
    rows, columns = np.mgrid[:size, :size]
    fields = np.argmin([(rows - y) ** 2 + (columns - x) ** 2 for y, x in points], axis=0)
    return np.kron(random.uniform(0.1, 1.0, (10, len(points)))[:, fields], np.ones((4, 4)))


def seen(ground: np.ndarray, bands: int, factor: int, east_m: float, north_m: float) -> np.ndarray:
    """The ground in pixels of 2.5 m x factor, shown so many metres too far east and north."""
    moved = ndimage.shift(ground[:bands], (0, -north_m / 2.5, east_m / 2.5), order=1, mode="nearest")[:, 32:-32, 32:-32]
    side = moved.shape[1] // factor
    return moved.reshape(bands, side, factor, side, factor).mean(axis=(2, 4))


def feed(name, sensor, gsd, paths, units=None, meta=None) -> Feed:
    items = [
        Item(f"{name}{k}", np.datetime64(day, "s"), {band: Asset(str(path), n) for n, band in enumerate(sensor.band_names, 1)},
             units or sensor.units, (meta or {}).get(k, {}))
        for k, (day, path) in enumerate(zip(DAYS, paths, strict=False))
    ]  # fmt: skip
    return Feed(name, sensor, gsd, NoMask(sensor), DatesSection(), tuple(items))


@pytest.fixture(scope="module")
def s2(tmp_path_factory, geotiff, ground) -> Feed:
    """Four dates at their right place."""
    home, random = tmp_path_factory.mktemp("s2"), np.random.default_rng(0)
    paths = []
    for k in range(4):
        pixels = seen(ground, 10, 4, 0, 0) * 3000 + random.normal(0, 30, (10, SIDE, SIDE))
        paths.append(geotiff(home / f"{k}.tif", pixels.clip(1).astype(np.uint16)))
    return feed("s2", S2, 10.0, paths)


def test_a_sharper_modality_is_measured_on_the_coarser_grid(s2, tmp_path, geotiff, ground):
    path = geotiff(tmp_path / "a.tif", (seen(ground, 3, 1, 7.5, -5.0) * 250).astype(np.uint8), gsd=2.5)
    found = align([s2, feed("hr", RGB, 2.5, [path])], "s2", BOUNDS, CRS, LIMITS, YEAR)["hr"]["hr0"]
    assert found.decision == "moved"
    assert found.shift_m == pytest.approx((-7.5, 5.0), abs=1.5)


def test_a_shift_beyond_the_limit_drops_the_date(s2, tmp_path, geotiff, ground):
    path = geotiff(tmp_path / "a.tif", (seen(ground, 3, 1, 25.0, 0.0) * 250).astype(np.uint8), gsd=2.5)
    found = align([s2, feed("hr", RGB, 2.5, [path])], "s2", BOUNDS, CRS, LIMITS, YEAR)["hr"]["hr0"]
    assert found.decision == "refused" and found.dropped and found.shift_m == (0, 0)
    assert found.shift.length_m == pytest.approx(25, abs=2)


def test_radar_is_measured_by_orbit_as_a_temporal_mean(s2, tmp_path, geotiff, ground):
    random, paths = np.random.default_rng(1), []
    for k in range(4):  # orbit 15 lies 12 m too far east, orbit 88 right
        power = seen(ground, 2, 4, 12.0 if k < 2 else 0.0, 0.0) * 0.2 * random.gamma(30, 1 / 30, (2, SIDE, SIDE))
        paths.append(geotiff(tmp_path / f"{k}.tif", power.astype(np.float32)))
    orbits = {k: {"relative_orbit": 15 if k < 2 else 88} for k in range(4)}
    found = align([s2, feed("s1", GRD, 10.0, paths, "sigma0 linear", orbits)], "s2", BOUNDS, CRS, LIMITS, YEAR)["s1"]
    assert found["s10"] == found["s11"] and found["s12"] == found["s13"]
    assert found["s10"].shift_m == pytest.approx((-12, 0), abs=2)
    assert found["s12"].decision in ("below min_shift", "moved") and np.hypot(*found["s12"].shift_m) < 2


def test_radar_that_shows_nothing_of_the_ground_stays_as_geocoded(s2, tmp_path, geotiff):
    power = np.random.default_rng(2).gamma(1, 0.1, (2, SIDE, SIDE)).astype(np.float32)
    path = geotiff(tmp_path / "a.tif", power)
    found = align([s2, feed("s1", GRD, 10.0, [path], "sigma0 linear")], "s2", BOUNDS, CRS, LIMITS, YEAR)["s1"]["s10"]
    assert found.decision == "kept as geocoded" and not found.dropped and found.shift_m == (0, 0)


def test_dates_below_the_limit_are_left_as_they_are(s2):
    found = align([s2], "s2", BOUNDS, CRS, LIMITS, YEAR)["s2"]
    assert {one.decision for one in found.values()} == {"below min_shift"}
    assert all(one.shift_m == (0, 0) and one.shift.length_m < 0.5 for one in found.values())


def test_a_reference_without_clear_ground_moves_nothing(s2, tmp_path, geotiff, ground, capsys):
    empty = feed("s2", S2, 10.0, [geotiff(tmp_path / "e.tif", np.zeros((10, SIDE, SIDE), np.uint16))] * 2)
    path = geotiff(tmp_path / "a.tif", (seen(ground, 3, 1, 7.5, 0) * 250).astype(np.uint8), gsd=2.5)
    found = align([empty, feed("hr", RGB, 2.5, [path])], "s2", BOUNDS, CRS, LIMITS, YEAR)
    assert "hr" not in found
    assert "no date of s2 is clear enough to co-register hr" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_left_out(s2, tmp_path):
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    items = (
        *s2.items,
        Item("bad", np.datetime64("2021-10-01", "s"), dict.fromkeys(S2.band_names, Asset(str(tmp_path / "bad.tif"))), S2.units),
    )
    found = align([Feed("s2", S2, 10.0, NoMask(S2), DatesSection(), items)], "s2", BOUNDS, CRS, LIMITS, YEAR)["s2"]
    assert set(found) == {item.id for item in s2.items}


def test_a_small_block_is_measured_with_five_kilometres_around_it(s2):
    """640 m in the middle of scenes of 1280 m: as much is used as the scenes have, and outside them nothing is valid."""
    left, bottom, right, top = BOUNDS
    seen = []
    mask = type("Seen", (NoMask,), {"valid": lambda self, pixels, extra, gsd_m: seen.append(pixels) or np.ones(pixels.shape[1:], bool)})
    feed = replace(s2, cloud_mask=mask(S2))
    found = align([feed], "s2", (left + 320, bottom + 320, right - 320, top - 320), CRS, LIMITS, YEAR)["s2"]
    assert {one.decision for one in found.values()} == {"below min_shift"}
    assert {pixels.shape[1:] for pixels in seen} == {(512, 512)} and {int((pixels[0] > 0).sum()) for pixels in seen} == {SIDE * SIDE}
