"""Pictures of maps that a person looks at: a reduced map with its legend, as PNG."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch

from skysense_cli.engine.score_map import Color
from skysense_cli.files import whole_file
from skysense_cli.geo.ours import PICTURE_MARK

LARGEST_PX = 1024
LONGEST_LEGEND = 24
EMPTY = (255, 255, 255)  # colour of pixels without data


@dataclass
class Reduced:
    """Every `step`-th pixel of a map that arrives in pieces, so that the picture has at most `largest_px` along a side.

    empty: what stands where no piece was
    """

    shape: tuple[int, int]
    largest_px: int | None = None  # LARGEST_PX
    empty: float = 0
    _picture: np.ndarray | None = None
    _next: int = 0

    @property
    def step(self) -> int:
        """Map pixels per picture pixel."""
        return max(-(-max(self.shape) // (self.largest_px or LARGEST_PX)), 1)

    def add(self, rows: np.ndarray) -> None:
        """Take the next rows (n, W) or (n, W, channels) of the map."""
        self.put(rows, self._next, 0)
        self._next += len(rows)

    def put(self, pixels: np.ndarray, top: int, left: int) -> None:
        """Take the pixels (n, w) or (n, w, channels) that begin at `top` and `left`."""
        self.put_few(pixels[self.few(top, left)], top, left)

    def few(self, top: int, left: int) -> tuple[slice, slice]:
        """Which pixels of a piece that begins at `top` and `left` the picture shows."""
        return slice(-top % self.step, None, self.step), slice(-left % self.step, None, self.step)

    def put_few(self, few: np.ndarray, top: int, left: int) -> None:
        """Take what `few` chose of the piece that begins at `top` and `left`."""
        if self._picture is None:
            sides = [-(-side // self.step) for side in self.shape]
            self._picture = np.full((*sides, *few.shape[2:]), self.empty, few.dtype)
        top, left = -(-top // self.step), -(-left // self.step)
        self._picture[top : top + few.shape[0], left : left + few.shape[1]] = few

    @property
    def picture(self) -> np.ndarray:
        """The map reduced, (h, w) or (h, w, channels)."""
        return np.full([-(-side // self.step) for side in self.shape], self.empty) if self._picture is None else self._picture


@dataclass(frozen=True)
class Entry:
    """A line of a legend. share: of the map's pixels with data, or of all objects      count: of objects, shown in place of the share"""

    label: str
    color: Color
    share: float
    count: int | None = None

    @property
    def text(self) -> str:
        """The line."""
        return f"{self.label}  {self.share:.1%}" if self.count is None else f"{self.label}  {self.count:,}"


def paint(numbers: np.ndarray, colors: dict[int, Color]) -> np.ndarray:
    """(h, w, 3) uint8: each number in its colour, others white."""
    picture = np.full((*numbers.shape, 3), EMPTY, np.uint8)
    for number in np.unique(numbers):
        if int(number) in colors:
            picture[numbers == number] = colors[int(number)]
    return picture


def save_classes(path: Path, picture: np.ndarray, legend: Sequence[Entry], title: str) -> None:
    """A coloured map (h, w, 3) uint8 with its legend; of a long legend the commonest entries."""
    figure, axes = _figure(picture.shape[:2])
    axes.imshow(picture, interpolation="nearest")
    shown = sorted(legend, key=lambda entry: -entry.share)[:LONGEST_LEGEND] if len(legend) > LONGEST_LEGEND else list(legend)
    marks = [Patch(facecolor="#{:02x}{:02x}{:02x}".format(*entry.color), edgecolor="0.4", linewidth=0.5) for entry in shown]
    labels = [entry.text for entry in shown]
    if len(legend) > len(shown):
        marks.append(Patch(facecolor="none"))
        labels.append(f"and {len(legend) - len(shown)} more")
    axes.legend(marks, labels, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8, borderaxespad=0)
    _save(path, figure, axes, title)


def save_colors(path: Path, picture: np.ndarray, title: str) -> None:
    """A picture (h, w, 3) uint8 whose colours need no legend."""
    figure, axes = _figure(picture.shape[:2])
    axes.imshow(picture, interpolation="nearest")
    _save(path, figure, axes, title)


def save_values(path: Path, values: np.ndarray, title: str, label: str, limits: tuple[float, float] = (0.0, 1.0)) -> None:
    """A map of values (h, w), shown between two limits, NaN white, with a colour bar."""
    figure, axes = _figure(values.shape)
    image: AxesImage = axes.imshow(values, cmap=_scale(), norm=Normalize(*limits), interpolation="nearest")
    figure.colorbar(image, ax=axes, label=label, fraction=0.046, pad=0.02)
    _save(path, figure, axes, title)


def save_confusion(path: Path, counts: np.ndarray, names: Sequence[str], title: str) -> None:
    """Counts (C, C) of true (rows) and mapped (columns) classes, coloured by their share of the true ones."""
    figure, axes = _figure(counts.shape)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_axis_on()
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="mapped", ylabel="true")
    for row, column in np.ndindex(*counts.shape) if len(names) <= LONGEST_LEGEND else ():
        axes.text(
            column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=7, color="w" if shares[row, column] > 0.5 else "k"
        )
    _save(path, figure, axes, title)


def _scale() -> Colormap:
    """Dark blue over green to yellow, white where there is no value."""
    return ListedColormap(colormaps["viridis"](np.linspace(0, 1, 256))).with_extremes(bad="white")


def _figure(shape: tuple[int, int]):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=(8.5, max(min(6.5 * shape[0] / max(shape[1], 1), 12), 2)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_axis_off()
    return figure, axes


def _save(path: Path, figure: Figure, axes, title: str) -> None:  # type: ignore[no-untyped-def]
    shown = "".join(character if character.isprintable() else "?" for character in title)  # a file may be called anything
    axes.set_title(shown, fontsize=9, loc="left", parse_math=False)
    with whole_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(temporary, format="png", metadata={"Software": None, **PICTURE_MARK})  # no version: equal maps are equal files
