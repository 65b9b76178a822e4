import numpy as np
import pytest
from scipy import ndimage

from skysense_cli.demo.landscape import MARGIN_PX
from skysense_cli.demo.observe import BOA_OFFSET, OpticalDate, RadarDate, orthophoto, resample, sampling, sentinel1, sentinel2
from skysense_cli.demo.spectra import NAMES
from skysense_cli.demo.weather import Sky


def optical(shift=(0.0, 0.0), sky=Sky("clear")):
    return OpticalDate("2021-06-14T10:30:00", sky, shift, 155.0, 60.0, seed=3)


def test_weights_of_a_pixel_add_up_to_one():
    np.testing.assert_allclose(sampling(20, 10, 3.3, 200).sum(axis=1), 1, atol=1e-6)


def test_content_moves_by_the_shift():
    """A bright hill 7 m further east and 4 m further north has its centre of mass there."""
    y, x = np.mgrid[:200, :200]
    ground = np.exp(-((x - 100) ** 2 + (y - 100) ** 2) / (2 * 12**2)).astype(np.float32)
    still, moved = resample(ground, 40, 10, (0, 0)), resample(ground, 40, 10, (7, 4))
    difference = np.subtract(ndimage.center_of_mass(moved), ndimage.center_of_mass(still))
    assert tuple(difference) == pytest.approx((-0.4, 0.7), abs=0.01)  # rows down, columns right


def test_a_coarse_image_of_an_even_ground_is_even():
    np.testing.assert_allclose(resample(np.full((200, 200), 0.3, np.float32), 10, 20, (5, -5)), 0.3, rtol=1e-5)


def test_sentinel2_comes_in_its_resolutions_with_the_offset(world):
    images, weather = sentinel2(world, optical(), 200)
    assert {name: image.shape[0] for name, image in images.items() if name in ("B02", "B08", "B05", "B12", "SCL")} == {
        "B02": 200, "B08": 200, "B05": 100, "B12": 100, "SCL": 100,
    }  # fmt: skip
    assert all(image.dtype == (np.uint8 if name == "SCL" else np.uint16) for name, image in images.items())
    assert weather.clear.all()
    water = resample((world.land_cover == 0).astype(np.float32), 200, 10, (0, 0)) > 0.99
    assert np.median(images["B08"][water]) - BOA_OFFSET == pytest.approx(150, abs=80)


def test_green_fields_are_vegetation_and_the_lake_is_water_in_the_classification(world):
    images, _ = sentinel2(world, optical(), 200)
    forest = resample(np.isin(world.land_cover, (1, 2)).astype(np.float32), 100, 20, (0, 0)) > 0.99
    assert (images["SCL"][forest] == 4).mean() > 0.95


def test_an_overcast_date_shows_nothing_of_the_ground(world):
    images, _ = sentinel2(world, optical(sky=Sky("overcast", 1)), 200)
    clear, _ = sentinel2(world, optical(), 200)
    assert images["B08"].std() < 0.1 * clear["B08"].std()


def test_equal_dates_give_equal_images(world):
    first, again = (sentinel2(world, optical(sky=Sky("cumulus", 0.2)), 100)[0] for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


def test_speckle_has_the_looks_of_a_grd_product(world):
    date = RadarDate("2021-06-17T17:17:05", 15, True, 38.0, 0.0, (0.0, 0.0), seed=1)
    power = sentinel1(world, date, 200)
    assert power.dtype == np.float32 and power.shape == (2, 200, 200) and power.min() > 0
    lake = resample((world.surface == NAMES.index("lake")).astype(np.float32), 200, 10, (0, 0)) > 0.999
    values = power[0][lake]
    assert values.mean() ** 2 / values.var() == pytest.approx(4.4, rel=0.25)


def test_two_orbits_differ_over_the_town_more_than_over_forest(world):
    dates = [RadarDate("2021-06-17T17:17:05", 15, up, 38.0, 0.0, (0.0, 0.0), seed=1) for up in (True, False)]
    ratio = np.abs(np.log(np.divide(*(sentinel1(world, date, 200)[0] for date in dates))))
    town, forest = (resample(np.isin(world.land_cover, ids).astype(np.float32), 200, 10, (0, 0)) > 0.9 for ids in ((8,), (1, 2)))
    assert ratio[town].mean() > 2 * ratio[forest].mean()


def test_trees_darken_the_orthophoto_beside_them(world):
    photo = orthophoto(world, 136, 800)
    inside = slice(MARGIN_PX, -MARGIN_PX)
    assert photo.shape == (3, 800, 800) and photo.dtype == np.uint8 and photo.min() > 0
    field = np.isin(world.land_cover[inside, inside], (3, 4))
    near_trees = ndimage.maximum_filter(world.height_m[inside, inside], 9) > 10
    assert photo[1][field & near_trees].mean() < photo[1][field & ~near_trees].mean()
