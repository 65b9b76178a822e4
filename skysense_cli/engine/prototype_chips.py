"""Small true-colour pictures of a scene or a sample around a cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from skysense_cli import sensors
from skysense_cli.data import npz
from skysense_cli.data.dataset import Input
from skysense_cli.data.sample import Series
from skysense_cli.data.views import spread_dates
from skysense_cli.engine.prototype_sources import SampleCells, SceneCells, Source

CHIP_CELLS = 33  # side; odd, so that its cell lies in the middle
LEAST_CELLS = 9  # where a cell holds many pixels
READ_PX, CHIP_PX = 512, 96  # side as read, as shown
DATES = 5  # of which the median is shown
TRUE_COLORS = (("R", "G", "B"), ("B04", "B03", "B02"))
STRETCH = (1, 99)  # percentiles over all chips that become black and white
GAMMA = 0.7
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


def cut(source: Source, row: int, column: int) -> Chip:
    """The ground around a cell of a source: the median of a few dates, moved inside where the source ends."""
    assert isinstance(source, SceneCells | SampleCells), "there are no others"
    inputs = source.job.inputs if isinstance(source, SceneCells) else source.job.present(source.number)
    name, bands = color_bands(inputs)
    wanted = inputs[name]
    ratio = source.cell_m / wanted.gsd_m  # pixels along a cell
    side = max(min(CHIP_CELLS, int(READ_PX / ratio)), min(LEAST_CELLS, CHIP_CELLS))
    spans = [_inside(place, side, length) for place, length in zip((row, column), source.grid.shape, strict=True)]
    px = [slice(round(first * ratio), max(round(last * ratio), round(first * ratio) + 1)) for first, last in spans]
    if isinstance(source, SceneCells):
        series = _of_scene(source, name, wanted, bands, (px[0], px[1]))
    else:
        path, choice = source.job.samples.path(source.number), source.job.choice(source.number, name)
        series = npz.read_part(path, name, spread_dates(choice, DATES), (px[0], px[1]))
    pixels = series.pixels[:, [series.bands.index(band) for band in bands]].astype(np.float32)
    pixels[np.broadcast_to(~series.valid[:, None], pixels.shape)] = np.nan
    with np.errstate(all="ignore"):
        seen = np.nanmedian(pixels, axis=0) if len(pixels) > 1 else pixels[0]
    picture = _reduced(np.ascontiguousarray(seen.transpose(1, 2, 0)))  # (C, h, w) -> (h, w, C)
    (top, bottom), (left, right) = spans
    kind = sensors.get(wanted.sensor).kind
    return Chip(picture, bands, kind, (column + 0.5 - left) / (right - left), (row + 0.5 - top) / (bottom - top), 1 / (right - left))


def color_bands(inputs: dict[str, Input]) -> tuple[str, tuple[str, ...]]:
    """(modality, the bands that are shown as red, green and blue): true colours if there are some, else what there is first."""
    for bands in TRUE_COLORS:
        for name, wanted in inputs.items():
            if set(bands) <= set(wanted.bands):
                return name, bands
    name, wanted = next(iter(inputs.items()))
    return name, (wanted.bands * 3)[:3] if len(wanted.bands) != 2 else (wanted.bands[0], wanted.bands[1], wanted.bands[0])


def stretched(chips: Sequence[Chip]) -> list[np.ndarray]:
    """Display colours (h, w, 3) uint8, all chips of a kind alike; photographs as they are.

    Reflectance: each band begins at its own dark end, which takes out haze, and all bands reach equally far, which keeps
    colours natural. Radar: each band from its own dark to its own bright end.
    """
    limits = {look: _limits(look[0], [chip for chip in chips if (chip.kind, chip.bands) == look]) for look in _looks(chips)}
    found = []
    for chip in chips:
        low, reach = limits[chip.kind, chip.bands]
        share = np.clip((chip.pixels - low) / reach, 0, 1)
        lit = np.nan_to_num(share) ** (GAMMA if chip.kind == "optical" else 1)
        found.append(np.where(np.isnan(share), EMPTY, np.round(255 * lit)).astype(np.uint8))
    return found


def _looks(chips: Sequence[Chip]) -> set[tuple[str, tuple[str, ...]]]:
    return {(chip.kind, chip.bands) for chip in chips}


def _limits(kind: str, chips: Sequence[Chip]) -> tuple[np.ndarray, np.ndarray]:
    """What is black, and how far from it white is; each (3,)."""
    values = np.concatenate([chip.pixels.reshape(-1, 3) for chip in chips])
    values = values[~np.isnan(values).any(axis=1)]
    if kind == "rgb" or not len(values):
        return np.zeros(3), np.full(3, 255.0)
    low, high = np.percentile(values, STRETCH, axis=0)
    reach = np.maximum(high - low, 1e-6)
    return low, np.full(3, reach.max()) if kind == "optical" else reach


def _of_scene(source: SceneCells, name: str, wanted: Input, bands: tuple[str, ...], px: tuple[slice, slice]) -> Series:
    channel = source.job.scene.channels[name]
    keep = spread_dates(np.arange(len(channel.items)), DATES)
    order = [wanted.bands.index(band) for band in dict.fromkeys(bands)]
    few = replace(
        wanted, bands=tuple(dict.fromkeys(bands)), mean=tuple(wanted.mean[k] for k in order), std=tuple(wanted.std[k] for k in order)
    )
    return replace(channel, input=few, items=tuple(channel.items[k] for k in keep)).read(channel.grid[px[0], px[1]])


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
