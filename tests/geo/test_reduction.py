"""Blocks become one pixel: by majority, by mean, holes left out; and glimpses of rasters too large to be read."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from skysense_cli.geo.opening import open_raster
from skysense_cli.geo.reduction import glimpse, majority, mean, sampled, strip_rows


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_majority_and_mean_agree_with_a_double_loop(factor, dtype):
    rng = np.random.default_rng(factor)
    values, data = rng.integers(0, 4, (23, 17)).astype(dtype), rng.random((23, 17)) > 0.4
    commonest, any_commonest = majority(values, data, factor)
    middle, any_mean = mean(values, data, factor)
    assert commonest.shape == middle.shape == (-(-23 // factor), -(-17 // factor))
    for i, j in np.ndindex(commonest.shape):
        block = np.s_[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        kept = values[block][data[block]]
        assert any_commonest[i, j] == any_mean[i, j] == (len(kept) > 0)
        if len(kept):
            assert commonest[i, j] == np.bincount(kept).argmax()
            assert middle[i, j] == pytest.approx(kept.mean())


def write(path, pixels, **options):
    with rasterio.open(
        path, "w", driver="GTiff", height=pixels.shape[0], width=pixels.shape[1], count=1, dtype=pixels.dtype, crs="EPSG:32631",
        transform=from_origin(500_000, 5_600_000, 10, 10), **options,
    ) as out:  # fmt: skip
        out.write(pixels, 1)
    return path


def test_strips_cover_every_row_once_in_whole_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("skysense_cli.geo.reduction.STRIP_PX", 1000)
    with open_raster(write(tmp_path / "a.tif", np.zeros((301, 100), np.uint8), blockysize=16, tiled=False)) as dataset:
        rows = strip_rows(dataset, 1, 3)
    assert [part.stop for part in rows[:-1]] == [part.start for part in rows[1:]]
    assert (rows[0].start, rows[-1].stop) == (0, 301)
    assert all((part.stop - part.start) % 3 == 0 for part in rows[:-1])


def test_a_glimpse_of_a_large_raster_holds_only_its_own_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("skysense_cli.geo.reduction.STRIP_PX", 1000)
    monkeypatch.setattr("skysense_cli.geo.reduction.GLIMPSE_PX", 8)
    pixels = np.full((200, 300), 7, np.uint8)
    pixels[:, 150:] = 9
    pixels[:3] = 255
    with open_raster(write(tmp_path / "a.tif", pixels, nodata=255)) as dataset:
        found, data = glimpse(dataset, [1])
    assert found.shape == data.shape == (1, 36 * 64)
    assert set(found[data].tolist()) == {7, 9} and set(found[~data].tolist()) == {255}


def test_a_sample_has_the_place_and_the_holes_of_the_raster(tmp_path):
    pixels = np.repeat(np.arange(100, dtype=np.float32), 2).reshape(1, 200).repeat(100, 0)
    pixels[:50, :100] = np.nan
    with open_raster(write(tmp_path / "a.tif", pixels)) as dataset:
        found, data, grid = sampled(dataset, [1], 100)
    assert found.shape == (1, 50, 100) and grid.shape == (50, 100)
    assert grid.affine.a == 20 and (grid.affine.c, grid.affine.f) == (500_000, 5_600_000)
    assert np.array_equal(data[0], ~np.isnan(found[0])) and data.sum() == 50 * 100 - 25 * 50
