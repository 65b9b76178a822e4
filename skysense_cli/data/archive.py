"""Products as folders or zip archives: their files by name, read where they lie; a hostile archive is refused by name."""

import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from skysense_cli.data import object_store, web
from skysense_cli.errors import DataError, SourceError
from skysense_cli.geo import remote
from skysense_cli.geo.hrefs import allowed_from
from skysense_cli.geo.opening import ZIP

MOST_MEMBERS = 50_000  # a product has some hundreds
MOST_NAME = 255
MOST_TEXT_BYTES = 64 << 20
LIMITS = web.Limits()


@dataclass(frozen=True, eq=False)
class Product:
    """A folder, or a zip with one folder in it.

    name: of the folder, without `.SAFE`     path: where it lies     files: names below the folder, sorted
    """

    name: str
    path: str
    files: tuple[str, ...]
    place: Callable[[str], str]

    def read(self, file: str) -> bytes:
        """The bytes of one of its texts."""
        return read_text(self.place(file))

    def check(self, file: str) -> None:
        """Raise DataError unless the member of a zip has the checksum that the archive states; reads it once as a whole."""
        place = self.place(file)
        if place.startswith(ZIP):
            with _member(place) as content:
                while content.read(1 << 20):
                    pass


def open_product(path: Path) -> Product:
    """The product at `path`, a folder or a zip. Only names are read.

    Raises DataError for a zip that is damaged, encrypted, or has members that lie about themselves or leave the archive.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise SourceError(f"{path}: no such file or folder")
    return _zip(path)


def read_text(place: str) -> bytes:
    """The bytes of a small file, given by its path, as `zip://<archive>!/<member>`, or by a checked address as of a raster.

    Raises DataError that names the place: missing, damaged, or beyond 64 MiB; SourceError for an address.
    """
    if remote.is_remote(place):
        return _text_of_server(place)
    with _member(place) as content:
        data = content.read(MOST_TEXT_BYTES + 1)
    if len(data) > MOST_TEXT_BYTES:
        raise DataError(f"{place}: is larger than {MOST_TEXT_BYTES:,} bytes, which no metadata is")
    return data


def _text_of_server(place: str) -> bytes:
    """As `read_text`: with a signature where the address needs one, read as its rasters are."""
    stored = place.startswith("s3")
    href = object_store.href_of(place) if stored else remote.address(place).removeprefix("/vsicurl/")
    keys = object_store.credentials(place) if stored else None
    try:
        return web.persist(lambda: _fetched(href, keys), remote.shown(place), LIMITS)
    except SourceError as error:
        if stored and "answers 403" in str(error):
            raise SourceError(f"{remote.shown(place)}: {remote.cause(place, 'code 403')}") from error
        raise


def _fetched(href: str, keys: web.Credentials | None) -> bytes:
    with web.request(href, allowed=allowed_from(href), limits=LIMITS, credentials=keys) as answer:
        data = b"".join(web.body_of(answer, LIMITS, MOST_TEXT_BYTES))
        said = int(answer.headers.get("Content-Length", len(data)))
    if len(data) < said:
        raise web.Again(f"ended after {len(data)} of {said} bytes")
    return data


@contextmanager
def _member(place: str) -> Iterator[IO[bytes]]:
    """A file or a member of a zip, open; its faults name the place."""
    try:
        if not place.startswith(ZIP):
            with open(place, "rb") as file:
                yield file
        else:
            archive, _, member = place.removeprefix(ZIP).rpartition("!/")
            with zipfile.ZipFile(archive) as members, members.open(member) as file:
                yield file
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{place}: cannot be read ({error}); fetch the product again") from error


def _folder(path: Path) -> Product:
    files: list[str] = []
    for home, folders, names in os.walk(path):
        folders.sort()
        files += [(Path(home) / name).relative_to(path).as_posix() for name in names]
        if len(files) > MOST_MEMBERS:
            raise SourceError(f"{path}: holds more than {MOST_MEMBERS:,} files, so it is no single product; use `pattern`")
    return Product(_stem(path.resolve().name), str(path), tuple(sorted(files)), lambda file: str(path / file))


def _zip(path: Path) -> Product:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: is no whole zip archive ({error}); fetch the product again") from error
    _check(path, members)
    names = [member.filename for member in members if not member.is_dir()]
    tops = {name.partition("/")[0] for name in names}
    top = next(iter(tops)) if len(tops) == 1 and all("/" in name for name in names) else ""
    start = f"{top}/" if top else ""
    files = tuple(sorted(name.removeprefix(start) for name in names))
    return Product(_stem(top or path.name), str(path), files, lambda file: f"{ZIP}{path.absolute()}!/{start}{file}")


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise DataError unless every member is a plain file at its own place in the archive, under a name of its own."""
    if len(members) > MOST_MEMBERS:
        raise DataError(f"{path}: has {len(members):,} members, at most {MOST_MEMBERS:,} are taken for a product")
    seen: set[str] = set()
    end = 0
    for member in sorted(members, key=lambda one: one.header_offset):
        name, mode = member.filename, member.external_attr >> 16
        parts = name.split("/")
        wrong = (
            "leaves the archive" if name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]
            else "has too long a name" if max(map(len, parts)) > MOST_NAME
            else "is a link" if stat.S_ISLNK(mode)
            else "is there twice" if name in seen
            else "is encrypted" if member.flag_bits & 1
            else "lies over another member" if member.header_offset < end
            else ""
        )  # fmt: skip
        if wrong:
            raise DataError(f"{path}: its member {name[:80]!r} {wrong}; products have no such member, so the archive is not read")
        seen.add(name)
        end = member.header_offset + 30 + member.compress_size


def _stem(name: str) -> str:
    for suffix in (".zip", ".SAFE"):
        name = name[: -len(suffix)] if name.casefold().endswith(suffix.casefold()) else name
    return name
