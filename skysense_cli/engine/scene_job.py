"""A recipe's scene beside a bundle: opened, checked against what the model saw, cut into tiles, with its plan."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli import __version__
from skysense_cli.core.batch import Batch
from skysense_cli.data.dataset import Input, batch_of
from skysense_cli.data.sample import Sample
from skysense_cli.data.scenes import SceneOptions, SceneStack, open_scene
from skysense_cli.data.sources import Item
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.bundle import WEIGHTS
from skysense_cli.engine.scene_area import narrowed_plan
from skysense_cli.engine.tiling import Plan, make_plan, size_in_units
from skysense_cli.errors import GridError, RecipeError
from skysense_cli.geo.grid import window
from skysense_cli.geo.vectors import read_area
from skysense_cli.recipe.schema.maps import EmbedRecipe, MapPrototypesRecipe, PredictRecipe

SHOWN_ITEMS = 3  # in the plan
MOST_CACHE_BYTES = 512 << 20  # of decoded blocks, where a recipe does not limit the memory


@dataclass(frozen=True)
class SceneJob:
    """Everything that predicting a scene needs. grid: of the map      gsd_m: its pixels in the bundle's metres"""

    bundle: LoadedBundle
    scene: SceneStack
    plan: Plan
    grid: GeoBox
    gsd_m: float

    def to_batch(self, samples: Sequence[Sample]) -> Batch:
        """Tiles as the model sees them."""
        return batch_of(samples, self.inputs, self.bundle.spec.regions)

    @property
    def inputs(self) -> dict[str, Input]:
        """What the model sees of the modalities that the scene has."""
        return {name: channel.input for name, channel in self.scene.channels.items()}

    def tags(self, recipe_digest: str) -> dict[str, str]:
        """What the map's files say about where they come from."""
        return {
            "SKYSENSE_VERSION": __version__,
            "SKYSENSE_BUNDLE_SHA256": self.bundle.manifest[WEIGHTS]["sha256"],
            "SKYSENSE_RECIPE_SHA256": recipe_digest,
            **self.scene.tags,
        }

    def facts(self) -> list[tuple[str, str]]:
        """(what, value) lines of the plan."""
        scene, plan = self.scene, self.plan
        height, width = plan.shape
        pixel = abs(self.grid.affine.a)
        taken = "" if abs(pixel / self.gsd_m - 1) < 1e-6 else f" taken as {self.gsd_m:g} m"
        lines = [("map", f"{height} x {width} px of {pixel:g} m{taken}, {self.grid.crs or 'not georeferenced'}")]
        lines += [(f"scene, {name}", _listed(channel.items)) for name, channel in scene.channels.items()]
        cells = [round(side * scene.unit_m / self.bundle.spec.model.cell_m) for side in (plan.rows.size, plan.columns.size)]
        for name, channel in scene.channels.items():
            sides = plan.rows.size * channel.unit_px, plan.columns.size * channel.unit_px
            shape = f"{len(channel.items)} dates x {len(channel.input.bands)} bands x {sides[0]} x {sides[1]} px"
            lines.append((f"tile, {name}", f"{shape} -> {cells[0]} x {cells[1]} cells"))
        sides_m = " x ".join(f"{side:g}" for side in self.bundle.spec.size_m)
        own_m = " x ".join(f"{axis.size * scene.unit_m:g}" for axis in (plan.rows, plan.columns))
        lines.append(("tile size", f"{own_m} m (trained on views of {sides_m} m)"))
        tiles = f"{len(plan.rows.starts)} rows x {len(plan.columns.starts)} columns, {plan.batch} a step"
        lines.append(("tiles", tiles if plan.wanted is None else f"{tiles}; {int(plan.wanted.sum())} of them hold the area"))
        return lines


def computed_with(bundle: LoadedBundle) -> dict[str, Any]:
    """What the numbers of every output depend on besides its recipe and its scenes, as plain JSON."""
    return {
        "bundle": {name: entry["sha256"] for name, entry in bundle.manifest.items()},
        "computed": {"device": bundle.device.partition(":")[0], "skysense": __version__, "torch": torch.__version__},
    }


