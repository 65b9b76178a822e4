"""Where a listing may point to, and what it may call its items.

A catalogue is a text that somebody else wrote. What it says is checked here before anything is opened:
an address may not make this machine read its own files, ask its own network, or write beside the output.

Private addresses (loopback, link-local, private networks) are refused unless the person who runs the
command allows them: in `SKYSENSE_ALLOW`, a comma-separated list of host names, addresses, networks
(`10.0.0.0/8`) and, for catalogues on disk, folders (`/mnt/archive`). It is an environment variable and no
recipe key, because recipes are passed on too. A catalogue that itself lives on a private host may point to
that host, and one on disk to files below its own folder.
"""

import ipaddress
import os
import posixpath
import re
import socket
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from skysense_cli.errors import SourceError

VARIABLE = "SKYSENSE_ALLOW"
LONGEST = 4096  # characters of an address; signed ones have about 1000
LONGEST_NAME = 200  # characters of an id
SHOWN = 120  # characters of a refused address in a message

_SCHEME = re.compile(r"(?:\./)?([a-z][a-z0-9+._-]*):", re.IGNORECASE)  # pystac puts ./ before what it does not know
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.IGNORECASE)
_NUMBER = re.compile(r"(0x[0-9a-f]*|\d+)\.?", re.IGNORECASE)
_TUNNELS = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"), ipaddress.ip_network("2002::/16"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Allowed:
    """What addresses may point to.

    schemes: of urls      private: host names, addresses and networks that may be private
    folders: absolute folders below which local files may lie; none for a remote catalogue
    buckets: of `s3` addresses; none means that s3 is refused, whatever `schemes` says
    """

    schemes: tuple[str, ...] = ("http", "https")
    private: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()


class _Refused(Exception):
    """Why an address is refused."""


def allowed_for(catalogue: str, *, buckets: tuple[str, ...] = ()) -> Allowed:
    """What a catalogue at `catalogue` (an address or a local path, as the user gave it) may point to.

    Public hosts, what SKYSENSE_ALLOW names, and its own host, or its own folder and the folders of SKYSENSE_ALLOW.
    """
    named = _named()
    hosts = tuple(entry for entry in named if not entry.startswith("/"))
    schemes = ("http", "https", *(("s3",) if buckets else ()))
    if is_url(catalogue):
        return Allowed(schemes, (*hosts, urlsplit(catalogue).hostname or ""), (), buckets)
    folders = tuple(os.path.normpath(entry) for entry in named if entry.startswith("/"))
    return Allowed(schemes, hosts, (posixpath.dirname(os.path.abspath(catalogue)), *folders), buckets)


def allowed_from(href: str) -> Allowed:
    """What a raster or a text at the http(s) address `href`, that may be read itself, may be redirected to.

    Its own host may be private only where it was found to be when it was checked: a name could lead elsewhere later.
    """
    public = Allowed(private=tuple(entry for entry in _named() if not entry.startswith("/")))
    try:
        check(href, public)
    except SourceError:
        return allowed_for(href)
    return public


def is_named(host: str) -> bool:
    """Whether the person who runs the command names this host in SKYSENSE_ALLOW."""
    return host.lower() in (entry.lower() for entry in _named())


def check(href: object, allowed: Allowed, *, base: str | None = None, where: str = "") -> str:
    """The absolute address or local path that `href` means, when it may be opened.

    base: address or path of the document that holds it, for relative ones      where: begins the message
    A host name that does not resolve passes: nothing is reached by it, and a proxy may know it.
    Raises SourceError that names what was refused and why, without the query of the address.
    """
    try:
        return _checked(_text(href), allowed, base)
    except _Refused as reason:
        raise SourceError(f"{where + ' ' if where else ''}{shown(href)}: {reason}") from reason


def check_address(address: str, host: str, allowed: Allowed) -> None:
    """Raise SourceError unless a connection to `host` may go to the numeric `address`."""
    try:
        _check_number(ipaddress.ip_address(address.partition("%")[0]), host, allowed)
    except _Refused as reason:
        raise SourceError(f"{host}: {reason}") from reason


def identifier(value: object, where: str = "") -> str:
    """`value` when it is a name that may become a file name: printable, one path part, at most 200 characters.

    Raises SourceError for anything else; nothing is renamed, since two names could become one.
    """
    reason = ""
    if not isinstance(value, str):
        reason = "is no text"
    elif not value.strip():
        reason = "is empty"
    elif len(value.encode(errors="replace")) > LONGEST_NAME:
        reason = f"is {len(value)} characters long, at most {LONGEST_NAME} are taken"
    elif not value.isprintable():
        reason = "holds characters that cannot be printed"
    elif value[0] in ".~-" or "/" in value or "\\" in value:
        reason = "is no plain name: it begins with . ~ or -, or holds a slash"
    if reason:
        raise SourceError(f"{where + ' ' if where else ''}id {shown(value)}: {reason}")
    assert isinstance(value, str)
    return value


