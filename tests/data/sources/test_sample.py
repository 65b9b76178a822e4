"""Samples as scenes: what was stored comes back, on its own pixels or on others, with the validity it was given."""

import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data import npz
from skysense_cli.data.acquire import acquire
from skysense_cli.data.clouds.none import build as no_mask
from skysense_cli.data.sample import Sample, Series
from skysense_cli.data.sources.sample import Samples
from skysense_cli.errors import DataError, SourceError
from skysense_cli.geo.grid import lonlat, make_grid

S2, S1 = sensors.get("sentinel2_l2a"), sensors.get("sentinel1_grd")
BOUNDS, CRS = (500_000.0, 5_599_840.0, 500_160.0, 5_600_000.0), "EPSG:32631"


def series(sensor, gsd, dates):
    side, rng = round(160 / gsd), np.random.default_rng(1)
    shape = (dates, len(sensor.bands), side, side)
    pixels = rng.normal(-12, 3, shape) if sensor.kind == "sar" else rng.integers(500, 4000, shape)
    pixels, valid = pixels.astype(sensor.dtype), np.ones((dates, side, side), bool)
    pixels[0, :, 0, 0], valid[0, 0, :2] = sensor.nodata, False  # a hole, and a cloud beside it
    times = np.array([f"2021-0{n + 1}-01" for n in range(dates)], "datetime64[s]")
    return Series(
        sensor=sensor.name, bands=sensor.band_names, pixels=pixels, times=times,
        valid=valid, items=tuple(f"{sensor.name}-{n}" for n in range(dates)), grid=make_grid(BOUNDS[0], BOUNDS[3], gsd, side, side, CRS),
        units=sensor.units, nodata=sensor.nodata, meta=({},) * dates,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path):
    parts = {"s2": series(S2, 10, 2), "s1": series(S1, 20, 1)}
    npz.write(Sample("place", CRS, BOUNDS, lonlat(BOUNDS, CRS), parts), tmp_path / "place.npz")
    return tmp_path / "place.npz"


def read(item, sensor, grid, bands=None):
    return acquire(item, sensor, grid, bands=bands or sensor.band_names, cloud_mask=no_mask(sensor))


@pytest.mark.parametrize(("sensor", "gsd"), [(S2, 10), (S1, 20)])
def test_dates_come_back_as_they_were_stored(path, sensor, gsd):
    stored = series(sensor, gsd, 2 if sensor is S2 else 1)
    items = Samples(path=str(path)).search(sensor, None, None)
    assert [item.id for item in items] == list(stored.items) and [item.time for item in items] == list(stored.times)
    for item, pixels, valid in zip(items, stored.pixels, stored.valid, strict=True):
        found = read(item, sensor, stored.grid)
        np.testing.assert_array_equal(found.pixels, pixels)
        np.testing.assert_array_equal(found.valid, valid)


def test_a_window_that_reaches_beyond_the_sample_is_nodata_there(path):
    item = Samples(path=str(path)).search(S2, None, None)[1]
    grid = make_grid(BOUNDS[0] + 120, BOUNDS[3] + 40, 10, 12, 12, CRS)
    found = read(item, S2, grid, ("B04", "B02"))
    np.testing.assert_array_equal(found.valid, np.outer(np.arange(12) >= 4, np.arange(12) < 4))
    stored = series(S2, 10, 2).pixels[1]
    np.testing.assert_array_equal(found.pixels[:, 4:, :4], stored[[2, 0], :8, 12:])
    far = read(item, S2, make_grid(0, 0, 10, 4, 4, CRS))
    assert not far.data.any() and not far.valid.any() and (far.pixels == 0).all()


def test_other_pixels_are_averages_in_power(path):
    item = Samples(path=str(path)).search(S1, None, None)[0]
    found = read(item, S1, make_grid(BOUNDS[0], BOUNDS[3], 40, 4, 4, CRS))
    stored = 10 ** (series(S1, 20, 1).pixels[0].astype(float) / 10)
    np.testing.assert_allclose(10 ** (found.pixels[0, 2, 3] / 10), stored[0, 4:6, 6:8].mean(), rtol=1e-4)


def test_what_the_sample_lacks_is_named(path, tmp_path):
    with pytest.raises(SourceError, match=r"has 0 series of rgb \(found: s1 \(sentinel1_grd\), s2 \(sentinel2_l2a\)\)"):
        Samples(path=str(path)).search(sensors.get("rgb"), None, None)
    with pytest.raises(SourceError, match="no series 'hr' of sentinel2_l2a"):
        Samples(path=str(path), modality="hr").search(S2, None, None)
    with pytest.raises(SourceError, match="s2 has no band SCL"):
        Samples(path=str(path)).search(S2, None, None, ("SCL",))
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"bad.npz"):
        Samples(path=str(tmp_path / "bad.npz")).search(S2, None, None)
    period = np.datetime64("2020-01-01"), np.datetime64("2020-12-31")
    assert Samples(path=str(path)).search(S2, None, period) == []
