"""The real annotation, read once."""

from collections.abc import Callable

import numpy as np
import pytest
from pyproj import Geod, Transformer

from skysense_cli.data.products.sentinel1 import Annotation, read_annotation


@pytest.fixture(scope="session")
def annotation(grd_tree) -> Annotation:
    """Of the VV image of the shared product."""
    return read_annotation(next((grd_tree / "annotation").glob("*-vv-*.xml")).read_bytes(), "annotation.xml")


@pytest.fixture(scope="session")
def away(annotation: Annotation) -> Callable[[float, float, float, float], tuple[float, float]]:
    """A function from a place (lon, lat), the line that shows it and metres to the place so much further from the satellite's track.

    By great circles from the point below the satellite, which a polynomial through all state vectors gives.
    """
    geod, below = Geod(ellps="WGS84"), Transformer.from_crs("EPSG:4978", "EPSG:4979", always_xy=True)
    orbit = annotation.orbit
    path = [np.polynomial.Polynomial.fit(orbit.times_s, orbit.positions[:, k], 8) for k in range(3)]

    def moved(lon: float, lat: float, line: float, metres: float) -> tuple[float, float]:
        nadir = below.transform(*(one(line * annotation.line_interval_s) for one in path))
        to_nadir, _, _ = geod.inv(lon, lat, nadir[0], nadir[1])
        return geod.fwd(lon, lat, to_nadir + 180, metres)[:2]

    return moved
