"""Shifts of simulated Sentinel-2 pairs, with clouds masked, noise, and fields that change with the season."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from skysense_cli.data.coregister import Edges, Limits, Shift, build_reference, edges, estimate, median_edges

SIZE, GSD = 160, 10.0


def fields(random: np.random.Generator, size: int) -> np.ndarray:
    """A label map of irregular fields about 15 px across."""
    points = random.uniform(0, size, (size * size // 220, 2))
    return cKDTree(points).query(np.stack(np.mgrid[:size, :size], -1))[1]


class Ground:
    """Ground at 4 x the resolution; a date of it is moved, averaged and noisy, each field with its own brightness that day."""

    def __init__(self, seed: int, size: int = SIZE) -> None:
        self.random = np.random.default_rng(seed)
        self.size, self.margin = size, 8
        self.fields = np.kron(fields(self.random, size + 2 * self.margin), np.ones((4, 4), int))
        self.base = self.random.uniform(400, 3000, (4, self.fields.max() + 1))

    def date(self, right_px: float, down_px: float, change: float = 1.0, noise: float = 40.0) -> np.ndarray:
        """(4, size, size): the ground shown so many pixels too far to the right and down."""
        level = (1 - change) * self.base + change * self.random.uniform(400, 3000, self.base.shape)
        fine = ndimage.shift(level[:, self.fields], (0, 4 * down_px, 4 * right_px), order=1, mode="nearest")
        side = self.fields.shape[0] // 4
        coarse = fine.reshape(4, side, 4, side, 4).mean(axis=(2, 4))
        cut = slice(self.margin, -self.margin)
        return coarse[:, cut, cut] + self.random.normal(0, noise, (4, self.size, self.size))

    def clouds(self, share: float) -> np.ndarray:
        """(size, size) bool: clear ground around smooth clouds that cover about `share`."""
        field = ndimage.gaussian_filter(self.random.normal(size=(self.size, self.size)), 12)
        return field > np.quantile(field, share)


def one_date(ground: Ground, clear: np.ndarray, right: float, down: float, change: float) -> Edges:
    image = ground.date(right, down, change)
    image[:, ~clear] = 9000 + ground.random.normal(0, 300, (4, int((~clear).sum())))
    return edges(image, clear)


def test_shifts_of_cloudy_pairs_are_found_to_a_fraction_of_a_pixel():
    errors = []
    for seed in range(3):
        ground = Ground(seed)
        reference = median_edges([ground.date(0, 0, 0.6) for _ in range(7)], [np.ones((SIZE, SIZE), bool)] * 7)
        for _ in range(5):
            angle, length = ground.random.uniform(0, 2 * np.pi), ground.random.uniform(0.6, 1.4)
            right, down = length * np.cos(angle), length * np.sin(angle)
            found = estimate(one_date(ground, ground.clouds(0.4), right, down, 0.6), reference, gsd_m=GSD, max_shift_m=20)
            assert found is not None and Limits(20, 2, 0.2).decide(found) == "moved"
            errors.append(np.hypot(found.dx_m / GSD + right, -found.dy_m / GSD + down))
    assert np.median(errors) <= 0.15
    assert np.quantile(errors, 0.9) <= 0.35


def test_a_picture_too_far_to_the_right_and_down_is_moved_west_and_north():
    ground = Ground(3)
    clear = np.ones((SIZE, SIZE), bool)
    reference = edges(ground.date(0, 0, 0), clear)
    found = estimate(edges(ground.date(1.0, 0.5, 0), clear), reference, gsd_m=GSD, max_shift_m=20)
    assert found is not None
    assert (found.dx_m, found.dy_m) == pytest.approx((-10, 5), abs=1)


def test_a_featureless_overcast_date_is_refused_though_called_clear():
    ground = Ground(4)
    clear = np.ones((SIZE, SIZE), bool)
    reference = median_edges([ground.date(0, 0) for _ in range(5)], [clear] * 5)
    for smooth in (0, 1, 3):
        haze = ndimage.gaussian_filter(ground.random.normal(0, 1, (4, SIZE, SIZE)), (0, smooth, smooth)) * 200 + 6000
        found = estimate(edges(haze, clear), reference, gsd_m=GSD, max_shift_m=20)
        assert found is not None and Limits(20, 2, 0.2).decide(found) == "refused"


def test_what_shines_through_thick_cloud_stands_alone_on_much_ground_and_is_refused_nonetheless():
    size = 320
    ground, clear = Ground(11, size), np.ones((size, size), bool)
    reference = median_edges([ground.date(0, 0, 0.5) for _ in range(3)], [clear] * 3)
    for _ in range(4):
        cloud = 8000 + ground.random.normal(0, 60, (4, size, size))
        image = 0.015 * ground.date(1.0, 0.5, 0.5, noise=0) + 0.985 * cloud
        found = estimate(edges(image, clear), reference, gsd_m=GSD, max_shift_m=20)
        assert found is not None and found.score >= 0.2 and found.length_m <= 20
        assert Limits(20, 2, 0.2).decide(found) == "refused", found


def test_chance_alone_is_never_taken_for_a_match():
    """Other places on little common ground, with nothing asked of score and correlation."""
    anything, clear = Limits(20, 0, min_score=0, min_correlation=0), np.ones((96, 96), bool)
    for seed in range(20):
        first, second, valid = Ground(100 + seed, 96), Ground(500 + seed, 96), np.zeros((96, 96), bool)
        valid[: 30 + 3 * seed, : 30 + 3 * seed] = True
        found = estimate(edges(first.date(0, 0), valid), edges(second.date(0, 0), clear), gsd_m=GSD, max_shift_m=20)
        assert found is not None and not anything.shows_ground(found) and not anything.is_clear(found), f"{seed}: {found}"


def test_the_correlation_of_chance_falls_with_the_root_of_the_common_ground():
    ground, clear, half = Ground(9), np.ones((SIZE, SIZE), bool), np.ones((SIZE, SIZE), bool)
    half[:, SIZE // 2 + 2 :] = False  # and two columns less, which the cloud's edge carries
    image = ground.date(0, 0, 0)
    found = [estimate(edges(image, valid), edges(image, clear), gsd_m=GSD, max_shift_m=20) for valid in (clear, half)]
    assert [one.chance for one in found if one] == pytest.approx([0.0886, 0.0886 * 2**0.5], abs=1e-4)


def test_another_place_is_refused():
    clear = np.ones((SIZE, SIZE), bool)
    found = estimate(edges(Ground(6).date(0, 0), clear), edges(Ground(5).date(0, 0), clear), gsd_m=GSD, max_shift_m=20)
    assert found is not None and Limits(20, 2, 0.2).decide(found) == "refused"


def test_too_little_common_ground_gives_no_answer():
    ground = Ground(7)
    clear = np.zeros((SIZE, SIZE), bool)
    clear[:15, :15] = True
    reference = edges(ground.date(0, 0), np.ones((SIZE, SIZE), bool))
    assert estimate(edges(ground.date(0, 0), clear), reference, gsd_m=GSD, max_shift_m=20) is None
    assert estimate(edges(ground.date(0, 0), clear & False), reference, gsd_m=GSD, max_shift_m=20) is None


@pytest.mark.parametrize(
    ("shift", "decision"),
    [
        (Shift(3, 4, 0.5), "moved"),
        (Shift(1, 1, 0.5), "below min_shift"),
        (Shift(3, 4, 0.1), "refused"),
        (Shift(15, 15, 0.9), "refused"),
        (Shift(3, 4, 0.5, correlation=0.3, chance=0.1), "moved"),
        (Shift(3, 4, 0.5, correlation=0.19, chance=0.1), "refused"),
        (Shift(3, 4, 0.5, correlation=0.3, chance=0.31), "refused"),
    ],
)
def test_limits_are_in_metres_and_a_poor_match_is_refused(shift, decision):
    assert Limits(max_shift_m=20, min_shift_m=2, min_score=0.2).decide(shift) == decision


def test_the_reference_of_moved_dates_is_sharp_and_lies_at_their_mean():
    ground = Ground(8)
    clear = np.ones((SIZE, SIZE), bool)
    places = [(1.0, 0.3), (-0.6, 0.9), (0.2, -1.1), (-1.0, -0.5), (0.9, 0.7), (0.4, -0.9)]
    dates = [ground.date(right, down, 0.5) for right, down in places]
    reference = build_reference(dates, [clear] * len(dates), gsd_m=GSD, limits=Limits(20, 2, 0.2))
    plain = median_edges(dates, [clear] * len(dates))
    assert np.quantile(reference.strength[reference.valid], 0.95) > np.quantile(plain.strength, 0.95)
    middle = np.mean(places, axis=0)
    found = [estimate(edges(date, clear), reference, gsd_m=GSD, max_shift_m=20) for date in dates]
    for shift, (right, down) in zip(found, places, strict=True):
        assert shift is not None
        assert np.hypot(shift.dx_m / GSD + right - middle[0], -shift.dy_m / GSD + down - middle[1]) < 0.2


def test_a_known_shift_of_real_dates_is_measured(shared_data):
    """What is added to a date comes back, whatever its own shift is."""
    import rasterio

    home = shared_data("ts_belgium_A") / "s2"
    names = ["S2_20190225", "S2_20190322", "S2_20190401", "S2_20190705", "S2_20190824", "S2_20191018"]
    dates = []
    for name in names:
        with rasterio.open(next(home.glob(f"{name}*.tif"))) as dataset:
            dates.append(dataset.read([1, 2, 3, 7]).astype(np.float32))
    clear = np.ones((64, 64), bool)
    reference = build_reference(dates, [clear] * len(dates), gsd_m=GSD, limits=Limits(20, 2, 0.2))
    for number, date in enumerate(dates):
        right, down = 1.2 * np.cos(number), 1.2 * np.sin(number)
        moved = ndimage.shift(date, (0, down, right), order=3, mode="mirror")
        before, after = (estimate(edges(image, clear), reference, gsd_m=GSD, max_shift_m=20) for image in (date, moved))
        assert before is not None and after is not None and before.score > 0.2
        assert np.hypot((before.dx_m - after.dx_m) / GSD - right, (after.dy_m - before.dy_m) / GSD - down) < 0.15
