import numpy as np

from skysense_cli.demo.landscape import MARGIN_PX, make_world
from skysense_cli.demo.spectra import CLASSES, NAMES


def test_the_world_is_larger_than_the_scene_by_its_margin(world):
    assert world.surface.shape == (800 + 2 * MARGIN_PX,) * 2


def test_equal_seeds_give_equal_worlds_and_others_do_not():
    first, again, other = (make_world(200, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.surface, again.surface)
    np.testing.assert_array_equal(first.grain, again.grain)
    assert (first.surface != other.surface).mean() > 0.3


def test_every_class_covers_some_ground_and_none_all_of_it(world):
    shares = np.bincount(world.land_cover.ravel(), minlength=len(CLASSES)) / world.land_cover.size
    assert shares.min() > 0.01
    assert shares.max() < 0.35


def test_a_field_has_one_surface(world):
    np.testing.assert_array_equal(world.kind[world.field], world.surface)


def test_water_lies_flat_and_trees_stand_up(world):
    water = np.isin(world.surface, (NAMES.index("lake"), NAMES.index("river")))
    assert world.height_m[water].max() == 0
    assert world.height_m[world.surface == NAMES.index("conifer")].mean() > 8


def test_texture_keeps_the_mean_level(world):
    assert abs(float(world.relief.mean())) < 0.01
    assert abs(float(world.grain.mean()) - 1) < 0.03
