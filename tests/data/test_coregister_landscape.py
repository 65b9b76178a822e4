"""Known shifts up to 3 px on the simulated landscape, Sentinel-2 to Sentinel-2 and Sentinel-1 to Sentinel-2, with clouds and speckle.

Seasons, clouds, shadows, relief, roofs that face the radar and the instruments' point spread are those of `skysense demo`.
"""

import numpy as np
import pytest
from scipy import ndimage

from skysense_cli import sensors
from skysense_cli.data.acquire import narrowed
from skysense_cli.data.align import align
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.clouds.scl import Scl
from skysense_cli.data.coregister import Edges, Limits, edges, estimate, median_edges
from skysense_cli.data.feed import Feed
from skysense_cli.data.sources import Asset, Item
from skysense_cli.demo.landscape import World, make_world
from skysense_cli.demo.observe import BOA_OFFSET, FINE_BANDS, OpticalDate, RadarDate, sentinel1, sentinel2
from skysense_cli.demo.weather import Sky
from skysense_cli.recipe.schema.build import DatesSection

SIZE, GSD = 192, 10.0
MOST_PX = 3.0
LIMITS = Limits(max_shift_m=35, min_shift_m=1, min_score=0.2)
CLEAR, CUMULUS, BROKEN, OVERCAST = Sky("clear"), Sky("cumulus", 0.25), Sky("broken", 0.4), Sky("overcast", 1.0)
DAYS = ("2021-03-28", "2021-04-20", "2021-05-30", "2021-06-20", "2021-07-22", "2021-09-06", "2021-10-10")
WHOLE = ((1, 0), (-2, 1), (3, 0), (0, -3), (2, 2))  # pixels to the east and north
CRS, LEFT, TOP = "EPSG:32631", 500000.0, 5600000.0
BOUNDS = (LEFT, TOP - SIZE * GSD, LEFT + SIZE * GSD, TOP)
YEAR = (np.datetime64("2021-01-01"), np.datetime64("2021-12-31"))


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SIZE * 4, 11)