def is_url(text: str) -> bool:
    """Whether `text` is an http(s) address."""
    return re.match(r"https?://", text, re.IGNORECASE) is not None


def names_document(url: str) -> bool:
    """Whether an address names one document (an item, a static catalogue) and not the root of an API."""
    path = urlsplit(url).path
    return path.endswith((".json", ".geojson")) or "/items/" in path


def shown(href: object) -> str:
    """`href` as a message may hold it: printable, short, without user, password and query."""
    text = re.sub(r"[?#].*", "", href, flags=re.DOTALL) if isinstance(href, str) else repr(href)
    text = re.sub(r"://[^/\\]*@", "://***@", text)
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text[: SHOWN + 1])
    return text[:SHOWN] + "..." if len(text) > SHOWN else text or "(empty)"


def _named() -> tuple[str, ...]:
    return tuple(entry.strip() for entry in os.environ.get(VARIABLE, "").split(",") if entry.strip())


def _text(href: object) -> str:
    if not isinstance(href, str):
        raise _Refused("is no text, expected an address")
    if not href.strip():
        raise _Refused("is empty, expected an address")
    if len(href) > LONGEST:
        raise _Refused(f"is {len(href)} characters long, at most {LONGEST} are taken")
    if not href.isprintable() or href != href.strip() or "\\" in href or "<" in href:
        raise _Refused("holds control characters, spaces around it, a backslash or XML")
    return href


def _checked(href: str, allowed: Allowed, base: str | None) -> str:
    scheme = _SCHEME.match(href)
    if scheme is None:
        if href.startswith("/vsi"):
            raise _Refused("is an address of GDAL's virtual files, which no listing may name")
        if base is not None and is_url(base):
            if href.startswith("/"):
                raise _Refused("points to the local file of that name; a remote catalogue may not")
            return _checked(urljoin(base, href), allowed, None)
        return _local(href, allowed, base)
    name = scheme[1].lower()
    if name == "s3" and name in allowed.schemes:
        return _bucket(href, allowed)
    if name not in allowed.schemes or not href.lower().startswith(f"{name}://"):
        hint = "; write a plain path" if name == "file" else ""
        raise _Refused(f"only {', '.join(allowed.schemes)} addresses can be read{hint}")
    _check_host(href, allowed)
    return href


def _local(href: str, allowed: Allowed, base: str | None) -> str:
    """The absolute path, cleaned of `..` by its letters only: links on this machine are the user's own."""
    path = os.path.normpath(os.path.join(posixpath.dirname(os.path.abspath(base or ".")), href))
    if not allowed.folders:
        raise _Refused("points to a local file; a remote catalogue may not")
    if not any(path.startswith(folder.rstrip("/") + "/") for folder in allowed.folders):
        raise _Refused(f"lies outside the catalogue's folder {allowed.folders[0]}; to allow its folder, name it in {VARIABLE}")
    return path


def _bucket(href: str, allowed: Allowed) -> str:
    bucket = urlsplit(href).netloc
    if bucket not in allowed.buckets:
        raise _Refused(f"is in another bucket than {', '.join(allowed.buckets) or 'any that is allowed'}")
    return href


def _check_host(href: str, allowed: Allowed) -> None:
    try:
        parts = urlsplit(href)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _Refused(f"is no valid address ({error})") from error
    if "@" in parts.netloc:
        raise _Refused("carries a user name or password; addresses may not")
    if port == 0:
        raise _Refused("is no valid address (port 0)")
    literal = _literal(host)
    if literal is not None:
        _check_number(literal, host, allowed)
        return
    if not _HOST.fullmatch(host) or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise _Refused("has no plain host name")
    for number in _resolved(host.lower(), port):
        _check_number(ipaddress.ip_address(number), host, allowed)


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@lru_cache(maxsize=4096)
def _resolved(host: str, port: int | None) -> tuple[str, ...]:
    """The numbers of a host name; none where it is not known. Once per process: listings name a host thousands of times."""
    try:
        found = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(sorted({str(place[0]).partition("%")[0] for *_, place in found}))


def _check_number(number: Address, host: str, allowed: Allowed) -> None:
    if _is_public(number):
        return
    if not any(_names(entry, number, host) for entry in allowed.private):
        raise _Refused(f"leads to {number}, which is no public address; to allow it, name the host in {VARIABLE}")


def _is_public(number: Address) -> bool:
    """Whether the number, and the one inside it where it is a tunnel, belongs to the open internet."""
    if isinstance(number, ipaddress.IPv6Address):
        inner = number.ipv4_mapped or number.sixtofour
        if inner is None and any(number in tunnel for tunnel in _TUNNELS):
            inner = ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
        if int(number) >> 32 == 0:  # ::a.b.c.d, no longer in use
            return False
    return number.is_global and not number.is_multicast and not number.is_reserved


def _names(entry: str, number: Address, host: str) -> bool:
    """Whether an entry of the allowed private ones means this host or this number."""
    if entry.lower().strip("[]").rstrip(".") == host.lower().rstrip("."):
        return True
    try:
        return number in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except (ValueError, TypeError):
        return False
