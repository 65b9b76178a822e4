"""The in-memory sample as an xarray dataset."""

import numpy as np
import pytest
import rioxarray  # noqa: F401

from skysense_cli.data.sample import Sample, Series
from skysense_cli.geo.grid import lonlat, make_grid


def sample(crs="EPSG:32631"):
    grid = make_grid(504320, 5621120, 20, 3, 4, crs)
    pixels = np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)
    times = np.array(["2021-03-04T10:30:21", "2021-03-09T10:30:20"], "datetime64[s]")
    series = Series("sentinel1_grd", ("VV", "VH"), pixels, times, pixels[:, 0] > 2, ("a", "b"), grid, "sigma0 dB", float("nan"), ({}, {}))
    return Sample("x", crs, (504320, 5621060, 504400, 5621120), lonlat(grid), {"s1": series})


def test_a_series_becomes_a_dataset_with_pixel_centres_and_crs():
    made = sample()
    dataset = made.to_xarray("s1")
    assert dict(dataset.sizes) == {"time": 2, "band": 2, "y": 3, "x": 4}
    np.testing.assert_array_equal(dataset.x, [504330, 504350, 504370, 504390])
    np.testing.assert_array_equal(dataset.y, [5621110, 5621090, 5621070])
    np.testing.assert_array_equal(dataset.pixels, made.series["s1"].pixels)
    np.testing.assert_array_equal(dataset.valid, made.series["s1"].valid)
    assert dataset.band.values.tolist() == ["VV", "VH"] and dataset.item.values.tolist() == ["a", "b"]
    assert dataset.time.values[0] == np.datetime64("2021-03-04T10:30:21")
    assert dataset.rio.crs.to_epsg() == 32631
    assert tuple(dataset.rio.transform())[:6] == (20, 0, 504320, 0, -20, 5621120)
    assert dataset.rio.bounds() == made.bounds
    assert dataset.attrs == {"id": "x", "modality": "s1", "sensor": "sentinel1_grd", "units": "sigma0 dB"}


def test_values_are_found_by_coordinates_and_dates():
    dataset = sample().to_xarray("s1")
    found = dataset.pixels.sel(band="VH").sel(x=504351, y=5621069, method="nearest").sel(time="2021-03-09")
    assert found.item() == 45


def test_a_sample_without_a_place_has_no_crs():
    dataset = sample(crs="").to_xarray("s1")
    assert dataset.rio.crs is None


def test_an_absent_modality_is_a_key_error():
    with pytest.raises(KeyError, match="s2"):
        sample().to_xarray("s2")
