"""Tiles leave no seam: what comes out equals the whole scene at once, whatever its size, the overlap and the batch."""

import itertools
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.data.dataset import Input, batch_of
from skysense_cli.data.sample import Sample, Series
from skysense_cli.engine.mosaic import Axis
from skysense_cli.engine.predict import Raster, predict_scene
from skysense_cli.engine.tiling import make_plan, size_in_units
from skysense_cli.engine.validity import valid_pixels
from skysense_cli.errors import BundleError, GridError

PATCH = 4  # pixels along a unit
TILE = 4  # units along a tile
RGB = Input("rgb", ("R", "G", "B"), 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Memory:
    """A scene in memory: three channels (a constant, x, y), some dates, extended to whole units with nodata."""

    def __init__(self, height, width, dates=1, holes=None):
        self.units = -(-height // PATCH), -(-width // PATCH)
        extended = self.units[0] * PATCH, self.units[1] * PATCH
        y, x = np.meshgrid(np.arange(1, extended[0] + 1), np.arange(1, extended[1] + 1), indexing="ij")
        inside = (y <= height) & (x <= width)
        if holes is not None:
            inside[: holes.shape[0], : holes.shape[1]] &= ~holes
        pixels = np.stack([np.full_like(y, 7), x, y]).astype(np.uint16) * inside
        times, names = np.arange(dates).astype("datetime64[s]"), tuple(map(str, range(dates)))
        pixels, inside = np.repeat(pixels[None], dates, 0), np.repeat(inside[None], dates, 0)
        grid = GeoBox(extended, Affine.scale(1, -1), "EPSG:32631")
        self.series = Series("rgb", RGB.bands, pixels, times, inside, names, grid, "DN", 0, ({},) * dates)

    def part(self, series, rows, columns):
        return replace(
            series, pixels=series.pixels[:, :, rows, columns], valid=series.valid[:, rows, columns], grid=series.grid[rows, columns]
        )

    def strip(self, top, height, left=0, width=None):
        right = self.units[1] if width is None else left + width
        return {"hr": self.part(self.series, slice(top * PATCH, (top + height) * PATCH), slice(left * PATCH, right * PATCH))}

    def tile(self, strip, left, width):
        series = self.part(strip["hr"], slice(None), slice(left * PATCH, (left + width) * PATCH))
        return Sample("tile", "EPSG:32631", (0, 0, 1, 1), (3.0, 50.0), {"hr": series}) if series.valid.any() else None


def constant(batch, size):
    return torch.full((len(batch.region), 2, *size), 0.1)


def pointwise(batch, size):
    """A 1x1 convolution over the mean of the dates."""
    weight = torch.tensor([[0.5, -0.3, 0.01], [0.1, 0.2, -0.7], [0.3, 0.03, 0.9]])
    return torch.einsum("kc,bchw->bkhw", weight, batch.series["hr"].pixels.mean(dim=1))


def coordinates(batch, size):
    return batch.series["hr"].pixels[:, 0, 1:]


def whole_patches(batch, size):
    """One value per patch, as an encoder with stride PATCH has it."""
    pooled = torch.nn.functional.avg_pool2d(batch.series["hr"].pixels[:, 0, :1], PATCH)
    return pooled.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)


MODELS = {"constant": (constant, 2), "pointwise": (pointwise, 3), "coordinates": (coordinates, 2), "whole_patches": (whole_patches, 1)}


def blended(forward, scene, plan, channels, rows=None):
    """The pieces of one raster."""
    one, to_batch = [Raster(plan, channels)], lambda samples: batch_of(samples, {"hr": RGB})
    found = predict_scene(lambda batch, size: [forward(batch, size)], to_batch, scene, plan, one, rows)
    for (piece,) in found:
        yield piece


def run(model, scene, shape, size=TILE, overlap=0.25, batch=3, unit_px=PATCH):
    forward, channels = MODELS[model] if isinstance(model, str) else model
    plan = make_plan(scene.units, size=size, overlap=overlap, batch=batch, unit_px=unit_px, shape=shape)
    rows = list(blended(forward, scene, plan, channels))
    assert [part.top for part in rows] == list(np.cumsum([0] + [part.valid.shape[0] for part in rows[:-1]]))
    return np.concatenate([part.scores for part in rows], axis=1), np.concatenate([part.valid for part in rows])


def sides(overlap):
    stride = max(TILE - round(TILE * overlap), 1) * PATCH
    return sorted({1, PATCH - 1, PATCH, PATCH + 1, 3 * stride, 3 * stride + 1})


@pytest.mark.parametrize("overlap", [0, 0.125, 0.25, 0.45])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch", [1, 3])
def test_tiles_equal_the_whole_scene(model, overlap, batch):
    for shape in itertools.product(sides(overlap), repeat=2):
        scene = Memory(*shape)
        whole, all_valid = run(model, scene, shape, size=1000, batch=1)
        tiled, valid = run(model, scene, shape, overlap=overlap, batch=batch)
        assert whole.shape[1:] == shape and all_valid.all() and valid.all()
        np.testing.assert_allclose(tiled, whole, rtol=1e-6, atol=1e-6, err_msg=f"{model} on {shape}")
        if model != "pointwise":  # a matrix product may round differently with its size; these three may not
            np.testing.assert_array_equal(tiled, whole)


def test_where_the_tiles_begin_does_not_matter():
    scene, shape = Memory(50, 70), (50, 70)
    plan = make_plan(scene.units, size=TILE, overlap=0.25, batch=3, unit_px=PATCH, shape=shape)
    moved = replace(plan, rows=Axis((0, 2, 5, 8, 9), TILE), columns=Axis((0, 2, 5, 8, 11, 14), TILE))
    made = []
    for one in (plan, moved):
        parts = blended(coordinates, scene, one, 2)
        made.append(np.concatenate([part.scores for part in parts], axis=1))
    np.testing.assert_array_equal(made[0], made[1])


def test_coordinates_come_out_where_they_went_in():
    scores, _ = run("coordinates", Memory(37, 53), (37, 53))
    np.testing.assert_array_equal(scores[0], np.broadcast_to(np.arange(1, 54), (37, 53)))
    np.testing.assert_array_equal(scores[1], np.broadcast_to(np.arange(1, 38)[:, None], (37, 53)))


def test_nodata_in_is_nodata_out_and_empty_tiles_are_not_computed():
    holes = np.zeros((64, 64), bool)
    holes[:40] = True  # more than a row of tiles without anything
    holes[50, 3] = holes[60, 60] = True
    seen = []

    def counting(batch, size):
        seen.append(len(batch.region))
        return constant(batch, size)

    scores, valid = run((counting, 2), Memory(64, 64, holes=holes), (64, 64), overlap=0)
    np.testing.assert_array_equal(valid, ~holes)
    assert sum(seen) == 8
    assert np.isfinite(scores).all()


def test_a_scene_without_any_data_gives_a_map_without_any():
    scores, valid = run("constant", Memory(20, 20, holes=np.ones((20, 20), bool)), (20, 20))
    assert scores.shape == (2, 20, 20) and not valid.any()


def test_a_map_may_be_coarser_than_the_scene():
    def halved(batch, size):
        return torch.nn.functional.interpolate(batch.series["hr"].pixels[:, 0, 1:], size, mode="area")

    scores, valid = run((halved, 2), Memory(30, 30), (15, 15), unit_px=PATCH // 2)
    np.testing.assert_allclose(scores[0][0], np.arange(15) * 2 + 1.5)
    assert valid.all()


def test_a_coarse_pixel_is_valid_where_any_of_its_own_is_and_a_fine_one_below_its_centre():
    series = Memory(8, 8, holes=np.eye(8, dtype=bool)).series
    one = replace(series, valid=np.zeros((1, 8, 8), bool))
    one.valid[0, 5, 2] = True
    expected = np.zeros((4, 4), bool)
    expected[2, 1] = True
    np.testing.assert_array_equal(valid_pixels({"hr": one}, (4, 4)), expected)
    fine = valid_pixels({"hr": one}, (16, 16))
    assert fine.sum() == 4 and fine[10:12, 4:6].all()


def test_scores_that_are_not_finite_stop_the_map():
    with pytest.raises(BundleError, match="not finite"):
        run((lambda batch, size: constant(batch, size) * float("nan"), 2), Memory(8, 8), (8, 8))


def test_a_tile_is_a_whole_number_of_units():
    assert size_in_units(640, 160) == 4
    assert size_in_units(650, 160) == 4
    with pytest.raises(GridError, match=r"tiles.size_m is 100 m, the smallest tile of this bundle has 160 m"):
        size_in_units(100, 160)


def pieces(scene, plan, rows=None, model=whole_patches, channels=1):
    """Name -> (slices, scores, valid) of what comes out."""
    found = {}
    for part in blended(model, scene, plan, channels, rows):
        place = (
            slice(part.top, part.top + part.valid.shape[0]),
            slice(part.left, part.left + part.valid.shape[1]),
        )
        assert part.name not in found and part.scores.shape[1:] == part.valid.shape
        found[part.name] = place, part.scores, part.valid
    return found


def company(batch, size):
    """Scores that depend on every tile of the step, as rounding may: what goes through the model together must not vary."""
    return coordinates(batch, size) * float(batch.series["hr"].pixels.mean()) + len(batch.region)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.45])
