"""One self-contained HTML page of samples: every date with its valid pixels, dates on an axis, the place on a map, facts and warnings."""

import base64
import html
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from skysense_cli.data import npz
from skysense_cli.data.sample import Sample, Series
from skysense_cli.data.soundness import part_paths
from skysense_cli.errors import DataError
from skysense_cli.files import whole_file

SIDE_PX = 96  # of a thumbnail
MOST_PLACES = 3000  # on the map
MAP_PX = (300, 200)
AXIS_PX = 900
BRIGHT = 2800.0  # counts shown as white
POWER_DB = ((-19.0, 16.0), (-26.0, 16.0), (2.0, 10.0))  # VV, VH, VV - VH: shown black, width of the range
HATCH = np.array([214, 40, 120], np.uint8)
NOTHING = np.array([225, 225, 225], np.uint8)
COLORS = {"train": "#1d5fa8", "val": "#d98a00", "test": "#b3261e", "": "#888888"}
COLUMNS = ["id", "path", "split", "crs", "lon", "lat"]
STYLE = """
:root{color-scheme:light}body{font:15px/1.45 system-ui,sans-serif;margin:0;background:#f6f5f1;color:#22262a}
header{background:#20323a;color:#fff;padding:1rem 1.4rem}h1{font-size:1.3rem;margin:0}main{padding:1rem 1.4rem}
article{background:#fff;border-radius:6px;padding:.8rem 1rem;margin:0 0 1.2rem}h2{font-size:1.05rem;margin:0 0 .3rem}
h3{font-size:.9rem;margin:.7rem 0 .2rem}.top{display:flex;gap:1.2rem;flex-wrap:wrap;justify-content:space-between}
.facts{font-size:.85rem;color:#4c555b}.row{display:flex;flex-wrap:wrap;gap:5px}figure{margin:0;width:98px}
img{width:96px;height:96px;image-rendering:pixelated;display:block;border:1px solid #cfd4d2}
figcaption{font-size:.68rem;line-height:1.2;color:#4c555b}.warn{color:#b3261e;font-size:.85rem;margin:.2rem 0}
.chip{color:#fff;border-radius:3px;padding:0 .45em;font-size:.8rem}svg{max-width:100%;height:auto}
svg text{font:10px system-ui,sans-serif;fill:#4c555b}
"""


