"""What a picture shows of a scene, taken while the scene is read for the model, so that nothing is read twice."""

import warnings
from collections.abc import Mapping

import numpy as np

from skysense_cli.data.sample import Sample, Series
from skysense_cli.engine.natural_colors import color_bands
from skysense_cli.engine.preview import Reduced
from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.engine.tiling import Window


class LookedAt:
    """The scene of a job, to be read by windows; of each it keeps the few pixels that a picture shows until `take`.

    They are the median of the dates, in stored units, as red, green and blue.   rows: of tiles, whose windows are taken
    """

    def __init__(self, job: SceneJob, rows: range) -> None:
        self._scene, self._plan = job.scene, job.plan
        self._name, self._bands = color_bands(job.inputs)
        self._windows = {(job.plan.rows.starts[window.row], window.left): window for window in job.plan.windows(rows)}
        self._few = Reduced(job.plan.shape).few
        self._kept: dict[str, np.ndarray] = {}

    @property
    def units(self) -> tuple[int, int]:
        """Rows and columns of the scene."""
        return self._scene.units

    def strip(self, top: int, height: int, left: int = 0, width: int | None = None) -> Mapping[str, Series]:
        """A strip of the scene."""
        strip = self._scene.strip(top, height, left, width)
        if (window := self._windows.get((top, left))) is not None:
            self._kept[window.name] = self._seen(strip[self._name], window)
        return strip

    def tile(self, strip: Mapping[str, Series], left: int, width: int) -> Sample | None:
        """A tile of a strip."""
        return self._scene.tile(strip, left, width)

    def take(self, window: Window, valid: np.ndarray) -> np.ndarray:
        """(h, w, 3) float32 of a window that was read, NaN where not valid.   valid: (n, w) bool, of `plan.reached(window)`"""
        rows, columns = self._plan.pixels(window)
        above, beside = self._plan.before(window)
        shown = valid[above:, beside:][self._few(rows.start, columns.start)]
        return np.where(shown[..., None], self._kept.pop(window.name), np.float32(np.nan))

    def _seen(self, series: Series, window: Window) -> np.ndarray:
        """(h, w, 3) float32: the picture's pixels of a window; NaN where its strip does not reach or nothing is valid."""
        channel, plan = self._scene.channels[self._name], self._plan
        parts, few = plan.pixels(window), self._few(*(part.start for part in plan.pixels(window)))
        corner = plan.rows.starts[window.row], window.left
        places, inside = [], []
        for part, chosen, first, origin, length in zip(parts, few, corner, plan.origin, series.valid.shape[1:], strict=True):
            map_px = np.arange(part.start, part.stop)[chosen] + origin
            place = np.floor((map_px + 0.5) * channel.unit_px / plan.unit_px).astype(int) - first * channel.unit_px
            inside.append((place >= 0) & (place < length))
            places.append(place.clip(0, length - 1))
        down, across = places[0][:, None], places[1]
        known = series.valid[:, down, across] & inside[0][:, None] & inside[1]
        shown = [series.pixels[:, series.bands.index(band), down, across] for band in self._bands]
        pixels = np.stack(shown, axis=-1).astype(np.float32)  # (T, h, w, 3)
        pixels[~known] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # ground that no date sees stays NaN
            return np.asarray(np.nanmedian(pixels, axis=0), np.float32)
