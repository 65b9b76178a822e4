"""One file from an address to a path: whole, checked and in place, or not there.

What has come is kept beside the path as `NAME.part` and continued by the next try or the next run, when the
server can say that it still has the same file. Processes that want the same file wait for each other.
At most 4 connections go to one host from one process; n worker processes may open n times as many.
"""

import base64
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedRandom
from pathlib import Path

import requests

from skysense_cli import console
from skysense_cli.data.web import Again, Credentials, Limits, body_of, persist, request
from skysense_cli.errors import SourceError
from skysense_cli.files import publish
from skysense_cli.geo.hrefs import Allowed, shown

PART = ".part"
FORWARD = 16 << 20  # bytes that make a try worth another one
SHOW_FROM = 64 << 20  # bytes from which on progress is shown
STEP = 4 << 20  # bytes between two steps of the progress
ALGORITHMS = ("sha512", "sha256", "blake2b", "sha3_256", "sha1", "md5")  # the first that is known is checked
HEADERS = {"x-checksum-sha256": "sha256", "x-checksum-md5": "md5"}  # hexadecimal, of the whole file
DIGESTS = {"repr-digest": False, "digest": False, "content-digest": True, "content-md5": True}  # -> whether of this answer's bytes only


@dataclass(frozen=True)
class Expected:
    """What is known about a file before it comes.   digests: algorithm as hashlib names it -> hexadecimal"""

    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    def algorithm(self) -> str | None:
        """The best algorithm of which the digest is known."""
        return next((name for name in ALGORITHMS if name in self.digests), None)


def fetch(href: str, path: Path, *, allowed: Allowed, expected: Expected | None = None, credentials: Credentials | None = None,
          limits: Limits | None = None) -> Path:  # fmt: skip
    """`path`, holding the file at `href`; nothing is asked when it is there already with the expected size.

    Raises SourceError when it cannot be had as expected: the digest that the catalogue or else the server names,
    the size, or, where nobody says how long it is, any of the two.
    """
    expected, limits = expected or Expected(), limits or Limits()
    if _is_there(path, expected):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    with _held(part) as file:
        if _is_there(path, expected):  # another process had it first
            _remove(part, file)
            return path
        download = _Download(href, file, path, allowed, expected, credentials, limits)
        try:
            persist(download.attempt, href, limits)
            file.flush()
            download.note.unlink(missing_ok=True)  # first: a kill after the renaming would leave it for good
            publish(part, path)
        except OSError as error:
            _remove(part, file)
            download.note.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(part)) from error  # a failed write alone does not say where
        except SourceError:
            if not download.have or not download.note.exists():
                _remove(part, file)
            raise
    return path


