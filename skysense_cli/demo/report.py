"""Compares what the chain made of the simulated landscape with the truth: report.json, and the goals it is held to."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from skysense_cli import sensors
from skysense_cli.data import index, npz
from skysense_cli.data.sample import Series
from skysense_cli.data.totals import BLOCKS, block_reports
from skysense_cli.demo.catalog import BANDS, scene_grid
from skysense_cli.demo.observe import BOA_OFFSET
from skysense_cli.demo.scores import CLOUD_CODES, CloudCounts, ShiftScores, clusters, filled, shift_scores
from skysense_cli.demo.spectra import CLASSES
from skysense_cli.engine.agreement import contingency, nmi
from skysense_cli.engine.curves import METRICS, read_metrics
from skysense_cli.engine.land_cover import SCORE, halves
from skysense_cli.engine.metrics import Confusion
from skysense_cli.errors import DataError
from skysense_cli.files import write_text
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.raster import describe, read_on_grid

IGNORE = 255
NO_PROTOTYPE = 65535
GSD_M = 10.0


@dataclass(frozen=True)
class Places:
    """Where the demo's results lie."""

    landscape: Path
    data: Path
    pretrain: Path
    finetune: Path
    land_cover: Path
    land_cover_random: Path
    prototypes: Path
    prototypes_untrained: Path

    @classmethod
    def below(cls, home: Path) -> "Places":
        """As `skysense demo` lays them out."""
        maps = home / "maps"
        return cls(
            home / "landscape", home / "data", home / "pretrain", home / "finetune", maps / "land_cover.tif",
            maps / "land_cover_random.tif", maps / "prototypes", maps / "prototypes_untrained",
        )  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """One line of the closing table. `value` is what was reached."""

    what: str
    wanted: str
    value: float
    reached: bool


@dataclass(frozen=True, eq=False)
class Findings:
    """report: the content of report.json without seconds and outputs      shifts: for the picture

    confusion: of the fine-tuned map on ground never trained on
    """

    report: dict[str, Any]
    shifts: ShiftScores
    confusion: Confusion


def compare(places: Places) -> Findings:
    """All scores of the chain's results against the truth."""
    truth = json.loads((places.landscape / "truth" / "truth.json").read_text(encoding="utf-8"))
    rows = index.read(places.data / "index")
    classes, _ = read_on_grid(places.landscape / "truth" / "land_cover.tif", scene_grid(GSD_M), [1])
    shifts = coregistration(places, truth)
    confusion = _segmentation(places.land_cover, classes[0], rows)
    losses = first_and_last_loss(places.pretrain / METRICS)
    report = {
        "simulated": True,
        "cloud": _cloud(places, truth, rows),
        "coregistration_px": {"before": shifts.before, "median": shifts.median, "p90": shifts.p90, "refused": shifts.refused},
        "pretrain": {"first_loss": losses[0], "last_loss": losses[-1]},
        "segmentation": {
            "miou": confusion.miou, "majority_miou": confusion.majority().miou,
            "random_init_miou": _segmentation(places.land_cover_random, classes[0], rows).miou,
            "iou": {name: _number(value) for name, value in zip(CLASSES, confusion.iou, strict=True)},
        },
        "prototypes": _prototypes(places, classes[0]),
    }  # fmt: skip
    return Findings(report, shifts, confusion)