@pytest.mark.parametrize("batch", [1, 3, 5, 8])
@pytest.mark.parametrize("shape", [(70, 53), (33, 90)])
def test_neither_blocks_nor_rows_asked_for_change_a_bit(overlap, batch, shape):
    holes = np.zeros(shape, bool)
    holes[20:36, 10:40] = True
    scene = Memory(*shape, holes=holes)
    plan = make_plan(scene.units, size=TILE, overlap=overlap, batch=batch, unit_px=PATCH, shape=shape)
    whole, all_valid = np.full((2, *shape), -1, np.float32), np.zeros(shape, bool)
    for place, scores, valid in pieces(scene, plan, model=company, channels=2).values():
        whole[(slice(None), *place)], all_valid[place] = scores, valid
    np.testing.assert_array_equal(all_valid, ~holes)
    for blocks, ranges in itertools.product((1, 2, 3, 100), ((1,), (2, 1), (1, 1, 2, 100))):
        cut = plan.in_blocks(blocks)
        made, seen, names, start = np.full_like(whole, -1), np.zeros(shape, int), [], 0
        for count in (*ranges, 100):
            rows = range(start, min(start + count, plan.tiles[0]))
            start = rows.stop
            for name, (place, scores, valid) in pieces(scene, cut, rows, company, 2).items():
                made[(slice(None), *place)] = scores
                seen[place] += 1
                np.testing.assert_array_equal(valid, ~holes[place])
                names.append(name)
        assert (seen == 1).all() and names == sorted(set(names))
        np.testing.assert_array_equal(made, whole)


