"""A small data set made through the product's own writer, and a small model."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from skysense_cli import sensors
from skysense_cli.data import index, npz
from skysense_cli.data.sample import Label, Sample, Series
from skysense_cli.engine.parts import Parts
from skysense_cli.geo.grid import lonlat, make_grid

CRS, LEFT, TOP, SIDE_M = "EPSG:32631", 500_000.0, 5_600_000.0, 80.0
CLASSES = ("dark", "bright")

MODEL = """
cell_m: 20
width: 16
anchor: s2
encoders:
  s2: {kind: vit, channels: 10, dim: 16, depth: 2, heads: 2, patch: 2, size: 8}
  s1: {kind: vit, channels: 2, dim: 16, depth: 1, heads: 2, patch: 2, size: 4}
fusion: {kind: temporal, depth: 1, heads: 2, dim: 16}
prototypes: {regions: 64, per_region: 4}
"""


@dataclass(frozen=True)
class DataSet:
    """folder: of the data set      index: its index folder"""

    folder: Path
    index: Path


def series(sensor_name, gsd_m, months, level, rng, left, top):
    """Dates on the first of each month whose pixels follow `level` (H, W) in 0..1 at this gsd."""
    sensor = sensors.get(sensor_name)
    side = round(SIDE_M / gsd_m)
    level = (
        np.kron(level, np.ones((side // level.shape[0],) * 2))
        if side >= level.shape[0]
        else level[:: level.shape[0] // side, :: level.shape[0] // side]
    )
    noise = rng.normal(0, 0.2, (len(months), len(sensor.bands), side, side))
    scores = np.array(sensor.mean)[:, None, None] + np.array(sensor.std)[:, None, None] * (2 * level - 1 + noise)
    pixels = scores if sensor.kind == "sar" else np.clip(np.rint(scores), 1, 60_000)
    return Series(
        sensor=sensor.name, bands=sensor.band_names, pixels=pixels.astype(sensor.dtype),
        times=np.array([f"2019-{month:02d}-01T10:30" for month in months], "datetime64[s]"),
        valid=np.ones((len(months), side, side), bool), items=tuple(f"{sensor.name}-{month}" for month in months),
        grid=make_grid(left, top, gsd_m, side, side, CRS), units=sensor.units, nodata=sensor.nodata, meta=({},) * len(months),
    )  # fmt: skip


def make_sample(number: int, rng: np.random.Generator) -> Sample:
    """80 m with 4 fields: Sentinel-2 at 10 m on six dates, Sentinel-1 at 20 m on three; every third sample lacks Sentinel-1."""
    left = LEFT + number * SIDE_M
    fields = rng.integers(0, 2, (2, 2)).astype(float)
    level = np.kron(fields, np.ones((4, 4)))
    truth = level.astype(np.uint8)
    bounds = (left, TOP - SIDE_M, left + SIDE_M, TOP)
    held_out = np.full((8, 8), 255, np.uint8)
    held_out[:2] = truth[:2]
    raster = truth.copy()
    raster[:2] = 255
    label = Label(raster=raster, grid=make_grid(left, TOP, 10, 8, 8, CRS), held_out=held_out, names=CLASSES,
                  colors=np.array([[0, 0, 0], [255, 255, 0]], np.uint8))  # fmt: skip
    parts = {"s2": series("sentinel2_l2a", 10, (2, 4, 6, 8, 10, 12), level, rng, left, TOP)}
    if number % 3 != 2:
        parts["s1"] = series("sentinel1_grd", 20, (3, 6, 9), level, rng, left, TOP)
    return Sample(f"s{number:03d}", CRS, bounds, lonlat(bounds, CRS), parts, label)


def write_samples(folder: Path, count: int = 6, seed: int = 0) -> DataSet:
    """`count` samples, the last two of split val."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        sample = make_sample(number, rng)
        npz.write(sample, folder / "samples" / f"{sample.id}.npz")
        dates = {name: tuple(str(time) for time in part.times) for name, part in sample.series.items()}
        split = "val" if number >= count - 2 else "train"
        rows.append(
            index.Row(
                sample.id, f"samples/{sample.id}.npz", split, CRS, sample.bounds, sample.lonlat, tuple(sample.series), dates, {0: 24, 1: 24}
            )
        )
    index.write_part(folder / "index", "0", rows)
    return DataSet(folder, folder / "index")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> DataSet:
    """Six samples that no test changes."""
    return write_samples(tmp_path_factory.mktemp("dataset"))


def write_pretrain(folder: Path, data: DataSet, **train) -> Path:
    """A pretraining recipe in `folder` that writes to `folder/pretrain`."""
    (folder / "model.yaml").write_text(MODEL)
    options = {"steps": 4, "batch": 2, "lr": 0.001, "warmup": 2, "seed": 3, "log_every": 1, "save_every": 2} | train
    text = f"""
recipe: pretrain
version: 1
output: {folder}/pretrain
data: {{index: {data.index}, dates: {{s2: 3, s1: 2}}, crop_m: 40}}
model: model.yaml
objective: {{kind: multi_granularity, clusters: 2, cells: 4}}
train: {{{", ".join(f"{key}: {value}" for key, value in options.items())}}}
"""
    (folder / "pretrain.yaml").write_text(text)
    return folder / "pretrain.yaml"


