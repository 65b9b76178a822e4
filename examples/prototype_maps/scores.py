"""Score the maps of run.sh on squares held apart, beside an untrained encoder and k-means on raw pixels: scores.json, maps.png."""

import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from skysense_cli import sensors
from skysense_cli.data.labels import read_classes
from skysense_cli.demo.scores import CLOUD_CODES, clusters, filled, matched_colors
from skysense_cli.engine.agreement import contingency, nmi
from skysense_cli.engine.land_cover import SCORE, halves
from skysense_cli.geo.raster import describe

HERE = Path(__file__).parent
SPLITS = 5  # ways of dividing the squares; what is reported is the mean over them
SQUARE_CELLS = 16
NONE = 65535
PLACES = {
    "belgium": ("ts_belgium_A", "label_croptype_code.tif", HERE.parent / "belgium_crops" / "classes.csv"),
    "slovenia": ("ts_slovenia", "label_lulc.tif", HERE / "classes_slovenia.csv"),
}


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def raw_pixels(folder: Path, items: list[str]) -> np.ndarray:
    """(pixels, dates * bands) normalised as a model sees them; called cloud is filled from the other dates."""
    sensor = sensors.get("sentinel2_l2a")
    dates, valid = [], []
    for item in items:
        with rasterio.open(folder / "s2" / f"{item}.tif") as file:
            pixels = file.read([file.descriptions.index(band) + 1 for band in sensor.band_names])
        dates.append(sensors.to_model(pixels, sensor.mean, sensor.std))
        clouds = folder / "scl" / f"{item.replace('S2_', 'SCL_')}.tif"
        valid.append(~np.isin(read(clouds), CLOUD_CODES) if clouds.exists() else np.ones(pixels.shape[1:], bool))
    found = filled(np.stack(dates), np.stack(valid))
    return found.reshape(-1, found.shape[-2] * found.shape[-1]).T.astype(np.float32)


def maps_of(out: Path, data: Path, name: str) -> dict[str, np.ndarray]:
    """The three maps and the truth (class ids, 255 = none) of a place."""
    folder, label, table = PLACES[name]
    maps = {"trained": read(out / name / "map" / "prototypes.tif"), "untrained": read(out / name / "map_untrained" / "prototypes.tif")}
    items = describe(out / name / "map" / "prototypes.tif").tags["SKYSENSE_SCENES_S2"].split()
    count = json.loads((out / name / "map" / "legend.json").read_text())["per_region"]
    maps["kmeans"] = clusters(raw_pixels(data / folder, items), count, seed=0).reshape(maps["trained"].shape)
    codes = read(data / folder / label).astype(int)
    return maps | {"truth": np.where(codes == 0, 255, read_classes(table).ids(codes))}


def scores_of(out: Path, name: str, maps: dict[str, np.ndarray]) -> dict:
    """NMI with the truth on the scored squares, mean over the ways of dividing them, and the goals."""
    grid = describe(out / name / "map" / "prototypes.tif").grid
    known = (maps["truth"] != 255) & (maps["trained"] != NONE) & (maps["untrained"] != NONE)
    found = {}
    for kind in ("trained", "untrained", "kmeans"):
        by_split = []
        for seed in range(SPLITS):
            scored = known & (halves(grid, SQUARE_CELLS, seed)[0] == SCORE)
            by_split.append(nmi(contingency(maps[kind][scored], maps["truth"][scored])))
        found[kind] = {"nmi": round(float(np.mean(by_split)), 4), "by_split": [round(value, 4) for value in by_split]}
    wanted = max(found["untrained"]["nmi"] + 0.05, 0.9 * found["kmeans"]["nmi"])
    compared = json.loads((out / name / "map" / "comparison.json").read_text())
    found |= {"wanted": round(wanted, 4), "reached": found["trained"]["nmi"] >= wanted}
    return found | {
        "majority": compared["scored"]["majority"],
        "commonest": {key: compared["chance"]["commonest"][key] for key in ("oa", "miou")},
    }


def draw(path: Path, name_maps: dict[str, dict[str, np.ndarray]], scores: dict) -> None:
    """Truth and maps side by side; each cluster in the colour of the class that it shares most cells with."""
    figure = Figure(figsize=(13, 3.45 * len(name_maps)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(name_maps), 4, squeeze=False)
    for row, (name, maps) in zip(axes, name_maps.items(), strict=True):
        classes = read_classes(PLACES[name][2])
        truth = maps["truth"]
        colors = [tuple(int(part) for part in color) for color in classes.colors]
        picture = np.full((*truth.shape, 3), 200, np.uint8)
        picture[truth != 255] = classes.colors[truth[truth != 255]]
        row[0].imshow(picture)
        row[0].set_title(f"{name}: register (grey: none)", fontsize=9)
        for axis, kind in zip(row[1:], ("trained", "untrained", "kmeans"), strict=True):
            masked = np.where(truth == 255, len(colors), truth)
            axis.imshow(matched_colors(maps[kind].astype(int), masked, [*colors, (200, 200, 200)], NONE))
            axis.set_title(f"{kind}, NMI {scores[name][kind]['nmi']:.3f}", fontsize=9)
        for axis in row:
            axis.set_axis_off()
    figure.savefig(path)


def main(data: Path, out: Path) -> None:
    """Write scores.json and maps.png in `out` and print the scores."""
    maps = {name: maps_of(out, data, name) for name in PLACES if (out / name).exists()}
    scores = {name: scores_of(out, name, maps[name]) for name in maps}
    draw(out / "maps.png", maps, scores)
    (out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    for name, found in scores.items():
        three = ", ".join(f"{kind} {found[kind]['nmi']:.3f}" for kind in ("trained", "untrained", "kmeans"))
        print(f"{name}: NMI {three}; wanted {found['wanted']:.3f}: {'reached' if found['reached'] else 'missed'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