def _listed(items: Sequence[Item]) -> str:
    """Ids with their days, as far as they fit on a line."""
    names = [item.id if not item.parts else f"{item.parts[0].id} and {len(item.parts) - 1} beside it" for item in items]
    days = ["" if np.isnat(item.time) else f" ({item.time.astype('datetime64[D]')})" for item in items]
    shown = [name + day for name, day in zip(names, days, strict=True)]
    return ", ".join(shown) if len(shown) <= SHOWN_ITEMS else f"{shown[0]}, {shown[1]}, ... {shown[-1]} ({len(shown)} dates)"


def open_job(recipe: PredictRecipe | MapPrototypesRecipe | EmbedRecipe, bundle: LoadedBundle, gsd_m: float | None) -> SceneJob:
    """The recipe's scene, ready for the bundle's model. gsd_m: of the map; None: the reference's own.

    Raises RecipeError when the scene has a modality the model lacks, GridError when sizes do not fit.
    """
    inputs, anchor = bundle.inputs, bundle.spec.model.anchor
    unknown = sorted(set(recipe.scene) - set(inputs))
    if unknown:
        raise RecipeError(f"{recipe.recipe}: scene has {unknown[0]!r}, but {recipe.bundle} was trained on {', '.join(inputs)}")
    reference = anchor if anchor in recipe.scene else min(recipe.scene, key=lambda name: inputs[name].gsd_m)
    area = getattr(recipe, "area", None)
    options = SceneOptions(
        recipe.scene_gsd, _period(recipe), {**bundle.spec.dates, **(recipe.dates or {})}, recipe.coregister,
        None if area is None else read_area(area),
    )  # fmt: skip
    scene = open_scene(recipe.scene, inputs, reference, bundle.unit_m, options)
    gsd_m = gsd_m or inputs[reference].gsd_m
    grid = map_grid_of(scene, gsd_m)
    size = size_in_units(recipe.tiles.size_m, bundle.unit_m)
    plan = make_plan(
        scene.units,
        size=size,
        overlap=recipe.tiles.overlap,
        batch=recipe.tiles.batch,
        unit_px=_whole(bundle.unit_m, gsd_m),
        shape=(grid.shape[0], grid.shape[1]),
    )
    if scene.area is not None:
        plan = narrowed_plan(plan, scene.area.on(grid), f"area {area}")
        grid = window(grid, *(slice(first, first + side) for first, side in zip(plan.origin, plan.shape, strict=True)))
    if len(plan.rows.starts) > 1:
        share = (plan.columns.length - plan.columns.starts[0]) / scene.units[1]
        block_row = sum(channel.block_row_bytes(share) for channel in scene.channels.values())
        plan = replace(plan, block_row=block_row).cached(MOST_CACHE_BYTES)
    return SceneJob(bundle, scene, plan, grid, gsd_m)


def map_grid_of(scene: SceneStack, gsd_m: float) -> GeoBox:
    """The scene's grid in pixels of `gsd_m`; a last one that holds only a part of the scene is kept."""
    ratio = gsd_m / scene.channels[scene.reference].input.gsd_m
    if abs(ratio - 1) < 1e-9:
        return scene.grid
    height, width = (max(math.ceil(side / ratio - 1e-6), 1) for side in scene.grid.shape)
    return GeoBox((height, width), scene.grid.affine * Affine.scale(ratio), scene.grid.crs)


def _whole(unit_m: float, gsd_m: float) -> int:
    """Map pixels along a unit. Raises GridError unless they fill it."""
    pixels = max(round(unit_m / gsd_m), 1)
    if abs(unit_m / gsd_m - pixels) > 1e-6:
        raise GridError(f"write.gsd {gsd_m:g} m does not fill the {unit_m:g} m steps of this bundle (nearest: {unit_m / pixels:g} m)")
    return pixels


def _period(recipe: Any) -> tuple[np.datetime64, np.datetime64] | None:
    return None if recipe.period is None else (np.datetime64(recipe.period.start), np.datetime64(recipe.period.end))
