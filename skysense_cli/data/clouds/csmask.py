"""Clouds and their shadows on Sentinel-2 by the published ukis-csmask network (extra `clouds`)."""

import importlib.util
import json
from pathlib import Path

import numpy as np

from skysense_cli.data.clouds import CloudMask
from skysense_cli.data.clouds._coarser import averaged, factor_of, grown, load, missing, spread
from skysense_cli.errors import RecipeError
from skysense_cli.geo.grid import tiles
from skysense_cli.sensors import Sensor

NEEDED = ("B02", "B03", "B04", "B08", "B11", "B12")  # in the network's order
SIDE_PX = 256  # the network's own tile
OVERLAP = 0.2


class Csmask(CloudMask):
    """Pixels that the network calls neither cloud nor shadow and that lie farther than `grow_m` from every other.

    Reads reflectance of Level-2A or Level-1C, each with the weights that were trained on it. Six bands are
    needed; those that the recipe leaves out are read beside it.
    shadows: whether pixels in the shadow of a cloud are rejected, too
    at_m: pixels are averaged to about this size first; the network was trained on 30 m. A tile of 256 x 256 of
        them takes 0.6 s on one CPU thread (about 2 minutes for a whole tile of 110 km at 30 m), and a smaller image
        as much as a full tile.
    The network judges by what lies around: give it blocks of a full tile (7.7 km at 30 m) or more. Single patches
    of 640 m are too small: over the 72 dates of one it agrees with SCL on 80 % of the pixels (median date 99.9 %),
    with false alarms on clear dates, as the package's own class has; on a whole tile of desert, seen at 100 m, 93 %.
    """

    def __init__(self, sensor: Sensor, /, *, shadows: bool = True, at_m: float = 30.0, grow_m: float = 0.0) -> None:
        if not sensor.units.endswith("reflectance*10000"):
            raise RecipeError(f"cloud_mask csmask: works on Sentinel-2 reflectance, not on {sensor.name} ({sensor.units})")
        if at_m <= 0 or grow_m < 0:
            raise RecipeError(f"cloud_mask csmask: at_m is positive and grow_m not negative (found {at_m:g}, {grow_m:g})")
        self.bands = sensor.band_names
        self.extra_bands = tuple(band for band in NEEDED if band not in self.bands)
        self.rejected = (1, 2) if shadows else (1,)
        self.at_m, self.grow_m = at_m, grow_m
        self.network = _Network("l1c" if sensor.units.startswith("toa ") else "l2a")

    def valid(self, pixels: np.ndarray, extra: dict[str, np.ndarray], gsd_m: float) -> np.ndarray:
        factor = factor_of(self.at_m, gsd_m)
        counts = np.stack([extra[band] if band in extra else pixels[self.bands.index(band)] for band in NEEDED])
        classes = self.network.classes(averaged(counts, factor))
        rejected = spread(np.isin(classes, self.rejected), factor, pixels.shape[-2:])
        return ~grown(rejected, self.grow_m, gsd_m)


class _Network:
    """The six-band network for `level`, from the wheel of ukis-csmask.

    The wheel's own class opens the 40 MB of weights anew for every image, which is why it is not used.
    """

    def __init__(self, level: str) -> None:
        runtime = load("csmask", "onnxruntime")
        spec = importlib.util.find_spec("ukis_csmask")
        if spec is None or spec.origin is None:
            raise missing("csmask", "ukis-csmask")
        weights = Path(spec.origin).with_name(f"model_6b_{level}.onnx")
        facts = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
        mean, std = facts["data"]["dataset_statistics"]["img"]
        self.mean, self.std = (np.array(part, np.float32)[:, None, None] for part in (mean, std))
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # blocks are built side by side
        self.session = runtime.InferenceSession(str(weights), sess_options=options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def classes(self, reflectance: np.ndarray) -> np.ndarray:
        """(h, w) of 0 clear, 1 cloud, 2 shadow for reflectance (6, h, w); a small image is mirrored around itself up to one tile."""
        height, width = reflectance.shape[1:]
        down, across = (max(0, SIDE_PX - length) for length in (height, width))
        top, left = down // 2, across // 2
        margins = ((0, 0), (top, down - top), (left, across - left))
        image = np.pad((reflectance - self.mean) / self.std, margins, mode="symmetric")
        found = np.empty(image.shape[1:], np.uint8)
        for tile in tiles((image.shape[1], image.shape[2]), SIDE_PX, OVERLAP):
            part = image[None, :, tile.row : tile.row + SIDE_PX, tile.col : tile.col + SIDE_PX]
            scores = self.session.run(None, {self.input: np.ascontiguousarray(part)})[0]
            rows, columns = tile.core
            own = (slice(rows.start - tile.row, rows.stop - tile.row), slice(columns.start - tile.col, columns.stop - tile.col))
            found[tile.core] = scores[0].argmax(axis=0)[own]
        return found[top : top + height, left : left + width]


build = Csmask
