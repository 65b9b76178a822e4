"""Gather the scores of the three runs into scores.json, with what pixel position alone would score beside them."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from scipy.spatial import cKDTree

SQUARE_PX = 8  # as `label.hold_out.checkerboard_px` of the recipe


def coordinates_accuracy(label: Path, codes: set[int]) -> float:
    """Overall accuracy on the held-back squares of the nearest labelled training pixel, by position only."""
    with rasterio.open(label) as source:
        values = source.read(1)
    rows, columns = np.indices(values.shape)
    held_out = (rows // SQUARE_PX + columns // SQUARE_PX) % 2 == 1
    known = np.isin(values, list(codes))
    places = np.stack([rows, columns], axis=-1)
    _, nearest = cKDTree(places[known & ~held_out]).query(places[known & held_out])
    return float((values[known & ~held_out][nearest] == values[known & held_out]).mean())


def main(label: Path, classes: Path, output: Path) -> None:
    """Write `output`/scores.json and print it."""
    codes = {int(row["code"]) for row in csv.DictReader(classes.open())}
    runs = {name: json.loads((output / name / "scores" / "scores.json").read_text()) for name in ("main", "noise", "fields")}
    scores = {
        **runs["main"],
        "oa_coordinates": coordinates_accuracy(label, codes),
        "oa_no_image": runs["noise"]["oa"],
        "oa_fields_out": runs["fields"]["oa"],
    }
    (output / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
