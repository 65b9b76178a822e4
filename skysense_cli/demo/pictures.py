"""Pictures of the report, as arrays (H, W, 3) uint8."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skysense_cli.data import index, npz
from skysense_cli.demo.catalog import area_bounds, scene_grid
from skysense_cli.demo.observe import BOA_OFFSET
from skysense_cli.demo.report import GSD_M, scene_codes, window_of
from skysense_cli.demo.scores import CLOUD_CODES
from skysense_cli.demo.spectra import COLORS
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.raster import read_on_grid

TRUE_COLOR = ("B04", "B03", "B02")
BRIGHT = 0.28  # reflectance shown as white
RED, GREEN = np.array([225, 50, 60]), np.array([40, 150, 90])


def stretched(reflectance: np.ndarray) -> np.ndarray:
    """(3, H, W) reflectance to display colours."""
    return (255 * np.clip(reflectance / BRIGHT, 0, 1) ** 0.65).astype(np.uint8).transpose(1, 2, 0)


def true_color(landscape: Path, item: str) -> np.ndarray:
    """One Sentinel-2 date as delivered, cut to the area of the samples."""
    folder = landscape / "sentinel-2-l2a" / item
    bands = [read_on_grid(folder / f"{band}.tif", area_grid(), [1])[0][0] for band in TRUE_COLOR]
    return stretched((np.stack(bands).astype(np.float32) - BOA_OFFSET) / 10000)


def area_grid(gsd_m: float = GSD_M) -> Any:
    """The area of the samples at `gsd_m`."""
    left, bottom, right, top = area_bounds()
    return make_grid(left, top, gsd_m, round((top - bottom) / gsd_m), round((right - left) / gsd_m), str(scene_grid(10).crs))


def in_area(picture: np.ndarray) -> np.ndarray:
    """The part of a picture of the scene at 10 m that lies in the area of the samples."""
    return picture[window_of(area_grid())]


def photo(landscape: Path) -> np.ndarray:
    """The orthophoto at 2.5 m."""
    (path,) = (landscape / "orthophoto").glob("*.tif")
    return read_on_grid(path, area_grid(2.5), [1, 2, 3])[0].transpose(1, 2, 0)


def radar(landscape: Path, items: Iterable[str]) -> np.ndarray:
    """Mean of some Sentinel-1 dates: VV red, VH green, their ratio blue."""
    power = [
        np.stack([read_on_grid(landscape / "sentinel-1-rtc" / item / f"{band}.tif", area_grid(), [1])[0][0] for band in ("vv", "vh")])
        for item in items
    ]
    vv, vh = 10 * np.log10(np.mean(power, axis=0))
    parts = [(vv + 19) / 16, (vh + 26) / 16, (vv - vh - 2) / 10]
    return (255 * np.clip(np.stack(parts, axis=2), 0, 1)).astype(np.uint8)


def overlaid(picture: np.ndarray, flags: np.ndarray, color: np.ndarray, strength: float = 0.55) -> np.ndarray:
    """`picture` with a colour over the flagged pixels."""
    mixed = picture * (1 - strength) + color * strength
    return np.where(flags[..., None], mixed, picture).astype(np.uint8)


def cloud_row(landscape: Path, item: str, clear: np.ndarray, kept: np.ndarray) -> list[np.ndarray]:
    """As seen, true cloud and shadow, what the classification calls so, what the samples use."""
    seen = true_color(landscape, item)
    called = np.isin(in_area(scene_codes(landscape, item)), CLOUD_CODES)
    unused = (0.25 * seen + 0.75 * 235).astype(np.uint8)
    return [seen, overlaid(seen, ~in_area(clear), RED), overlaid(seen, called, RED), np.where(kept[..., None], seen, unused)]


def classes(ids: np.ndarray) -> np.ndarray:
    """Class ids in the colours of the land cover; what is no class is white."""
    table = np.full((256, 3), 255, dtype=np.uint8)
    table[: len(COLORS)] = COLORS
    return table[ids.clip(0, 255).astype(np.uint8)]


def outlined(picture: np.ndarray, ground: np.ndarray, width: int = 2) -> np.ndarray:
    """`picture` with a dark line around `ground`."""
    inner = ground.copy()
    for axis in (0, 1):
        for step in (-width, width):
            inner &= (
                np.roll(ground, step, axis=axis)
                | (np.indices(ground.shape)[axis] < width)
                | (np.indices(ground.shape)[axis] >= ground.shape[axis] - width)
            )
    return np.where((ground & ~inner)[..., None], np.array([20, 20, 30]), picture).astype(np.uint8)


class SampleMosaic:
    """The Sentinel-2 series of all samples, put side by side again on the area's 10 m grid."""

    def __init__(self, data: Path) -> None:
        self.reflectance: dict[str, np.ndarray] = {}
        self.kept: dict[str, np.ndarray] = {}
        shape = area_grid().shape
        left, _, _, top = area_bounds()
        for row in index.read(data / "index"):
            series = npz.read(data / row.path).series["s2"]
            bands = [series.bands.index(band) for band in TRUE_COLOR]
            line, column = round((top - row.bounds[3]) / GSD_M), round((row.bounds[0] - left) / GSD_M)
            inside = slice(line, line + series.grid.shape[0]), slice(column, column + series.grid.shape[1])
            for date, item in enumerate(series.items):
                mosaic = self.reflectance.setdefault(item, np.full((3, *shape), np.nan, dtype=np.float32))
                mosaic[:, inside[0], inside[1]] = series.pixels[date][bands] / 10000
                self.kept.setdefault(item, np.zeros(shape, dtype=bool))[inside] = series.valid[date]

    def mean(self, items: Iterable[str], window: tuple[slice, slice]) -> np.ndarray:
        """Mean over dates after co-registration."""
        return stretched(np.nanmean([self.reflectance[item][:, window[0], window[1]] for item in items], axis=0))


def mean_before(landscape: Path, items: Iterable[str], window: tuple[slice, slice]) -> np.ndarray:
    """Mean over dates as delivered."""
    total = []
    for item in items:
        folder = landscape / "sentinel-2-l2a" / item
        bands = [read_on_grid(folder / f"{band}.tif", area_grid(), [1])[0][0][window] for band in TRUE_COLOR]
        total.append((np.stack(bands).astype(np.float32) - BOA_OFFSET) / 10000)
    return stretched(np.mean(total, axis=0))


def clearest(truth: Mapping[str, Any], mosaic: SampleMosaic, count: int = 8) -> list[str]:
    """Clear dates that the samples hold, for the pictures before and after co-registration."""
    return [date["id"] for date in truth["sentinel-2-l2a"] if date["sky"] == "clear" and date["id"] in mosaic.kept][:count]
