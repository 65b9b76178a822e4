"""Small bundles and scenes, the command that maps them, and the slow obvious way to the same map.

Loaded by the fixture `scene_kit` (runpy), so that the tests of several folders share it.
"""

from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from typer.testing import CliRunner

from skysense_cli import sensors
from skysense_cli.cli.main import app
from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle as bundles
from skysense_cli.engine.assemble import build_model
from skysense_cli.engine.spec import BundleSpec, ClassFact
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.model import ModelSection

S2, S1 = sensors.get("sentinel2_l2a"), sensors.get("sentinel1_grd")
UNIT_PX, GSD_M = 4, 10.0  # of the bundles below: patches of 4 pixels
UNIT_CELLS, CELL_M = 2, 20.0
CRS, LEFT, TOP = "EPSG:32631", 574_680, 5_622_440


def write_bundle(folder, *, classes=3, radar=False, size_m=160.0, bands=S2.band_names):
    """A bundle with random weights: patches of 4 px (40 m), cells of 20 m."""
    torch.manual_seed(0)
    mean, std = S2.statistics(bands)
    encoders = {"s2": bind("core/encoders", "vit", {"channels": len(bands), "dim": 16, "depth": 1, "heads": 2, "patch": UNIT_PX})}
    inputs = {"s2": Input(S2.name, bands, GSD_M, mean, std)}
    if radar:
        encoders["s1"] = bind("core/encoders", "vit", {"channels": 2, "dim": 16, "depth": 1, "heads": 2, "patch": 2})
        inputs["s1"] = Input(S1.name, S1.band_names, 20.0, S1.mean, S1.std)
    section = ModelSection(
        cell_m=20.0, width=16, anchor="s2", encoders=encoders, fusion=bind("core/fusions", "temporal", {"depth": 1, "heads": 2, "dim": 16})
    )
    head = bind("core/heads", "fcn", {"width": 8, "depth": 1})
    names = tuple(ClassFact(name=f"class {number}", color=(number % 256, number // 256, 90)) for number in range(classes))
    spec = BundleSpec(
        stage="finetune", model=section, inputs=inputs, dates=dict.fromkeys(inputs, 3), size_m=(size_m, size_m), classes=names, head=head
    )
    model = build_model(section, inputs)
    built = head.build(model.spec, classes)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"head.{name}": tensor for name, tensor in built.state_dict().items()}
    bundles.save(folder, spec.to_plain(), tensors)
    return folder


def numbers(height, width, seed=0, bands=10):
    """(bands, H, W) uint16 of plausible reflectance with a soft pattern."""
    random = np.random.default_rng(seed)
    level = random.normal(0, 1, (bands, height // 8 + 2, width // 8 + 2)).repeat(8, 1).repeat(8, 2)[:, :height, :width]
    mean, std = np.array(S2.mean[:bands]), np.array(S2.std[:bands])
    return np.clip(mean[:, None, None] + std[:, None, None] * 0.7 * level, 1, 60_000).astype(np.uint16)


def write_scene(path, pixels, *, transform=None, crs=CRS, nodata=0, names=S2.band_names, **tags):
    """A GeoTIFF of (C, H, W); by default in pixels of 10 m at a corner in Belgium."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = Affine(GSD_M, 0, LEFT, 0, -GSD_M, TOP) if transform is None else transform
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype.name, crs=crs, transform=transform,
        nodata=nodata,
    ) as out:  # fmt: skip
        out.write(pixels)
        if names:
            out.descriptions = names[:count]
        out.update_tags(**tags)
    return path


def write_radar(path, height, width, seed=0, left=LEFT):
    """A Sentinel-1 scene in dB, in pixels of 20 m at the same corner."""
    pixels = np.random.default_rng(seed).normal([[[-11]], [[-18]]], 2, (2, height, width)).astype(np.float32)
    transform = Affine(20, 0, left, 0, -20, TOP)
    return write_scene(path, pixels, transform=transform, nodata=np.nan, names=S1.band_names, UNITS="dB sigma0")


def command(*words):
    """The result of `skysense predict WORDS`, in this process."""
    return CliRunner().invoke(app, ["predict", *map(str, words), "--device", "cpu"])


def mapped(path):
    """(pixels (C, H, W), profile, tags) of a map."""
    with rasterio.open(path) as made:
        return made.read(), made.profile, made.tags()


def whole_blend(loaded, pixels, valid, **options):
    """(K, H, W) float64 scores of a single date by the obvious way: every tile alone, weighted sums over the whole scene.

    pixels: (C, H, W) as stored, 0 where not valid      valid: (H, W) bool
    options: tile_units=4, overlap=0.25, day=-1 (of the year, -1 unknown)
    """

    def scores(features, shape):
        return loaded.head.predict(loaded.head(features), shape)[0]

    _, height, width = pixels.shape
    found = _whole(loaded, pixels, valid, scores, UNIT_PX, **options)
    return np.zeros((1, height, width)) if found is None else found[:, :height, :width]


def whole_features(loaded, pixels, valid, **options):
    """(d, h, w) float64: the fused feature of every cell of 20 m by the same obvious way, NaN where the model sees nothing."""

    def cells(features, shape):
        return torch.cat([features.fused[0], features.seen_any.float()])

    height, width = (-(-side * UNIT_CELLS // UNIT_PX) for side in valid.shape)
    found = _whole(loaded, pixels, valid, cells, UNIT_CELLS, **options)
    return np.where(found[-1] > 0.5, found[:-1], np.nan)[:, :height, :width]


def _whole(loaded, pixels, valid, of, unit, *, tile_units=4, overlap=0.25, day=-1):
    """(C, H, W) of the scene extended to whole units, blended on `unit` positions a unit; None without any data."""
    _, height, width = pixels.shape
    units = [-(-side // UNIT_PX) for side in (height, width)]
    padded = np.pad(pixels, ((0, 0), (0, units[0] * UNIT_PX - height), (0, units[1] * UNIT_PX - width)))
    known = np.pad(valid, ((0, units[0] * UNIT_PX - height), (0, units[1] * UNIT_PX - width)))
    seen = loaded.inputs["s2"]
    normal = (padded.astype(np.float32) - np.array(seen.mean, np.float32)[:, None, None]) / np.array(seen.std, np.float32)[:, None, None]
    normal[:, ~known] = 0
    axes = [_starts(side, tile_units, overlap, unit) for side in units]
    total, weights = None, np.zeros([side * unit for side in units])
    for top, down in axes[0]:
        for left, across in axes[1]:
            tile = _place(top, left, len(down) // unit, len(across) // unit, UNIT_PX)
            if not known[tile].any():
                continue
            features = _features(loaded, normal[:, *tile], known[tile], day)
            found = of(features, known[tile].shape).double().numpy()
            total = np.zeros((len(found), *weights.shape)) if total is None else total
            place, weight = _place(top, left, len(down) // unit, len(across) // unit, unit), np.outer(down, across)
            total[:, *place] += weight * found
            weights[place] += weight
    return None if total is None else total / np.maximum(weights, 1e-12)


def _place(top, left, height, width, unit):
    return slice(top * unit, (top + height) * unit), slice(left * unit, (left + width) * unit)


def _starts(units, size, overlap, unit):
    """(first unit, weights of its positions) of the tiles along an axis; the last one is moved back inside."""
    size = min(size, units)
    stride = max(size - round(size * overlap), 1)
    starts = [*range(0, units - size, stride), units - size]
    position, found = np.arange(size * unit) + 0.5, []
    for number, start in enumerate(starts):
        before = (starts[number - 1] + size - start) * unit if number else 0
        after = (start + size - starts[number + 1]) * unit if number + 1 < len(starts) else 0
        rise = np.minimum(1, position / before) if before > 0 else 1
        fall = np.minimum(1, position[::-1] / after) if after > 0 else 1
        found.append((start, np.minimum(rise, fall) * np.ones_like(position)))
    return found


def _features(loaded, normal, known, day):
    series = SeriesBatch(
        torch.from_numpy(np.ascontiguousarray(normal))[None, None], torch.tensor([[day]]), torch.ones(1, 1, dtype=torch.bool),
        torch.from_numpy(np.ascontiguousarray(known))[None, None],
    )  # fmt: skip
    batch = Batch({"s2": series}, torch.tensor([-1]), torch.tensor([0]), torch.eye(3)[None, :2])
    with torch.inference_mode():
        return loaded.model(batch)
