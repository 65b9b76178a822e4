"""Tiles of the web map and single pixels, read on demand from a raster; rio-tiler chooses the overview and warps it.

Needs the extra `serve`.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.errors import GridError
from skysense_cli.geo.crs import crs_text, transformed
from skysense_cli.geo.grid import in_degrees
from skysense_cli.geo.opening import Place, failure, open_raster
from skysense_cli.geo.web_mercator import RADIUS_M

TILE_PX = 256
DEEPEST_ZOOM = 22
WORLD_M = 2 * math.pi * RADIUS_M


def check_extra() -> None:
    """Raise GridError that says what to install where rio-tiler is not."""
    try:
        import rio_tiler.io  # noqa: F401
    except ImportError as error:
        raise GridError("serving tiles needs rio-tiler; pip install 'skysense-cli[serve]', or write a page with --out") from error


def read_tile(path: Place, numbers: Sequence[int], zoom: int, column: int, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Bands (C, 256, 256) of a tile of the web map as stored, each pixel the nearest one, and where all are data (256, 256).

    A tile that the raster does not touch is all without data. Raises GridError naming the file.
    """
    from rio_tiler.errors import NoOverviewWarning, RioTilerError, TileOutsideBounds
    from rio_tiler.io import Reader

    with open_raster(path) as dataset, warnings.catch_warnings():
        warnings.simplefilter("ignore", NoOverviewWarning)
        try:
            # it warps at the raster's own resolution and reads that thinned out: quick from overviews, slow where there are none
            at_once = {} if dataset.overviews(1) else {"vrt_options": _grid_of_tile(zoom, column, row)}
            with Reader(None, dataset=dataset) as reader:
                tile = reader.tile(column, row, zoom, tilesize=TILE_PX, indexes=tuple(numbers), reproject_method="nearest", **at_once).array
        except TileOutsideBounds:
            return np.zeros((len(numbers), TILE_PX, TILE_PX), dataset.dtypes[0]), np.zeros((TILE_PX, TILE_PX), bool)
        except RioTilerError as error:
            raise failure(str(path), f"cannot be read as tiles ({error})") from error
    pixels, data = tile.data, np.logical_not(np.logical_or.reduce(np.ma.getmaskarray(tile)))
    if pixels.dtype.kind == "f":
        data &= np.isfinite(pixels).all(axis=0)
    return pixels, data


def shallowest_zoom(side_m: float) -> int:
    """The last zoom at which the raster is no longer than a tile. side_m: its longer side, in metres of the web map"""
    return min(max(math.floor(math.log2(WORLD_M / side_m)), 0), DEEPEST_ZOOM)


def deepest_zoom(pixel_m: float) -> int:
    """The first zoom at which the map's pixels are half as large as the raster's. pixel_m: in metres of the web map"""
    zoom = math.ceil(math.log2(WORLD_M / (TILE_PX * pixel_m))) + 1
    return min(max(zoom, 0), DEEPEST_ZOOM)


def pixel_at(grid: GeoBox, lon: float, lat: float) -> tuple[float, float, int, int]:
    """x, y in the CRS of `grid`, and row and column of the pixel there, which may lie outside of it."""
    x, y = transformed("EPSG:4326", crs_text(grid.crs), np.array([lon]), np.array([lat]))
    if in_degrees(grid):
        middle = grid.affine.c + grid.affine.a * grid.shape[1] / 2 + grid.affine.b * grid.shape[0] / 2
        x = x + 360 * np.round((middle - x) / 360)
    a, b, c, d, e, f = (~grid.affine)[:6]
    return float(x[0]), float(y[0]), math.floor(d * x[0] + e * y[0] + f), math.floor(a * x[0] + b * y[0] + c)


def _grid_of_tile(zoom: int, column: int, row: int) -> dict[str, Any]:
    side = WORLD_M / 2**zoom
    transform = Affine(side / TILE_PX, 0, column * side - WORLD_M / 2, 0, -side / TILE_PX, WORLD_M / 2 - row * side)
    return {"transform": transform, "width": TILE_PX, "height": TILE_PX}
