"""Small pictures around a cell: the right ground, the right colours, whatever the sizes of cells and scene."""

import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data.dataset import Input
from skysense_cli.engine import prototype_chips
from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.natural_colors import color_bands
from skysense_cli.engine.prototype_chips import CHIP_CELLS, Chip, cut, stretched
from skysense_cli.engine.prototype_job import open_prototypes
from skysense_cli.recipe.load import bind_recipe

RED, GREEN, BLUE = 2, 1, 0  # where B04, B03 and B02 lie among the bands


def opened(world, folder, **given):
    recipe = {"recipe": "map-prototypes", "version": 1, "bundle": str(folder / "bundle"), "output": str(folder / "out"), **given}
    return open_prototypes(bind_recipe(recipe), load_bundle(folder / "bundle", "cpu"))


@pytest.mark.parametrize("cell", [(20, 30), (0, 0), (39, 49), (38, 2)])
def test_a_chip_shows_the_ground_around_its_cell(world, tmp_path, cell):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    pixels = np.arange(10 * 80 * 100).reshape(10, 80, 100).astype(np.uint16) % 60_000 + 1
    scene = world.write_scene(tmp_path / "a.tif", 80, 100, pixels=pixels)
    source = opened(world, tmp_path, scene={"s2": [str(scene)]}).sheets[0].sources[0]
    (chip,) = cut([(source, *cell)])
    side = chip.pixels.shape[0]
    assert chip.pixels.shape == (2 * CHIP_CELLS, 2 * CHIP_CELLS, 3) and chip.bands == ("B04", "B03", "B02")
    top, left = (2 * place + 1 - round(share * side) for place, share in zip(cell, (chip.y, chip.x), strict=True))
    assert 0 <= top <= 80 - side and 0 <= left <= 100 - side
    np.testing.assert_array_equal(chip.pixels[..., 0], pixels[RED, top : top + side, left : left + side])
    np.testing.assert_array_equal(chip.pixels[..., 2], pixels[BLUE, top : top + side, left : left + side])
    assert chip.cell == pytest.approx(1 / CHIP_CELLS)


def test_chips_that_are_read_together_are_those_read_alone(world, tmp_path, monkeypatch):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    scene = world.write_scene(tmp_path / "a.tif", 200, 240)
    source = opened(world, tmp_path, scene={"s2": [str(scene)]}).sheets[0].sources[0]
    cells = [(source, row, column) for row, column in np.random.default_rng(0).integers(0, (100, 120), (12, 2)).tolist()]
    together = cut(cells)
    monkeypatch.setattr(prototype_chips, "BLOCK_PX", 64)
    for cell, one, other in zip(cells, together, cut(cells), strict=True):
        (alone,) = cut([cell])
        np.testing.assert_array_equal(one.pixels, alone.pixels)
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_chip_of_a_sample_is_cut_from_its_own_file(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    hole = np.zeros((16, 16), bool)
    hole[:3] = True
    index = world.write_samples(tmp_path / "data", [(world.LEFT, world.TOP)], empty=[hole])
    source = opened(world, tmp_path, data={"index": str(index), "dates": {"s2": 2}}).sheets[0].sources[0]
    (chip,) = cut([(source, 4, 1)])
    assert chip.pixels.shape == (16, 16, 3) and (chip.x, chip.y) == (1.5 / 8, 4.5 / 8)
    np.testing.assert_array_equal(chip.pixels[3:, :, 1], world.landscape(16, 16)[GREEN, 3:])
    assert np.isnan(chip.pixels[:3]).all()


def test_true_colours_are_preferred_and_radar_still_gives_a_picture():
    def seen(name, bands=None):
        sensor = sensors.get(name)
        return Input(name, bands or sensor.band_names, sensor.gsd_m, sensor.mean, sensor.std)

    radar, optical, photo = seen("sentinel1_grd"), seen("sentinel2_l2a"), seen("rgb")
    assert color_bands({"s1": radar, "s2": optical}) == ("s2", ("B04", "B03", "B02"))
    assert color_bands({"s2": optical, "hr": photo}) == ("hr", ("R", "G", "B"))
    assert color_bands({"s1": radar}) == ("s1", ("VV", "VH", "VV"))
    assert color_bands({"s2": seen("sentinel2_l2a", ("B08",))}) == ("s2", ("B08", "B08", "B08"))


def test_photographs_keep_their_counts_and_others_share_one_stretch():
    random = np.random.default_rng(0)
    photo = Chip(random.integers(0, 256, (4, 4, 3)).astype(np.float32), ("R", "G", "B"), "rgb", 0.5, 0.5, 0.1)
    dark, bright = (Chip(np.full((4, 4, 3), value, np.float32), ("B04", "B03", "B02"), "optical", 0.5, 0.5, 0.1) for value in (300, 3000))
    dark.pixels[0, 0] = np.nan
    shown = stretched([photo, dark, bright])
    np.testing.assert_array_equal(shown[0], photo.pixels.astype(np.uint8))
    assert shown[1][1, 1].max() == 0 and shown[2].min() == 255 and (shown[1][0, 0] == 235).all()