class _Download:
    """The state of one download: what has come, and of which version of the file.

    note: a file beside it with the validator (ETag or Last-Modified), for the next run
    """

    def __init__(self, href: str, file: BufferedRandom, path: Path, allowed: Allowed, expected: Expected, credentials: Credentials | None,
                 limits: Limits) -> None:  # fmt: skip
        self.href, self.file, self.name, self.note = href, file, path.name, path.with_name(f"{path.name}.validator{PART}")
        self.allowed, self.expected, self.credentials, self.limits = allowed, expected, credentials, limits
        self.validator, self.total, self.digest = "", -1, ("", "")
        self.have = file.seek(0, 2)
        self.best = self.have
        if self.have:
            self._remember()

    def attempt(self) -> None:
        """One request; afterwards the file is whole and right. Raises Again or SourceError."""
        known = bool(self.have and (self.validator or self.expected.algorithm()))
        if not known:
            self._restart()
        headers = {"Range": f"bytes={self.have}-"} if known else {}
        if known and self.validator:
            headers["If-Range"] = self.validator
        try:
            with request(
                self.href, allowed=self.allowed, limits=self.limits, headers=headers, credentials=self.credentials
            ) as answer:  # fmt: skip
                if answer.status_code == 416:
                    self._nothing_left(answer)
                else:
                    self._begin(answer, known)
                    self._receive(answer)
        except Again as error:
            error.forward = self._forward()
            raise
        finally:
            self.file.flush()
        self._verify()

    def _begin(self, answer: requests.Response, asked: bool) -> None:
        """Decide where the body goes: after what there is, or to the start."""
        given = answer.headers
        if answer.status_code == 206:
            place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", given.get("Content-Range", "").strip())
            same = not self.validator or self.validator == _validator(given) or not _validator(given)
            if not asked or place is None or int(place[1]) != self.have or not same:
                self._restart()
                raise Again("sends another part, or a part of another version, than was asked for")
            self.total = int(place[2]) + 1
            if place[3] != str(self.total) or self._length(given) not in (-1, self.total - self.have):
                self._restart()
                raise Again("sends another part than was asked for")
        else:
            self._restart()
            if given.get("Content-Type", "").lower().startswith("text/html") and not self.href.lower().endswith((".html", ".htm")):
                raise Again("is a web page, not the file; perhaps it asks for a login", refused=True)
            self.total = self._length(given)
            self.validator = _validator(given)
        self.digest = _digest_of(given, whole=answer.status_code == 200) or self.digest
        chunked = "chunked" in given.get("Transfer-Encoding", "").lower()
        if self.total < 0 and not chunked and self.expected.size is None and not self.expected.algorithm():
            raise SourceError(f"{shown(self.href)}: the server does not say how long it is, so a part of it cannot be told from the whole")
        if self.expected.size is not None and self.total not in (-1, self.expected.size):
            raise Again(f"is {self.total} bytes long, {self.expected.size} are expected", refused=True)
        self._write_note()

    def _receive(self, answer: requests.Response) -> None:
        """Write the body after what there is; shown when much of it is left."""
        steps = self._steps(answer)
        left = self.total - self.have
        for _ in console.progress(steps, self.name, left // STEP) if left >= SHOW_FROM else steps:
            pass
        if 0 <= self.total != self.have:
            raise Again(f"ended after {self.have} of {self.total} bytes")

    def _steps(self, answer: requests.Response) -> Iterator[int]:
        """Write the body, one step every few megabytes."""
        reported = self.have
        for block in body_of(answer, self.limits, self.limits.most_bytes - self.have):
            self.file.write(block)
            self.have += len(block)
            while self.have - reported >= STEP:
                reported += STEP
                yield reported

    def _forward(self) -> bool:
        """Whether much more has come than ever before; what is lost and fetched again does not count."""
        if self.have - self.best < FORWARD:
            return False
        self.best = self.have
        return True

    def _nothing_left(self, answer: requests.Response) -> None:
        """416: the server has no more bytes. Right only if it is as long as what came, and a digest can prove it."""
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if total != str(self.have) or not (self.expected.algorithm() or self.digest[0]):
            self._restart()
            raise Again("refuses to continue")

    def _verify(self) -> None:
        """Raise Again, with the file emptied, unless size and digest are as expected."""
        reason = ""
        algorithm = self.expected.algorithm()
        name, value = (algorithm, self.expected.digests[algorithm]) if algorithm else self.digest
        if not self.have:
            reason = "is empty"
        elif self.expected.size not in (None, self.have):
            reason = f"is {self.have} bytes long, {self.expected.size} are expected"
        elif name:
            self.file.seek(0)
            found = hashlib.file_digest(self.file, name).hexdigest()
            if found != value.lower():
                reason = f"has the {name} {found}, {value.lower()} is expected"
        if reason:
            self._restart()
            raise Again(reason, refused=True)

    def _restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.have, self.total, self.validator, self.digest = 0, -1, "", ("", "")
        self.note.unlink(missing_ok=True)

    def _length(self, headers: Mapping[str, str]) -> int:
        text = headers.get("Content-Length", "")
        return int(text) if text.isdigit() else -1

    def _write_note(self) -> None:
        if self.validator:
            facts = {"href": _bare(self.href), "validator": self.validator, "digest": self.digest}
            self.note.write_text(json.dumps(facts), encoding="utf-8")

    def _remember(self) -> None:
        """Take the validator of an earlier run, if it was of the same address."""
        try:
            facts = json.loads(self.note.read_text(encoding="utf-8"))
            if facts["href"] == _bare(self.href):
                self.validator, self.digest = str(facts["validator"]), (str(facts["digest"][0]), str(facts["digest"][1]))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return


def _is_there(path: Path, expected: Expected) -> bool:
    return path.is_file() and expected.size in (None, path.stat().st_size)


@contextmanager
def _held(part: Path) -> Iterator[BufferedRandom]:
    """The partial file, open, while no other process or thread has it."""
    while True:
        with part.open("a+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            if _is_named(opened, part):
                yield opened
                return


def _is_named(opened: BufferedRandom, part: Path) -> bool:
    """Whether the open file still has its name: who held it before may have published or removed it."""
    try:
        return os.path.samestat(os.fstat(opened.fileno()), part.stat())
    except FileNotFoundError:
        return False


def _remove(part: Path, file: BufferedRandom) -> None:
    """Remove the partial file that is held; who waits for it sees that it is gone and makes its own."""
    file.truncate(0)
    part.unlink(missing_ok=True)


def _bare(href: str) -> str:
    """The address without its query, which may be a signature that changes."""
    return re.sub(r"[?#].*", "", href)


def _validator(headers: Mapping[str, str]) -> str:
    """What If-Range takes: a strong ETag, else the date of the last change; empty when there is none."""
    tag = headers.get("ETag", "").strip()
    if re.fullmatch(r'"[^"\x00-\x1f]*"', tag):
        return tag
    return headers.get("Last-Modified", "").strip()


def _digest_of(headers: Mapping[str, str], *, whole: bool) -> tuple[str, str] | None:
    """(algorithm, hexadecimal) of the whole file that the server names.   whole: the answer holds all of it"""
    found: dict[str, str] = {}
    for name, algorithm in HEADERS.items():
        if name in headers and re.fullmatch(r"[0-9a-fA-F]{32,128}", headers[name].strip()):
            found[algorithm] = headers[name].strip().lower()
    for name, partial in DIGESTS.items():
        if name in headers and (whole or not partial):
            text = f"md5={headers[name]}" if name == "content-md5" else headers[name]
            for algorithm, value in re.findall(r"([A-Za-z0-9-]+)=:?([A-Za-z0-9+/]+={0,2}):?", text):
                known = algorithm.lower().replace("sha-", "sha")
                decoded = base64.b64decode(value) if len(value) % 4 == 0 else b""
                if known in ALGORITHMS and len(decoded) == hashlib.new(known).digest_size:
                    found.setdefault(known, decoded.hex())
    return next(((name, found[name]) for name in ALGORITHMS if name in found), None)
