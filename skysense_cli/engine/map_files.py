"""The files of a map from its finished strips: GeoTIFFs, legend, previews and the STAC item beside them."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np

from skysense_cli import __version__, console
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.embed import FUSED
from skysense_cli.engine.feature_map import FeatureMap, FeaturePicture
from skysense_cli.engine.parts import Parts
from skysense_cli.engine.patch_files import write_patches
from skysense_cli.engine.preview import Entry, Reduced, paint, save_classes, save_values
from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.engine.score_map import Color, ScoreMap, class_colors
from skysense_cli.engine.stac_item import write_item
from skysense_cli.engine.tiling import Window
from skysense_cli.errors import GridError, RecipeError
from skysense_cli.files import write_text
from skysense_cli.geo.cog import Compression, GeoTiffStream, Look
from skysense_cli.geo.raster import describe
from skysense_cli.recipe.schema.maps import PolygonsSection, What

LABELS = {
    "probability": "probability of the likeliest class",
    "confidence": "probability of the likeliest class",
    "margin": "probability of the likeliest class less that of the second",
    "entropy": "entropy of the probabilities: 0 certain, 1 all alike",
    "value": "value",
}
OWN_TAGS = ("SKYSENSE_", "SIMULATED")


@dataclass(frozen=True, eq=False)
class MapFiles:
    """What is written beside `path` (.tif), which holds the first of `maps`; the others are `<stem>_<what>.tif`.

    polygons: the class map is written as polygons too, under its own name
    jobs: what -> the scene in that map's pixels, where they are others than those of `job`
    """

    job: SceneJob
    maps: Sequence[ScoreMap | FeatureMap]
    path: Path
    tags: Mapping[str, str]
    compress: Compression = "deflate"
    polygons: PolygonsSection | None = None
    jobs: Mapping[str, SceneJob] = field(default_factory=dict)

    def raster(self, kind: ScoreMap | FeatureMap) -> Path:
        """The file of one of the maps."""
        return raster_paths(self.path, [one.what for one in self.maps])[list(self.maps).index(kind)]

    def all(self) -> list[Path]:
        """Every file, the output first."""
        return [*map_paths(self.path, [kind.what for kind in self.maps]), *self.vectors().values()]

    def differences(self) -> list[str] | None:
        """The tags by which the maps that are there were made from something else; None when files are missing."""
        found = []
        for kind in self.maps:
            try:
                tags = describe(self.raster(kind)).tags
            except GridError:
                return None
            wanted = {**self.tags, "SKYSENSE_WHAT": kind.what}
            mine = {name: value for name, value in tags.items() if name.startswith(OWN_TAGS)}
            found += [name for name in sorted({*wanted, *mine}) if wanted.get(name) != mine.get(name) and name not in found]
        return found if found or all(path.exists() for path in self.all()) else None

    def write(self, parts: Parts, windows: Sequence[Window]) -> list[str]:
        """Write all files from the finished strips, each whole or not at all; returns lines for the user."""
        jobs = {kind.what: self.jobs.get(kind.what, self.job) for kind in self.maps}
        looked = {kind.what: _looked(kind, jobs[kind.what].plan.shape) for kind in self.maps}
        sparse = self.job.plan.wanted is not None
        with ExitStack() as stack:
            streams = {
                kind.what: stack.enter_context(
                    GeoTiffStream(self.raster(kind), jobs[kind.what].grid, len(kind.bands), kind.dtype, self._look(kind), sparse=sparse)
                )
                for kind in self.maps
            }
            strips = zip(windows, parts.take(window.name for window in windows), strict=True)
            for window, (_, arrays) in console.progress(strips, "strips into files", len(windows)):
                for what, stream in streams.items():
                    rows, columns = jobs[what].plan.pixels(window)
                    stream.write(arrays[what], rows.start, columns.start)
                    looked[what].take(arrays[what], rows.start, columns.start)
        lines = [line for kind in self.maps for line in self._beside(kind, looked[kind.what])]
        lines += self._polygonise()
        rasters: dict[str, Path] = {kind.what: self.raster(kind) for kind in self.maps}
        write_item(self.path.with_suffix(".stac.json"), self.job, rasters, self.tags, self.vectors())
        return lines

    def vectors(self) -> dict[str, Path]:
        """What is written of polygons, by name."""
        if self.polygons is None:
            return {}
        return {"polygons": self.raster(self._classes).with_suffix(f".{self.polygons.format}")}

    def _polygonise(self) -> list[str]:
        if self.polygons is None:
            return []
        path, classes = self.vectors()["polygons"], self._classes
        return write_patches(
            path, self.raster(classes), classes.classes, {**self.tags, "SKYSENSE_WHAT": "polygons"},
            simplify_m=self.polygons.simplify_m, min_area_m2=self.polygons.min_area_m2,
        )  # fmt: skip

    @property
    def _classes(self) -> ScoreMap:
        return next(kind for kind in self.maps if isinstance(kind, ScoreMap) and kind.what == "class")

    def _look(self, kind: ScoreMap | FeatureMap) -> Look:
        tags = {**self.tags, "SKYSENSE_WHAT": kind.what}
        if isinstance(kind, FeatureMap):
            return kind.look(tags, self.compress)
        classes = kind.what == "class"
        return Look(
            nodata=kind.nodata,
            colors=dict(enumerate(colors_of(self.job.bundle))) if classes else None,
            names=kind.classes if classes else None,
            band_names=kind.bands,
            tags=tags,
            overviews="mode" if classes else "average",
            compress=self.compress,
            scale=kind.scale,
        )

    def _beside(self, kind: ScoreMap | FeatureMap, looked: "_Looked | FeaturePicture") -> list[str]:
        """Legend and preview of one map."""
        path, preview = self.raster(kind), self.raster(kind).with_suffix(".png")
        if isinstance(looked, FeaturePicture):
            simulated = ", simulated data" if "SIMULATED" in self.tags else ""
            looked.save(preview, f"{path.stem}, first three principal components{simulated}")
        else:
            self._show(looked, preview, title_of(path, self.tags))
        height, width = self.jobs.get(kind.what, self.job).plan.shape
        unit = "cells" if isinstance(kind, FeatureMap) else "pixels"
        return [f"map: {path} ({kind.what}, {looked.known / (height * width):.1%} of the {unit} have data)", f"preview: {preview}"]

    def _show(self, looked: "_Looked", preview: Path, title: str) -> None:
        kind, picture = looked.kind, looked.reduced.picture
        if kind.what == "class":
            colors, total = colors_of(self.job.bundle), max(int(looked.counts.sum()), 1)
            legend = [
                Entry(name, color, count / total) for name, color, count in zip(kind.classes, colors, looked.counts.tolist(), strict=True)
            ]
            write_text(self.path.with_suffix(".legend.json"), _legend_text(legend, looked.counts))
            save_classes(preview, paint(picture, dict(enumerate(colors))), legend, title)
        else:
            limits = (0.0, 1.0) if kind.what != "value" else _limits(picture)
            save_values(preview, picture, title, LABELS[kind.what], limits)


def _looked(kind: ScoreMap | FeatureMap, shape: tuple[int, int]) -> "_Looked | FeaturePicture":
    return FeaturePicture(shape, kind.width) if isinstance(kind, FeatureMap) else _Looked(kind, shape)


@dataclass
class _Looked:
    """What legend and preview need of a map, collected while it is written. known: pixels with data"""

    kind: ScoreMap
    shape: tuple[int, int]
    known: int = 0
    counts: np.ndarray = field(init=False)
    reduced: Reduced = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.kind.classes), np.int64)
        self.reduced = Reduced(self.shape, empty=self.kind.nodata if self.kind.what == "class" else np.nan)

    def take(self, pixels: np.ndarray, top: int, left: int) -> None:
        """Take a piece (bands, n, w)."""
        first = pixels[0]
        valid = ~np.isnan(first) if self.kind.dtype == "float32" else first != self.kind.nodata
        self.known += int(valid.sum())
        if self.kind.what == "class":
            self.counts += np.bincount(first[valid], minlength=len(self.counts))
            self.reduced.put(first, top, left)
            return
        few = self.reduced.few(top, left)  # before anything is computed
        shown = pixels[:, *few].max(axis=0) if self.kind.what == "probability" else first[few]
        self.reduced.put_few(np.where(valid[few], shown * np.float32(self.kind.scale), np.float32(np.nan)), top, left)


def raster_paths(path: Path, kinds: Sequence[What]) -> list[Path]:
    """The file of each kind of map; the first is `path`."""
    return [path, *(path.with_name(f"{path.stem}_{kind}{path.suffix}") for kind in kinds[1:])]


def map_paths(path: Path, kinds: Sequence[What]) -> list[Path]:
    """The rasters of maps, the first at `path`, and what lies beside them."""
    rasters = raster_paths(path, kinds)
    legends = [path.with_suffix(".legend.json")] if "class" in kinds else []
    return [*rasters, *legends, *(raster.with_suffix(".png") for raster in rasters), path.with_suffix(".stac.json")]


def maps_of(bundle: LoadedBundle, kinds: Sequence[What], precision: Literal["uint8", "float32"]) -> tuple[ScoreMap | FeatureMap, ...]:
    """The maps of a bundle with a raster head. Raises RecipeError for a kind that its head has nothing for."""
    values = bundle.head is not None and bundle.head.values
    if wrong := [kind for kind in kinds if kind != "features" and (kind == "value") != values]:
        gives, say = ("values", "value") if values else ("scores of classes", "class, confidence ...")
        raise RecipeError(f"predict: write.what is {wrong[0]}, but the head of {bundle.path} gives {gives}; say write.what: {say}")
    features = FeatureMap(FUSED, bundle.model.spec.fused)
    return tuple(features if kind == "features" else ScoreMap(kind, bundle.classes, precision) for kind in kinds)


def title_of(path: Path, tags: Mapping[str, str]) -> str:
    """What stands above the picture of a file."""
    return f"{path.stem}, simulated data" if "SIMULATED" in tags else path.stem


def colors_of(bundle: LoadedBundle) -> list[Color]:
    """The classes' own colours, or made ones where two classes share one."""
    own = [tuple(color) for color in bundle.colors]
    return cast(list[Color], own) if len(set(own)) == len(own) else class_colors(len(own))


def _limits(picture: np.ndarray) -> tuple[float, float]:
    """What values are shown between: their 2nd and 98th percentile."""
    known = picture[~np.isnan(picture)]
    return (float(np.percentile(known, 2)), float(np.percentile(known, 98))) if len(known) else (0.0, 1.0)


def _legend_text(legend: list[Entry], counts: np.ndarray) -> str:
    lines = []
    for number, (entry, count) in enumerate(zip(legend, counts.tolist(), strict=True)):
        color = "#{:02x}{:02x}{:02x}".format(*entry.color)
        lines.append({"id": number, "name": entry.label, "color": color, "pixels": count, "share": round(entry.share, 6)})
    return json.dumps({"skysense": __version__, "classes": lines}, indent=1, ensure_ascii=False) + "\n"