def goals(report: Mapping[str, Any]) -> list[Goal]:
    """What the demo is held to, and whether it got there."""
    cloud, shift, pretrain = report["cloud"], report["coregistration_px"], report["pretrain"]
    segmentation, prototypes = report["segmentation"], report["prototypes"]
    lines: Iterable[tuple[str, str, float, Callable[[float], bool]]] = (
        ("scene classification alone, recall", "0.70 to 0.85", cloud["raw_recall"], lambda v: 0.70 <= v <= 0.85),
        ("scene classification alone, precision", "0.70 to 0.90", cloud["raw_precision"], lambda v: 0.70 <= v <= 0.90),
        ("after the filter: clear among the pixels kept", ">= 0.97", cloud["clear_share_of_kept"], lambda v: v >= 0.97),
        ("after the filter: kept among the clear pixels", ">= 0.80", cloud["kept_share_of_clear"], lambda v: v >= 0.80),
        ("shift before, median, px", "0.6 to 1.4", shift["before"], lambda v: 0.6 <= v <= 1.4),
        ("shift left, median, px", "<= 0.15", shift["median"], lambda v: v <= 0.15),
        ("shift left, 90th percentile, px", "<= 0.35", shift["p90"], lambda v: v <= 0.35),
        ("measurements refused (the overcast date must be)", "> 0, <= 0.20", shift["refused"], lambda v: 0 < v <= 0.20),
        ("pretraining loss, last", f"< {pretrain['first_loss']:.2f} (first)", pretrain["last_loss"], lambda v: v < pretrain["first_loss"]),
        ("land cover, mIoU on ground never trained on", f">= {segmentation['majority_miou'] + 0.25:.2f} (majority class + 0.25)",
         segmentation["miou"], lambda v: v >= segmentation["majority_miou"] + 0.25),
        ("land cover, mIoU against random weights, same steps and labels", f"> {segmentation['random_init_miou']:.3f}",
         segmentation["miou"], lambda v: v > segmentation["random_init_miou"]),
        ("prototype map, NMI against an untrained encoder", f">= {prototypes['untrained_nmi'] + 0.05:.3f} (untrained + 0.05)",
         prototypes["nmi"], lambda v: v >= prototypes["untrained_nmi"] + 0.05),
        ("prototype map, NMI against k-means on raw pixels", f">= {0.9 * prototypes['kmeans_nmi']:.3f} (0.9 x k-means)",
         prototypes["nmi"], lambda v: v >= 0.9 * prototypes["kmeans_nmi"]),
        ("prototypes used", ">= 0.80", prototypes["used"], lambda v: v >= 0.80),
    )  # fmt: skip
    return [Goal(what, wanted, value, bool(reached(value))) for what, wanted, value, reached in lines]


def write(home: Path, report: Mapping[str, Any]) -> None:
    """Write `report.json` below `home`."""
    write_text(home / "report.json", json.dumps(_rounded(report), indent=1, allow_nan=False) + "\n")


# clouds


