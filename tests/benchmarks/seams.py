"""Do tiles show in a map of a trained bundle?   python tests/benchmarks/seams.py RECIPE [KEY=VALUE ...]

RECIPE is a predict recipe. `border_ratio`: label changes across the borders of tile cores over label changes inside,
for neighbouring pixels of the same row or column. `shifted_share`: pixels whose label changes when all tiles start
half a tile later. The last line is one JSON object.
"""

import json
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np

from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.mosaic import Axis
from skysense_cli.engine.predict import Raster, predict_scene
from skysense_cli.engine.predict_map import open_prediction
from skysense_cli.engine.scene_job import SceneJob
from skysense_cli.engine.tiling import Plan
from skysense_cli.recipe.load import load_recipe


def labels(job: SceneJob, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) class numbers and where they are valid."""
    head = job.bundle.head
    assert head is not None, "a bundle with a head"
    rasters = [Raster(plan, len(job.bundle.classes))]
    parts = list(
        predict_scene(lambda batch, size: [head.predict(head(job.bundle.model(batch)), size)], job.to_batch, job.scene, plan, rasters)
    )
    return np.concatenate([part.scores.argmax(axis=0) for (part,) in parts]), np.concatenate([part.valid for (part,) in parts])


def half_later(axis: Axis) -> Axis:
    """Tiles of the same size that start half a tile later, with one more at the beginning."""
    last = axis.length - axis.size
    starts = {0, last, *(start + axis.size // 2 for start in axis.starts if start + axis.size // 2 < last)}
    return Axis(tuple(sorted(starts)), axis.size)


def borders(axis: Axis, unit_px: int, length: int) -> np.ndarray:
    """(length - 1,) bool: the step from pixel k to k + 1 crosses from one tile's core to the next one's."""
    found = np.zeros(length - 1, bool)
    for before, after in pairwise(axis.starts):
        middle = (before + axis.size + after) * unit_px // 2  # of what the two share
        if middle < length:
            found[middle - 1] = True
    return found


def border_ratio(found: np.ndarray, valid: np.ndarray, plan: Plan) -> float:
    """Label changes across core borders over label changes inside, both per valid step."""
    counts = np.zeros((2, 2))  # (inside, border) x (changes, steps)
    for axis, tiles in ((0, plan.rows), (1, plan.columns)):
        values, known = np.moveaxis(found, axis, 0), np.moveaxis(valid, axis, 0)
        changes, steps = values[1:] != values[:-1], known[1:] & known[:-1]
        at_border = borders(tiles, plan.unit_px, len(values))
        for k, rows in enumerate((~at_border, at_border)):
            counts[k] += (changes & steps)[rows].sum(), steps[rows].sum()
    rates = counts[:, 0] / counts[:, 1]
    return float(rates[1] / rates[0])


def main(recipe: str, sets: list[str]) -> None:
    checked = load_recipe(recipe, "predict", sets)
    job = open_prediction(checked, load_bundle(checked.bundle)).job
    found, valid = labels(job, job.plan)
    moved, _ = labels(job, replace(job.plan, rows=half_later(job.plan.rows), columns=half_later(job.plan.columns)))
    figures = {
        "map_px": list(found.shape),
        "tiles": [len(job.plan.rows.starts), len(job.plan.columns.starts)],
        "border_ratio": round(border_ratio(found, valid, job.plan), 3),
        "shifted_share": round(float((found != moved)[valid].mean()), 4),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
