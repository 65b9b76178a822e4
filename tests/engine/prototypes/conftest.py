"""Scenes, samples and bundles that prototype maps are made of, all written by the product's own writers."""

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

from skysense_cli import sensors
from skysense_cli.cli.map_prototypes import run
from skysense_cli.cli.options import Options
from skysense_cli.data import index, npz
from skysense_cli.data.dataset import Input, batch_of
from skysense_cli.data.sample import Sample, Series
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import build_model
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.geo.grid import lonlat, make_grid
from skysense_cli.geo.regions import region_of
from skysense_cli.recipe.load import load_recipe
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.model import ModelSection

S2 = sensors.get("sentinel2_l2a")
CRS, LEFT, TOP = "EPSG:32631", 574_680, 5_622_440
REGIONS = 4096
PER_REGION = 5


def write_bundle(folder, known, prototypes=True, cell_m=20.0, spoiled=False):
    """A bundle with random weights; the prototypes of each of the regions `known` are features of some cells.

    spoiled: its weights are no numbers
    """
    torch.manual_seed(0)
    section = ModelSection(
        cell_m=cell_m,
        width=16,
        anchor="s2",
        encoders={"s2": bind("core/encoders", "vit", {"channels": 10, "dim": 16, "depth": 1, "heads": 2, "patch": 4})},
        fusion=bind("core/fusions", "temporal", {"depth": 1, "heads": 2, "dim": 16}),
        prototypes=bind("core", "prototypes", {"regions": REGIONS, "per_region": PER_REGION}) if prototypes else None,
    )
    inputs = {"s2": Input(S2.name, S2.band_names, 10.0, S2.mean, S2.std)}
    model = build_model(section, inputs)
    if prototypes:
        model.geo_context.resize(len(known))
        model.geo_context.slot_regions[:] = torch.tensor(known)
        with torch.no_grad():
            cells = model.eval()(batch_of([make_sample("a", LEFT, TOP, size_px=64)], inputs)).fused_mm[0].flatten(1).T  # (h*w, d)
        for slot in range(len(known)):
            model.geo_context.prototypes[slot] = cells[
                torch.randperm(len(cells), generator=torch.Generator().manual_seed(slot))[:PER_REGION]
            ]
    if spoiled:
        for parameter in model.parameters():
            parameter.data[:] = float("nan")
    spec = BundleSpec(stage="pretrain", model=section, inputs=inputs, dates={"s2": 2}, size_m=(160.0, 160.0))
    bundle.save(folder, spec.to_plain(), {f"model.{name}": tensor for name, tensor in model.state_dict().items()})


def landscape(height, width, seed=0):
    """(10, H, W) counts of Sentinel-2, in patches of 8 pixels."""
    random = np.random.default_rng(seed)
    level = random.normal(0, 1, (10, height // 8 + 1, width // 8 + 1)).repeat(8, 1).repeat(8, 2)[:, :height, :width]
    return np.clip(np.array(S2.mean)[:, None, None] + np.array(S2.std)[:, None, None] * level, 1, 60_000).astype(np.uint16)


def write_scene(path, height, width, crs=CRS, left=LEFT, top=TOP, empty=None, pixels=None):
    """One date on the first of April."""
    pixels = landscape(height, width) if pixels is None else pixels.copy()
    if empty is not None:
        pixels[:, empty] = 0
    transform = from_origin(left, top, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=10, dtype="uint16", crs=crs, transform=transform, nodata=0
    ) as out:
        out.write(pixels)
        out.descriptions = S2.band_names
        out.update_tags(ACQUISITION="2021-04-01")
    return path


def make_sample(name, left, top, size_px=16, crs=CRS, seed=0, empty=None):
    """One date. empty: (size, size) bool, where nothing is seen"""
    valid = np.ones((1, size_px, size_px), bool)
    if empty is not None:
        valid[0, empty] = False
    series = Series(
        sensor=S2.name, bands=S2.band_names, pixels=landscape(size_px, size_px, seed)[None], valid=valid, items=("a",), meta=({},),
        times=np.array(["2021-04-01T10:30"], "datetime64[s]"), grid=make_grid(left, top, 10, size_px, size_px, crs), units=S2.units,
        nodata=S2.nodata,
    )  # fmt: skip
    bounds = (left, top - 10 * size_px, left + 10 * size_px, top)
    return Sample(name, crs, bounds, lonlat(bounds, crs), {"s2": series})


def write_samples(folder, places, crs=None, seeds=None, empty=None):
    """Samples at `places` (left, top); returns the index. crs, seeds, empty: one for each"""
    rows = []
    for number, (left, top) in enumerate(places):
        own = CRS if crs is None else crs[number]
        seed, hole = number if seeds is None else seeds[number], None if empty is None else empty[number]
        sample = make_sample(f"s{number:03d}", left, top, crs=own, seed=seed, empty=hole)
        npz.write(sample, folder / "samples" / f"{sample.id}.npz")
        dates = {"s2": ("2021-04-01T10:30:00",)}
        rows.append(index.Row(sample.id, f"samples/{sample.id}.npz", "train", own, sample.bounds, sample.lonlat, ("s2",), dates))
    index.write_part(folder / "index", "0", rows)
    return folder / "index"


def here(left=LEFT, top=TOP, crs=CRS):
    """The region of a place."""
    return region_of(*lonlat(make_grid(left, top, 160, 1, 1, crs)), REGIONS)


def map_prototypes(folder, given, tiles="{size_m: 160, overlap: 0.4, batch: 3}", name="prototypes", dry_run=False, more=""):
    """Run the command with bundle `folder`/bundle; returns the output folder. given: a file, or the line of scene, scenes or data"""
    given = given if isinstance(given, str) else f"scene: {{s2: ['{given}']}}"
    path = folder / f"{name}.yaml"
    path.write_text(f"""
recipe: map-prototypes
version: 1
bundle: {folder}/bundle
{given}
output: {folder}/{name}
tiles: {tiles}
{more}
""")
    run(load_recipe(path, "map-prototypes", inputs=True), Options(dry_run=dry_run, device="cpu"))
    return folder / name


def open_all(folder):
    """prototypes, similarity, region"""
    found = []
    for name in ("prototypes", "prototypes_similarity", "prototypes_region"):
        with rasterio.open(folder / f"{name}.tif") as file:
            found.append(file.read(1))
    return found


@pytest.fixture(scope="session")
def world():
    """All of the above by name."""
    return SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})