def test_tiles_that_are_not_wanted_are_neither_read_nor_computed_and_do_not_show():
    shape = 90, 70
    scene = Memory(*shape)
    plan = make_plan(scene.units, size=TILE, overlap=0.45, batch=3, unit_px=PATCH, shape=shape)
    whole = np.zeros((1, *shape), np.float32)
    for place, scores, _ in pieces(scene, plan).values():
        whole[(slice(None), *place)] = scores
    wanted = np.random.default_rng(0).random(plan.tiles) < 0.7
    kept = np.zeros(shape, bool)
    kept[:] = True
    for row, column in zip(*np.nonzero(~wanted), strict=True):
        top, left = plan.rows.starts[row] * PATCH, plan.columns.starts[column] * PATCH
        kept[top : top + TILE * PATCH, left : left + TILE * PATCH] = False
    for blocks in (1, 3):
        computed, read = [], []

        def counting(batch, size):
            computed.append(len(batch.region))
            return whole_patches(batch, size)

        class Watched(Memory):
            def strip(self, top, height, left=0, width=None):
                read.append((top, left, width))
                return super().strip(top, height, left, width)

        part = replace(plan, wanted=wanted).in_blocks(blocks)
        made, valid = np.zeros_like(whole), np.zeros(shape, bool)
        for place, scores, known in pieces(Watched(*shape), part, model=counting).values():
            made[(slice(None), *place)], valid[place] = scores, known
        np.testing.assert_array_equal(valid, kept)
        np.testing.assert_array_equal(made[:, kept], whole[:, kept])
        assert sum(computed) == wanted.sum()
        assert len(read) == len(list(part.windows())) and len(set(read)) == len(read)


