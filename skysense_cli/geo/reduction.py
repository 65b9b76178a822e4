"""Large rasters made small: blocks of pixels become one, by majority for classes and by mean for measurements."""

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader

from skysense_cli.geo.raster import describe, read_window

STRIP_PX = 4 << 20  # numbers that are held at a time
GLIMPSES, GLIMPSE_PX = 6, 256  # windows along an axis, and their side


def strip_rows(dataset: DatasetReader, bands: int, factor: int) -> list[slice]:
    """Rows of an open raster from top to bottom that fit in memory; all but the last are whole blocks of `factor` rows."""
    lines = max(STRIP_PX // (bands * dataset.width), dataset.block_shapes[0][0], 1)
    lines = max(lines // factor, 1) * factor
    return [slice(top, min(top + lines, dataset.height)) for top in range(0, dataset.height, lines)]


def glimpse(dataset: DatasetReader, numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (C, n) of an open raster, all or those of evenly spread windows of it, and where they are data, quick for any size."""
    height, width = dataset.shape
    if height * width * len(numbers) <= STRIP_PX:
        parts = [read_window(dataset, numbers)]
    else:
        tops, lefts = (np.unique(np.linspace(0, max(side - GLIMPSE_PX, 0), GLIMPSES).astype(int)) for side in (height, width))
        corners = [(int(top), int(left)) for top in tops for left in lefts]
        rows, columns = min(GLIMPSE_PX, height), min(GLIMPSE_PX, width)
        parts = [read_window(dataset, numbers, (slice(top, top + rows), slice(left, left + columns))) for top, left in corners]
    pixels, data = (np.concatenate([part[k].reshape(len(numbers), -1) for part in parts], axis=1) for k in (0, 1))
    return pixels, data


def sampled(dataset: DatasetReader, numbers: list[int], longest_px: int) -> tuple[np.ndarray, np.ndarray, GeoBox]:
    """Bands (C, h, w) with the longer side at most `longest_px`, where they are data, and their grid: from the overviews, unmixed.

    Quick for rasters of any size that have overviews; whether a pixel of an overview was a pixel of the raster, its maker knows.
    """
    scale = min(1.0, longest_px / max(dataset.height, dataset.width))
    height, width = (max(1, round(side * scale)) for side in (dataset.height, dataset.width))
    pixels = dataset.read(numbers, out_shape=(len(numbers), height, width))
    data = np.logical_and(dataset.read_masks(numbers, out_shape=pixels.shape) > 0, ~np.isnan(pixels))
    affine = dataset.transform * Affine.scale(dataset.width / width, dataset.height / height)
    return pixels, data, GeoBox((height, width), affine, describe(dataset).crs or None)


def reduced_grid(grid: GeoBox, factor: int) -> GeoBox:
    """`grid` in pixels of `factor` x `factor`; a last one that holds only a part is kept."""
    height, width = (-(-side // factor) for side in grid.shape)
    return GeoBox((height, width), grid.affine * Affine.scale(factor), grid.crs)


def majority(values: np.ndarray, data: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The commonest value among those with data of each block, of equally common ones the smallest, and whether there is one.

    values, data: (h, w); a last block may be smaller
    """
    if factor == 1:
        return values, data
    blocks, known = _blocks(values, factor), _blocks(data, factor)
    order = np.lexsort((blocks, ~known), axis=-1) if not known.all() else np.argsort(blocks, axis=-1, kind="stable")
    blocks, known = np.take_along_axis(blocks, order, -1), np.take_along_axis(known, order, -1)
    starts = np.ones(blocks.shape, bool)
    starts[..., 1:] = blocks[..., 1:] != blocks[..., :-1]
    position = np.arange(blocks.shape[-1], dtype=np.int32)
    run = np.where(known, position - np.maximum.accumulate(np.where(starts, position, 0), axis=-1), -1)
    winner = run.argmax(axis=-1)[..., None]  # of equally long runs the first, which has the smallest value
    return np.take_along_axis(blocks, winner, -1)[..., 0], np.logical_or.reduce(known, axis=-1)


def mean(values: np.ndarray, data: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the values with data of each block as float32, and whether there is one. values, data: (h, w)"""
    if factor == 1:
        return values.astype(np.float32), data
    count = _blocks(data, factor).sum(axis=-1)
    total = _blocks(np.where(data, values, 0).astype(np.float64), factor).sum(axis=-1)
    return (total / np.maximum(count, 1)).astype(np.float32), count > 0


def _blocks(values: np.ndarray, factor: int) -> np.ndarray:
    """(ceil(h / f), ceil(w / f), f * f); what lies beyond the edge is 0 and no data."""
    height, width = values.shape
    padded = np.pad(values, ((0, -height % factor), (0, -width % factor)))
    parts = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    return parts.swapaxes(1, 2).reshape(parts.shape[0], parts.shape[2], factor * factor)
