"""Access tokens of servers that want them: got with user and password, refreshed, sent to one host only."""

import netrc
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from skysense_cli.data import web
from skysense_cli.errors import SourceError
from skysense_cli.geo import hrefs

EARLY_S = 60  # a token is renewed so long before it ends


@dataclass(frozen=True)
class Account:
    """Whose account it is.

    home: the domain whose https servers may have the credentials      client: the id that programs give
    variables: the environment has VARIABLES_USERNAME and VARIABLES_PASSWORD
    """

    home: str
    client: str
    variables: str


class Token(web.Credentials):
    """An access token, got with user and password, and refreshed before it ends; for the server of the products only."""

    def __init__(self, token_url: str, host: str, account: Account) -> None:
        self.token_url, self.hosts, self.account = token_url, (host,), account
        self.allowed = hrefs.allowed_for(token_url)
        self._lock = threading.Lock()
        self._access, self._until = "", 0.0
        self._refresh, self._refresh_until = "", 0.0

    def headers(self) -> Mapping[str, str]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._get()
            return {"Authorization": f"Bearer {self._access}"}

    def renew(self) -> None:
        with self._lock:
            self._until = 0.0

    def _get(self) -> None:
        answer = None
        if time.monotonic() < self._refresh_until:
            try:
                answer = self._ask({"grant_type": "refresh_token", "refresh_token": self._refresh})
            except SourceError:  # ended on the server's side: once more with the password, which says what is wrong
                self._refresh_until = 0.0
        if answer is None:
            user, password = login(self.token_url, self.account)
            answer = self._ask({"grant_type": "password", "username": user, "password": password})
        now = time.monotonic()
        self._access, self._until = str(answer["access_token"]), now + _early(answer.get("expires_in"))
        self._refresh, self._refresh_until = str(answer.get("refresh_token", "")), now + _early(answer.get("refresh_expires_in"))

    def _ask(self, form: dict[str, str]) -> dict[str, Any]:
        place = hrefs.shown(self.token_url)
        try:
            sent = {"client_id": self.account.client, **form}
            answer = web.read_json(self.token_url, allowed=self.allowed, limits=web.Limits(read_s=60), form=sent)
        except SourceError as error:
            reason = str(error).removeprefix(f"{place}: ")
            raise SourceError(f"no login at {place} as {self.account.variables}_USERNAME or the netrc say: {reason}") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("access_token"), str):
            raise SourceError(f"no login at {place} (it answers without an access_token)")
        return answer


@lru_cache(maxsize=64)
def token_for(token_url: str, download_url: str, account: Account) -> Token:
    """One token for all files of this process: the number of sessions of an account is limited.

    Raises SourceError when an address is neither https of the account's servers nor of a host that SKYSENSE_ALLOW
    names: a recipe that somebody passes on must not send the password of who runs it elsewhere, nor in the clear.
    """
    for option, url in (("token_url", token_url), ("download_url", download_url)):
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        known = parts.scheme == "https" and (host == account.home or host.endswith(f".{account.home}"))
        if not known and not hrefs.is_named(host):
            raise SourceError(
                f"{option} is {hrefs.shown(url)}; credentials go to https addresses of {account.home} only. "
                f"If you trust this host, name it in {hrefs.VARIABLE}"
            )
    return Token(token_url, host, account)


def login(token_url: str, account: Account) -> tuple[str, str]:
    """User and password, from the environment, else from the netrc. Raises SourceError that says how to give them."""
    names = f"{account.variables}_USERNAME", f"{account.variables}_PASSWORD"
    user, password = (os.environ.get(name, "") for name in names)
    if user and password:
        return user, password
    host = urlsplit(token_url).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        found = netrc.netrc(str(path)).hosts.get(host)  # not its `default`, which is meant for whomever
    except FileNotFoundError:
        found = None
    except (OSError, netrc.NetrcParseError) as error:
        raise SourceError(f"{path}: cannot be read as a netrc ({type(error).__name__})") from error
    if found and found[0] and found[2]:
        return found[0], found[2]
    raise SourceError(
        f"{host}: needs an account (https://{account.home}): set {names[0]} and {names[1]}, "
        f"or add `machine {host} login ... password ...` to {path}"
    )


def _early(seconds: Any) -> float:
    """How long a token is used: to shortly before its end, half of a short life."""
    life = float(seconds) if isinstance(seconds, int | float) else 0.0
    return max(life - EARLY_S, life / 2)