def optical(world: World, day: str, sky: Sky, shift_px, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the four 10 m bands, and the pixels that are truly clear."""
    east, north = (GSD * part for part in shift_px)
    images, weather = sentinel2(world, OpticalDate(day, sky, (east, north), 155, 45, seed), SIZE)
    return np.stack([images[band] for band in FINE_BANDS]).astype(np.float32) - BOA_OFFSET, weather.clear


def radar(world: World, date: str, orbit: int, shift_px, seed: int) -> np.ndarray:
    """Linear power of VV and VH; every other date after rain."""
    east, north = (GSD * part for part in shift_px)
    return sentinel1(world, RadarDate(date, orbit, orbit == 15, 38, 1.5 * (seed % 2), (east, north), seed), SIZE)


def known_shifts(count: int, seed: int) -> list[tuple[float, float]]:
    """Whole and fractional shifts of up to MOST_PX pixels, in pixels to the east and north."""
    random = np.random.default_rng(seed)
    lengths, angles = random.uniform(0.1, MOST_PX, count), random.uniform(0, 2 * np.pi, count)
    fractions = zip(lengths * np.cos(angles), lengths * np.sin(angles), strict=True)
    return [*WHOLE, *((float(east), float(north)) for east, north in fractions)]


def error_px(found, shift_px) -> float:
    return float(np.hypot(found.dx_m / GSD + shift_px[0], found.dy_m / GSD + shift_px[1]))


def spread(errors) -> str:
    median, p90 = np.quantile(errors, [0.5, 0.9])
    return f"{len(errors)} shifts: median {median:.3f} px, p90 {p90:.3f} px, largest {max(errors):.3f} px"


def matched(moving: Edges, reference: Edges, shift_px) -> float:
    found = estimate(moving, reference, gsd_m=GSD, max_shift_m=LIMITS.max_shift_m)
    assert found is not None and LIMITS.decide(found) != "refused", f"{shift_px}: {found}"
    return error_px(found, shift_px)


def test_sentinel2_pairs_of_other_seasons_and_clouds_are_matched_to_a_tenth_of_a_pixel(world):
    """Single dates against single dates: harder than against a median, which is what a build does."""
    errors = []
    for number, shift in enumerate(known_shifts(7, 1)):
        first, second = DAYS[number % 7], DAYS[(number + 1 + number % 3) % 7]
        reference = edges(*optical(world, first, (CLEAR, CUMULUS)[number % 2], (0, 0), number))
        errors.append(matched(edges(*optical(world, second, (CLEAR, CUMULUS, BROKEN)[number % 3], shift, 100 + number)), reference, shift))
    assert np.median(errors) <= 0.1, spread(errors)
    assert np.quantile(errors, 0.9) <= 0.3, spread(errors)


def test_sentinel2_against_the_median_of_clear_dates_is_matched_to_a_tenth_of_a_pixel(world):
    seen = [optical(world, day, CUMULUS, (0, 0), number) for number, day in enumerate(DAYS[:5])]
    reference = median_edges([image for image, _ in seen], [clear for _, clear in seen])
    errors = []
    for number, shift in enumerate(known_shifts(7, 2)):
        sky = (CLEAR, CUMULUS, BROKEN)[number % 3]
        errors.append(matched(edges(*optical(world, DAYS[number % 7], sky, shift, 200 + number)), reference, shift))
    assert np.median(errors) <= 0.1, spread(errors)
    assert np.quantile(errors, 0.9) <= 0.2, spread(errors)


@pytest.fixture(scope="module")
def s2(world, tmp_path_factory, geotiff) -> Feed:
    """Five dates at their right place, with clouds as a mask, and one overcast date whose mask calls it clear."""
    home, items = tmp_path_factory.mktemp("s2"), []
    sensor = narrowed(sensors.get("sentinel2_l2a"), FINE_BANDS)
    for number, day in enumerate((*DAYS[:5], "2021-08-10")):
        sky = OVERCAST if day == "2021-08-10" else (CLEAR, CUMULUS)[number % 2]
        image, clear = optical(world, day, sky, (0, 0), 300 + number)
        clear = np.ones_like(clear) if sky is OVERCAST else clear
        path = geotiff(home / f"{day}.tif", image.clip(1).astype(np.uint16))
        classes = geotiff(home / f"{day}_scl.tif", np.where(clear, 4, 9).astype(np.uint8))
        assets = {band: Asset(str(path), place) for place, band in enumerate(FINE_BANDS, 1)}
        items.append(Item(day, np.datetime64(day, "s"), {**assets, "SCL": Asset(str(classes))}, sensor.units))
    return Feed("s2", sensor, GSD, Scl(sensor), DatesSection(), tuple(items))


def test_radar_orbits_are_matched_with_sentinel2_to_three_tenths_of_a_pixel(world, s2, tmp_path, geotiff):
    """Through `align`: the temporal mean of each relative orbit against the optical reference; each orbit has its own shift."""
    shifts = dict(enumerate(known_shifts(5, 3), 15))
    sensor, items = sensors.get("sentinel1_rtc"), []
    for orbit, shift in shifts.items():
        for month in (2, 4, 5, 7, 9, 11):
            date = f"2021-{month:02d}-{orbit - 5:02d}"
            path = geotiff(tmp_path / f"{orbit}-{month}.tif", radar(world, date, orbit, shift, 31 * orbit + month))
            assets = {band: Asset(str(path), place) for place, band in enumerate(sensor.band_names, 1)}
            items.append(Item(f"{orbit}-{month}", np.datetime64(date, "s"), assets, "gamma0 linear", {"relative_orbit": orbit}))
    s1 = Feed("s1", sensor, GSD, NoMask(sensor), DatesSection(), tuple(items))
    found = align([s2, s1], "s2", BOUNDS, CRS, LIMITS, YEAR)["s1"]
    assert len(found) == len(items)
    assert {one.decision for one in found.values()} <= {"moved", "below min_shift"}
    errors = [error_px(found[f"{orbit}-2"].shift, shift) for orbit, shift in shifts.items()]
    assert np.median(errors) <= 0.3, spread(errors)
    assert np.quantile(errors, 0.9) <= 0.5, spread(errors)


def test_an_overcast_date_that_is_called_clear_is_refused_and_not_moved(s2):
    found = align([s2], "s2", BOUNDS, CRS, LIMITS, YEAR)["s2"]
    assert found["2021-08-10"].decision == "refused" and found["2021-08-10"].shift_m == (0, 0)
    assert all(not one.dropped for day, one in found.items() if day != "2021-08-10")


def test_a_date_with_a_few_holes_in_the_clouds_is_refused_or_not_measured(world):
    reference = edges(*optical(world, DAYS[1], CLEAR, (0, 0), 1))
    random = np.random.default_rng(4)
    for seed, sky in enumerate((Sky("broken", 0.97), Sky("cumulus", 0.9), Sky("broken", 0.99))):
        image, _ = optical(world, DAYS[3], sky, (1, 1), 400 + seed)
        field = ndimage.gaussian_filter(random.normal(size=(SIZE, SIZE)), 6)
        called_clear = field > np.quantile(field, 0.9)  # a mask that knows nothing of where the clouds are
        found = estimate(edges(image, called_clear), reference, gsd_m=GSD, max_shift_m=LIMITS.max_shift_m)
        assert found is None or LIMITS.decide(found) == "refused", f"{sky}: {found}"


def test_featureless_pairs_are_refused(world):
    """Sea against sea, and sea against land: only noise, so no shift may come of it."""
    random = np.random.default_rng(5)
    whole = np.ones((SIZE, SIZE), bool)
    land = edges(*optical(world, DAYS[1], CLEAR, (0, 0), 1))
    for seed in range(4):
        sea = [edges(300 + random.normal(0, 12, (4, SIZE, SIZE)), whole) for _ in range(2)]
        for reference in (sea[1], land):
            found = estimate(sea[0], reference, gsd_m=GSD, max_shift_m=LIMITS.max_shift_m)
            assert found is not None and LIMITS.decide(found) == "refused", f"{seed}: {found}"
