"""Which files a scene is read from, and whether they are still the same."""

import datetime
import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from skysense_cli.data.scenes import SceneStack
from skysense_cli.geo import remote
from skysense_cli.geo.cube import SCHEME as CUBE
from skysense_cli.geo.names import path_of, text_of
from skysense_cli.geo.opening import ZIP
from skysense_cli.geo.raster import describe

HEAD_BYTES = 1 << 16  # of a file: its header, and the first pixels of most


def states(scene: SceneStack) -> dict[str, str]:
    """Place of each file -> its size, time and a digest of its beginning; of a remote one, what its header says.

    Two scenes with equal states have the same pixels, unless somebody changed a file and gave it its old time.
    """
    return {place: _local(path) if path is not None else _remote(place) for place, path in _places(scene)}


def digest(scene: SceneStack) -> str:
    """Hexadecimal SHA-256 of names, sizes and beginnings of the files; it does not depend on where they lie, or since when."""
    told = []
    for place, path in _places(scene):
        name = Path(urlsplit(place).path if path is None else place).name
        told.append(f"{name} {_remote(place) if path is None else _content(path)}")
    return hashlib.sha256("\n".join(sorted(told)).encode()).hexdigest()


def _places(scene: SceneStack) -> Iterator[tuple[str, Path | None]]:
    """(place, the local file that holds it; None for a remote one), each file once."""
    seen = set()
    for channel in scene.channels.values():
        for item in (part for one in channel.items for part in one.parts or (one,)):
            for asset in item.ready().assets.values():
                local = _file(asset.path)
                place = asset.path if local is None else text_of(local)
                if place not in seen:
                    seen.add(place)
                    yield place, local


def _file(place: str) -> Path | None:
    if remote.is_remote(place):
        return None
    for scheme in (ZIP, CUBE):
        if place.startswith(scheme):
            place = place.removeprefix(scheme).rpartition("!/")[0]
    path = path_of(place)
    return path / ".zmetadata" if path.is_dir() else path  # a Zarr cube is a folder


def _local(path: Path) -> str:
    if not path.exists():
        return "absent"
    time = datetime.datetime.fromtimestamp(path.stat().st_mtime_ns / 1e9, datetime.UTC).isoformat(timespec="microseconds")
    return f"{_content(path)}, of {time}"


def _content(path: Path) -> str:
    if not path.exists():
        return "absent"
    with path.open("rb") as file:
        return f"{path.stat().st_size} bytes, head {hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()[:16]}"


def _remote(place: str) -> str:
    info = describe(place)
    return f"{info.shape} {info.count} {info.dtype} {info.transform[:6]} {sorted(info.tags.items())}"
