"""Rasters on servers: what GDAL is given for an address, under which settings, and what a refusal means.

    http://host/a.tif, https://host/a.tif       as it is
    s3://bucket/key                             Amazon's object store
    s3+https://endpoint/bucket/key              another store that speaks its language (s3+http: without encryption)
    planetary+https://account.blob.../a.tif     signed through the package planetary-computer whenever it is opened

Keys of object stores come from the environment only (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or
AWS_NO_SIGN_REQUEST), where GDAL finds them itself; none is ever part of an address, a recipe or a message.
"""

import re
from urllib.parse import urlsplit

from skysense_cli.errors import SourceError
from skysense_cli.geo import guard

REGIONS = {
    "sentinel-s1-l1c": "eu-central-1",
    "sentinel-s2-l1c": "eu-central-1",
    "sentinel-s2-l2a": "eu-central-1",
    "naip-analytic": "us-west-2",
    "naip-source": "us-west-2",
    "naip-visualization": "us-west-2",
    "usgs-landsat": "us-west-2",
}  # where buckets of Amazon lie that bill whoever reads
PLANETARY = "planetary+"

_REMOTE = re.compile(r"(https?|s3|s3\+https?|planetary\+https)://[^/]")
_NO_KEYS = ("AWS_SECRET_ACCESS_KEY", "InvalidCredentials", "No valid AWS credentials")
_REFUSED = re.compile(r"code\W*403\b|Access ?Denied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch")


def is_remote(name: str) -> bool:
    """Whether `name` is an address that can be opened, not a local path."""
    return _REMOTE.match(name) is not None


def address(name: str) -> str:
    """What GDAL is given for the remote raster `name`. Raises SourceError for an address that has no key, or cannot be signed."""
    if name.startswith(PLANETARY):
        return "/vsicurl/" + _signed(_plain(name))
    if not name.startswith("s3"):
        return "/vsicurl/" + name
    bucket, _, key = _path_in_store(name).partition("/")
    if not bucket or not key or {"", ".", ".."} & {bucket, *key.split("/")}:
        raise SourceError(f"{shown(name)}: is no address of a file in a bucket")
    return f"/vsis3/{bucket}/{key}"


def settings(name: str) -> dict[str, str]:
    """GDAL settings for one raster beyond those of every raster. They hold while it is open, for it alone."""
    chosen = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR" if is_remote(name) else "TRUE"}  # no guesses at side files on a server
    if name.startswith("s3+"):
        parts = urlsplit(name)
        secure = "YES" if parts.scheme.endswith("https") else "NO"
        chosen |= {"AWS_S3_ENDPOINT": parts.netloc, "AWS_HTTPS": secure, "AWS_VIRTUAL_HOSTING": "FALSE"}
    return chosen | (guard.settings(_plain(name)) if _over_http(name) else {})


def shown(name: str) -> str:
    """`name` as a message may hold it: a signed address without its signature."""
    return re.sub(r"\?.*", "", name.removeprefix(PLANETARY), flags=re.DOTALL) if is_remote(name) else name


def cause(name: str, reason: str) -> str:
    """`reason` as GDAL gave it, or what stands behind it where that is known; no signature in it."""
    reason = re.sub(r"\?\S*", "", reason) if is_remote(name) else reason
    if not is_remote(name):
        return reason
    refused = guard.refusal(_plain(name)) if _over_http(name) else ""
    if refused:
        return f"is redirected to {refused}"
    store = bucket(name)
    if any(sign in reason for sign in _NO_KEYS):
        pays = f"requester pays: bucket {store} bills whoever reads; " if store in REGIONS else ""
        return f"{pays}needs keys of its store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
    if _REFUSED.search(reason) is None:
        return reason
    if store in REGIONS:
        return (
            f"requester pays: bucket {store} bills whoever reads and refused this (403). "
            "Set AWS_REQUEST_PAYER=requester and the keys of an account that may be billed, or use a free collection"
        )
    if name.startswith("s3"):
        return "the store refused it (403): its keys in the environment are wrong, or may not read this bucket"
    if name.startswith(PLANETARY):
        return "the archive refused the signed address (403): this collection may need an account (PC_SDK_SUBSCRIPTION_KEY)"
    return "the server refused it (403): it is not public, or its signed address has run out"


def bucket(name: str) -> str:
    """The bucket of an address, also of `https://bucket.s3.region.amazonaws.com/key`."""
    if name.startswith("s3"):
        return _path_in_store(name).partition("/")[0]
    found = re.match(r"https?://([^./]+)\.s3[.-][^/]*amazonaws\.com/", name)
    return found[1] if found else ""


def _over_http(name: str) -> bool:
    return _plain(name).startswith("http")


def _plain(name: str) -> str:
    return name.removeprefix(PLANETARY)


def _path_in_store(name: str) -> str:
    parts = urlsplit(name)
    return f"{parts.netloc}{parts.path}" if parts.scheme == "s3" else parts.path.removeprefix("/")


def _signed(href: str) -> str:
    """The address with a signature that holds for a minute at least: the package keeps tokens and renews them in time."""
    try:
        import planetary_computer
    except ImportError as error:
        raise SourceError(f"{shown(href)}: has to be signed; pip install 'skysense-cli[planetary]'") from error
    import requests

    try:
        return str(planetary_computer.sign_url(href))
    except (requests.RequestException, ValueError) as error:
        raise SourceError(f"{shown(href)}: the archive signs no address ({type(error).__name__}); try again later") from error
