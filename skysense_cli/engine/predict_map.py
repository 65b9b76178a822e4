"""`predict` from recipe to files: the map, its preview and its legend."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from skysense_cli.core.batch import Batch
from skysense_cli.core.heads import Head
from skysense_cli.engine.assemble import LoadedBundle
from skysense_cli.engine.predict import Finished, predict_scene
from skysense_cli.engine.preview import Entry, Reduced, paint, save_classes, save_values
from skysense_cli.engine.scene_job import SceneJob, open_job
from skysense_cli.engine.score_map import Color, ScoreMap, class_colors
from skysense_cli.errors import BundleError, RecipeError
from skysense_cli.files import write_text
from skysense_cli.geo.cog import Compression, GeoTiffStream, Look
from skysense_cli.recipe.schema.maps import PredictRecipe


def open_prediction(recipe: PredictRecipe, bundle: LoadedBundle) -> tuple[SceneJob, ScoreMap]:
    """The scene of a recipe, ready to be predicted, and what is written of it.

    Raises BundleError for a bundle whose head draws no map, RecipeError and GridError when the scene does not fit.
    """
    if bundle.head is None or bundle.without_task:
        raise BundleError(f"{bundle.path} {bundle.without_task}; fine-tune it first, or use map-prototypes")
    if bundle.head.output != "raster":
        raise BundleError(f"{bundle.path}: its head gives a {bundle.head.output}, only raster heads draw maps")
    anchor = bundle.spec.model.anchor
    if anchor not in recipe.scene:
        raise RecipeError(f"predict: scene lacks {anchor!r}, the modality whose features the head of {bundle.path} reads")
    return open_job(recipe, bundle, recipe.write.gsd), ScoreMap(recipe.write.what, bundle.classes, recipe.write.dtype)


def write_prediction(job: SceneJob, kind: ScoreMap, path: Path, recipe_digest: str, compress: Compression = "deflate") -> list[str]:
    """Predict and write `path` (.tif), `.png` and, for classes, `.legend.json` beside it; returns lines for the user.

    Every file is whole or absent. The same recipe on the same files gives the same bytes.
    """
    colors = _colors(job.bundle)
    tags = {**job.tags(recipe_digest), "SKYSENSE_WHAT": kind.what}
    look = Look(
        nodata=kind.nodata,
        colors=dict(enumerate(colors)) if kind.what == "class" else None,
        names=kind.classes if kind.what == "class" else None,
        band_names=kind.bands,
        tags=tags,
        overviews="mode" if kind.what == "class" else "average",
        compress=compress,
        scale=kind.scale,
    )
    reduced, counts = Reduced(job.plan.shape), np.zeros(len(kind.classes), np.int64)
    with GeoTiffStream(path, job.grid, len(kind.bands), kind.dtype, look) as stream:
        for rows in _rows(job):
            stream.write(kind.pixels(rows.scores, rows.valid), rows.top)
            winners = np.where(rows.valid, rows.scores.argmax(axis=0), len(kind.classes))
            counts += np.bincount(winners.ravel(), minlength=len(kind.classes) + 1)[:-1]
            reduced.add(winners if kind.what == "class" else _shown(kind, rows))
    total = max(int(counts.sum()), 1)
    legend = [Entry(name, color, count / total) for name, color, count in zip(kind.classes, colors, counts.tolist(), strict=True)]
    title = _title(path, tags)
    if kind.what == "class":
        write_text(path.with_suffix(".legend.json"), _legend_text(legend, counts))
        save_classes(path.with_suffix(".png"), paint(reduced.picture, dict(enumerate(colors))), legend, title)
    else:
        save_values(path.with_suffix(".png"), reduced.picture, title, "probability of the likeliest class")
    share = counts.sum() / (job.plan.shape[0] * job.plan.shape[1])
    return [f"map: {path} ({kind.what}, {share:.1%} of the pixels have data)", f"preview: {path.with_suffix('.png')}"]


def _rows(job: SceneJob) -> Iterator[Finished]:
    model, head, device = job.bundle.model, cast(Head, job.bundle.head), job.bundle.device

    def forward(batch: Batch, size: tuple[int, int]) -> Tensor:
        return head.predict(head(model(batch.to(device))), size)

    with torch.inference_mode():
        yield from predict_scene(forward, job.to_batch, job.scene, job.plan, len(job.bundle.classes))


def _shown(kind: ScoreMap, rows: Finished) -> np.ndarray:
    """What the preview of a map of probabilities shows: that of the likeliest class."""
    return ScoreMap("confidence", kind.classes, "float32").pixels(rows.scores, rows.valid)[0]


def _colors(bundle: LoadedBundle) -> list[Color]:
    """The classes' own colours, or made ones where two classes share one."""
    own = [tuple(color) for color in bundle.colors]
    return cast(list[Color], own) if len(set(own)) == len(own) else class_colors(len(own))


def _title(path: Path, tags: dict[str, str]) -> str:
    return f"{path.stem}, simulated data" if "SIMULATED" in tags else path.stem


def _legend_text(legend: list[Entry], counts: np.ndarray) -> str:
    lines = []
    for number, (entry, count) in enumerate(zip(legend, counts.tolist(), strict=True)):
        color = "#{:02x}{:02x}{:02x}".format(*entry.color)
        lines.append({"id": number, "name": entry.label, "color": color, "pixels": count, "share": round(entry.share, 6)})
    return json.dumps({"classes": lines}, indent=1, ensure_ascii=False) + "\n"
