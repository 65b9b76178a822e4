"""Copies of the scenes with every pixel replaced by noise: what a map made from them scores is position, not image."""

import sys
from pathlib import Path

import numpy as np
import rasterio


def main(scenes: Path, output: Path) -> None:
    """Write `output`/s2 and `output`/s1 with the georeference, dates and band statistics of `scenes`, seeded by file name."""
    for folder in ("s2", "s1"):
        (output / folder).mkdir(parents=True, exist_ok=True)
        for path in sorted((scenes / folder).glob("*.tif")):
            with rasterio.open(path) as source:
                pixels, profile, tags, names = source.read(), source.profile, source.tags(), source.descriptions
            noise = np.random.default_rng([ord(letter) for letter in path.stem]).permuted(pixels.reshape(len(pixels), -1), axis=1)
            with rasterio.open(output / folder / path.name, "w", **profile) as copy:
                copy.write(noise.reshape(pixels.shape))
                copy.update_tags(**tags)
                copy.descriptions = names


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
