"""What GDAL may connect to when it reads a raster over http. It follows redirects by itself, and no setting of it forbids that.

So its connections go through a SOCKS proxy of this process, which listens on loopback, wants a password that only this process
knows, and connects to no number that `geo/hrefs.py` refuses; names are resolved here, once for the check and the connection.
Whoever reads through a proxy of their own (`https_proxy` ...) leaves this to that proxy.
"""

import os
import secrets
import selectors
import socket
import socketserver
import struct
import threading
from functools import lru_cache
from urllib.parse import quote, urlsplit

from skysense_cli.errors import SourceError
from skysense_cli.geo.hrefs import allowed_from, check_address

PROXIES = ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "GDAL_HTTP_PROXY", "GDAL_HTTPS_PROXY")
CONNECT_S = 15
BLOCK = 1 << 18
VERSION, PASSWORD_VERSION, BY_PASSWORD, NO_WAY, CONNECT = 5, 1, 2, 255, 1  # of SOCKS: RFC 1928 and 1929
BY_NUMBER, BY_NAME, BY_LONG_NUMBER = 1, 3, 4
GRANTED, FAILED, NOT_ALLOWED = 0, 1, 2


def settings(href: str) -> dict[str, str]:
    """GDAL settings for the raster at the http(s) address `href`; none where the user has a proxy."""
    if any(os.environ.get(name) for name in PROXIES):
        return {}
    doorman, place = _doorman(os.getpid()), urlsplit(href)
    user = quote(f"{place.scheme}://{place.netloc}", safe="")  # says for which raster a connection is
    return {"GDAL_HTTP_PROXY": f"socks5h://{user}:{doorman.password}@127.0.0.1:{doorman.server_address[1]}"}


def refusal(href: str) -> str:
    """Why a connection for rasters of this host was last refused, "" if none was since this was asked."""
    place = urlsplit(href)
    return _doorman(os.getpid()).refusals.pop(f"{place.scheme}://{place.netloc}", "")


@lru_cache(maxsize=1)
def _doorman(process: int) -> "_Doorman":
    """The proxy of this process; a forked one needs its own."""
    return _Doorman()


class _Doorman(socketserver.ThreadingTCPServer):
    """password: what whoever comes must know      refusals: server of a raster -> why a connection for it was last refused"""

    daemon_threads, request_queue_size = True, 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Visit)
        self.password, self.refusals = secrets.token_urlsafe(16), dict[str, str]()
        threading.Thread(target=self.serve_forever, name="guard", daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a connection that breaks is for GDAL to report."""


class _Visit(socketserver.BaseRequestHandler):
    """One connection that GDAL wants."""

    request: socket.socket
    server: _Doorman

    def handle(self) -> None:
        self.request.settimeout(CONNECT_S)
        raster = self._known()
        if raster is None:
            return
        host, port = self._wanted()
        try:
            far = _connected(host, port, raster)
        except SourceError as error:
            self.server.refusals[raster] = str(error)
            self._answer(NOT_ALLOWED)
            return
        except OSError:
            self._answer(FAILED)
            return
        with far:
            self._answer(GRANTED)
            _relay(self.request, far)

    def _known(self) -> str | None:
        """The server of the raster that the connection is for, None for a visitor without the password."""
        _, methods = self._read(2)
        if BY_PASSWORD not in self._read(methods):
            self.request.sendall(bytes([VERSION, NO_WAY]))
            return None
        self.request.sendall(bytes([VERSION, BY_PASSWORD]))
        user = self._read(self._read(2)[1])
        right = secrets.compare_digest(self._read(self._read(1)[0]), self.server.password.encode())
        self.request.sendall(bytes([PASSWORD_VERSION, 0 if right else 1]))
        return user.decode() if right else None

    def _wanted(self) -> tuple[str, int]:
        _, command, _, kind = self._read(4)
        if command != CONNECT:
            raise ConnectionError("only connections are made")
        if kind == BY_NAME:
            host = self._read(self._read(1)[0]).decode()
        else:
            family, size = (socket.AF_INET, 4) if kind == BY_NUMBER else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, self._read(size))
        return host, struct.unpack("!H", self._read(2))[0]

    def _answer(self, status: int) -> None:
        self.request.sendall(bytes([VERSION, status, 0, BY_NUMBER]) + bytes(6))

    def _read(self, size: int) -> bytes:
        found = self.request.recv(size, socket.MSG_WAITALL) if size else b""
        if len(found) < size:
            raise ConnectionError("the visitor left")
        return found


def _connected(host: str, port: int, raster: str) -> socket.socket:
    """A connection to the host, whose every number must be allowed. Raises SourceError that says which is not, OSError."""
    numbers = [str(place[0]) for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    allowed = allowed_from(raster)
    for number in numbers:
        check_address(number, host, allowed)
    for number in numbers[:-1]:
        try:
            return socket.create_connection((number, port), CONNECT_S)
        except OSError:
            continue
    return socket.create_connection((numbers[-1], port), CONNECT_S)


def _relay(near: socket.socket, far: socket.socket) -> None:
    """Hand on what either says, until one is gone. GDAL has the time limits."""
    with selectors.DefaultSelector() as waiting:
        for one, other in ((near, far), (far, near)):
            one.settimeout(None)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting.register(one, selectors.EVENT_READ, other)
        while True:
            for key, _ in waiting.select():
                said = key.fileobj.recv(BLOCK)  # type: ignore[union-attr]
                if not said:
                    return
                key.data.sendall(said)
