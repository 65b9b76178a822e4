"""The grid of a map from the headers of its scenes, and which scenes' pixels a model can take."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.data.dataset import Input
from skysense_cli.errors import GridError
from skysense_cli.geo.crs import transformer
from skysense_cli.geo.grid import bounds_of, check_scale, lonlat, make_grid
from skysense_cli.geo.ground import ground_pixel_m, metric_crs
from skysense_cli.geo.outlines import outline
from skysense_cli.geo.raster import RasterInfo

SAME_GSD = (0.8, 1.25)  # pixels so many times as large as the bundle's are taken as they are
SQUARE = 0.02  # of a pixel's side, by which the other may differ


def pixel_of(info: RasterInfo) -> float:
    """Width of a pixel in CRS units."""
    return info.gsd[1]


def refuse_other_gsd(name: str, info: RasterInfo, wanted: Input) -> None:
    """Raise GridError unless the scene's pixels are about as large on the ground, and as square, as those the model was trained on."""
    choices = f"scene_gsd: resample (to {wanted.gsd_m:g} m) or as_is (take them as if they were {wanted.gsd_m:g} m)"
    how = "in the recipe, or --set scene_gsd=resample"
    if not info.grid.crs:
        raise GridError(
            f"{info.path} has no coordinate reference system (CRS); say scene_gsd: as_is to take its pixels as {wanted.gsd_m:g} m ones "
            "(in the recipe, or --set scene_gsd=as_is)"
        )
    down, across = ground_pixel_m(info.grid)
    size = f"{across:.3g} m" if abs(down / across - 1) < SQUARE else f"{across:.3g} x {down:.3g} m"
    if info.grid.crs.geographic:
        raise GridError(f"scene.{name}: {info.path} is in degrees, its pixels are {size} on the ground. Say {choices}; {how}")
    if not all(SAME_GSD[0] <= side / wanted.gsd_m <= SAME_GSD[1] for side in (down, across)) or not abs(down / across - 1) < SQUARE:
        on_map = f"{pixel_of(info):g} m pixels"
        if abs(across / pixel_of(info) - 1) > SQUARE or abs(down / across - 1) >= SQUARE:
            on_map += f" in {info.crs[:40]}, which are {size} on the ground"
        raise GridError(f"scene.{name}: {info.path} has {on_map}, the bundle was trained on {wanted.gsd_m:g} m ones. Say {choices}; {how}")


def map_grid(headers: Sequence[RasterInfo], wanted: Input, gsd: str) -> GeoBox:
    """The grid of the first scene, grown to hold all others of its CRS; north-up in the bundle's pixels when resampled."""
    first = headers[0]
    others = [info for info in headers[1:] if info.crs == first.crs]
    if first.crs and not (first.transform.b or first.transform.d) and first.transform.e > 0:
        first = _north_up(first)
    turned = bool(first.transform.b or first.transform.d or first.transform.a <= 0 or first.transform.e >= 0)
    if turned and (gsd != "resample" or not first.crs):
        what = f"turned, flipped or not georeferenced (CRS: {first.crs[:40] or 'none'})"
        raise GridError(
            f"{first.path} is {what}; say scene_gsd: resample to lay it north-up (--set scene_gsd=resample), "
            "or warp it yourself, e.g. with gdalwarp -t_srs EPSG:n"
        )
    if gsd != "resample" or (not turned and first.crs and abs(pixel_of(first) / wanted.gsd_m - 1) < 1e-6):
        return _grown(first, others)
    crs, place = first.crs, lonlat(first.grid)
    if not crs:
        raise GridError(f"{first.path} has no coordinate reference system (CRS) and cannot be resampled; say scene_gsd: as_is")
    left, bottom, right, top = bounds_of(_grown(first, others))
    if not _true_to_scale(crs, place):
        target = metric_crs(*place)
        left, bottom, right, top = transformer(crs, target).transform_bounds(left, bottom, right, top, densify_pts=21)
        crs = target
    if not np.isfinite([left, bottom, right, top]).all():
        raise GridError(f"{first.path} does not wholly lie where {crs} is defined; warp it yourself, e.g. with gdalwarp -t_srs EPSG:n")
    height, width = (math.ceil(side / wanted.gsd_m - 1e-6) for side in (top - bottom, right - left))
    return make_grid(left, top, wanted.gsd_m, height, width, crs)


def _north_up(info: RasterInfo) -> RasterInfo:
    """A raster whose first row is the southernmost, as if it began at the top; its pixels stay where they are."""
    a, _, c, _, e, f = info.transform[:6]
    return replace(info, transform=Affine(a, 0, c, 0, -e, f + e * info.shape[0]))


def require_ground(info: RasterInfo) -> None:
    """Raise GridError when a scene that names a CRS does not lie on the Earth."""
    if not info.crs:
        return
    left, bottom, right, top = bounds_of(info.grid)
    if info.grid.crs and info.grid.crs.geographic and not -90.5 <= bottom <= top <= 90.5:
        raise GridError(f"{info.path}: reaches from latitude {bottom:g} to {top:g}; its CRS or its transform is wrong")
    try:
        outline((left, bottom, right, top), info.crs)
    except GridError as error:
        raise GridError(
            f"{info.path}: its CRS has no place on the Earth ({error}); warp it first, e.g. with gdalwarp -t_srs EPSG:n"
        ) from error


def _grown(first: RasterInfo, others: Sequence[RasterInfo]) -> GeoBox:
    """Whole pixels of `first`, enough to hold the corners of all."""
    inverse = ~first.transform
    corners = [(0.0, 0.0), (float(first.shape[1]), float(first.shape[0]))]
    for info in others:
        corners += [inverse * (info.transform * corner) for corner in ((0, 0), (info.shape[1], info.shape[0]))]
    left, top = (math.floor(min(corner[axis] for corner in corners) + 1e-3) for axis in (0, 1))
    right, bottom = (math.ceil(max(corner[axis] for corner in corners) - 1e-3) for axis in (0, 1))
    return GeoBox((bottom - top, right - left), first.transform * Affine.translation(left, top), first.crs or None)


def _true_to_scale(crs: str, place: tuple[float, float]) -> bool:
    try:
        check_scale(crs, *place)
    except GridError:
        return False
    return True
