"""Small rasters for the tests of data building."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine


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