def write_gallery(folder: Path, path: Path, limit: int) -> tuple[int, int]:
    """Write the page of at most `limit` samples, evenly spread over the index; how many are shown and how many there are.

    A sample that cannot be read is shown as its error. Raises DataError when the index cannot be read or is empty.
    """
    total = sum(pyarrow.parquet.read_metadata(part).num_rows for part in part_paths(folder))
    if not total:
        raise DataError(f"{folder}: lists no sample")
    chosen = set(np.linspace(0, total - 1, min(limit, total)).round().astype(int).tolist())
    step = max(-(-total // MOST_PLACES), 1)
    shown, places = [], []
    for number, row in enumerate(_rows(folder)):
        if number % step == 0 or number in chosen:
            places.append(row)
        if number in chosen:
            shown.append(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as page:
        title = f"{len(shown)} of {total} samples"
        page.write(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{title}</title><style>{STYLE}</style></head><body><header><h1>{title}</h1>{html.escape(str(folder.parent))} · "
            "hatched: not valid (no data, cloud or shadow)</header><main>"
        )
        for row in shown:
            page.write(_article(folder.parent, row, places))
        page.write("</main></body></html>\n")
    return len(shown), total


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for part in part_paths(folder):
        try:
            yield from pyarrow.parquet.read_table(part, columns=COLUMNS).to_pylist()
        except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
            raise DataError(f"{part}: cannot be read as a part of an index ({str(error)[:200]})") from error


def _article(home: Path, row: Mapping[str, Any], places: Sequence[Mapping[str, Any]]) -> str:
    chip = f'<span class="chip" style="background:{COLORS.get(row["split"], "#888888")}">{html.escape(row["split"] or "left out")}</span>'
    head = f"<h2>{html.escape(str(row['id']))} {chip}</h2>"
    try:
        sample = npz.read(home / row["path"])
    except DataError as error:
        return f'<article>{head}<p class="warn">{html.escape(str(error))}</p></article>'
    facts = [
        f"{sample.crs or 'not georeferenced'}, bounds {', '.join(f'{value:g}' for value in sample.bounds)}",
        f"lon {sample.lonlat[0]:.5f}, lat {sample.lonlat[1]:.5f}",
        *([f"label: {', '.join(sample.label.names) or 'values'}"] if sample.label else []),
        f"recipe {str(sample.provenance.get('recipe', '?'))[:12]}, skysense {sample.provenance.get('skysense', '?')}",
    ]
    notes = "".join(f'<p class="warn">{html.escape(note)}</p>' for note in warnings_of(sample))
    body = "".join(_series(name, series) for name, series in sample.series.items())
    lines = "<br>".join(html.escape(fact) for fact in facts)
    return f'<article><div class="top"><div>{head}<p class="facts">{lines}</p>{notes}</div>{_map(places, row)}</div>{body}</article>'


def warnings_of(sample: Sample) -> list[str]:
    """What a person should know of a sample, one line each."""
    found = []
    for name, series in sample.series.items():
        for time, valid, meta in zip(series.times, series.valid, series.meta, strict=True):
            day = str(time)[:10]
            if "repaired" in meta:
                found.append(f"{name} {day}: repaired ({meta['repaired']})")
            if valid.mean() < 0.5:
                found.append(f"{name} {day}: only {valid.mean():.0%} is valid")
            if max(meta.get("clipped_share", 0), meta.get("floored_share", 0)) > 0.01:
                found.append(
                    f"{name} {day}: {max(meta.get('clipped_share', 0), meta.get('floored_share', 0)):.1%} of its numbers were cut off"
                )
        unchecked = sum(str(meta.get("radiometry", "")).startswith("not checked") for meta in series.meta)
        if unchecked:
            found.append(f"{name}: the radiometry of {unchecked} of {len(series.meta)} dates could not be checked against others")
    return found


def _series(name: str, series: Series) -> str:
    """The dates of one modality: an axis and a picture each."""
    pictures = []
    for number, time in enumerate(series.times):
        valid, meta = series.valid[number], series.meta[number]
        data = _png(thumbnail(series, number))
        day = "unknown date" if np.isnat(time) else str(time)[:16].replace("T", " ")
        facts = [day, f"{valid.mean():.0%} valid", *([str(meta["orbit_pass"])] if "orbit_pass" in meta else []),
                 *([f"shift {meta['shift_px'][0]:+.1f}, {meta['shift_px'][1]:+.1f} px"] if "shift_px" in meta else [])]  # fmt: skip
        words = "<br>".join(html.escape(fact) for fact in facts)
        pictures.append(
            f'<figure><img alt="{html.escape(name)} {day}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'
        )
    dates, bands, height, width = series.pixels.shape
    title = f"{name}: {series.sensor}, {dates} dates x {bands} bands x {height} x {width} px, {series.units}"
    return f'<h3>{html.escape(title)}</h3>{_axis(series)}<div class="row">{"".join(pictures)}</div>'


def thumbnail(series: Series, number: int) -> np.ndarray:
    """(h, w, 3) uint8 of one date: true colour, or VV, VH and their ratio; hatched where it is not valid, grey without data."""
    step = max(-(-max(series.grid.shape) // SIDE_PX), 1)
    pixels = series.pixels[number][:, ::step, ::step].astype(np.float32)
    valid = series.valid[number][::step, ::step]
    empty = np.isnan(pixels).any(axis=0) if np.isnan(series.nodata) else (pixels == series.nodata).all(axis=0)
    picture = _painted(series.bands, np.nan_to_num(pixels), series.units)
    picture[empty] = NOTHING
    rows, columns = np.indices(valid.shape)
    picture[~valid & ((rows + columns) % 6 < 2)] = HATCH
    return picture


def _painted(bands: Sequence[str], pixels: np.ndarray, units: str) -> np.ndarray:
    def band(*names: str) -> np.ndarray | None:
        return next((pixels[bands.index(name)] for name in names if name in bands), None)

    red, green, blue = band("B04", "R"), band("B03", "G"), band("B02", "B")
    if red is not None and green is not None and blue is not None:
        scaled = np.stack([red, green, blue], axis=-1) / (BRIGHT if "reflectance" in units else 255.0)
        return (255 * np.clip(scaled, 0, 1) ** (0.65 if "reflectance" in units else 1.0)).astype(np.uint8)
    vv, vh = band("VV"), band("VH")
    if vv is not None and vh is not None:
        parts = [(part - low) / width for part, (low, width) in zip((vv, vh, vv - vh), POWER_DB, strict=True)]
        return (255 * np.clip(np.stack(parts, axis=-1), 0, 1)).astype(np.uint8)
    low, high = np.percentile(pixels[0], [2, 98])
    grey = 255 * np.clip((pixels[0] - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def _axis(series: Series) -> str:
    """Dates on a line from the first year's start to the last year's end, taller where more is valid."""
    known = ~np.isnat(series.times)
    if not known.any():
        return ""
    first = series.times[known].min().astype("datetime64[Y]").astype("datetime64[D]")
    last = (series.times[known].max().astype("datetime64[Y]") + 1).astype("datetime64[D]")
    span = float((last - first).astype(int))
    months = np.arange(first.astype("datetime64[M]"), last.astype("datetime64[M]"), np.timedelta64(3, "M"))

    def x(time: np.datetime64) -> float:
        return 10 + (AXIS_PX - 20) * float((time.astype("datetime64[D]") - first).astype(int)) / span

    marks = [f'<line x1="{x(month):.1f}" y1="30" x2="{x(month):.1f}" y2="34" stroke="#999"/>'
             f'<text x="{x(month):.1f}" y="44" text-anchor="middle">{month}</text>' for month in months]  # fmt: skip
    ticks = [
        f'<line x1="{x(time):.1f}" y1="30" x2="{x(time):.1f}" y2="{26 - 22 * float(valid.mean()):.1f}" stroke="#1d7a46" stroke-width="2">'
        f"<title>{time}, {valid.mean():.0%} valid</title></line>"
        for time, valid in zip(series.times[known], series.valid[known], strict=True)
    ]
    line = f'<line x1="10" y1="30" x2="{AXIS_PX - 10}" y2="30" stroke="#999"/>'
    return f'<svg width="{AXIS_PX}" height="48" viewBox="0 0 {AXIS_PX} 48">{line}{"".join(marks)}{"".join(ticks)}</svg>'


def _map(places: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> str:
    """Where the samples lie, by longitude and latitude, with this one in a ring."""
    points = np.array([(row["lon"], row["lat"]) for row in places], np.float64)
    placed = np.asarray(np.isfinite(points).all(axis=1))
    if not placed.any() or not np.isfinite(here["lon"]):
        return ""
    (west, south), (east, north) = points[placed].min(axis=0), points[placed].max(axis=0)
    stretch = max(np.cos(np.radians((south + north) / 2)), 0.1)
    width, height = MAP_PX
    scale = min((width - 20) / max((east - west) * stretch, 1e-4), (height - 46) / max(north - south, 1e-4))

    def at(lon: float, lat: float) -> tuple[float, float]:
        return width / 2 + (lon - (west + east) / 2) * stretch * scale, (height - 26) / 2 - (lat - (south + north) / 2) * scale

    dots = []
    for (lon, lat), row, good in zip(points.tolist(), places, placed.tolist(), strict=True):
        if good:
            x, y = at(lon, lat)
            dots.append(f'<rect x="{x - 1.5:.1f}" y="{y - 1.5:.1f}" width="3" height="3" fill="{COLORS.get(row["split"], "#888888")}"/>')
    x, y = at(here["lon"], here["lat"])
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="#111" stroke-width="1.6"/>'
    text = f'<text x="4" y="{height - 4}">{west:.3f} to {east:.3f} E, {south:.3f} to {north:.3f} N</text>'
    frame = f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 18}" fill="#f2f4f1" stroke="#c9d4cf"/>'
    return f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">{frame}{"".join(dots)}{ring}{text}</svg>'


def _png(picture: np.ndarray) -> str:
    """A PNG in base64 of (h, w, 3) uint8."""
    height, width, _ = picture.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)  # filter 0 before each line

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    whole = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)) + chunk(b"IEND", b"")
    return base64.b64encode(whole).decode("ascii")
