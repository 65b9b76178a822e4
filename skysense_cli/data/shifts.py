"""The picture of the shifts of a build: a histogram per modality of what was measured for each date and block, `coregistration.png`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skysense_cli.files import whole_file

PICTURE = "coregistration.png"
BINS = 40
COLORS = {"moved": "#1d5fa8", "below min_shift": "#1d7a46", "kept as geocoded": "#d98a00", "refused": "#b3261e"}  # in stacking order


class Shifts:
    """Lengths of shifts in metres, by modality and decision; counted block by block, so that many blocks need little memory.

    reach_m: of the histogram; longer shifts are counted in its last bin
    """

    def __init__(self, reference: str, gsds: Mapping[str, float], reach_m: float) -> None:
        self.reference, self.gsds, self.reach_m = reference, gsds, reach_m
        self.counts: dict[str, dict[str, np.ndarray]] = {}

    def add(self, dates: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
        """Count the dates of one block, as its report has them: modality -> entries with `shift_px` and `decision`."""
        for name, entries in dates.items():
            for entry in entries:
                if "shift_px" not in entry:
                    continue
                length = float(np.hypot(*entry["shift_px"])) * self.gsds[name]
                place = min(int(length / self.reach_m * BINS), BINS - 1)
                self.counts.setdefault(name, {}).setdefault(entry["decision"], np.zeros(BINS, np.int64))[place] += 1

    def draw(self, home: Path) -> Path | None:
        """Write the picture into `home`; None, and no picture, when no shift was measured."""
        path = home / PICTURE
        if not self.counts:
            path.unlink(missing_ok=True)
            return None
        names = sorted(self.counts, key=lambda name: (name != self.reference, name))
        figure = Figure(figsize=(7, 2.3 * len(names)), layout="constrained")
        FigureCanvasAgg(figure)
        edges = np.linspace(0, self.reach_m, BINS + 1)
        for axes, name in zip(np.ravel(figure.subplots(len(names), 1, sharex=True)), names, strict=True):
            below = np.zeros(BINS, np.int64)
            for decision in (*COLORS, *sorted(set(self.counts[name]) - set(COLORS))):
                counts = self.counts[name].get(decision)
                if counts is not None:
                    color = COLORS.get(decision, "#888888")
                    axes.bar(
                        edges[:-1], counts, np.diff(edges), bottom=below, align="edge", color=color, label=f"{decision} ({counts.sum()})"
                    )
                    below += counts
            other = "its common median" if name == self.reference else self.reference
            axes.set_title(f"{name} against {other}: {below.sum()} measurements", fontsize=9, loc="left")
            axes.set_ylabel("dates x blocks", fontsize=8)
            axes.legend(fontsize=7, frameon=False)
        figure.supxlabel("measured shift, metres (the last bin holds longer ones)", fontsize=9)
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
        return path
