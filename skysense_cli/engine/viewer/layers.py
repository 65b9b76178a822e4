"""What a raster is to someone who looks at it: classes, values or imagery, told by what the file says of itself."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from rasterio.io import DatasetReader

from skysense_cli import sensors
from skysense_cli.data.sources import parse_time
from skysense_cli.data.sources.folder import TIME_TAGS
from skysense_cli.engine.score_map import Color, hue_color
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.cog import class_names
from skysense_cli.geo.grid import in_degrees
from skysense_cli.geo.opening import open_raster
from skysense_cli.geo.raster import RasterInfo, describe
from skysense_cli.geo.reduction import glimpse

Kind = Literal["class", "prototype", "value", "image"]

INDEX, REGION = "prototypes.tif", "prototypes_region.tif"  # as in prototype_files, which imports torch; a page needs none
SUFFIXES = (".tif", ".tiff", ".jp2")
MOST_LAYERS = 100
MOST_CODES = 32  # a raster of whole numbers with more different ones holds measurements, unless it says that it holds classes
TRUE_COLOR = (("red", "B04", "R"), ("green", "B03", "G"), ("blue", "B02", "B"))
SHARES = ("probability", "confidence", "entropy", "margin")  # what goes from 0 to 1
DAY = re.compile(r"(?<!\d)((?:19|20)\d\d)([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?:[T_]?\d{6}Z?)?(?!\d)")
MONTH = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_.](0[1-9]|1[0-2])(?!\d)")
YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)(?!\d)")


@dataclass(frozen=True)
class Layer:
    """A file as a layer.

    what: of its values, e.g. "class", "confidence", "B08"      bands: numbers (from 1) that are shown
    names, colors: of class codes; the colour of another code is made      date: as ISO text, "" if there is none
    stem: the file's name without its date      region: the file with the regions of a prototype map
    scale: a stored number times this is a value      per_region: prototypes of a region, 0 if not known
    """

    path: Path
    info: RasterInfo
    kind: Kind
    what: str
    bands: tuple[int, ...]
    names: dict[int, str] = field(default_factory=dict)
    colors: dict[int, Color] = field(default_factory=dict)
    scale: float = 1.0
    add: float = 0.0
    date: str = ""
    stem: str = ""
    region: Path | None = None
    per_region: int = 0

    @property
    def degrees(self) -> bool:
        """Whether its coordinates are degrees."""
        return in_degrees(self.info.grid)

    @property
    def coded(self) -> bool:
        """Whether its numbers are codes, which must not be averaged."""
        return self.kind in ("class", "prototype")

    def color(self, code: int) -> Color:
        """The code's own colour, or a made one."""
        return self.colors.get(code) or hue_color(code, depth=code % 3)

    def name(self, code: int) -> str:
        """The code's name, or a made one."""
        if self.kind == "prototype" and code not in self.names:
            return f"prototype {code}"
        return self.names.get(code) or f"class {code}"

    @property
    def facts(self) -> list[tuple[str, str]]:
        """(what, value) lines about where the map comes from, for people."""
        tags, height, width = self.info.tags, *self.info.shape
        lines = [("file", self.path.name), ("size", f"{width} x {height} px"), ("map coordinates", crs_name(self.info.crs))]
        for tag, value in sorted(tags.items()):
            if tag.startswith("SKYSENSE_") and tag != "SKYSENSE_WHAT":
                words = tag.removeprefix("SKYSENSE_").replace("_", " ").lower().replace("sha256", "SHA-256")
                lines.append((words, value))
        if "SIMULATED" in tags:
            lines.append(("simulated data", tags["SIMULATED"]))
        return lines


def find_rasters(places: Sequence[Path]) -> list[Path]:
    """The rasters named, and those in and below the folders named, in the order of their names; companions of a prototype map go with it.

    Raises DataError for a place that is not there, a folder without a raster, or too many of them.
    """
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            if not inside:
                raise DataError(f"{place}: holds no raster ({', '.join(SUFFIXES)})")
            found += [path for path in inside if not (path.name == REGION and path.with_name(INDEX) in inside)]
        elif place.is_file():
            found.append(place)
        else:
            raise DataError(f"{place}: no such file or folder")
    unique = list({path.absolute(): path for path in found}.values())
    if len(unique) > MOST_LAYERS:
        raise DataError(f"{len(unique)} rasters are named, a page shows at most {MOST_LAYERS}; name fewer files")
    return unique


