"""What a member of an npz file holds, checked as it is read: numbers, texts, JSON objects, a grid.

Each raises DataError that names file and key, what was found and what was expected.
"""

import json
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError

from skysense_cli.data.members import Members
from skysense_cli.errors import DataError

_DECODER = json.JSONDecoder()


def grid(members: Members, key: str, shape: tuple[int, ...], crs: str) -> GeoBox:
    """The grid of `shape` at the transform that `key` holds."""
    try:
        return GeoBox((shape[0], shape[1]), Affine(*floats(members, key, 6)), crs or None)
    except CRSError as error:
        raise DataError(f"{members.path}: crs is {crs[:60]!r}, expected EPSG:n, WKT2 or nothing ({str(error)[:80]})") from error


def floats(members: Members, key: str, number: int) -> list[float]:
    """So many float64."""
    array = members.load(key)
    if array.dtype != np.float64 or array.shape != (number,):
        raise DataError(f"{members.path}: {key} is {array.dtype} {array.shape}, expected float64 ({number},)")
    return [float(value) for value in array]


def texts(members: Members, key: str) -> tuple[str, ...]:
    """A list of texts."""
    array = members.load(key)
    if array.dtype.kind != "U" or array.ndim != 1:
        raise DataError(f"{members.path}: {key} is {array.dtype} {array.shape}, expected a list of texts")
    return tuple(array.tolist())


def objects(members: Members, key: str) -> list[dict[str, Any]]:
    """The JSON objects of a list of texts; those that begin and end with their braces, as we write them, are read faster."""
    found = []
    for text in texts(members, key):
        try:
            facts, end = _DECODER.raw_decode(text)
        except (json.JSONDecodeError, RecursionError):
            facts, end = None, -1
        found.append(facts if isinstance(facts, dict) and end == len(text) else json_object(members, key, text))
    return found


def json_object(members: Members, key: str, text: str) -> dict[str, Any]:
    """The JSON object that is one text of `key`."""
    try:
        facts = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{members.path}: {key} is no JSON ({error})") from error
    if not isinstance(facts, dict):
        raise DataError(f"{members.path}: {key} is a {type(facts).__name__}, expected a JSON object")
    return facts
