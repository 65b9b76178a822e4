"""Which of N regions of the globe a place lies in.

Paper silent: shape of the regions. Ours are equal steps of longitude and of sin(latitude), so that
all have the same area. `mercator` is the other reading: a square of Web Mercator cut into squares.
"""

import math
from typing import Literal

from skysense_cli.errors import GridError

Scheme = Literal["equal_area", "mercator"]


def region_of(lon: float, lat: float, regions: int = 4096, scheme: Scheme = "equal_area") -> int:
    """Number of the region in 0..regions-1, row by row from the north-west; -1 where the place is not known (NaN).

    Raises GridError for a latitude beyond 90 degrees or, with `mercator`, a number of regions that is no square.
    """
    if math.isnan(lon) or math.isnan(lat):
        return -1
    if not abs(lat) <= 90 or math.isinf(lon):
        raise GridError(f"lon {lon:g}, lat {lat:g} is no place on the globe")
    rows, columns = _layout(regions, scheme)
    across = (lon + 180) % 360 / 360
    down = (1 - math.sin(math.radians(lat))) / 2 if scheme == "equal_area" else _mercator(lat)
    return min(int(down * rows), rows - 1) * columns + min(int(across * columns), columns - 1)


def _layout(regions: int, scheme: Scheme) -> tuple[int, int]:
    """(rows, columns): as square as the number allows, never more rows than columns."""
    if regions < 1:
        raise GridError(f"{regions} regions are not possible, at least 1")
    rows = next(n for n in range(math.isqrt(regions), 0, -1) if regions % n == 0)
    if scheme == "mercator" and rows * rows != regions:
        raise GridError(f"the mercator scheme needs a square number of regions, not {regions} (nearest: {round(math.sqrt(regions)) ** 2})")
    return rows, regions // rows


def _mercator(lat: float) -> float:
    """Distance from the north edge of Web Mercator's square (85.05 N) in parts of its height, limited to it."""
    limit = math.atan(math.sinh(math.pi))
    return (1 - math.asinh(math.tan(max(-limit, min(limit, math.radians(lat))))) / math.pi) / 2
