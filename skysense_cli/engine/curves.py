"""`metrics.jsonl`, one line per logged step, and its picture. No times: equal runs write equal bytes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from skysense_cli.core.collective import ranks, sum_ranks
from skysense_cli.files import whole_file, write_text

METRICS = "metrics.jsonl"
GROWING = "metrics.jsonl.part"  # the same while training goes on
CURVES = "curves.png"


class Window:
    """Means of the losses since the last line, kept in checkpoints so that a resumed run logs the same numbers."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}  # name -> (sum, count), float64

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count one step."""
        for name, loss in losses.items():
            entry = torch.stack([loss.detach().double(), torch.ones((), dtype=torch.float64, device=loss.device)])
            self.sums[name] = self.sums[name] + entry if name in self.sums else entry

    def means(self) -> dict[str, float]:
        """Name -> mean over the steps that had it, averaged over ranks; empties the window."""
        names = sorted(self.sums)
        if not names:
            return {}
        totals = sum_ranks(torch.stack([self.sums[name] for name in names])) / ranks()
        self.sums = {}
        return {name: float(total / count) for name, (total, count) in zip(names, totals.cpu(), strict=True)}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return dict(self.sums)

    def load(self, state: Mapping[str, Tensor], device: str) -> None:
        """The way back."""
        self.sums = {name: entry.to(device) for name, entry in state.items()}


class Log:
    """The metrics of the run in folder `home`, appended line by line to `GROWING`, at the end called `METRICS`."""

    def __init__(self, home: Path) -> None:
        self.path, self.final = home / GROWING, home / METRICS

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`, half a line at the end included."""
        before = self.path if self.path.exists() else self.final
        kept = [json.dumps(line) for line in read_metrics(before) if line["step"] <= step]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def finish(self) -> None:
        """Give the file its final name."""
        os.replace(self.path, self.final)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line; a number that is not finite is null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; none when there is no such file."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break  # a kill while it was written
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines


def draw(home: Path) -> None:
    """Write `curves.png` from `metrics.jsonl`: losses on the left, scores on the right if there are any."""
    lines = read_metrics(home / METRICS)
    losses = [line for line in lines if "losses" in line]
    scores = [line for line in lines if "scores" in line]
    figure = Figure(figsize=(6 * (1 + bool(scores)), 4), dpi=100, layout="constrained")
    axes = figure.subplots(1, 1 + bool(scores), squeeze=False)[0]
    names = sorted({name for line in losses for name in line["losses"]})
    for name in names if len(names) > 1 else []:
        axes[0].plot(*_curve(losses, "losses", name), linewidth=0.8, alpha=0.7, label=name)
    axes[0].plot([line["step"] for line in losses], [line["loss"] for line in losses], color="black", linewidth=1.6, label="sum")
    axes[0].set(xlabel="step", ylabel="loss", title="loss (mean since the last point)")
    axes[0].legend(fontsize=6, ncols=2)
    if scores:
        for name in sorted({name for line in scores for name in line["scores"]}):
            axes[1].plot(*_curve(scores, "scores", name), marker="o", markersize=3, label=name)
        axes[1].set(xlabel="step", ylim=(0, 1), title="validation")
        axes[1].legend(fontsize=7)
    for axis in axes:
        axis.grid(alpha=0.3)
    with whole_file(home / CURVES) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _curve(lines: Sequence[dict[str, Any]], section: str, name: str) -> tuple[list[int], list[float]]:
    having = [line for line in lines if line[section].get(name) is not None]
    return [line["step"] for line in having], [line[section][name] for line in having]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
