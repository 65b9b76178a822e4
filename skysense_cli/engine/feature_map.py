"""A raster of features: what its file says of itself, and the picture of it that a person looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skysense_cli.engine.preview import EMPTY, Reduced, save_colors
from skysense_cli.geo.cog import Compression, Look
from skysense_cli.recipe.schema.maps import What

PICTURE_BYTES = 256 << 20  # of the cells kept for a picture
FITTED_CELLS = 2048  # from which the principal components are found
STRETCH = (2, 98)  # percentiles that become black and full colour


@dataclass(frozen=True)
class FeatureMap:
    """A feature of every cell: float32, a band per channel, NaN where no date sees the cell. feature: its name      width: channels"""

    feature: str
    width: int
    what: What = "features"
    dtype: str = "float32"

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return tuple(f"{self.feature} {number}" for number in range(self.width))

    def look(self, tags: Mapping[str, str], compress: Compression = "deflate") -> Look:
        """How the GeoTIFF presents itself.

        No overviews: averaged features are not features of anything, and building them takes several times as long as the map.
        """
        return Look(nodata=np.nan, band_names=self.bands, tags=tags, overviews="none", compress=compress)


class FeaturePicture:
    """The picture of a raster of features, collected from its pieces. known: cells with a feature, so far"""

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        side = int((PICTURE_BYTES / (4 * width)) ** 0.5)
        self._reduced, self._width = Reduced(shape, largest_px=max(min(side, 1024), 1), empty=np.nan), width
        self.known = 0

    @property
    def held_bytes(self) -> int:
        """Of the cells that are kept for it."""
        height, width = (-(-side // self._reduced.step) for side in self._reduced.shape)
        return 4 * height * width * self._width

    def take(self, cells: np.ndarray, top: int, left: int) -> None:
        """Take a piece (d, n, w), NaN where there is no feature."""
        self.known += int((~np.isnan(cells[0])).sum())
        self._reduced.put(cells.transpose(1, 2, 0), top, left)

    def save(self, path: Path, title: str) -> None:
        """Write it as PNG, in the colours of the principal components."""
        save_colors(path, principal_colors(self._reduced.picture), title)


def principal_colors(cells: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: the first three principal components of cells (h, w, d) as red, green and blue; white where NaN.

    Each is stretched from its 2nd to its 98th percentile; its largest loading is positive, so the colours do not flip.
    """
    picture = np.full((*cells.shape[:2], 3), EMPTY, np.uint8)
    known = ~np.isnan(cells[..., 0])
    places = np.argwhere(known)
    if len(places):
        rows, columns = places[:: -(-len(places) // FITTED_CELLS)].T
        fitted = cells[rows, columns].astype(np.float64)
        centre = fitted.mean(axis=0)
        components, middle = _components(fitted - centre).astype(np.float32), centre.astype(np.float32)
        scores = np.concatenate([(row[seen] - middle) @ components for row, seen in zip(cells, known, strict=True)])  # no copy of all
        low, high = np.percentile(scores, STRETCH, axis=0)
        flat = high - low <= 1e-6 * max(float(np.abs(fitted).max()), 1e-12)  # nothing but rounding
        share = np.where(flat, 0.5, (scores - low) / np.where(flat, 1, high - low))
        picture[known] = np.round(255 * np.clip(share, 0, 1))
    return picture


def _components(values: np.ndarray) -> np.ndarray:
    """(d, 3): the directions in which centred values (n, d) vary most; zeros where there are fewer."""
    found = np.zeros((values.shape[1], 3))
    if values.shape[0] >= values.shape[1]:
        strongest = np.linalg.eigh(values.T @ values)[1][:, ::-1][:, :3]
    else:  # the smaller of the two matrices has the same directions
        strongest = values.T @ np.linalg.eigh(values @ values.T)[1][:, ::-1][:, :3]
        strongest /= np.maximum(np.linalg.norm(strongest, axis=0), 1e-12)
    signs = np.sign(np.take_along_axis(strongest, np.abs(strongest).argmax(axis=0)[None], axis=0))
    found[:, : strongest.shape[1]] = strongest * signs
    return found
