"""The in-memory form of one `.npz` sample: numpy only, in the sensor's stored units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from odc.geo.geobox import GeoBox

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False)
class Series:
    """All dates of one modality over one footprint.

    sensor: name of the sensor            bands: names in stored order
    pixels: (T, C, H, W) stored units     times: (T,) datetime64[s], ascending; NaT = unknown
    valid: (T, H, W) bool                 items: (T,) source item ids
    grid: GeoBox of H x W                 meta: per date, the facts of design 6 (`<m>/meta`)
    units, nodata: as stored
    """

    sensor: str
    bands: tuple[str, ...]
    pixels: np.ndarray
    times: np.ndarray
    valid: np.ndarray
    items: tuple[str, ...]
    grid: GeoBox
    units: str
    nodata: float
    meta: tuple[dict[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Label:
    """What is known about the ground.

    raster: (H, W) uint8 class ids, 255 = ignore, or float32, NaN = ignore, on `grid`
    held_out: as raster; pixels kept for scoring, ignore elsewhere
    names, colors: class names and (K, 3) uint8 colours; index = id
    classes: (N,) int64 ids of the scene or of its boxes; `label/ids` on disk
    boxes: (N, 4) float32 pixel x0 y0 x1 y1, or (N, 5) cx cy w h angle_rad
    values: (P,) float32 regression targets     multi: (K,) bool, several classes at once
    period: (2,) datetime64[D] in which the label holds
    """

    raster: np.ndarray | None = None
    grid: GeoBox | None = None
    held_out: np.ndarray | None = None
    names: tuple[str, ...] = ()
    colors: np.ndarray | None = None
    classes: np.ndarray | None = None
    period: np.ndarray | None = None
    source: str = ""
    boxes: np.ndarray | None = None
    values: np.ndarray | None = None
    multi: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """The series of all modalities over one footprint.

    bounds: left, bottom, right, top in units of `crs`; the same for every modality
    crs: `EPSG:n` or WKT2, projected in metres; "" = not georeferenced (lonlat is NaN then)
    lonlat: footprint centre in WGS 84 degrees, longitude first
    series: modality -> Series; an absent modality is an absent key
    provenance: recipe digest, skysense version, how footprints were aligned
    """

    id: str
    crs: str
    bounds: tuple[float, float, float, float]
    lonlat: tuple[float, float]
    series: dict[str, Series]
    label: Label | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_xarray(self, modality: str) -> xarray.Dataset:
        """The series of `modality` as a Dataset with `pixels` (time, band, y, x) and `valid` (time, y, x).

        Coordinates are pixel centres; the CRS is set through rioxarray. Raises KeyError for an absent modality.
        """
        import rioxarray  # noqa: F401  registers the accessor
        import xarray

        series = self.series[modality]
        left, top = series.grid.affine.c, series.grid.affine.f
        width, height = series.grid.affine.a, series.grid.affine.e
        rows, columns = series.grid.shape
        dataset = xarray.Dataset(
            {"pixels": (("time", "band", "y", "x"), series.pixels), "valid": (("time", "y", "x"), series.valid)},
            coords={
                "time": series.times.astype("datetime64[ns]"),
                "band": list(series.bands),
                "item": ("time", list(series.items)),
                "y": top + (np.arange(rows) + 0.5) * height,
                "x": left + (np.arange(columns) + 0.5) * width,
            },
            attrs={"id": self.id, "modality": modality, "sensor": series.sensor, "units": series.units},
        )
        if self.crs:
            dataset = dataset.rio.write_crs(self.crs)
        return dataset.rio.write_transform(series.grid.affine)
