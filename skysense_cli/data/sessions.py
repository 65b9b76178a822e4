"""Sessions of requests whose every address, redirect and connection is checked before anything is asked.

Proxies and certificates are taken from the environment, as requests does; cookies are not kept, and no netrc is read.
"""

import http.cookiejar
from functools import lru_cache
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from skysense_cli import __version__
from skysense_cli.errors import SourceError
from skysense_cli.geo.hrefs import Allowed, check, check_address

CONNECTIONS = 4  # to one host, at once, from this process
AGAIN = (408, 425, 429)  # answers that another try may mend, and every 5xx
LONGEST_WAIT_S = 120.0  # that a server may ask for


@lru_cache(maxsize=64)
def session(allowed: Allowed) -> requests.Session:
    """One session for all requests of this process under the same rules; it may be used from several threads."""
    session = requests.Session()
    session.headers.update({"User-Agent": f"skysense/{__version__}", "Accept-Encoding": "identity"})
    session.auth = _unchanged  # else requests looks into the netrc, whose `default` goes to everybody
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        session.mount(scheme, Guarded(allowed))
    return session


class Guarded(HTTPAdapter):
    """An adapter for any requests session: checks the address of each request, redirects too, and whom it reached.

    retries: of what another try may mend; a server that asks to wait long ends them with SourceError
    """

    def __init__(self, allowed: Allowed, *, retries: int = 0) -> None:
        self.allowed = allowed
        super().__init__(
            pool_connections=16,
            pool_maxsize=CONNECTIONS,
            max_retries=_Patient(
                total=retries,
                backoff_factor=0.5,
                status_forcelist=(*AGAIN, 500, 502, 503, 504),
                allowed_methods=None,
                raise_on_status=False,
            ),
        )

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **more: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **more)
        pools = (urllib3.HTTPConnectionPool, urllib3.HTTPSConnectionPool)
        self.poolmanager.pool_classes_by_scheme = {pool.scheme: _guarded(pool, self.allowed) for pool in pools}

    def send(self, request: requests.PreparedRequest, *given: Any, **more: Any) -> requests.Response:
        check(request.url, self.allowed)
        return super().send(request, *given, **more)


class _Patient(urllib3.Retry):
    """Tries of urllib3, which by themselves sleep for as long as a server says."""

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        wait = super().get_retry_after(response)
        if wait is not None and wait > LONGEST_WAIT_S:
            raise SourceError(f"answers {response.status} and asks to wait {wait:.0f} s; run the command again later")
        return wait


def _guarded(pool: Any, allowed: Allowed) -> Any:
    """The pool class with connections that close again when they came out at a number that is not allowed."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            try:
                if self.proxy is None:  # else the number is the proxy's, which the user chose
                    check_address(self.sock.getpeername()[0], self.host, allowed)
            except SourceError:
                self.close()
                raise

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
