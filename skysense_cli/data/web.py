"""Requests to servers that fail, stall, redirect and lie: checked addresses, limits, tries, credentials for named hosts.

Built on requests, which pystac-client uses too, so proxies and certificates are taken from the same environment. Every hop
of a redirect is checked, and so is each connection (`sessions`); a netrc is read only by those that name it.
"""

import datetime
import email.utils
import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from skysense_cli.data.sessions import AGAIN, CONNECTIONS, LONGEST_WAIT_S, session
from skysense_cli.errors import SourceError
from skysense_cli.geo.hrefs import Allowed, check, shown

HOPS = 5  # of a redirect
REFUSALS = 2  # tries more, after a server that refuses or sends a wrong file
TEXT_BYTES = 64 << 20  # of an answer that is read into memory
BLOCK = 1 << 16
MOVED = (301, 302, 303, 307, 308)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """How long and how often a server is asked.

    tries: of one thing; a try that brought a large file well forward is not counted
    backoff_s: before the second try, doubled each time, unless the server says how long (Retry-After)
    longest_wait_s: a server that wants more ends it
    slow_s, least_bytes_s: a body slower than so many bytes a second over so many seconds is given up
    most_bytes: of one file
    """

    tries: int = 5
    backoff_s: float = 1
    longest_wait_s: float = LONGEST_WAIT_S
    connect_s: float = 15
    read_s: float = 45
    slow_s: float = 30
    least_bytes_s: float = 1000
    most_bytes: int = 64 << 30


class Credentials:
    """What is sent to some hosts and to no other: headers, over https, or over http to a host that may be private."""

    hosts: tuple[str, ...] = ()

    def headers(self) -> Mapping[str, str]:
        """The headers for these hosts."""
        raise NotImplementedError

    def renew(self) -> None:
        """Get new ones; called after a refusal (401, 403)."""


class Again(Exception):
    """A failure that another try may mend.

    wait_s: what the server asked for     refused: the server answered, but with a refusal or a wrong file
    forward: the try brought a file well forward
    """

    def __init__(self, reason: str, *, wait_s: float | None = None, refused: bool = False, forward: bool = False) -> None:
        super().__init__(reason)
        self.wait_s, self.refused, self.forward = wait_s, refused, forward


def persist(work: Callable[[], Result], href: str, limits: Limits) -> Result:
    """What `work` gives, tried again while it raises Again. Raises SourceError that names `href` when the tries are used up."""
    tries = refusals = 0
    while True:
        try:
            return work()
        except Again as error:
            tries = 1 if error.forward else tries + 1
            refusals += error.refused
            if tries >= limits.tries or refusals > REFUSALS:
                raise SourceError(f"{shown(href)}: {error} (given up after {tries} tries)") from error
            wait = limits.backoff_s * 2 ** (tries - 1) * random.uniform(0.75, 1.25) if error.wait_s is None else error.wait_s
            if wait > limits.longest_wait_s:
                raise SourceError(
                    f"{shown(href)}: {error}, and the server asks to wait {wait:.0f} s; run the command again later"
                ) from error
            time.sleep(max(wait, 0))


@contextmanager
def request(
    href: str, *, allowed: Allowed, limits: Limits, headers: Mapping[str, str] | None = None,
    credentials: Credentials | None = None, form: Mapping[str, str] | None = None,
) -> Iterator[requests.Response]:  # fmt: skip
    """The answer 200, 206 or 416 to GET `href` (POST with `form`), its body not yet read.

    A form is sent to `href` alone: a redirect of it is an error.
    Raises Again for what another try may mend, also inside the block, and SourceError for what none will.
    """
    address = href
    for _ in range(HOPS + 1):
        check(address, allowed, where="" if address == href else f"{shown(href)}: is redirected to")
        host = (urlsplit(address).hostname or "").lower()
        sent = dict(headers or {}) | (dict(credentials.headers()) if credentials and _may_have(credentials, address, allowed) else {})
        with _gate(host), _failures(href):
            timeout = (limits.connect_s, limits.read_s)
            answer = session(allowed).request(
                "POST" if form else "GET", address, headers=sent, data=form, stream=True, timeout=timeout, allow_redirects=False,
            )  # fmt: skip
            with answer:
                if answer.status_code not in MOVED:
                    _check_status(answer, href, credentials, final=form is not None)
                    yield answer
                    return
                if form or not answer.headers.get("Location"):
                    raise SourceError(f"{shown(href)}: answers {answer.status_code}, a redirect that cannot be followed")
                address = urljoin(address, answer.headers["Location"])
    raise SourceError(f"{shown(href)}: is redirected more than {HOPS} times")


