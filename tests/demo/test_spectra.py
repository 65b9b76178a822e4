import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.demo.spectra import BANDS, CLASSES, COLORS, CROPS, SPECTRA, SURFACES, Growth, backscatter, green_cover, reflectance

PLAIN = Growth(early=np.zeros(1), vigour=np.ones(1), soil=np.ones(1), cut=np.full(1, 138.0))


def ndvi(surface: str, day: float) -> float:
    values = reflectance(surface, day, PLAIN)[0][0]
    red, infrared = values[BANDS.index("B04")], values[BANDS.index("B08")]
    return (infrared - red) / (infrared + red)


def test_bands_are_those_of_the_sensor_in_its_order():
    assert sensors.get("sentinel2_l2a").band_names == BANDS


def test_every_spectrum_is_a_reflectance_in_every_band():
    for name, values in SPECTRA.items():
        assert len(values) == len(BANDS) and 0 < min(values) and max(values) < 1, name


def test_every_class_has_a_surface_and_a_colour():
    assert {surface.land_cover for surface in SURFACES.values()} == set(range(len(CLASSES)))
    assert len(set(COLORS)) == len(CLASSES)


@pytest.mark.parametrize(("surface", "green_day", "bare_day"), [("cereal", 130, 235), ("maize", 220, 120), ("beet", 230, 110)])
def test_crops_are_green_in_their_season_and_bare_outside_it(surface, green_day, bare_day):
    assert ndvi(surface, green_day) > 0.7
    assert ndvi(surface, bare_day) < 0.35


def test_rapeseed_flowers_yellow_in_early_may():
    before, flowering = (reflectance("rapeseed", day, PLAIN)[0][0] for day in (95, 126))
    green, blue = BANDS.index("B03"), BANDS.index("B02")
    assert flowering[green] > 1.5 * before[green]
    assert flowering[green] > 2.5 * flowering[blue]


def test_an_early_field_is_ahead_by_its_days():
    early = Growth(np.array([10.0]), np.ones(1), np.ones(1), np.full(1, 138.0))
    assert green_cover("maize", 170, early)[0] == pytest.approx(green_cover("maize", 180, PLAIN)[0], abs=0.02)


def test_a_cut_meadow_is_less_green_than_the_day_before():
    assert green_cover("grassland", 138, PLAIN)[0] < 0.6 * green_cover("grassland", 137, PLAIN)[0]


def test_conifers_and_water_do_not_change_with_the_season():
    for surface in ("conifer", "lake"):
        np.testing.assert_array_equal(reflectance(surface, 40, PLAIN)[0], reflectance(surface, 200, PLAIN)[0])


def test_radar_sees_water_dark_and_roofs_bright():
    levels = {name: backscatter(name, 180, PLAIN)[0, 0] for name in ("lake", "cereal", "broadleaf", "clay tiles")}
    assert levels["lake"] < levels["cereal"] < levels["broadleaf"] < levels["clay tiles"]


def test_growing_cereal_is_darker_in_radar_than_its_bare_soil():
    assert backscatter("cereal", 140, PLAIN)[0, 0] < backscatter("cereal", 15, PLAIN)[0, 0] - 3


def test_crops_are_distinct_from_each_other_on_some_day():
    days = range(60, 300, 10)
    series = {crop: np.concatenate([reflectance(crop, day, PLAIN)[0][0] for day in days]) for crop in CROPS}
    for first in CROPS:
        for second in CROPS:
            assert first == second or np.abs(series[first] - series[second]).max() > 0.1
