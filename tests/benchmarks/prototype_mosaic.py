"""Memory and time of putting many samples together into a prototype map.   python tests/benchmarks/prototype_mosaic.py [ROWS]

ROWS (50) x 300 samples of 64 x 64 cells, each overlapping its neighbours by half, with their counts and typical cells, as
`map-prototypes` makes them but without a model and without files. The last line is one JSON object: samples, cells, peak
memory in MB (of the imports alone, and at the end) and CPU seconds.
"""

import json
import resource
import sys
import time

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.engine.prototype_census import Census
from skysense_cli.engine.prototype_map import CellRows
from skysense_cli.engine.prototype_mosaic import Piece, Stream, mosaic, place

SIDE, ACROSS, PROTOTYPES = 64, 300, 100


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(down: int) -> None:
    """Measure and print."""
    imports, random = peak_mb(), np.random.default_rng(0)
    cells = CellRows(
        0, random.integers(0, PROTOTYPES, (SIDE, SIDE)).astype(np.uint16), random.random((SIDE, SIDE)).astype(np.float32),
        np.zeros((SIDE, SIDE), np.int32),
    )  # fmt: skip
    step = SIDE * 10 // 2
    corners = ((column * step, -row * step) for row in range(down) for column in range(ACROSS))
    grid, placed = place([GeoBox((SIDE, SIDE), Affine(10, 0, left, 0, -10, top), "EPSG:32631") for left, top in corners], "samples")
    stream = Stream([at.top for at in placed], lambda _: (Piece(number, cells) for number in range(len(placed))), [range(len(placed))])
    census, start = Census(PROTOTYPES, typical=6), time.process_time()
    for rows in mosaic([stream], placed, (grid.shape[0], grid.shape[1])):
        census.add(rows.cells, grid, 0, rows.source)
    print(json.dumps({
        "samples": len(placed), "cells": grid.shape[0] * grid.shape[1], "imports_mb": imports, "peak_mb": peak_mb(),
        "cpu_s": round(time.process_time() - start, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
