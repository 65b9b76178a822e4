"""A finished class map as polygons beside it, with class names and areas on the ground."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from skysense_cli.geo.crs import crs_text
from skysense_cli.geo.patches import patches
from skysense_cli.geo.raster import describe
from skysense_cli.geo.vector_files import VectorStream

COLUMNS = {"class": "object", "class_id": "int64", "area_m2": "float64"}
LAYER = "patches"


def write_patches(path: Path, class_map: Path, classes: Sequence[str], tags: Mapping[str, str], *,
                  simplify_m: float = 0.0, min_area_m2: float = 0.0) -> list[str]:  # fmt: skip
    """Write the patches of a class map to a .gpkg, .parquet or .geojson; returns lines for the user. Options: see `patches`."""
    grid = describe(class_map).grid
    crs = crs_text(grid.crs.to_wkt()) if grid.crs else ""
    names, area_m2 = np.array(classes, dtype=object), np.zeros(len(classes))
    with VectorStream(path, crs, COLUMNS, LAYER, tags) as stream:
        for lot in patches(class_map, simplify_m=simplify_m, min_area_m2=min_area_m2):
            stream.write(lot.polygons, {"class": names[lot.ids], "class_id": lot.ids, "area_m2": lot.area_m2.round(2)})
            area_m2 += np.bincount(lot.ids, lot.area_m2, minlength=len(classes))
    listed = ", ".join(f"{name} {area / 1e4:,.1f} ha" for name, area in zip(classes, area_m2.tolist(), strict=True))
    lines = [f"polygons: {path} ({stream.count}; {listed})"]
    if stream.parts:
        lines.append(f"{stream.parts} of them cross the antimeridian and have more than one part, as GeoJSON asks")
    return lines
