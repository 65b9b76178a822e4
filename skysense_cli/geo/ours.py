"""Whether a file says that skysense wrote it, so that nothing of anyone else is replaced or removed."""

import json
from collections.abc import Iterable
from pathlib import Path

from skysense_cli.errors import GridError, RecipeError
from skysense_cli.geo.raster import describe
from skysense_cli.geo.vector_files import WRITERS, read_tags

PICTURE_MARK = {"Source": "skysense"}  # text of a PNG
PICTURE_HEAD = 4096  # bytes in which it stands
MOST_JSON_BYTES = 64 << 20


def is_ours(path: Path) -> bool:
    """Whether a raster, a file of polygons, a PNG or a JSON document says so: by its tags, its text, its key `skysense`."""
    end = path.suffix.lower()
    try:
        if end == ".json":
            return path.stat().st_size <= MOST_JSON_BYTES and _says(json.loads(path.read_bytes()))
        if end == ".png":
            with path.open("rb") as file:
                head = file.read(PICTURE_HEAD)
            return all("\0".join(pair).encode() in head for pair in PICTURE_MARK.items())
        tags = read_tags(path) if end in WRITERS else describe(path).tags
    except (GridError, OSError, ValueError):
        return False
    return any(name.startswith("SKYSENSE_") for name in tags)


def refuse_strangers(paths: Iterable[Path]) -> None:
    """Raise RecipeError for the first of the files that is there and not ours."""
    for path in paths:
        if path.exists() and not is_ours(path):
            raise RecipeError(f"{path} exists and is not skysense's; move it, or choose another --out")


def _says(document: object) -> bool:
    """Whether a legend, an environment or a STAC item names skysense."""
    if not isinstance(document, dict):
        return False
    properties = document.get("properties")
    software = properties.get("processing:software") if isinstance(properties, dict) else None
    return "skysense" in document or (isinstance(software, dict) and "skysense" in software)
