"""Digital numbers to sigma0: thermal noise taken off, then the product's own look-up table. Linear power throughout."""

import numpy as np

from skysense_cli.data.products.sentinel1 import Noise, Vectors


def sigma0(numbers: np.ndarray, calibration: Vectors, noise: Noise | None, rows: slice, columns: slice) -> np.ndarray:
    """max(DN**2 - noise, 0) / A**2 as float32 for a window of the image.

    numbers: (h, w) digital numbers of the lines `rows` and samples `columns`      noise: None where the product has none
    """
    power = np.square(numbers.astype(np.float32))
    if noise is not None:
        power = np.maximum(power - noise_power(noise, rows, columns), 0)
    return power / np.square(table(calibration, rows, columns))


def table(vectors: Vectors, rows: slice, columns: slice) -> np.ndarray:
    """(h, w) float32 of a look-up table: linear along each line between its samples, then between the lines.

    Before the first and after the last line or sample the nearest value holds. The window is not empty.
    """
    lines = np.clip(np.arange(rows.start, rows.stop, dtype=float), vectors.lines[0], vectors.lines[-1])
    last = len(vectors.lines) - 1
    before = np.clip(np.searchsorted(vectors.lines, lines, side="right") - 1, 0, max(last - 1, 0))
    after = np.minimum(before + 1, last)
    samples = np.arange(columns.start, columns.stop, dtype=float)
    first, end = int(before[0]), int(after[-1])
    known = np.stack([np.interp(samples, vectors.samples[k], vectors.values[k]) for k in range(first, end + 1)])
    span = np.where(after > before, vectors.lines[after] - vectors.lines[before], 1.0)
    share = ((lines - vectors.lines[before]) / span)[:, None]
    return (known[before - first] * (1 - share) + known[after - first] * share).astype(np.float32)


def noise_power(noise: Noise, rows: slice, columns: slice) -> np.ndarray:
    """(h, w) float32 of thermal noise in squared digital numbers."""
    power = table(noise.by_range, rows, columns)
    for block in noise.by_azimuth:
        first_line, last_line, first_sample, last_sample = block.block
        down = slice(max(first_line, rows.start), min(last_line + 1, rows.stop))
        across = slice(max(first_sample, columns.start), min(last_sample + 1, columns.stop))
        if down.start < down.stop and across.start < across.stop:
            factors = np.interp(np.arange(down.start, down.stop), block.lines, block.values).astype(np.float32)
            part = (
                slice(down.start - rows.start, down.stop - rows.start),
                slice(across.start - columns.start, across.stop - columns.start),
            )
            power[part] *= factors[:, None]
    return power