def test_only_the_area_of_a_map_is_valid():
    class Corner:
        def inside(self, rows, columns):
            y, x = np.meshgrid(np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop), indexing="ij")
            return x + y < 40

    scene = Memory(50, 50)
    plan = replace(make_plan(scene.units, size=TILE, overlap=0.25, batch=2, unit_px=PATCH, shape=(50, 50)), area=Corner())
    for place, _, valid in pieces(scene, plan.in_blocks(2)).values():
        np.testing.assert_array_equal(valid, Corner().inside(*place))


def test_a_plan_of_millions_of_tiles_is_made_at_once():
    plan = make_plan((50_000, 50_000), size=4, overlap=0.25, batch=8, unit_px=4, shape=(200_000, 199_999))
    assert plan.tiles == (16_667, 16_667) and plan.core(16_666, 0)[0].stop == 50_000
    wanted = np.zeros(plan.tiles, bool)
    wanted[9_000, 70:73] = True
    (window,) = replace(plan, wanted=wanted).in_blocks(4).windows()
    assert (window.row, window.block, window.left, window.width) == (9_000, 0, 210, 10)
    assert plan.pixels(window) == (slice(108_000, 108_012), slice(0, 4_166 * 12))


def test_what_a_reader_fails_with_is_raised_and_no_thread_is_left():
    class Broken(Memory):
        def strip(self, top, height, left=0, width=None):
            if top > 8:
                raise GridError("a.tif: is damaged")
            return super().strip(top, height, left, width)

    plan = make_plan((20, 20), size=TILE, overlap=0, batch=2, unit_px=PATCH, shape=(80, 80))
    before = threading.active_count()
    with pytest.raises(GridError, match="damaged"):
        pieces(Broken(80, 80), plan)
    found = blended(constant, Memory(80, 80), plan, 2)
    next(found)
    found.close()
    assert threading.active_count() == before


def test_rasters_of_other_pixels_are_blended_in_the_same_pass_and_say_themselves_where_they_are_valid():
    shape, holes = (70, 53), np.zeros((70, 53), bool)
    holes[20:36, 10:40] = True
    scene = Memory(*shape, holes=holes)
    plan = make_plan(scene.units, size=TILE, overlap=0.45, batch=3, unit_px=PATCH, shape=shape)
    coarse = replace(plan, unit_px=1, shape=scene.units)  # a pixel a patch
    steps = []

    def both(batch, size):
        steps.append(len(batch.region))
        pixels = batch.series["hr"].pixels[:, 0, :1]
        whole = torch.nn.functional.avg_pool2d(pixels, PATCH)
        return [coordinates(batch, size), torch.cat([whole, (whole > 0).float()], dim=1)]

    for blocks in (1, 3):
        cut, cells = plan.in_blocks(blocks), coarse.in_blocks(blocks)
        means, seen, fine = np.zeros((1, *scene.units), np.float32), np.zeros(scene.units, bool), np.zeros((2, *shape), np.float32)
        steps.clear()
        rasters = [Raster(cut, 2), Raster(cells, 1, told=True)]
        for pixels, cell in predict_scene(both, lambda samples: batch_of(samples, {"hr": RGB}), scene, cut, rasters):
            assert pixels.name == cell.name and (cell.top, cell.left) == (pixels.top // PATCH, pixels.left // PATCH)
            place = slice(cell.top, cell.top + cell.valid.shape[0]), slice(cell.left, cell.left + cell.valid.shape[1])
            means[:, *place], seen[place] = cell.scores, cell.valid
            place = slice(pixels.top, pixels.top + pixels.valid.shape[0]), slice(pixels.left, pixels.left + pixels.valid.shape[1])
            fine[:, *place] = pixels.scores
        alone = run("coordinates", scene, shape, overlap=0.45)[0]
        np.testing.assert_array_equal(fine, alone)
        stored = scene.series.pixels[0, 0].reshape(scene.units[0], PATCH, scene.units[1], PATCH)
        np.testing.assert_allclose(means[0], stored.mean(axis=(1, 3)), rtol=1e-6)
        np.testing.assert_array_equal(seen, stored.any(axis=(1, 3)))
        assert sum(steps) == sum(
            scene.series.valid[0, row * PATCH : (row + TILE) * PATCH, column * PATCH : (column + TILE) * PATCH].any()
            for row in plan.rows.starts
            for column in plan.columns.starts
        )
