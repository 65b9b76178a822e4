"""Every cell comes from the tile that owns it, and cells without a prototype are nodata."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.core.batch import Batch
from skysense_cli.data.dataset import Input, batch_of
from skysense_cli.data.sample import Sample, Series
from skysense_cli.engine.prototype_map import NO_PROTOTYPE, nearest_cells, prototype_color
from skysense_cli.engine.tiling import make_plan

UNIT = 4  # pixels, and cells, along a unit
ONE = Input("rgb", ("R", "G", "B"), 1.0, (0.0,) * 3, (1.0,) * 3)


class Memory:
    """A scene whose first channel is the number of the cell's prototype; the place of a tile is its left edge in degrees."""

    def __init__(self, numbers, valid):
        self.units = -(-numbers.shape[0] // UNIT), -(-numbers.shape[1] // UNIT)
        padding = [(0, unit * UNIT - side) for unit, side in zip(self.units, numbers.shape, strict=True)]
        pixels = np.pad(np.stack([numbers] * 3), [(0, 0), *padding]).astype(np.uint16)
        self.series = Series(
            "rgb", ONE.bands, pixels[None], np.zeros(1, "datetime64[s]"), np.pad(valid, padding)[None], ("a",),
            GeoBox(pixels.shape[1:], Affine.scale(1, -1), "EPSG:32631"), "DN", 0, ({},),
        )  # fmt: skip

    def cut(self, series, rows, columns):
        grid = series.grid[rows, columns]
        return replace(series, pixels=series.pixels[:, :, rows, columns], valid=series.valid[:, rows, columns], grid=grid)

    def strip(self, top, height, left=0, width=None):
        return {"hr": self.cut(self.series, slice(top * UNIT, (top + height) * UNIT), slice(None))}

    def tile(self, strip, left, width):
        series = self.cut(strip["hr"], slice(None), slice(left * UNIT, (left + width) * UNIT))
        if not series.valid.any():
            return None
        return Sample("t", "EPSG:32631", (0, 0, 1, 1), (float(left), 0.0), {"hr": series})


def nearest(batch: Batch):
    series = batch.series["hr"]
    index = series.pixels[:, 0, 0].long()
    seen = series.valid[:, 0]
    return torch.where(seen, index, -1), index / 100, seen


def run(numbers, valid, overlap=0.4, batch=2):
    scene = Memory(numbers, valid)
    plan = make_plan(scene.units, size=3, overlap=overlap, batch=batch, unit_px=UNIT, shape=numbers.shape)

    def to_batch(samples):
        made = batch_of(samples, {"hr": ONE})
        return replace(made, region=torch.tensor([int(sample.lonlat[0]) for sample in samples]))

    rows = list(nearest_cells(nearest, to_batch, scene, plan))
    assert [part.top for part in rows] == list(np.cumsum([0] + [len(part.index) for part in rows[:-1]]))
    return [np.concatenate([getattr(part, name) for part in rows]) for name in ("index", "similarity", "region")], rows


@pytest.mark.parametrize("shape", [(1, 1), (3, 21), (30, 12), (13, 45), (37, 38)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.4])
def test_each_cell_gets_its_own_prototype(shape, overlap):
    numbers = np.random.default_rng(0).integers(1, 100, shape)
    (index, similarity, _), _ = run(numbers, np.ones(shape, bool), overlap)
    np.testing.assert_array_equal(index, numbers)
    np.testing.assert_allclose(similarity, numbers / 100, rtol=1e-6)


def test_cells_nothing_sees_have_no_prototype_and_no_region():
    numbers, valid = np.full((20, 26), 5), np.ones((20, 26), bool)
    valid[:7, :9] = valid[15, 20] = False
    (index, similarity, region), _ = run(numbers, valid)
    np.testing.assert_array_equal(index == NO_PROTOTYPE, ~valid)
    np.testing.assert_array_equal(np.isnan(similarity), ~valid)
    np.testing.assert_array_equal(region == -1, ~valid)


def test_the_region_is_that_of_the_tile_which_owns_the_cell():
    (_, _, region), _ = run(np.ones((4, 36), int), np.ones((4, 36), bool), overlap=0.34)
    starts = [0, 2, 4, 6]  # units; tiles of 3 units, so cores end after 2.5 -> 2, 4.5 -> 4, 6.5 -> 6
    np.testing.assert_array_equal(region[0], np.repeat([0, 2, 4, 6], [8, 8, 8, 12]), err_msg=str(starts))


def test_colours_are_fixed_by_region_and_number():
    colors = {prototype_color(region, number, 100) for region in (7, 8) for number in range(100)}
    assert prototype_color(7, 3, 100) == prototype_color(7, 3, 100)
    assert len(colors) > 190
