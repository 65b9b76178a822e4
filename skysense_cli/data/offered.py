"""What a person names as a scene on the command line, as the entry of a recipe that reads it.

Nothing is guessed that cannot be said in the recipe: what comes out of here is what the person could have written.
Names and one header are looked at, never pixels.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skysense_cli import sensors
from skysense_cli.data import npz
from skysense_cli.data.sources.safe import is_product
from skysense_cli.errors import DataError, GridError, RecipeError
from skysense_cli.geo import raster
from skysense_cli.geo.cube import is_cube
from skysense_cli.geo.hrefs import is_url, names_document
from skysense_cli.geo.names import is_plain, path_of, text_of
from skysense_cli.sensors import Sensor

RASTERS = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg")
CATALOGUES = ("catalog.json", "collection.json")
SCL = "SCL"
IN_ORDER = "order"  # as `bands`: those of the sensor, in its order
_DAY = r"(?:0[1-9]|1[0-2]){0}(?:0[1-9]|[12]\d|3[01])"
DATE = rf"(?<!\d)(?P<date>(?:19|20)\d{{2}}(?:{_DAY.format('')}(?:T\d{{6}})?|-{_DAY.format('-')}))(?!\d)"
COMPACT, DASHED = r"(?<!\d)(?P<date>(?:19|20)\d{6}(?:T\d{6})?)(?!\d)", r"(?<!\d)(?P<date>(?:19|20)\d{2}-\d{2}-\d{2})(?!\d)"
MOST_SHOWN = 3

Entry = dict[str, Any]


@dataclass(frozen=True)
class Wishes:
    """What the command line says of all scenes. bands: names in the files' order, or ("order",)      date: of files that carry none

    clouds: kind of the cloud mask, e.g. "scl"
    """

    bands: tuple[str, ...] = ()
    date: str | None = None
    clouds: str = "none"


def entry_of(given: str, sensor_name: str, modality: str, wishes: Wishes) -> Entry:
    """The recipe's entry under `scene.<modality>` for a path or address: a raster, a folder of dates or of bands, a SAFE
    product, a netCDF or Zarr cube, an `.npz` sample, a STAC item or catalogue.   given: as `names.text_of` writes it

    Raises DataError for what is not there or is no scene, RecipeError for what could mean several things, each with
    what to write instead.
    """
    sensor = sensors.get(sensor_name)
    entry = _entry(given, sensor, wishes)
    if not is_plain(given) and entry.get("path") != [given]:
        raise DataError(f"{given}: its name is no valid UTF-8, which is fine for a raster only; rename it")
    if entry.get("source", {}).get("kind") == "sample" and modality in npz.header(Path(given)).series:
        entry["source"]["modality"] = modality
    if wishes.clouds != "none":
        entry["cloud_mask"] = {"kind": wishes.clouds}
    return entry


def series_of(given: str, wanted: Mapping[str, str]) -> list[str]:
    """The modalities of a sample that a model can see; none for what is no sample. wanted: modality -> sensor

    A modality is found by its name and sensor, or by the sensor alone where only one has it.
    """
    if Path(given).suffix.lower() != ".npz" or not Path(given).is_file():
        return []
    has = {name: series.sensor for name, series in npz.header(Path(given)).series.items()}
    kinds = list(has.values())
    found = [name for name, sensor in wanted.items() if has.get(name) == sensor or (name not in has and kinds.count(sensor) == 1)]
    if not found:
        have, see = (", ".join(f"{name} ({sensor})" for name, sensor in one.items()) for one in (has, wanted))
        raise DataError(f"{given}: has {have}, the bundle sees {see}")
    return found


def stem_of(given: str) -> str:
    """What a map of this scene is called."""
    name = given.rstrip("/").rsplit("/", 1)[-1].partition("?")[0]
    path = Path(name)
    known = (*RASTERS, ".safe", ".zip", ".nc", ".nc4", ".zarr", ".npz", ".json", ".geojson")
    while path.suffix.lower() in known:
        path = path.with_suffix("")
    if not is_plain(given):
        path = path.with_name(re.sub(r"\\x\{(\w+)\}", r"x\1", path.name))
    return path.name if path.name not in ("", ".", "..") else Path(given).resolve().name or "scene"


def _entry(given: str, sensor: Sensor, wishes: Wishes) -> Entry:
    if is_url(given):
        return _source("stac", wishes, url=given) if names_document(given) else _files([given], [given.partition("?")[0]], wishes)
    path = path_of(given)
    if not path.exists():
        raise DataError(f"{given}: no such file or folder{_neighbour(path)}")
    suffix = path.suffix.lower()
    if is_product(path) or (path.is_file() and suffix == ".zip"):
        return _source("safe", wishes, path=given)
    if is_cube(given):
        return _with_bands({"path": given}, wishes, by_name=True)
    if path.is_dir():
        return _folder(given, path, sensor, wishes)
    if suffix in (".json", ".geojson"):
        return _source("stac", wishes, url=given)
    if suffix == ".npz":
        return _source("sample", wishes, path=given)
    if suffix in (".vrt", ".yaml", ".yml", ".txt", ".csv"):
        raise DataError(f"{given}: is no scene; {_instead(suffix)}")
    return _files([given], [Path(given).name], wishes)


def _instead(suffix: str) -> str:
    if suffix == ".vrt":
        return "a VRT may read any file of the machine; name the files it is made of, or write it out with `gdal_translate in.vrt out.tif`"
    return "a scene is a raster, a folder of rasters, a SAFE product, a cube, an .npz sample or a STAC item"


def _neighbour(path: Path) -> str:
    """A hint at what the folder holds, for a name that is not there."""
    home = path.parent
    if not home.is_dir():
        return f" ({home} is not there either)"
    some = sorted(one.name for one in home.iterdir() if one.suffix.lower() == path.suffix.lower())[:MOST_SHOWN]
    return f" ({home} holds {', '.join(some)} ...)" if some else ""


# one kind each


def _source(kind: str, wishes: Wishes, **options: Any) -> Entry:
    for name, value in (("bands", wishes.bands), ("date", wishes.date)):
        if value:
            raise RecipeError(
                f"--{name} is for plain rasters; {next(iter(options.values()))} is read by the source {kind}, which knows them itself"
            )
    return {"source": {"kind": kind, **options}}


def _with_bands(entry: Entry, wishes: Wishes, by_name: bool = False) -> Entry:
    if wishes.bands and by_name:
        raise RecipeError(f"--bands is for plain rasters; the bands of {entry['path']} have names")
    if wishes.bands == (IN_ORDER,):
        entry["by_order"] = True
    elif wishes.bands:
        entry["bands"] = list(wishes.bands)
    if wishes.date is not None:
        entry["date"] = wishes.date
    return entry


def _files(paths: Sequence[str], names: Sequence[str], wishes: Wishes) -> Entry:
    """Rasters by their paths; the date of their names is taken when all have one."""
    entry: Entry = {"path": list(paths)}
    if all(re.search(DATE, name) for name in names):
        entry["pattern"] = rf".*?{_date_in(names)}.*"
    return _with_bands(entry, wishes)


def _folder(given: str, home: Path, sensor: Sensor, wishes: Wishes) -> Entry:
    """A folder of products, of samples, of a catalogue, or of rasters."""
    entries = sorted(home.iterdir())
    if any(is_product(one) or _is_zipped_product(one) for one in entries):
        return _source("safe", wishes, path=given)
    catalogue = next((home / name for name in CATALOGUES if (home / name).is_file()), None)
    if catalogue is not None:
        return _source("stac", wishes, url=str(catalogue))
    below = sorted(one.relative_to(home) for one in home.rglob("*") if one.suffix.lower() in RASTERS and one.is_file())
    below = [one for one in below if not any(part.startswith(".") for part in one.parts)]
    if not below:
        raise DataError(f"{given}: {_why_no_scene(given, entries)}")
    clouds = [one for one in below if SCL in _tokens(one)]
    scenes = [one for one in below if one not in clouds]
    if not scenes:
        raise DataError(f"{given}: holds only scene classifications ({SCL}), no bands")
    bands = _bands_of_names(home, scenes, sensor)
    if bands:
        entry = _per_band(given, scenes, bands, [SCL] if clouds and wishes.clouds == "scl" else [])
        return _with_bands(entry, wishes, by_name=True)
    entry = _dated(given, home, scenes, clouds, wishes)
    if clouds and wishes.clouds == "scl":
        pattern = rf"(?=.*(?<![A-Za-z0-9]){SCL}(?![A-Za-z0-9])).*?{_date_in([one.as_posix() for one in clouds])}.*"
        entry["extra"] = {SCL: {"path": given, "pattern": pattern}}
    return _with_bands(entry, wishes)


def _is_zipped_product(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.name.upper().startswith(("S1", "S2"))


def _why_no_scene(given: str, entries: Sequence[Path]) -> str:
    samples = [one.name for one in entries if one.suffix.lower() == ".npz"]
    if samples:
        return f"holds {len(samples)} samples; each is a scene of its own, name them one by one: {given}/*.npz"
    if any(one.name == "bundle.json" for one in entries):
        return "is a bundle; the bundle comes first, then the scenes"
    some = ", ".join(one.name for one in entries[:MOST_SHOWN]) or "nothing"
    return f"holds no raster ({', '.join(RASTERS)}), no SAFE product and no catalog.json (it holds {some})"


def _dated(given: str, home: Path, scenes: Sequence[Path], clouds: Sequence[Path], wishes: Wishes) -> Entry:
    """One file per date by the dates of their names; without any the files themselves say when they are of."""
    dated = [one for one in scenes if re.search(DATE, one.as_posix())]
    if not dated:
        return {"path": [text_of(home / one) for one in scenes]}
    if len(dated) < len(scenes):
        other = text_of(next(one for one in scenes if one not in dated))
        raise RecipeError(
            f"{given}: {len(dated)} of {len(scenes)} rasters have a date in their names, {other} has none; "
            f"name the scenes themselves (each file is then a map of its own), or keep what is no scene elsewhere"
        )
    endings = "|".join(sorted({re.escape(one.suffix) for one in scenes}))
    others = rf"(?!.*(?<![A-Za-z0-9]){SCL}(?![A-Za-z0-9]))" if clouds else ""
    date = _date_in([one.as_posix() for one in scenes])
    return {"path": given, "pattern": rf"\A{others}.*?{date}.*(?:{endings})"}


def _date_in(names: Sequence[str]) -> str:
    """What finds the dates of these names: the plainest expression that finds the same as DATE."""
    wanted = [match.span("date") if (match := re.search(DATE, name)) else None for name in names]
    for plain in (COMPACT, DASHED):
        if wanted == [match.span("date") if (match := re.search(plain, name)) else None for name in names]:
            return plain
    return DATE


# one file per band


def _tokens(path: Path) -> list[str]:
    return re.split(r"[^A-Za-z0-9]+", path.with_suffix("").as_posix())


def _bands_of_names(home: Path, scenes: Sequence[Path], sensor: Sensor) -> dict[str, str]:
    """Written name -> band of the sensor, when every band has a file of its own; empty when files hold all bands."""
    found = {}
    for path in scenes:
        token = next((token for token in reversed(_tokens(path)) if sensor.find(token)), None)
        if token is not None:
            found[token] = str(sensor.find(token))
    if len(sensor.bands) < 2 or set(found.values()) != set(sensor.band_names):
        return {}
    try:
        return found if raster.describe(home / scenes[0]).count == 1 else {}
    except GridError:  # whoever reads it says what is wrong with it
        return found


def _per_band(given: str, scenes: Sequence[Path], bands: dict[str, str], extra: Sequence[str]) -> Entry:
    names = "|".join(sorted([*map(re.escape, bands), *extra], key=lambda name: (-len(name), name)))
    band = rf"(?<![A-Za-z0-9])(?P<band>(?:{names})(?:_\d+m)?)(?![A-Za-z0-9])"
    first = scenes[0].as_posix()
    date, place = re.search(DATE, first), re.search(band, first)
    if date is None:
        return {"path": given, "pattern": rf"\A.*{band}[^/]*"}
    plain = _date_in([one.as_posix() for one in scenes])
    if place is not None and place.start() < date.start():
        return {"path": given, "pattern": rf"\A.*?{band}.*?{plain}[^/]*"}
    return {"path": given, "pattern": rf"\A.*?{plain}.*{band}[^/]*"}
