"""Several scenes as one map: the maps of the scenes, each on its own grid, put together on one, window by window.

The scenes are predicted one by one (here, or by Dask workers), then merged. Memory is a window of every kind of map,
whatever the number and the size of the scenes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli import __version__, console, sensors
from skysense_cli.data.channel import Channel
from skysense_cli.data.clouds.none import build as no_mask
from skysense_cli.data.scenes import SceneStack
from skysense_cli.data.sources import Item
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.bundle import WEIGHTS
from skysense_cli.engine.map_files import MapFiles, map_paths, raster_paths
from skysense_cli.engine.merging import Layer, Merger, grid_of_all
from skysense_cli.engine.mosaic import Axis
from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.engine.scene_parts import parts_folder
from skysense_cli.engine.score_map import ScoreMap, hue_color
from skysense_cli.engine.tiling import Plan
from skysense_cli.errors import DataError, DiskError
from skysense_cli.geo.cog import GeoTiffStream, Look
from skysense_cli.geo.raster import describe
from skysense_cli.recipe.schema.maps import PredictRecipe

WINDOW_PX = 1024
SCENE_NODATA = 65535  # of the map of scenes
WHICH = "SKYSENSE_SCENES_SHA256"


@dataclass(frozen=True, eq=False)
class SceneMosaic:
    """Maps of scenes that are there, ready to be put together. layers: in the order of the recipe"""

    recipe: PredictRecipe
    bundle: LoadedBundle
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, recipe: PredictRecipe, bundle: LoadedBundle, parts: Mapping[str, PredictRecipe]) -> SceneMosaic:
        """The mosaic of maps that `parts` made; a part without a map lies outside the area. Raises DataError without any."""
        layers = tuple(_layer(name, part) for name, part in parts.items() if part.output.exists())
        if not layers:
            raise DataError(f"{recipe.output}: none of the {len(parts)} scenes has a map")
        return cls(recipe, bundle, layers)

    def write(self, path: Path, digest: str) -> list[str]:
        """Write the mosaic and what lies beside it, then remove the maps it is made of; returns lines for the user."""
        mosaic = self.recipe.mosaic
        assert mosaic is not None, "asked for only with one"
        grid = grid_of_all(self.layers, mosaic.crs)
        maps = tuple(ScoreMap(what, self.bundle.classes, self.recipe.write.dtype) for what in self.recipe.write.kinds)
        merger = Merger(self.layers, maps, grid, mosaic.rule, mosaic.feather_m)
        job = self._job(grid, merger)
        windows = job.plan.finishing()
        with ExitStack() as stack, _kept(parts_folder(self.recipe.output)):
            chosen = stack.enter_context(self._scene_stream(path, grid, digest)) if mosaic.scene_map else None
            files = MapFiles(job, maps, path, self._tags(digest), self.recipe.write.compress)
            places = {window.name: job.plan.pixels(window) for window in windows}
            lines = files.write(_Made(merger, places, chosen), windows)  # type: ignore[arg-type]  # as Parts, but made when taken
        if chosen is not None:
            lines.append(f"scenes: {chosen.path} (which scene each pixel is of)")
        shutil.rmtree(parts_folder(self.recipe.output), ignore_errors=True)
        return lines

    def _tags(self, digest: str) -> dict[str, str]:
        mosaic = self.recipe.mosaic
        assert mosaic is not None, "asked for only with one"
        tags = {
            "SKYSENSE_VERSION": __version__,
            "SKYSENSE_BUNDLE_SHA256": self.bundle.manifest[WEIGHTS]["sha256"],
            "SKYSENSE_RECIPE_SHA256": digest,
            "SKYSENSE_MOSAIC": mosaic.rule if mosaic.rule == "latest" else f"feather over {mosaic.feather_m:g} m",
            "SKYSENSE_SCENES": " ".join(layer.name for layer in self.layers),
            WHICH: hashlib.sha256("\n".join(f"{layer.name} {layer.tags.get(WHICH)}" for layer in self.layers).encode()).hexdigest(),
        }
        simulated = [layer.tags["SIMULATED"] for layer in self.layers if "SIMULATED" in layer.tags]
        return tags | ({"SIMULATED": simulated[0]} if simulated else {})

    def _job(self, grid: GeoBox, merger: Merger) -> SceneJob:
        """The mosaic as its files see it: windows of a grid, and the times of its scenes."""
        rows, columns = (Axis(tuple(range(0, max(side, 1), WINDOW_PX)), WINDOW_PX) for side in grid.shape)
        cores = tuple(tuple(slice(start, start + WINDOW_PX) for start in axis.starts) for axis in (rows, columns))
        wanted = merger.reached(rows.starts, columns.starts, WINDOW_PX)
        plan = Plan(
            rows, columns, 1, (grid.shape[0], grid.shape[1]), 1, cores[0], cores[1], wanted, blocks=tuple(range(len(columns.starts)))
        )
        anchor = self.bundle.spec.model.anchor
        seen = self.bundle.inputs[anchor]
        items = tuple(Item(layer.name, layer.time, {}, "") for layer in self.layers)
        channel = Channel(seen, items, no_mask(sensors.get(seen.sensor)), grid, 1)
        scene = SceneStack({anchor: channel}, anchor, grid, plan.shape, seen.gsd_m, {})
        return SceneJob(self.bundle, scene, plan, grid, abs(grid.affine.a))

    def _scene_stream(self, path: Path, grid: GeoBox, digest: str) -> GeoTiffStream:
        look = Look(
            nodata=SCENE_NODATA, names=[layer.name for layer in self.layers], band_names=("scene",), overviews="mode",
            colors={number: hue_color(number, number % 3) for number in range(len(self.layers))}, tags=self._tags(digest),
            compress=self.recipe.write.compress,
        )  # fmt: skip
        return GeoTiffStream(_scene_map(path), grid, 1, "uint16", look, sparse=True)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """What the disk does not take in the block says that the maps in `folder` are kept."""
    try:
        yield
    except DiskError as error:
        raise DiskError(f"{error}; the maps of the scenes are kept in {folder}: make room and run the same command again") from error


class _Made:
    """Gives the strips of a mosaic when they are asked for, as `Parts` gives those it has kept."""

    def __init__(self, merger: Merger, places: Mapping[str, tuple[slice, slice]], chosen: GeoTiffStream | None) -> None:
        self._merger, self._places, self._chosen = merger, places, chosen

    def take(self, names: Iterable[str]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """(name, arrays) in this order."""
        for name in names:
            rows, columns = self._places[name]
            arrays, scenes = self._merger.window(rows, columns)
            if self._chosen is not None and scenes is not None:
                self._chosen.write(np.where(scenes < 0, SCENE_NODATA, scenes).astype(np.uint16)[None], rows.start, columns.start)
            yield name, arrays


def files_beside(recipe: PredictRecipe) -> list[Path]:
    """What is written beside the mosaic of a recipe."""
    scenes = [_scene_map(recipe.output)] if recipe.mosaic is not None and recipe.mosaic.scene_map else []
    return [*map_paths(recipe.output, recipe.write.kinds)[1:], *scenes]


def is_complete(recipe: PredictRecipe, bundle: LoadedBundle, path: Path, digest: str) -> bool:
    """Whether the mosaic is there, made by this recipe with this bundle, and nothing of an unfinished run is."""
    if not path.exists() or parts_folder(path).exists():
        return False
    tags, mosaic = describe(path).tags, recipe.mosaic
    wanted = {
        "SKYSENSE_RECIPE_SHA256": digest,
        "SKYSENSE_BUNDLE_SHA256": bundle.manifest[WEIGHTS]["sha256"],
        "SKYSENSE_VERSION": __version__,
    }
    there = path.with_suffix(".stac.json").exists() and (mosaic is None or not mosaic.scene_map or _scene_map(path).exists())
    return there and all(tags.get(name) == value for name, value in wanted.items())


def _scene_map(path: Path) -> Path:
    return path.with_name(f"{path.stem}_scene{path.suffix}")


def _layer(name: str, part: PredictRecipe) -> Layer:
    """The map of one scene. Its kinds of map lie beside it; its STAC item says when it is of."""
    first, kinds = part.output, part.write.kinds
    files: dict[str, Path] = dict(zip(kinds, raster_paths(first, kinds), strict=True))
    info = describe(first)
    properties = json.loads(first.with_suffix(".stac.json").read_text(encoding="utf-8"))["properties"]
    told = properties.get("end_datetime") or properties.get("datetime")
    undated = "skysense:undated" in properties or told is None
    time = np.datetime64("NaT", "s") if undated else np.datetime64(told.removesuffix("Z"), "s")
    if undated:
        console.warn(f"{name}: has no date; it counts as older than all others")
    return Layer(name, files, info.grid, time, dict(info.tags))
