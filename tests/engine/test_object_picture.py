"""The picture of what was found: outlines in their place, one size for every scene, the scene behind them as it was read."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from matplotlib.image import imread

from skysense_cli.engine import preview
from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.object_picture import ObjectPicture
from skysense_cli.engine.predict import WindowDone, compute
from skysense_cli.engine.preview import Reduced
from skysense_cli.engine.scene_job import open_job
from skysense_cli.engine.scene_picture import LookedAt
from skysense_cli.engine.vector_mosaic import Objects
from skysense_cli.recipe.load import load_recipe

COLORS, GROUND = [(200, 0, 0), (0, 0, 200)], (90, 90, 90)


def objects(affine, boxes, ids):
    """Upright boxes (left, top, right, bottom) in pixels of the map."""
    pixels = np.array([[(left, top), (right, top), (right, bottom), (left, bottom)] for left, top, right, bottom in boxes], float)
    turn = np.array([[affine.a, affine.d], [affine.b, affine.e]])
    return Objects(pixels @ turn + [affine.c, affine.f], pixels.mean(axis=1), np.ones(len(ids), np.float32), np.array(ids))


def drawn(shape, affine, boxes, ids):
    picture = ObjectPicture(shape, affine, "rgb", 2)
    sides = [-(-side // picture.scene.step) for side in shape]
    picture.scene.put_few(np.full((*sides, 3), GROUND, np.float32), 0, 0)
    for number, one in zip(ids, boxes, strict=True):
        picture.add(objects(affine, [one], [number]))
    return picture


def test_outlines_lie_in_their_place_in_the_colours_of_their_classes():
    affine = Affine(10, 0, 574_680, 0, -10, 5_622_440)
    pixels = drawn((256, 512), affine, [(40, 20, 140, 80), (300, 100, 310, 200)], [0, 1]).pixels(COLORS)
    assert pixels.shape == (512, 1024, 3)  # two picture pixels along one of the scene's
    expected = np.full((512, 1024, 3), GROUND, np.uint8)
    for (left, top, right, bottom), color in (((80, 40, 280, 160), COLORS[0]), ((600, 200, 620, 400), COLORS[1])):
        expected[top - 1 : bottom + 2, left - 1 : right + 2] = color
        expected[top + 2 : bottom - 1, left + 2 : right - 1] = GROUND
    np.testing.assert_array_equal(pixels, expected)


def test_a_turned_map_and_a_box_beyond_its_edge_are_drawn_as_far_as_they_show():
    affine = Affine.translation(1000, 2000) * Affine.rotation(30) * Affine.scale(5)
    pixels = drawn((128, 128), affine, [(-40, 30, 20, 60)], [1]).pixels(COLORS)
    blue = (pixels == COLORS[1]).all(axis=2)
    assert blue[239:242, :160].all() and blue[479:482, :160].all() and blue[240:480, 159:162].all()
    assert not blue[:238].any() and not blue[483:].any() and not blue[244:477, :157].any() and not blue[:, 163:].any()


def test_the_picture_of_a_huge_scene_has_one_size_and_small_objects_show():
    affine = Affine(1, 0, 0, 0, -1, 0)
    picture = drawn((200_000, 150_000), affine, [(100_000, 50_000, 100_003, 50_003)], [0])
    pixels = picture.pixels(COLORS)
    assert picture.scene.step == 196 and pixels.shape == (1021, 766, 3)
    red = np.argwhere((pixels == COLORS[0]).all(axis=2))
    assert len(red) == 9 and red.mean(axis=0).tolist() == [50_000 // 196, 100_000 // 196]
    many = np.random.default_rng(0).uniform(0, 100_000, (20_000, 2))
    picture.add(objects(affine, np.concatenate([many, many + 30_000], axis=1), [1] * 20_000))
    assert picture.counts.tolist() == [1, 20_000]


def test_a_side_without_end_is_drawn_too():
    pixels = drawn((100, 100), Affine(1, 0, 0, 0, -1, 0), [(-1e9, -1e9, 50, 50)], [0]).pixels(COLORS)
    assert pixels.shape == (1000, 1000, 3)


def test_the_file_has_a_legend_and_is_the_same_every_time(tmp_path):
    picture = drawn((60, 80), Affine(10, 0, 0, 0, -10, 0), [(10, 10, 30, 30)], [0])
    for name in ("a.png", "b.png"):
        picture.save(tmp_path / name, ("ship", "tank"), COLORS, "found")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    shown = (imread(tmp_path / "a.png")[..., :3] * 255).round().astype(int)
    right = shown[:, int(0.86 * shown.shape[1]) :]
    assert all((right == color).all(axis=2).sum() > 50 for color in COLORS)  # a patch of each in the legend


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("option", ["tiles.batch=3", "write.gsd=20", "write.gsd=5", "area=[4.060, 50.7437, 4.066, 50.7468]"])
def test_what_is_shown_of_a_scene_is_every_nth_pixel_however_it_is_cut(tmp_path, write_map_project, monkeypatch, option, blocks):
    monkeypatch.setattr(preview, "LARGEST_PX", 16)
    empty = np.zeros((70, 90), bool)
    empty[30:45, 40:60] = True
    path = write_map_project(tmp_path, empty.shape, empty=empty, tiles="{size_m: 160, batch: 4}")
    recipe = load_recipe(path, "predict", (option,))
    job = open_job(recipe, load_bundle(recipe.bundle, "cpu"), recipe.write.gsd)
    plan = job.plan.in_blocks(blocks)
    looked, shown = LookedAt(replace(job, plan=plan), range(plan.tiles[0])), Reduced(plan.shape, empty=np.nan)
    for event in compute(lambda batch, _: [0] * len(batch.region), job.to_batch, looked, plan, range(plan.tiles[0])):
        if isinstance(event, WindowDone):
            shown.put_few(looked.take(event.window, event.valid), *(part.start for part in plan.pixels(event.window)))
    with rasterio.open(tmp_path / "20210401.tif") as file:
        scene = file.read([3, 2, 1]).astype(np.float32)  # B04, B03, B02
    scene[:, empty] = np.nan
    height, width, _ = shown.picture.shape
    assert 8 <= max(height, width) <= 16 and (height, width) == tuple(-(-side // shown.step) for side in plan.shape)
    for row, column in np.ndindex(height, width):
        place = [first + number * shown.step for first, number in zip(plan.origin, (row, column))]
        inside = plan.area is None or plan.area.inside(*(slice(at, at + 1) for at in place))[0, 0]
        y, x = (int((at + 0.5) * job.gsd_m / 10) for at in place)
        np.testing.assert_array_equal(shown.picture[row, column], scene[:, y, x] if inside else [np.nan] * 3)
    assert plan.area is None or np.isnan(shown.picture).any() and plan.origin > (0, 0)
