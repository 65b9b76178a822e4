"""`report.html`: one self-contained page with the pictures of the demo."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from skysense_cli import __version__
from skysense_cli.data import index
from skysense_cli.demo import pictures
from skysense_cli.demo.catalog import scene_grid
from skysense_cli.demo.report import (
    GSD_M,
    NO_PROTOTYPE,
    Findings,
    Goal,
    Places,
    clear_truth,
    legend_items,
    raw_pixels,
    read_prototypes,
    test_ground,
    total_losses,
)  # fmt: skip
from skysense_cli.demo.scores import clusters, matched_colors
from skysense_cli.demo.spectra import CLASSES, COLORS
from skysense_cli.engine.curves import METRICS, read_metrics
from skysense_cli.engine.prototype_map import prototype_color
from skysense_cli.files import write_text
from skysense_cli.geo.raster import read_on_grid

STYLE = """
:root{color-scheme:light}body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f6f5f1;color:#22262a}
header{background:#20323a;color:#fff;padding:1.6rem max(1rem,calc(50% - 34rem))}header h1{margin:.2rem 0;font-weight:600}
.note{background:#f2c14e;color:#22262a;padding:.4rem max(1rem,calc(50% - 34rem));font-weight:600}
main{max-width:68rem;margin:0 auto;padding:1rem}section{margin:2.2rem 0}h2{font-weight:600;border-bottom:2px solid #c9d4cf}
figure{margin:0}figcaption{font-size:.85rem;color:#4c555b;margin:.2rem 0 .6rem}img{width:100%;display:block;border-radius:3px}
.row{display:grid;gap:.7rem;margin:.7rem 0}.c2{grid-template-columns:1fr 1fr}.c3{grid-template-columns:repeat(3,1fr)}
.c4{grid-template-columns:repeat(4,1fr)}.c6{grid-template-columns:repeat(6,1fr)}.pixel img{image-rendering:pixelated}
table{border-collapse:collapse;width:100%;background:#fff}th,td{text-align:left;padding:.35rem .6rem;border-bottom:1px solid #e3e3dd}
td.n{text-align:right;font-variant-numeric:tabular-nums}.yes{color:#1d7a46;font-weight:600}.no{color:#b3261e;font-weight:700}
.key span{display:inline-block;margin-right:1rem}.key i{display:inline-block;width:.9em;height:.9em;margin-right:.35em;vertical-align:-.1em}
@media(max-width:640px){.c3,.c4{grid-template-columns:1fr 1fr}.c6{grid-template-columns:repeat(3,1fr)}}
"""


def write_page(path: Path, places: Places, findings: Findings, goals: Sequence[Goal], seconds: Mapping[str, float]) -> None:
    """Write the page of the demo to `path`."""
    truth = json.loads((places.landscape / "truth" / "truth.json").read_text(encoding="utf-8"))
    mosaic = pictures.SampleMosaic(places.data)
    parts = [
        _goals(goals), _landscape(places, truth), _clouds(places, truth, mosaic, findings), _shifts(places, truth, mosaic, findings),
        _training(places), _land_cover(places, findings), _prototypes(places, findings), _times(seconds),
    ]  # fmt: skip
    body = "\n".join(parts)
    title = "skysense demo: from simulated scenes to maps"
    write_text(path, (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title} (SIMULATED)</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{title}</h1>The whole chain on one landscape whose truth is known · skysense {__version__}</header>'
        f'<div class="note">Everything on this page is SIMULATED: no satellite took these images.</div><main>{body}</main></body></html>\n'
    ))  # fmt: skip


def _goals(goals: Sequence[Goal]) -> str:
    rows = [
        f"<tr><td>{html.escape(goal.what)}</td><td>{html.escape(goal.wanted)}</td><td class=n>{goal.value:.3f}</td>"
        f"<td class={'yes' if goal.reached else 'no'}>{'reached' if goal.reached else 'missed'}</td></tr>"
        for goal in goals
    ]
    missed = sum(not goal.reached for goal in goals)
    said = "All goals were reached." if not missed else f"{missed} of {len(goals)} goals were missed."
    head = "<tr><th>measured</th><th>goal</th><th>found</th><th></th></tr>"
    return _section("What came out", f"<p>{said}</p><table>{head}{''.join(rows)}</table>")


def _landscape(places: Places, truth: Mapping[str, Any]) -> str:
    dates = truth["sentinel-2-l2a"]
    thumbnails = [_figure(pictures.true_color(places.landscape, date["id"])[::2, ::2], date["time"][:10], quality=80) for date in dates]
    photo = _figure(pictures.photo(places.landscape), "Orthophoto, 2.5 m, 16 May", quality=82)
    ids = [item["id"] for item in truth["sentinel-1-rtc"]]
    radar = _figure(pictures.radar(places.landscape, ids), "Sentinel-1, mean of the year: VV red, VH green, VV/VH blue")
    one = _figure(pictures.radar(places.landscape, ids[6:7]), "Sentinel-1, one date, with speckle")
    text = (
        "<p>Crops follow their own seasons, every field a little differently; clouds throw shadows away from the sun; "
        "every image is displaced a little.</p>"
    )
    return _section("The landscape and its year", f"{text}{photo}{_row(thumbnails, 6)}{_row([one, radar], 2)}")


def _clouds(places: Places, truth: Mapping[str, Any], mosaic: pictures.SampleMosaic, findings: Findings) -> str:
    clear = clear_truth(places.landscape, truth)
    chosen: dict[str, str] = {}
    for date in truth["sentinel-2-l2a"]:
        if date["sky"] != "clear":
            chosen[date["sky"]] = date["id"]
    heads = ("as seen", "true cloud and shadow", "what the scene classification calls so", "what the samples use")
    nothing = np.zeros(pictures.area_grid().shape, dtype=bool)
    rows = []
    for sky, item in chosen.items():
        views = pictures.cloud_row(places.landscape, item, clear[item], mosaic.kept.get(item, nothing))
        rows.append(_row([_figure(view, f"{sky}: {head}") for view, head in zip(views, heads, strict=True)], 4))
    cloud = findings.report["cloud"]
    text = (
        f"<p>The scene classification alone finds {cloud['raw_recall']:.0%} of cloud and shadow, and "
        f"{cloud['raw_precision']:.0%} of what it calls so is so. Of the pixels that the samples use "
        f"{cloud['clear_share_of_kept']:.1%} are clear, and {cloud['kept_share_of_clear']:.0%} of the clear ones are used.</p>"
    )
    return _section("Cloud filter", text + "".join(rows))


def _shifts(places: Places, truth: Mapping[str, Any], mosaic: pictures.SampleMosaic, findings: Findings) -> str:
    items = pictures.clearest(truth, mosaic)
    window = slice(100, 196), slice(180, 276)
    before, after = pictures.mean_before(places.landscape, items, window), mosaic.mean(items, window)
    shift = findings.shifts
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.scatter(shift.before_each[:, 0], shift.before_each[:, 1], s=22, color="#b3261e", alpha=0.6, label="before")
    axes.scatter(shift.left[:, 0], shift.left[:, 1], s=22, color="#1d7a46", alpha=0.8, label="left after")
    axes.set(xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), aspect="equal", xlabel="pixels to the right", ylabel="pixels up")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    shown = [
        _figure(before, f"mean of {len(items)} dates as delivered", pixel=True),
        _figure(after, "the same dates after co-registration", pixel=True),
        _drawn(figure, "distance from the reference, every date and block"),
    ]  # fmt: skip
    text = f"<p>{shift.refused:.0%} of the measurements were refused: where an overcast sky shows nothing, nothing can be matched.</p>"
    return _section("Co-registration", text + _row(shown, 3))


def _training(places: Places) -> str:
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = [line for line in read_metrics(places.pretrain / METRICS) if line.get("losses")]
    left.plot(*zip(*total_losses(places.pretrain / METRICS), strict=True), color="#20323a", lw=2)
    for name in sorted({name for line in lines for name in line["losses"]}):
        some = [(line["step"], line["losses"][name]) for line in lines if name in line["losses"]]
        right.plot(*zip(*some, strict=True), lw=1, label=name)
    left.set(title="pretraining, total loss", xlabel="step")
    right.set(title="its parts", xlabel="step")
    right.legend(frameon=False, fontsize=7, ncols=2)
    return _section("Pretraining without labels", _drawn(figure, "contrast of cells, objects and images per stream; alignment"))


def _land_cover(places: Places, findings: Findings) -> str:
    ground = pictures.in_area(test_ground(index.read(places.data / "index")))
    maps = [
        (places.landscape / "truth" / "land_cover.tif", "truth"), (places.land_cover, "predicted from few labels, pretrained encoder"),
        (places.land_cover_random, "the same from random weights"),
    ]  # fmt: skip
    shown = [_figure(pictures.outlined(pictures.classes(_ids(path)), ground), name, pixel=True) for path, name in maps]
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(CLASSES)), np.nan_to_num(findings.confusion.iou), color=np.array(COLORS) / 255)
    axes.set_xticks(range(len(CLASSES)), [name.replace(" ", "\n") for name in CLASSES], fontsize=8)
    axes.set(ylim=(0, 1), ylabel="IoU")
    bars = _drawn(figure, "Intersection over union per class, on the outlined ground, which no training step has seen")
    return _section("Land cover", f"{_key()}{_row(shown, 3)}{bars}")


def _prototypes(places: Places, findings: Findings) -> str:
    truth = _ids(places.landscape / "truth" / "land_cover.tif")
    trained, untrained = (pictures.in_area(read_prototypes(folder)) for folder in (places.prototypes, places.prototypes_untrained))
    count = int(json.loads((places.prototypes / "legend.json").read_text(encoding="utf-8"))["per_region"])
    grouped = clusters(raw_pixels(places.landscape, legend_items(places.prototypes)), count, seed=0)
    grouped = pictures.in_area(grouped.reshape(scene_grid(GSD_M).shape))
    scores = findings.report["prototypes"]
    maps = ((trained, f"prototypes of the pretrained encoder, NMI {scores['nmi']:.2f}"),
            (untrained, f"of an untrained encoder, NMI {scores['untrained_nmi']:.2f}"),
            (grouped, f"k-means on the raw pixels, NMI {scores['kmeans_nmi']:.2f}"))  # fmt: skip
    shown = [_figure(matched_colors(each.astype(int), truth, COLORS, NO_PROTOTYPE), name, pixel=True) for each, name in maps]
    own = _figure(_own_colors(trained), "the same prototypes, each in a colour of its own", pixel=True)
    text = (
        f"<p>No label was used here. Every cell shows which of the region's {count} prototypes it is most like; for comparison "
        "each is drawn in the colour of the land cover it shares most ground with. NMI is of one half of squares of 640 m. "
        "maps/prototypes/legend.html shows each prototype with its most typical patches.</p>"
    )
    return _section("Prototype map", text + _key() + _row([*shown, own], 2))


def _times(seconds: Mapping[str, float]) -> str:
    rows = [f"<tr><td>{html.escape(name)}</td><td class=n>{value:.1f} s</td></tr>" for name, value in seconds.items()]
    return _section("Time", f"<table>{''.join(rows)}<tr><th>together</th><td class=n>{sum(seconds.values()):.1f} s</td></tr></table>")


def _ids(path: Path) -> np.ndarray:
    ids, known = read_on_grid(path, scene_grid(GSD_M), [1])
    return pictures.in_area(np.where(known.reshape(ids[0].shape), ids[0], 255))


def _own_colors(prototypes: np.ndarray) -> np.ndarray:
    table = np.full((int(NO_PROTOTYPE) + 1, 3), 255, dtype=np.uint8)
    for number in np.unique(prototypes[prototypes != NO_PROTOTYPE]):
        table[number] = prototype_color(0, int(number), 1)
    return table[prototypes]


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _row(figures: Iterable[str], columns: int) -> str:
    return f'<div class="row c{columns}">{"".join(figures)}</div>'


def _key() -> str:
    spans = [f'<span><i style="background:rgb{color}"></i>{name}</span>' for name, color in zip(CLASSES, COLORS, strict=True)]
    return f'<p class="key">{"".join(spans)}</p>'


def _figure(picture: np.ndarray, caption: str, *, quality: int = 88, pixel: bool = False) -> str:
    """An image with its caption; JPEG, or PNG with sharp pixels."""
    buffer = io.BytesIO()
    if pixel:
        matplotlib.image.imsave(buffer, np.ascontiguousarray(picture), format="png")
    else:
        matplotlib.image.imsave(buffer, np.ascontiguousarray(picture), format="jpg", pil_kwargs={"quality": quality})
    return _tag(buffer, "png" if pixel else "jpeg", caption, pixel)


def _drawn(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _tag(buffer, "png", caption, False)


def _tag(buffer: io.BytesIO, kind: str, caption: str, pixel: bool) -> str:
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    words = html.escape(caption)
    style = ' class="pixel"' if pixel else ""
    return f'<figure{style}><img alt="{words} (simulated)" src="data:image/{kind};base64,{data}"><figcaption>{words}</figcaption></figure>'