def write_finetune(
    folder: Path, data: DataSet, start: str, *, evaluate: bool = True, modalities: str = "[s2]", dates: str = "{s2: 4}", **train
) -> Path:
    """A fine-tuning recipe in `folder`. start: its `start_from:` or `model:` line"""
    (folder / "model.yaml").write_text(MODEL)
    options = {"steps": 4, "batch": 2, "lr": 0.001, "seed": 3, "log_every": 2, "save_every": 2} | train
    text = f"""
recipe: finetune
version: 1
output: {folder}/finetune
{start}
modalities: {modalities}
data: {{index: {data.index}, val: val, dates: {dates}}}
head: {{kind: fcn, width: 8, depth: 1}}
train: {{{", ".join(f"{key}: {value}" for key, value in options.items())}}}
{"evaluate: {every: 2, metric: miou}" if evaluate else ""}
"""
    (folder / "finetune.yaml").write_text(text)
    return folder / "finetune.yaml"


def write_map_project(folder: Path, shape: tuple[int, int], *, empty: np.ndarray | None = None, **sections: str) -> Path:
    """A predict recipe in `folder` with its bundle (random weights, patches of 4 px, cells of 20 m) and its scene.

    empty: (H, W) bool, pixels without data      sections: YAML texts of `tiles` and `write`
    """
    from skysense_cli.data.dataset import Input
    from skysense_cli.engine import bundle
    from skysense_cli.engine.assemble import build_model
    from skysense_cli.engine.spec import BundleSpec, ClassFact
    from skysense_cli.recipe.parts import bind
    from skysense_cli.recipe.schema.model import ModelSection

    torch.manual_seed(0)
    sensor = sensors.get("sentinel2_l2a")
    vit, head = ({"channels": 10, "dim": 16, "depth": 1, "heads": 2, "patch": 4}, bind("core/heads", "fcn", {"width": 8, "depth": 1}))
    fusion = bind("core/fusions", "temporal", {"depth": 1, "heads": 2, "dim": 16})
    section = ModelSection(cell_m=20.0, width=16, anchor="s2", encoders={"s2": bind("core/encoders", "vit", vit)}, fusion=fusion)
    inputs = {"s2": Input(sensor.name, sensor.band_names, 10.0, sensor.mean, sensor.std)}
    classes = tuple(
        ClassFact(name=name, color=color) for name, color in (("field", (200, 180, 40)), ("wood", (20, 120, 30)), ("lake", (30, 60, 200)))
    )
    spec = BundleSpec(stage="finetune", model=section, inputs=inputs, dates={"s2": 3}, size_m=(160.0, 160.0), classes=classes, head=head)
    model = build_model(section, inputs)
    built = head.build(model.spec, len(classes))
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tensors = {
        f"{part}.{name}": tensor for part, module in (("model", model), ("head", built)) for name, tensor in module.state_dict().items()
    }
    bundle.save(folder / "bundle", spec.to_plain(), tensors)
    level = np.kron(np.random.default_rng(0).normal(0, 1, [10, *(side // 8 + 1 for side in shape)]), np.ones((8, 8)))[
        :, : shape[0], : shape[1]
    ]
    mean, std = (np.array(one)[:, None, None] for one in (sensor.mean, sensor.std))
    pixels = np.clip(mean + 0.7 * std * level, 1, 60_000).astype(np.uint16)
    if empty is not None:
        pixels[:, empty] = 0
    with rasterio.open(
        folder / "20210401.tif", "w", driver="GTiff", height=shape[0], width=shape[1], count=10, dtype="uint16", crs=CRS, nodata=0,
        transform=from_origin(574_680, 5_622_440, 10, 10),
    ) as out:  # fmt: skip
        out.write(pixels)
        out.descriptions = sensor.band_names
        out.update_tags(ACQUISITION="2021-04-01")
    lines = [
        "recipe: predict",
        "version: 1",
        f"bundle: {folder}/bundle",
        f"scene: {{s2: ['{folder}/20210401.tif']}}",
        f"output: {folder}/maps/map.tif",
    ]
    (folder / "map.yaml").write_text("\n".join([*lines, *(f"{name}: {text}" for name, text in sections.items())]) + "\n")
    return folder / "map.yaml"


@pytest.fixture(name="write_map_project", scope="session")
def _write_map_project():
    return write_map_project


@pytest.fixture(name="write_pretrain", scope="session")
def _write_pretrain():
    return write_pretrain


@pytest.fixture(name="write_finetune", scope="session")
def _write_finetune():
    return write_finetune


@pytest.fixture(name="write_samples", scope="session")
def _write_samples():
    return write_samples


class StopError(Exception):
    """Stands for a kill: nothing is tidied up."""


@pytest.fixture(scope="session")
def stopping():
    """`error`, and `after(count, monkeypatch)`: names of the strips kept from now on; the one after `count` (None: none) stops the run."""

    def after(count, monkeypatch):
        put, done = Parts.put, []

        def counting(self, name, arrays):
            if len(done) == count:
                raise StopError
            put(self, name, arrays)
            done.append(name)

        monkeypatch.setattr(Parts, "put", counting)
        return done

    return SimpleNamespace(error=StopError, after=after)
