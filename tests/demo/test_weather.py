import numpy as np
import pytest
from scipy import ndimage

from skysense_cli.demo.weather import SCL_UNCLASSIFIED, Sky, classify, cover_with, make_weather

SHAPE = (200, 200)


def weather(kind: str, cover: float, base_m: float = 800, azimuth: float = 180.0, elevation: float = 45.0, seed: int = 5):
    return make_weather(Sky(kind, cover, base_m), SHAPE, azimuth, elevation, seed)


def test_a_clear_sky_hides_nothing():
    assert weather("clear", 0).clear.all()


def test_an_overcast_sky_hides_everything():
    assert not weather("overcast", 1).clear.any()


def test_clouds_cover_the_share_they_are_asked_for():
    assert (weather("broken", 0.4).alpha > 0).mean() == pytest.approx(0.4, abs=0.01)


def test_shadows_lie_on_the_side_away_from_the_sun():
    """Sun in the south at 45 degrees: a cloud at 400 m throws its shadow 400 m, 40 pixels, to the north."""
    sky = weather("broken", 0.3, base_m=400)
    found = ndimage.shift(sky.alpha, (-40, 0), order=1)
    np.testing.assert_allclose(sky.shade[:150], 0.92 * found[:150], atol=0.02)


def test_the_lower_the_sun_the_longer_the_shadow():
    """Sun in the east at atan(1/2): 400 m of height give 800 m of shadow to the west."""
    sky = weather("broken", 0.3, base_m=400, azimuth=90, elevation=float(np.degrees(np.arctan(0.5))))
    np.testing.assert_allclose(sky.shade[:, :110], 0.92 * ndimage.shift(sky.alpha, (0, -80), order=1)[:, :110], atol=0.02)


def test_opaque_cloud_shows_only_itself_and_clear_sky_only_the_ground():
    ground, cloud = np.full((2, *SHAPE), 0.1), np.array([0.6, 0.3])
    np.testing.assert_array_equal(cover_with(ground, weather("clear", 0), cloud), ground)
    hidden = cover_with(ground, weather("overcast", 1), cloud)
    assert hidden[0] == pytest.approx(0.6, abs=0.02)
    assert hidden[1] == pytest.approx(0.3, abs=0.02)


def codes_of(sky: Sky, **ground):
    plain = {"bright": np.zeros(SHAPE), "ndvi": np.full(SHAPE, 0.7), "water": np.zeros(SHAPE)} | ground
    return classify(make_weather(sky, SHAPE, 160, 40, 3), sky, plain["bright"], plain["ndvi"], plain["water"], 4)


def test_the_classification_calls_bright_roofs_cloud_under_a_clear_sky():
    roofs = np.zeros(SHAPE)
    roofs[50:60, 50:60] = 1
    codes = codes_of(Sky("clear"), bright=roofs)
    assert set(np.unique(codes[50:60, 50:60])) == {8}
    assert np.isin(codes, (8, 9)).mean() < 0.01


def test_the_classification_finds_thick_cloud_and_misses_most_of_thin_cloud():
    for kind, low, high in (("broken", 0.85, 1), ("thin", 0.05, 0.7)):
        sky = Sky(kind, 0.3, 1200)
        cloud = make_weather(sky, SHAPE, 160, 40, 3).alpha > 0.15
        assert low <= np.isin(codes_of(sky)[cloud], (8, 9, 10)).mean() <= high, kind


def test_the_classification_leaves_an_overcast_scene_unclassified():
    assert (codes_of(Sky("overcast", 1)) == SCL_UNCLASSIFIED).mean() > 0.9
