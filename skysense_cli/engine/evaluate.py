"""Scores over a split: of a model on samples, or of a finished map against their labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skysense_cli import console
from skysense_cli.core.batch import IGNORE, Batch
from skysense_cli.core.collective import rank, ranks, sum_ranks
from skysense_cli.core.heads import Head
from skysense_cli.core.model import SkySense
from skysense_cli.core.objectives import Objective
from skysense_cli.data import npz
from skysense_cli.data.collate import collate
from skysense_cli.data.dataset import FixedDataset, On, Regions
from skysense_cli.data.order import once_loader
from skysense_cli.data.views import pieces
from skysense_cli.engine.gather import Gathered
from skysense_cli.engine.metrics import Confusion
from skysense_cli.engine.train import Score
from skysense_cli.errors import DataError
from skysense_cli.files import write_text
from skysense_cli.geo.cog import class_names
from skysense_cli.geo.raster import describe, read_on_grid

SCORES = "scores.json"


def fixed(data: Gathered, regions: Regions | None, on: On = "label") -> FixedDataset:
    """The samples as evaluation sees them: pieces of `crop_m`, or whole, with evenly spread dates."""
    plain = FixedDataset(data.folder, data.rows, data.reading(regions), [])
    items = [(number, piece) for number in range(len(data.rows)) for piece in pieces(plain.size_m(number), data.crop_m)]
    return FixedDataset(data.folder, data.rows, data.reading(regions), items, on)


@torch.no_grad()
def evaluate(
    model: SkySense, head: Head, dataset: FixedDataset, classes: int, *, batch: int, device: str = "cpu", shown: bool = True
) -> Confusion:
    """The confusion of a head's most likely class over all samples; ranks share the work and get the same result.

    shown: with progress, not within another one
    """
    confusion = Confusion(classes)
    model.eval()
    head.eval()
    loader = once_loader(dataset, batch, collate, rank=rank(), ranks=ranks())
    for step in console.progress(loader, "evaluate") if shown else loader:
        truth, predicted = predicted_classes(model, head, step.to(device))
        confusion.update(truth, predicted)
    if ranks() > 1:
        confusion.counts = sum_ranks(torch.from_numpy(confusion.counts).to(device)).cpu().numpy()
    return confusion


def predicted_classes(model: SkySense, head: Head, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """(true, predicted) class ids of a batch: per pixel for a raster head, per sample for a table; 255 = unknown truth."""
    target = batch.target
    truth = None if target is None else target.raster if head.output == "raster" else target.classes
    if truth is None:  # every sample of the batch lacks the label
        return np.empty(0, np.int64), np.empty(0, np.int64)
    raw = head(model(batch))
    scores = head.predict(raw, (truth.shape[-2], truth.shape[-1])) if head.output == "raster" else raw
    return truth.cpu().numpy(), scores.argmax(dim=1).cpu().numpy()


def scorer(data: Gathered, regions: Regions | None, *, batch: int, device: str) -> Score:
    """What the training loop asks for numbers."""
    dataset = fixed(data, regions)

    def score(objective: Objective) -> dict[str, float]:
        parts: Mapping[str, Any] = objective.export()
        confusion = evaluate(parts["model"], parts["head"], dataset, len(data.classes), batch=batch, device=device, shown=False)
        return {"oa": confusion.oa, "macro_f1": confusion.macro_f1, "miou": confusion.miou}

    return score


def score_map(path: Path, data: Gathered, on: On = "label") -> tuple[Confusion, int]:
    """(confusion, labelled pixels without a prediction) of a class map against the labels of samples.

    The map is read at the centres of the label's pixels. Raises DataError when it names other classes, or covers no label.
    """
    names = [fact.name for fact in data.classes]
    _check_classes(path, names)
    confusion, unmapped = Confusion(len(names)), 0
    for row in console.progress(data.rows, "score"):
        label = npz.read_label(data.folder / row.path)
        truth = None if label is None else label.raster if on == "label" else label.held_out
        if label is None or truth is None or label.grid is None or (truth == IGNORE).all():
            continue
        predicted, found = read_on_grid(path, label.grid, [1], resampling="nearest")
        here = found.reshape(-1, *truth.shape).all(axis=0)
        unmapped += int(((truth != IGNORE) & ~here).sum())
        confusion.update(np.where(here, truth, IGNORE), predicted[0])
    if not confusion.total:
        raise DataError(f"{path}: has no prediction where the samples of {data.folder} have a {on.replace('_', ' ')}")
    return confusion, unmapped


def report(scores: Mapping[str, Any], folder: Path) -> Path:
    """Write `scores.json` and print it as a table; returns its path."""
    console.table(
        "scores per class", ["class", "pixels", "precision", "recall", "f1", "iou"],
        [[name, facts["pixels"], *(_short(facts[key]) for key in ("precision", "recall", "f1", "iou"))]
         for name, facts in scores["per_class"].items()],
    )  # fmt: skip
    rows = [
        (what, *(_short(part[key]) for key in ("oa", "macro_f1", "miou")))
        for what, part in (("this", scores), ("majority", scores["majority"]))
    ]
    console.table("scores", ["", "oa", "macro_f1", "miou"], rows)
    write_text(folder / SCORES, json.dumps(scores, indent=1) + "\n")
    return folder / SCORES


def _check_classes(path: Path, names: Sequence[str]) -> None:
    """The map must be one band of whole numbers, and its own class names, where it has any, those of the labels."""
    facts = describe(path)
    if facts.count != 1 or np.dtype(facts.dtype).kind not in "iu":
        raise DataError(f"{path}: has {facts.count} bands of {facts.dtype}, a class map is one band of whole numbers")
    own = class_names(facts.tags)
    if own and own != dict(enumerate(names)):
        raise DataError(f"{path}: its classes are {', '.join(own.values())}, those of the labels {', '.join(names)}")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
