"""Maps of several scenes on one grid: which scene a pixel is of, or the mean of those that have it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy import ndimage

from skysense_cli.engine.score_map import ScoreMap, pixels_of
from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformer
from skysense_cli.geo.grid import bounds_of, make_grid, window
from skysense_cli.geo.raster import read_on_grid

LEAST_SHARE = 1e-3  # of a pixel at the very border, so that one scene alone still gives it
SMALLEST = np.float32(1e-30)  # probability whose logarithm is taken


@dataclass(frozen=True, eq=False)
class Layer:
    """The map of one scene. files: kind of map -> GeoTIFF, all on `grid`      time: of its last date      tags: of the files"""

    name: str
    files: dict[str, Path]
    grid: GeoBox
    time: np.datetime64
    tags: dict[str, str]

    @property
    def seconds(self) -> int:
        """Since 1970; 0 when it is not dated."""
        return 0 if np.isnat(self.time) else int(self.time.astype("datetime64[s]").astype(np.int64))


def grid_of_all(layers: Sequence[Layer], crs: str | None) -> GeoBox:
    """The smallest grid in pixels of the first layer (of that CRS) that holds all layers.

    Raises GridError for layers without a place on the ground.
    """
    lost = next((layer.name for layer in layers if not layer.grid.crs), None)
    if lost is not None:
        raise GridError(f"{lost} is not georeferenced, so it has no place in a mosaic; map it alone")
    wanted = crs_text(crs) if crs else crs_text(layers[0].grid.crs)
    model = next((layer.grid for layer in layers if crs_text(layer.grid.crs) == wanted), None)
    if model is None:
        side = abs(layers[0].grid.affine.a)
        if layers[0].grid.crs and layers[0].grid.crs.geographic:
            raise GridError(f"mosaic.crs is {wanted}, but {layers[0].name} is in degrees; leave mosaic.crs out")
        model = make_grid(0, 0, side, 1, 1, wanted)
    inverse, corners = ~model.affine, []
    for layer in layers:
        bounds = bounds_of(layer.grid)
        if crs_text(layer.grid.crs) != wanted:
            bounds = transformer(crs_text(layer.grid.crs), wanted).transform_bounds(*bounds, densify_pts=21)
        corners += [inverse @ (bounds[0], bounds[3]), inverse @ (bounds[2], bounds[1])]
    if not np.isfinite(corners).all():
        raise GridError(f"the scenes do not all have a place in {wanted[:60]}; give another mosaic.crs")
    left, top = (math.floor(min(corner[axis] for corner in corners) + 1e-3) for axis in (0, 1))
    right, bottom = (math.ceil(max(corner[axis] for corner in corners) - 1e-3) for axis in (0, 1))
    return GeoBox((bottom - top, right - left), model.affine @ Affine.translation(left, top), model.crs)


class Merger:
    """Windows of the merged maps.

    rule: "latest": a pixel is of the latest layer that has it, others show where that has none;
        "feather": the mean of the scores of all layers that have it, weighted by how far it lies from each one's border
        of data, up to `feather_m` metres. Layers on the grid's own lattice are taken as they are; others nearest
        (latest) or interpolated (feather).
    """

    def __init__(
        self, layers: Sequence[Layer], maps: Sequence[ScoreMap], grid: GeoBox, rule: Literal["feather", "latest"], feather_m: float
    ) -> None:  # fmt: skip
        self._layers, self._maps, self._grid, self._rule = list(layers), list(maps), grid, rule
        pixel = abs(grid.affine.a) * (111_320.0 if grid.crs and grid.crs.geographic else 1.0)
        self._feather_px = max(feather_m / pixel, 1.0)
        self._spans = [_span(layer.grid, grid) for layer in layers]

    def reached(self, tops: Sequence[int], lefts: Sequence[int], side: int) -> np.ndarray:
        """(rows, columns) bool: which windows some layer reaches."""
        found = np.zeros((len(tops), len(lefts)), bool)
        for rows, columns in self._spans:
            down = np.array([top < rows.stop and top + side > rows.start for top in tops])
            across = np.array([left < columns.stop and left + side > columns.start for left in lefts])
            found |= np.outer(down, across)
        return found

    def window(self, rows: slice, columns: slice) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """(kind of map -> (bands, n, w), number of the layer of each pixel (n, w), -1 for none; None where it is of several)."""
        place = window(self._grid, rows, columns)
        here = [
            k for k, (down, across) in enumerate(self._spans)
            if down.start < rows.stop and down.stop > rows.start and across.start < columns.stop and across.stop > columns.start
        ]  # fmt: skip
        return self._latest(place, here) if self._rule == "latest" else (self._feathered(place, here), None)

    def _latest(self, place: GeoBox, here: Sequence[int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        scenes = np.full(place.shape, -1, np.int32)
        shape = (place.shape[0], place.shape[1])
        made: dict[str, np.ndarray] = {one.what: np.full((len(one.bands), *shape), one.nodata, one.dtype) for one in self._maps}
        for number in sorted(here, key=lambda k: (np.isnat(self._layers[k].time), -self._layers[k].seconds, k)):
            free = scenes < 0
            if not free.any():
                break
            taken = np.zeros_like(free)
            for one in self._maps:
                numbers, data = _read(self._layers[number].files[one.what], place, len(one.bands), "nearest")
                taken = free & data
                made[one.what][:, taken] = numbers[:, taken]
            scenes[taken] = number
        return made, scenes

    def _feathered(self, place: GeoBox, here: Sequence[int]) -> dict[str, np.ndarray]:
        values = self._maps[0].what == "value"
        count = len(self._maps[0].classes)
        blend, total = np.zeros((count, *place.shape), np.float32), np.zeros(place.shape)
        for number in here:
            path = self._layers[number].files["value" if values else "probability"]
            numbers, data = _read(path, place, count, "bilinear")
            if not data.any():
                continue
            weight = np.where(data, self._weights(path, place), 0)
            total += weight
            share = np.divide(weight, total, out=np.zeros_like(total), where=total > 0).astype(np.float32)
            share[data & (total == weight)] = 1  # the first that is there gives it unchanged
            blend += share * (np.where(data, numbers, 0) - blend)
        scores = blend if values else np.log(np.maximum(blend, SMALLEST))
        return pixels_of(self._maps, scores, total > 0)

    def _weights(self, path: Path, place: GeoBox) -> np.ndarray:
        """(n, w): distance to the nearest pixel without data, over the feather, at most 1."""
        margin = math.ceil(self._feather_px) + 1
        around = window(place, slice(-margin, place.shape[0] + margin), slice(-margin, place.shape[1] + margin))
        data = _read(path, around, 1, "nearest")[1]
        if data.all():
            return np.ones(place.shape)
        distance = ndimage.distance_transform_edt(data)[margin:-margin, margin:-margin] - 0.5
        return np.clip(distance / self._feather_px, LEAST_SHARE, 1)


def _read(path: Path, place: GeoBox, bands: int, method: Literal["nearest", "bilinear"]) -> tuple[np.ndarray, np.ndarray]:
    """(bands, n, w) of a map on a window, and (n, w) where all of them are data."""
    numbers, data = read_on_grid(path, place, range(1, bands + 1), resampling=method)
    return numbers, np.asarray(data.all(axis=0))


def _span(source: GeoBox, grid: GeoBox) -> tuple[slice, slice]:
    """Rows and columns of `grid` that `source` may reach."""
    bounds = bounds_of(source)
    if crs_text(source.crs) != crs_text(grid.crs):
        bounds = transformer(crs_text(source.crs), crs_text(grid.crs)).transform_bounds(*bounds, densify_pts=21)
    inverse = ~grid.affine
    (left, top), (right, bottom) = inverse @ (bounds[0], bounds[3]), inverse @ (bounds[2], bounds[1])
    return slice(math.floor(top - 1), math.ceil(bottom + 1)), slice(math.floor(left - 1), math.ceil(right + 1))
