"""A layer's pixels, made small enough for a page, and how much ground each of its classes covers."""

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader

from skysense_cli.engine.viewer.layers import Layer
from skysense_cli.errors import GridError
from skysense_cli.geo.cell_areas import CellAreas
from skysense_cli.geo.opening import open_raster
from skysense_cli.geo.raster import read_window
from skysense_cli.geo.reduction import majority, mean, reduced_grid, sampled, strip_rows

MOST_COUNTED_PX = 400_000_000  # pixels that are read one by one
MOST_COUNTED_CODES = 1 << 20  # that are counted in a table; codes further apart are sorted
SAMPLED_PX = 2048


@dataclass(frozen=True)
class Reading:
    """A layer on a grid of its own CRS that may be coarser than the file's.

    numbers: codes (1, h, w) of a whole type; values (1, h, w) or imagery (3, h, w) in stored units, float32 where they were averaged
    data: (h, w)      factor: pixels of the file along one of these
    areas: code -> square metres on the ground, of every pixel of the file      exact: False if it was only sampled
    """

    numbers: np.ndarray
    data: np.ndarray
    grid: GeoBox
    factor: int
    areas: dict[int, float]
    exact: bool = True


def read_layer(layer: Layer, longest_px: int) -> Reading:
    """All of a layer, its longer side at most `longest_px`: codes by majority, values and imagery by mean.

    Every pixel is read once, in strips. Raises GridError for a raster too large for that.
    """
    height, width = layer.info.shape
    if height * width > MOST_COUNTED_PX:
        raise GridError(
            f"{layer.path}: has {height * width:,} pixels, a page is made of at most {MOST_COUNTED_PX:,}; show it with --serve, or cut it"
        )
    factor, grid = -(-max(height, width) // longest_px), layer.info.grid
    areas: dict[int, float] = {}
    sizes = CellAreas(grid) if layer.coded else None
    parts: list[np.ndarray] = []
    known: list[np.ndarray] = []
    with _Files(layer) as files:
        for rows in strip_rows(files.main, len(layer.bands), factor):
            numbers, data = files.read(rows)
            if sizes is not None:
                _add_areas(areas, numbers[0], data, sizes.of_rows(rows))
            reduce = majority if layer.coded else mean
            small = [reduce(band, data, factor) for band in numbers] if factor > 1 else [(band, data) for band in numbers]
            parts.append(np.stack([band for band, _ in small]))
            known.append(small[0][1])
    return Reading(np.concatenate(parts, axis=1), np.concatenate(known), reduced_grid(grid, factor), factor, areas)


def sample_layer(layer: Layer) -> Reading:
    """A layer whose file is served: all of it where it is small enough to be read, else what its overviews show.

    Raises GridError for a large raster without overviews.
    """
    height, width = layer.info.shape
    if height * width <= MOST_COUNTED_PX:
        return read_layer(layer, SAMPLED_PX)
    with _Files(layer) as files:
        if not files.main.overviews(1):
            raise GridError(
                f"{layer.path}: has {height * width:,} pixels and no overviews; make some, e.g. with `rio overview --build auto`"
            )
        numbers, data, grid = files.sample(SAMPLED_PX)
    areas: dict[int, float] = {}
    if layer.coded:
        _add_areas(areas, numbers[0], data, CellAreas(grid).of_rows(slice(0, grid.shape[0])))
    return Reading(numbers, data, grid, max(height, width) // SAMPLED_PX, areas, exact=False)


def invented_codes(layer: Layer, reading: Reading) -> list[int]:
    """Codes that the overviews of a layer show and the layer does not have: they were made by averaging."""
    if not (layer.coded and reading.exact):
        return []
    with _Files(layer) as files:
        if not files.main.overviews(1):
            return []
        numbers, data, _ = files.sample(SAMPLED_PX // 8)
    return sorted(set(np.unique(numbers[0][data]).tolist()) - set(reading.areas))


def numbers_of(layer: Layer, pixels: np.ndarray, regions: np.ndarray | None) -> np.ndarray:
    """What a layer shows, (1 or 3, h, w): codes; of several probabilities the largest; imagery as it is.

    pixels: the layer's bands      regions: (h, w) of the region of a prototype map over several
    """
    if regions is not None:
        return (regions.astype(np.int64) * layer.per_region + pixels[0])[None]
    return pixels.max(axis=0, keepdims=True) if layer.kind == "value" else pixels


class _Files:
    """The file of a layer, and that of its regions, open together."""

    def __init__(self, layer: Layer) -> None:
        self.layer, self._stack = layer, ExitStack()
        self.region: DatasetReader | None = None

    def __enter__(self) -> "_Files":
        self.main: DatasetReader = self._stack.enter_context(open_raster(self.layer.path))
        if self.layer.region is not None:
            self.region = self._stack.enter_context(open_raster(self.layer.region))
            if (self.region.shape, self.region.transform) != (self.main.shape, self.main.transform):
                self._stack.close()
                raise GridError(f"{self.layer.region}: lies on another grid than {self.layer.path.name}")
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        window = rows, slice(0, self.main.width)
        pixels, data = read_window(self.main, self.layer.bands, window)
        regions = read_window(self.region, [1], window)[0][0] if self.region else None
        return numbers_of(self.layer, pixels, regions), np.logical_and.reduce(data)

    def sample(self, longest_px: int) -> tuple[np.ndarray, np.ndarray, GeoBox]:
        pixels, data, grid = sampled(self.main, list(self.layer.bands), longest_px)
        regions = sampled(self.region, [1], longest_px)[0][0] if self.region else None
        return numbers_of(self.layer, pixels, regions), np.logical_and.reduce(data), grid


def _add_areas(areas: dict[int, float], codes: np.ndarray, data: np.ndarray, sizes: np.ndarray) -> None:
    kept, weights = codes[data], sizes[data]
    if not kept.size:
        return
    lowest = int(kept.min())
    if int(kept.max()) - lowest < MOST_COUNTED_CODES:
        sums = np.bincount(kept.astype(np.int64) - lowest, weights)
        found = [(int(place) + lowest, float(sums[place])) for place in np.flatnonzero(sums)]
    else:
        codes_found, position = np.unique(kept, return_inverse=True)
        found = list(zip(codes_found.tolist(), np.bincount(position.ravel(), weights).tolist(), strict=True))
    for code, area in found:
        areas[code] = areas.get(code, 0.0) + area