def read_json(
    href: str, *, allowed: Allowed, limits: Limits, credentials: Credentials | None = None, form: Mapping[str, str] | None = None
) -> Any:
    """The JSON at `href` (answered to `form`), at most 64 MiB. Raises SourceError naming it."""

    def once() -> Any:
        with request(href, allowed=allowed, limits=limits, credentials=credentials, form=form) as answer:
            body = b"".join(body_of(answer, limits, TEXT_BYTES))
        if "Content-Length" in answer.headers and len(body) < int(answer.headers["Content-Length"]):
            raise Again(f"ended after {len(body)} of {answer.headers['Content-Length']} bytes")
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Again("is no JSON", refused=True) from error

    return persist(once, href, limits)


def body_of(answer: requests.Response, limits: Limits, most_bytes: int) -> Iterator[bytes]:
    """The body as it comes in, not decompressed: nothing compressed was asked for, and a bomb would unpack here.

    Raises Again when it breaks off or is too slow, SourceError when it is compressed or longer than `most_bytes`.
    """
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise SourceError(f"{shown(answer.url)}: comes as {shown(encoding)}, which was not asked for; it is not unpacked")
    total, since, counted = 0, time.monotonic(), 0
    while block := answer.raw.read1(BLOCK, decode_content=False):
        total, counted = total + len(block), counted + len(block)
        if total > most_bytes:
            raise SourceError(f"{shown(answer.url)}: is longer than the {most_bytes:,} bytes that are taken")
        yield block
        passed = time.monotonic() - since
        if passed >= limits.slow_s:
            if counted < limits.least_bytes_s * passed:
                raise Again(f"comes at {counted / passed:.0f} bytes a second, less than {limits.least_bytes_s:g}")
            since, counted = time.monotonic(), 0


@lru_cache(maxsize=4096)
def _gate(host: str) -> threading.BoundedSemaphore:
    return threading.BoundedSemaphore(CONNECTIONS)


def _may_have(credentials: Credentials, address: str, allowed: Allowed) -> bool:
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    return host in credentials.hosts and (parts.scheme == "https" or host in allowed.private)


@contextmanager
def _failures(href: str) -> Iterator[None]:
    """What breaks on the way becomes Again, in words that hold no address: it may be signed."""
    try:
        yield
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise SourceError(
                f"{shown(href)}: the server's certificate cannot be verified; see SSL_CERT_FILE and REQUESTS_CA_BUNDLE"
            ) from error
        raise Again("the encrypted connection broke") from error
    except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
        raise Again("does not answer in time") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.InvalidHeader) as error:
        raise SourceError(f"{shown(href)}: is no valid address ({type(error).__name__})") from error
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ConnectionError) as error:
        cause = _cause(error)
        words = {"IncompleteRead": "breaks off before its end", "TimeoutError": "does not answer in time"}
        raise Again(words.get(cause, f"the connection failed ({cause})")) from error


def _cause(error: BaseException) -> str:
    """The innermost reason, as a word: messages of requests repeat the whole address."""
    seen: BaseException = error
    for _ in range(8):
        inner = getattr(seen, "reason", None) or seen.__cause__ or seen.__context__
        if not isinstance(inner, BaseException):
            break
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return seen.strerror
    return type(seen).__name__


def _check_status(answer: requests.Response, href: str, credentials: Credentials | None, *, final: bool) -> None:
    """final: a refusal stays one, as of a password, which is not tried again and again"""
    status = answer.status_code
    if status in (200, 206, 416):
        return
    if status in (401, 403) and not final:
        if credentials:
            credentials.renew()
        raise Again(f"answers {status}: credentials are missing, expired or not good for it", refused=True)
    if status in AGAIN or status >= 500:
        raise Again(f"answers {status}", wait_s=_retry_after(answer.headers.get("Retry-After", "")))
    raise SourceError(f"{shown(href)}: answers {status} {shown(answer.reason or '')}")


def _retry_after(text: str) -> float | None:
    """Seconds of a Retry-After, given as a number or a date."""
    if text.strip().isdigit():
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    now = datetime.datetime.now(then.tzinfo)
    return max(0.0, (then - now).total_seconds())
