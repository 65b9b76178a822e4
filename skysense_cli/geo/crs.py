"""Coordinate reference systems by their text: `EPSG:n` or WKT2; "" means not georeferenced."""

from functools import lru_cache

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from skysense_cli.errors import GridError


def crs_text(crs: object) -> str:
    """`EPSG:n` where the CRS has such a number, else WKT2; "" for None. Raises GridError for what is no CRS."""
    if crs is None or (isinstance(crs, str) and not crs):  # a CRS compared with a text would be parsed for it
        return ""
    return _named(str(crs))


@lru_cache(maxsize=256)  # asked for every tile of a scene
def _named(text: str) -> str:
    code = understood(text).to_epsg()
    return f"EPSG:{code}" if code else understood(text).to_wkt()


@lru_cache(maxsize=256)
def transformer(source: str, target: str) -> Transformer:
    """Coordinates of `source` to those of `target`, always x (or lon) first."""
    try:
        return Transformer.from_crs(understood(source), understood(target), always_xy=True)
    except ProjError as error:
        raise GridError(f"there is no way from {source[:60]} to {target[:60]}: {error}") from error


@lru_cache(maxsize=256)
def understood(text: str) -> CRS:
    """The CRS that a text means. Raises GridError for what is none."""
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise GridError(f"{text[:60]!r} is not a coordinate reference system; give EPSG:n or WKT") from error


def transformed(source: str, target: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points x, y of one CRS in another. Raises GridError where a point has no place there."""
    a, b = transformer(source, target).transform(x, y)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise GridError(f"a place at x {x.flat[0]:g}, y {y.flat[0]:g} in {source[:60]} has no coordinates in {target[:60]}")
    return np.asarray(a), np.asarray(b)
