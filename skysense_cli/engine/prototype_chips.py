"""Small true-colour pictures of a scene or a sample around a cell."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skysense_cli import console, sensors
from skysense_cli.data import npz
from skysense_cli.data.dataset import Input
from skysense_cli.data.sample import Series
from skysense_cli.data.views import spread_dates
from skysense_cli.engine.natural_colors import color_bands, limits_of, lit
from skysense_cli.engine.prototype_samples import SampleCells
from skysense_cli.engine.prototype_scenes import SceneCells
from skysense_cli.engine.prototype_sheets import Source

CHIP_CELLS = 33  # side; odd, so that its cell lies in the middle
LEAST_CELLS = 9  # where a cell holds many pixels
READ_PX, CHIP_PX = 512, 96  # side as read, as shown
BLOCK_PX = 1024  # chips that begin in one square of this side are read together
DATES = 5  # of which the median is shown
EMPTY = 235  # grey where no date sees the ground


@dataclass(frozen=True, eq=False)
class Chip:
    """pixels: (h, w, 3) float32 in stored units, NaN = not seen      bands: what is red, green and blue

    x, y: of the cell's centre, in shares of width and height      cell: its width, in shares of the width
    """

    pixels: np.ndarray
    bands: tuple[str, ...]
    kind: str
    x: float
    y: float
    cell: float


def cut(cells: Sequence[tuple[Source, int, int]]) -> list[Chip]:
    """The ground around cells (source, row, column): the median of a few dates, moved inside where the source ends.

    What lies within about BLOCK_PX of each other is read together, so files are not opened again for every chip.
    """
    asked = [_Asked.of(*cell) for cell in cells]
    together: dict[tuple[int, ...], list[int]] = {}
    for number, one in enumerate(asked):
        together.setdefault((id(one.source), *(part.start // BLOCK_PX for part in one.px)), []).append(number)
    found: dict[int, Chip] = {}
    for numbers in console.progress(list(together.values()), "places of typical patches"):
        parts = [asked[number].px for number in numbers]
        rows, columns = (slice(min(px[k].start for px in parts), max(px[k].stop for px in parts)) for k in (0, 1))
        series = asked[numbers[0]].read((rows, columns))
        found |= {number: asked[number].chip(series, (rows.start, columns.start)) for number in numbers}
    return [found[number] for number in range(len(asked))]


@dataclass(frozen=True, eq=False)
class _Asked:
    """A chip to be cut. spans: first and last row, and column, of its cells      px: the same in pixels of modality `name`"""

    source: SceneCells | SampleCells
    name: str
    wanted: Input
    bands: tuple[str, ...]
    place: tuple[int, int]
    spans: tuple[tuple[int, int], ...]
    px: tuple[slice, ...]

    @classmethod
    def of(cls, source: Source, row: int, column: int) -> _Asked:
        assert isinstance(source, SceneCells | SampleCells), "there are no others"
        inputs = source.job.inputs if isinstance(source, SceneCells) else source.job.present(source.number)
        name, bands = color_bands(inputs)
        ratio = source.cell_m / inputs[name].gsd_m  # pixels along a cell
        side = max(min(CHIP_CELLS, int(READ_PX / ratio)), LEAST_CELLS)
        spans = tuple(_inside(place, side, length) for place, length in zip((row, column), source.grid.shape, strict=True))
        px = tuple(slice(round(first * ratio), max(round(last * ratio), round(first * ratio) + 1)) for first, last in spans)
        return cls(source, name, inputs[name], bands, (row, column), spans, px)

    def read(self, px: tuple[slice, slice]) -> Series:
        """A few dates of a window of the source."""
        if isinstance(self.source, SampleCells):
            choice = spread_dates(self.source.job.choice(self.source.number, self.name), DATES)
            return npz.read_part(self.source.job.samples.path(self.source.number), self.name, choice, px)
        channel = self.source.job.scene.channels[self.name]
        keep = spread_dates(np.arange(len(channel.items)), DATES)
        names = tuple(dict.fromkeys(self.bands))
        mean, std = (tuple(part[self.wanted.bands.index(name)] for name in names) for part in (self.wanted.mean, self.wanted.std))
        few = replace(self.wanted, bands=names, mean=mean, std=std)
        return replace(channel, input=few, items=tuple(channel.items[k] for k in keep)).read(channel.grid[px[0], px[1]])

    def chip(self, series: Series, corner: tuple[int, int]) -> Chip:
        """Cut from a window that begins at `corner`."""
        window = tuple(slice(part.start - first, part.stop - first) for part, first in zip(self.px, corner, strict=True))
        pixels = series.pixels[:, [series.bands.index(band) for band in self.bands], window[0], window[1]].astype(np.float32)
        pixels[np.broadcast_to(~series.valid[:, None, window[0], window[1]], pixels.shape)] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # ground that no date sees stays NaN
            seen = np.nanmedian(pixels, axis=0)
        picture = _reduced(np.ascontiguousarray(seen.transpose(1, 2, 0)))  # (C, h, w) -> (h, w, C)
        (y, _), (x, size) = ((place + 0.5 - first, last - first) for place, (first, last) in zip(self.place, self.spans, strict=True))
        height = self.spans[0][1] - self.spans[0][0]
        return Chip(picture, self.bands, sensors.get(self.wanted.sensor).kind, x / size, y / height, 1 / size)


def stretched(chips: Sequence[Chip]) -> list[np.ndarray]:
    """Display colours (h, w, 3) uint8, all chips of a kind alike."""
    limits = {}
    for kind, bands in {(chip.kind, chip.bands) for chip in chips}:
        alike = [chip.pixels.reshape(-1, 3) for chip in chips if (chip.kind, chip.bands) == (kind, bands)]
        limits[kind, bands] = limits_of(kind, np.concatenate(alike))
    return [lit(chip.kind, chip.pixels, limits[chip.kind, chip.bands], EMPTY) for chip in chips]


def _inside(place: int, side: int, length: int) -> tuple[int, int]:
    """`side` cells around `place`, as far as there are so many."""
    first = min(max(place - side // 2, 0), max(length - side, 0))
    return first, min(first + side, length)


def _reduced(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) with means of whole squares, so that neither side is longer than CHIP_PX."""
    step = -(-max(picture.shape[:2]) // CHIP_PX)
    if step == 1:
        return picture
    height, width = (side // step * step for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // step, step, width // step, step, 3)
    return blocks.mean(axis=(1, 3))