def open_layer(path: Path) -> Layer:
    """What the raster at `path` is. Raises GridError naming it when it cannot be read or has no place on the ground."""
    with open_raster(path) as dataset:
        info = describe(dataset)
        if not info.crs:
            _ = info.grid  # says why, where there is more to say
            raise GridError(f"{path}: is not georeferenced, so it has no place on a map; assign a CRS, e.g. `rio edit-info --crs EPSG:n`")
        palette = {n: (r, g, b) for n, (r, g, b, a) in dataset.colormap(1).items() if a} if "palette" in info.colors else {}
        scale, add = float(dataset.scales[0]), float(dataset.offsets[0])
        few = info.count == 1 and np.dtype(info.dtype).kind in "iu" and _few_codes(dataset)
    date, stem = _date(path, info.tags)
    names, what = class_names(info.tags), info.tags.get("SKYSENSE_WHAT", "")
    layer = Layer(path=path, info=info, kind="value", what="", bands=(1,), date=date, stem=stem)
    if info.count == 1 and info.descriptions[0] == "prototype" and "SKYSENSE_SEAM_RULE" in info.tags:
        return _prototypes(replace(layer, kind="prototype", what="prototype", colors=palette))
    if what == "class" or (not what and info.count == 1 and (palette or names or few)):
        return replace(layer, kind="class", what=what or _band_name(info, 1) or "class", names=names, colors=palette)
    if what == "probability":
        return replace(layer, what=what, bands=tuple(range(1, info.count + 1)), scale=scale, add=add)
    rgb = None if what else _true_color(info)
    if rgb:
        return replace(layer, kind="image", what="true colour", bands=rgb)
    return replace(layer, what=what or _band_name(info, 1) or "value", scale=scale, add=add)


def crs_name(crs: str) -> str:
    """`EPSG:n`, or the name that a CRS as WKT begins with."""
    found = re.match(r'\w+\["([^"]+)"', crs)
    return found[1] if found else crs


# private


def _prototypes(layer: Layer) -> Layer:
    """With the regions, names and colours that the files beside it give."""
    region, beside = layer.path.with_name(REGION), layer.path.with_name("legend.json")
    legend = beside if beside.is_file() else layer.path.parent.parent / "legend.json"  # of maps of several places
    try:
        told = json.loads(legend.read_text(encoding="utf-8"))
        per_region, lines = int(told["per_region"]), told["prototypes"]
        several = len({line["region"] for line in lines}) > 1
        codes = {(line["region"] if several else 0) * per_region + line["prototype"]: line for line in lines}
        colors = {code: _color(line["color"]) for code, line in codes.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no legend, or not ours: the palette has to do
        return layer
    if several and not region.is_file():
        return layer
    names = {code: f"{line['region']}: {line['prototype']}" for code, line in codes.items()} if several else {}
    return replace(layer, names=names, colors=colors, per_region=per_region, region=region if several else None)


def _color(text: str) -> Color:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(text)
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _few_codes(dataset: DatasetReader) -> bool:
    pixels, data = glimpse(dataset, [1])
    return len(np.unique(pixels[data])) <= MOST_CODES


def _band_name(info: RasterInfo, number: int) -> str:
    return (info.descriptions[number - 1] or "").strip()


def _true_color(info: RasterInfo) -> tuple[int, int, int] | None:
    """Bands shown as red, green and blue: by their names, else by what the file says of their colours; three bytes are a picture."""
    known = {(name or "").casefold(): number for number, name in enumerate(info.descriptions, start=1)}
    sensor = sensors.get("sentinel2_l2a")
    known |= {stored.casefold(): number for name, number in list(known.items()) if name and (stored := sensor.find(name))}
    by_name = [next((known[name.casefold()] for name in names if name.casefold() in known), None) for names in TRUE_COLOR]
    by_color = [info.colors.index(color) + 1 if color in info.colors else None for color in ("red", "green", "blue")]
    for found in (by_name, by_color):
        if all(found):
            return found[0], found[1], found[2]  # type: ignore[return-value]
    return None


def _date(path: Path, tags: dict[str, str]) -> tuple[str, str]:
    """(ISO date, the name without it): of the file's name, else of its tags; ("", name) if there is none."""
    for pattern in (DAY, MONTH, YEAR):
        found = pattern.search(path.stem)
        if found:
            numbers = [part for part in found.groups() if part and part.isdigit()]
            rest = path.stem[: found.start()] + path.stem[found.end() :]
            return "-".join(numbers), re.sub(r"[-_. ]+", " ", rest).strip()
    for tag in TIME_TAGS:
        time = parse_time(tags.get(tag, ""))
        if time is not None:
            return str(time)[:10], re.sub(r"[-_. \d]+", " ", path.stem).strip()
    return "", path.stem
