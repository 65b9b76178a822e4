"""The objects of a scene as polygons with class, score, size and direction; and how many there are per cell."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.engine.vector_mosaic import Objects
from skysense_cli.errors import RecipeError
from skysense_cli.geo.cog import write_geotiff
from skysense_cli.geo.crs import crs_text, understood
from skysense_cli.geo.ground import sides_m
from skysense_cli.geo.vector_files import VectorStream

COLUMNS = {"class": "object", "class_id": "int64", "score": "float64", "length_m": "float64", "width_m": "float64", "angle_deg": "float64"}
LAYER = "objects"
MOST_COUNTS = 1 << 27  # of classes times cells
UNSEEN = 2**32 - 1


def write_objects(path: Path, grid: GeoBox, classes: Sequence[str], found: Iterable[Objects], tags: Mapping[str, str]) -> list[str]:
    """Write a .gpkg, .parquet or .geojson with a polygon per object; returns lines for the user.

    length_m, width_m: longer and shorter side on the ground      angle_deg: of the longer side, counter-clockwise from
    the map's +x (on a map in degrees: from east, as on the ground), above -90 and up to 90
    """
    crs = crs_text(grid.crs.to_wkt()) if grid.crs else ""
    names, counts = np.array(classes, dtype=object), np.zeros(len(classes), np.int64)
    with VectorStream(path, crs, COLUMNS, LAYER, tags) as stream:
        for objects in found:
            stream.write(np.asarray(shapely.polygons(objects.polygons)), attributes(objects, names, crs))
            counts += np.bincount(objects.ids, minlength=len(classes))
    lines = [f"objects: {path} ({int(counts.sum())}; {_listed(classes, counts)})"]
    if stream.parts:
        lines.append(f"{stream.parts} of them cross the antimeridian and have two parts, as GeoJSON asks")
    return lines


def attributes(objects: Objects, names: np.ndarray, crs: str) -> dict[str, np.ndarray]:
    """The columns of some objects. names: (K,) of the classes"""
    sides = sides_m(objects.polygons, crs)
    longer = sides.argmax(axis=1)
    number = np.arange(len(longer))
    along = objects.polygons[number, longer + 1] - objects.polygons[number, longer]
    if crs and understood(crs).is_geographic:
        along[:, 0] *= np.cos(np.deg2rad(objects.polygons[:, :, 1].mean(axis=1)))
    angle = np.rad2deg(np.arctan2(along[:, 1], along[:, 0])).round(3)
    return {
        "class": names[objects.ids],
        "class_id": objects.ids,
        "score": objects.scores.astype(np.float64).round(6),
        "length_m": sides.max(axis=1).round(3),
        "width_m": sides.min(axis=1).round(3),
        "angle_deg": (90 - (90 - angle) % 180).round(3),
    }


@dataclass(eq=False)
class CellCounts:
    """How many objects of each class have their centre in each square cell of a grid over the map.

    cell_px: map pixels along a cell      seen: (h, w) bool, cells of which anything was looked at
    """

    cell_px: int
    counts: np.ndarray
    seen: np.ndarray

    @classmethod
    def over(cls, shape: tuple[int, int], classes: int, cell_m: float, gsd_m: float) -> "CellCounts":
        """Cells of `cell_m`, or of the nearest whole number of map pixels. Raises RecipeError when they are too many."""
        cell_px = max(round(cell_m / gsd_m), 1)
        height, width = (math.ceil(side / cell_px) for side in shape)
        if classes * height * width > MOST_COUNTS:
            raise RecipeError(
                f"write.boxes.counts_m {cell_m:g} makes {height} x {width} cells of {classes} classes; larger cells are needed here"
            )
        return cls(cell_px, np.zeros((classes, height, width), np.uint32), np.zeros((height, width), bool))

    def add(self, objects: Objects) -> None:
        """Count some objects."""
        across, down = (objects.centres // self.cell_px).astype(int).T
        last = self.seen.shape[0] - 1, self.seen.shape[1] - 1
        np.add.at(self.counts, (objects.ids, np.minimum(down, last[0]), np.minimum(across, last[1])), 1)

    def write(self, path: Path, grid: GeoBox, classes: Sequence[str], tags: Mapping[str, str]) -> list[str]:
        """Write a GeoTIFF with a band per class; nodata where nothing was seen and nothing was found. Returns lines for the user."""
        cells = GeoBox(self.seen.shape, grid.affine * Affine.scale(self.cell_px), grid.crs)
        unseen = ~self.seen & (self.counts.sum(axis=0) == 0)
        pixels = np.where(unseen, np.uint32(UNSEEN), self.counts)
        write_geotiff(path, pixels, cells, nodata=UNSEEN, band_names=list(classes), tags=tags, overviews="none")
        return [f"counts: {path} ({cells.shape[0]} x {cells.shape[1]} cells of {self.cell_px} x {self.cell_px} map pixels)"]


def seen_cells(valid: np.ndarray, top: int, left: int, cell_px: int) -> np.ndarray:
    """(M, 2) int32 rows and columns of the cells that hold a valid pixel of `valid` (n, w), whose corner is at map pixel (top, left)."""
    starts: list[np.ndarray] = []
    for axis, first in ((0, top), (1, left)):
        place = (np.arange(valid.shape[axis]) + first) // cell_px
        starts.append(np.flatnonzero(np.diff(place, prepend=-1)))
    if not valid.size:
        return np.zeros((0, 2), np.int32)
    rough = np.logical_or.reduceat(np.logical_or.reduceat(valid, starts[0], axis=0), starts[1], axis=1)
    return (np.argwhere(rough) + [top // cell_px, left // cell_px]).astype(np.int32)


def _listed(classes: Sequence[str], counts: np.ndarray) -> str:
    return ", ".join(f"{name} {count}" for name, count in zip(classes, counts.tolist(), strict=True))