def clear_truth(landscape: Path, truth: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """item -> (H, W) bool on the 10 m grid of its image: neither cloud nor shadow."""
    names = [date["id"] for date in truth["sentinel-2-l2a"]]
    bands, _ = read_on_grid(landscape / "truth" / "clear.tif", scene_grid(GSD_M), list(range(1, len(names) + 1)))
    return dict(zip(names, bands.astype(bool), strict=True))


def scene_codes(landscape: Path, item: str) -> np.ndarray:
    """(H, W) scene classification of one date on the 10 m grid."""
    codes, _ = read_on_grid(landscape / "sentinel-2-l2a" / item / "SCL.tif", scene_grid(GSD_M), [1])
    return codes[0]


def window_of(grid: GeoBox, offset_px: tuple[float, float] = (0, 0)) -> tuple[slice, slice]:
    """Rows and columns of the scene at 10 m that `grid` covers, read `offset_px` (right, down) further, to the nearest pixel."""
    scene = scene_grid(GSD_M)
    left = round((grid.affine.c - scene.affine.c) / GSD_M + offset_px[0])
    top = round((scene.affine.f - grid.affine.f) / GSD_M + offset_px[1])
    return slice(top, top + grid.shape[0]), slice(left, left + grid.shape[1])


def _cloud(places: Places, truth: Mapping[str, Any], rows: Sequence[index.Row]) -> dict[str, float]:
    clear = clear_truth(places.landscape, truth)
    counts = CloudCounts()
    for item, pixels in clear.items():
        counts.add_raw(scene_codes(places.landscape, item), pixels)
    for row in rows:
        series = npz.read(places.data / row.path).series["s2"]
        counts.clear += sum(int(pixels[window_of(series.grid)].sum()) for pixels in clear.values())
        for date, item in enumerate(series.items):
            right, down = applied_px(series, date)
            inside = window_of(series.grid, (-right, -down))
            counts.add_kept(series.valid[date], clear[item][inside])
    return asdict(counts.scores())


def applied_px(series: Series, date: int) -> tuple[float, float]:
    """(right, down) in pixels by which the chain moved this date of a sample."""
    facts = series.meta[date]
    return tuple(facts["shift_px"]) if facts.get("decision") == "moved" else (0.0, 0.0)


# shifts


def coregistration(places: Places, truth: Mapping[str, Any]) -> ShiftScores:
    """Every measurement of the build (one per date and block) against the shift that the simulation gave the date."""
    known = {date["id"]: date["shift_m"] for date in truth["sentinel-2-l2a"]}
    blocks = enumerate(block_reports(places.data))
    measured = [(number, date) for number, block in blocks for date in block["dates"]["s2"] if "shift_px" in date]
    if not measured:
        raise DataError(f"{places.data / BLOCKS}: holds no measured shift; was coregister left out of the recipe?")
    way_back = np.array([date["shift_px"] for _, date in measured]) * GSD_M  # to the right and down
    return shift_scores(
        true_m=np.array([known[date["item"]] for _, date in measured]),
        measured_m=way_back * (-1, 1),
        accepted=np.array([date["decision"] != "refused" for _, date in measured]),
        block=np.array([number for number, _ in measured]),
    )


# maps


def test_ground(rows: Iterable[index.Row]) -> np.ndarray:
    """(H, W) bool on the 10 m grid of the scene: footprints of the test split, which no training step sees."""
    scene = scene_grid(GSD_M)
    ground = np.zeros(scene.shape, dtype=bool)
    for row in rows:
        if row.split == "test":
            left, bottom, right, top = row.bounds
            ground[window_of(make_grid(left, top, GSD_M, round((top - bottom) / GSD_M), round((right - left) / GSD_M), row.crs))] = True
    return ground


def _segmentation(path: Path, classes: np.ndarray, rows: Sequence[index.Row]) -> Confusion:
    predicted, known = read_on_grid(path, scene_grid(GSD_M), [1])
    scored = test_ground(rows) & known.reshape(classes.shape)
    confusion = Confusion(len(CLASSES))
    confusion.update(np.where(scored, classes, IGNORE), np.where(scored, predicted[0], 0))
    return confusion


def read_prototypes(folder: Path) -> np.ndarray:
    """(H, W) prototype of every 10 m pixel; 65535 where there is none."""
    pixels, known = read_on_grid(folder / "prototypes.tif", scene_grid(GSD_M), [1])
    return np.where(known.reshape(pixels[0].shape), pixels[0], NO_PROTOTYPE)


def _prototypes(places: Places, classes: np.ndarray) -> dict[str, float]:
    """Agreement with the true land cover, and that of an untrained encoder's map and of k-means on the pixels themselves.

    On the squares that the map's own comparison scores, so that all figures are of one ground.
    """
    trained, untrained = read_prototypes(places.prototypes), read_prototypes(places.prototypes_untrained)
    used = np.unique(trained[trained != NO_PROTOTYPE])
    compared = json.loads((places.prototypes / "comparison.json").read_text(encoding="utf-8"))
    half, _ = halves(scene_grid(GSD_M), round(compared["tiles_m"] / GSD_M), compared["seed"])
    known = (trained != NO_PROTOTYPE) & (untrained != NO_PROTOTYPE) & (half == SCORE)
    legend = json.loads((places.prototypes / "legend.json").read_text(encoding="utf-8"))
    count = int(legend["per_region"])
    scenes = legend_items(places.prototypes)
    labels = clusters(raw_pixels(places.landscape, scenes), count, seed=0).reshape(classes.shape)
    return {
        "nmi": nmi(contingency(trained[known], classes[known])),
        "untrained_nmi": nmi(contingency(untrained[known], classes[known])),
        "kmeans_nmi": nmi(contingency(labels[known], classes[known])),
        "mapped_miou": compared["scored"]["majority"]["miou"],
        "used": len(used) / count,
    }


def legend_items(folder: Path) -> list[str]:
    """The Sentinel-2 scenes that the prototype map was made of."""
    return describe(folder / "prototypes.tif").tags["SKYSENSE_SCENES_S2"].split()


def raw_pixels(landscape: Path, items: Iterable[str]) -> np.ndarray:
    """(pixels, dates * bands) normalised reflectance of the scenes as delivered; called cloud is filled from the other dates."""
    sensor = sensors.get("sentinel2_l2a")
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in sensor.statistics(tuple(BANDS)))
    dates, valid = [], []
    for item in items:
        folder = landscape / "sentinel-2-l2a" / item
        read = [read_on_grid(folder / f"{band}.tif", scene_grid(GSD_M), [1], resampling="bilinear")[0][0] for band in BANDS]
        dates.append((np.stack(read) - BOA_OFFSET - mean) / std)
        valid.append(~np.isin(scene_codes(landscape, item), CLOUD_CODES))
    pixels = filled(np.stack(dates), np.stack(valid))
    return pixels.reshape(-1, pixels.shape[-2] * pixels.shape[-1]).T.astype(np.float32)


# loss curves


def first_and_last_loss(path: Path, window: int = 5) -> tuple[float, float]:
    """The total loss at the start and at the end of training, each the mean of a few lines of the log."""
    totals = [total for _, total in total_losses(path)]
    if not totals:
        raise DataError(f"{path}: holds no losses")
    window = min(window, max(len(totals) // 4, 1))
    return float(np.mean(totals[:window])), float(np.mean(totals[-window:]))


def total_losses(path: Path) -> list[tuple[int, float]]:
    """(step, sum of all losses) of every logged step."""
    return [(line["step"], sum(line["losses"].values())) for line in read_metrics(path) if line.get("losses")]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
