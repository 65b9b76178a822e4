"""Small rasters and simulated products for the tests of data building."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

from skysense_cli.data.products.sentinel1 import read_annotation

GRD = "S1A_IW_GRDH_1SDV_20210809T173953_20210809T174018_039156_049F13_6FF8.SAFE"


@pytest.fixture(scope="session")
def geotiff() -> Callable[..., Path]:
    """A function that writes pixels (C, H, W) north-up as a GeoTIFF."""

    def write(path: Path, pixels: Any, *, left: float = 500000, top: float = 5600000, gsd: float = 10, crs: str | None = "EPSG:32631",
              nodata: float | None = None, names: Sequence[str] = (), **tags: str) -> Path:  # fmt: skip
        pixels = np.asarray(pixels)
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path, "w", driver="GTiff", count=pixels.shape[0], height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype, crs=crs,
            transform=Affine(gsd, 0, left, 0, -gsd, top), nodata=nodata,
        ) as dataset:  # fmt: skip
            dataset.write(pixels)
            for number, name in enumerate(names, 1):
                dataset.set_band_description(number, name)
            dataset.update_tags(**tags)
        return path

    return write


@pytest.fixture(scope="session")
def grd_tree(shared_data: Callable[[str], Path]) -> Path:
    """The real Sentinel-1 product whose measurements are empty."""
    return shared_data("safe_metadata") / GRD


@pytest.fixture(scope="session")
def grd_product(grd_tree: Path) -> Callable[..., Path]:
    """A function that writes the real product with simulated measurements.

    parts: polarisation -> pieces (line, sample, digital numbers); all else is 0. The rasters have the real size
    and ground control points, but only the pieces take room on the disk.
    """

    def write(home: Path, parts: dict[str, list[tuple[int, int, Any]]]) -> Path:
        product = home / GRD
        shutil.copytree(grd_tree, product, ignore=shutil.ignore_patterns("*.tiff"), copy_function=shutil.copyfile)
        for name in (product, *product.rglob("*")):
            name.chmod(0o755 if name.is_dir() else 0o644)  # the shared tree is read-only
        (product / "measurement").mkdir(exist_ok=True)
        for text in sorted((product / "annotation").glob("*.xml")):
            facts = read_annotation(text.read_bytes(), text.name)
            grid, (height, width) = facts.grid, facts.shape
            columns = (np.ravel(one) for one in (grid.line, grid.sample, grid.lon, grid.lat, grid.height))
            points = [GroundControlPoint(row, col, x, y, z) for row, col, x, y, z in zip(*columns, strict=True)]
            with rasterio.open(
                product / "measurement" / f"{text.stem}.tiff", "w", driver="GTiff", count=1, height=height, width=width, dtype="uint16",
                gcps=points, crs="EPSG:4326", tiled=True, blockxsize=512, blockysize=512, compress="deflate", sparse_ok=True,
            ) as dataset:  # fmt: skip
                for line, sample, numbers in parts.get(facts.polarisation, []):
                    numbers = np.asarray(numbers, np.uint16)
                    dataset.write(numbers, 1, window=((line, line + numbers.shape[0]), (sample, sample + numbers.shape[1])))
        return product

    return write
