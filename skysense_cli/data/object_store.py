"""Small files of object stores: the address that answers over https, and Amazon's signature (version 4) with keys of the environment.

Rasters are read by GDAL, which signs by itself; this is for the texts that lie beside them. Names as in `geo/remote.py`.
"""

import datetime
import hashlib
import hmac
import os
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from skysense_cli.data.web import Credentials
from skysense_cli.errors import SourceError
from skysense_cli.geo import remote

AMAZON = "s3.{}.amazonaws.com"
REGION = "us-east-1"  # where neither the environment nor remote.REGIONS says
EMPTY = hashlib.sha256(b"").hexdigest()


class Signature(Credentials):
    """The headers that sign a GET of one address, made anew each time: they hold for some minutes."""

    def __init__(self, href: str, region: str, keys: tuple[str, str, str]) -> None:
        """keys: id, secret, and the token of temporary ones or "" """
        self.href, self.region, self.keys = href, region, keys
        self.hosts = ((urlsplit(href).hostname or "").lower(),)

    def headers(self) -> Mapping[str, str]:
        return signed(self.href, self.region, self.keys, datetime.datetime.now(datetime.UTC), _further(self.keys))

    def renew(self) -> None:
        """Nothing: keys of the environment stay as they are."""


def href_of(place: str) -> str:
    """The http(s) address of `s3://bucket/key` or `s3+https://endpoint/bucket/key`. Raises SourceError for no address of a file."""
    path = remote.address(place).removeprefix("/vsis3/")
    parts = urlsplit(place)
    if parts.scheme != "s3":
        return f"{parts.scheme.removeprefix('s3+')}://{parts.netloc}/{_quoted(path)}"
    return f"https://{AMAZON.format(_region(place))}/{_quoted(path)}"


def credentials(place: str) -> Signature | None:
    """What signs a read of `place`; None where the environment wants none. Raises SourceError where it has no keys."""
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1"):
        return None
    identity, secret = os.environ.get("AWS_ACCESS_KEY_ID", ""), os.environ.get("AWS_SECRET_ACCESS_KEY", "")
    if not identity or not secret:
        raise SourceError(f"{remote.shown(place)}: {remote.cause(place, 'AWS_SECRET_ACCESS_KEY')}")
    return Signature(href_of(place), _region(place), (identity, secret, os.environ.get("AWS_SESSION_TOKEN", "")))


def signed(href: str, region: str, keys: tuple[str, str, str], now: datetime.datetime, further: Mapping[str, str]) -> dict[str, str]:
    """The headers of a GET of `href` at the UTC time `now`, `further` ones with them.

    AWS Signature Version 4, as "Authenticating Requests: Using the Authorization Header" of the S3 manual has it.
    """
    parts = urlsplit(href)
    stamp, scope = now.strftime("%Y%m%dT%H%M%SZ"), f"{now:%Y%m%d}/{region}/s3/aws4_request"
    sent = {"x-amz-content-sha256": EMPTY, "x-amz-date": stamp, **further}
    listed = sorted({"host": parts.netloc, **{name.lower(): value for name, value in sent.items()}}.items())
    names = ";".join(name for name, _ in listed)
    asked = "\n".join(["GET", parts.path, parts.query, *(f"{name}:{value}" for name, value in listed), "", names, EMPTY])
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(asked.encode()).hexdigest()])
    key = f"AWS4{keys[1]}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return {**sent, "Authorization": f"AWS4-HMAC-SHA256 Credential={keys[0]}/{scope},SignedHeaders={names},Signature={signature}"}


def _further(keys: tuple[str, str, str]) -> dict[str, str]:
    """Headers for temporary keys, and for buckets that bill whoever reads, when the environment says that it may."""
    payer = os.environ.get("AWS_REQUEST_PAYER", "")
    return ({"x-amz-request-payer": payer} if payer else {}) | ({"x-amz-security-token": keys[2]} if keys[2] else {})


def _region(place: str) -> str:
    given = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return given or remote.REGIONS.get(remote.bucket(place), REGION)


def _quoted(path: str) -> str:
    return quote(path, safe="/-_.~")
