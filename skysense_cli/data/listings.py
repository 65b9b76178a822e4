"""How the documents of a catalogue are read: through checked addresses, and not without end.

A document names further ones (pages, children, items), so what `geo/hrefs.py` says of assets holds for them too.
"""

from collections import Counter
from typing import Any

import pystac
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from skysense_cli.data.sessions import Guarded
from skysense_cli.errors import SourceError
from skysense_cli.geo.hrefs import Allowed, check, is_url, shown

TIMEOUT_S = 30
RETRIES = 3
SAME = 20  # a document that is asked for more often leads to itself; the root of an API is asked for a few times


class ApiIO(StacApiIO):
    """Reads the documents of a STAC API at `url`."""

    def __init__(self, url: str, allowed: Allowed) -> None:
        super().__init__(timeout=TIMEOUT_S, max_retries=None)
        self.url, self.allowed, self.asked = url, allowed, Counter[str]()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, Guarded(allowed, retries=RETRIES))

    def read_text(self, source: Any, *given: Any, **more: Any) -> str:
        """The text of a document. A catalogue on disk may be spread over folders; a remote one has none here.

        Raises SourceError for a local document of a remote catalogue.
        """
        href = source.get_href() if isinstance(source, pystac.Link) else str(source)
        if is_url(self.url) and not is_url(href or ""):
            raise SourceError(f"{self.url}: has a document at {shown(href)}; a remote catalogue may not point to local files")
        return super().read_text(source, *given, **more)

    def request(self, href: str, method: str | None = None, headers: dict[str, str] | None = None,
                parameters: dict[str, Any] | None = None) -> str:  # fmt: skip
        """The answer to one request. Raises SourceError for what may not be asked, and for pages without end."""
        check(href, self.allowed, where=f"{self.url}: has a document at")
        asked = f"{method} {href} {parameters}"
        self.asked[asked] += 1
        if self.asked[asked] > SAME:
            raise SourceError(f"{self.url}: its pages do not end, {shown(href)} comes again and again")
        try:
            return super().request(href, method, headers, parameters)
        except APIError as error:
            refused = refusal_in(error)
            if refused is None:
                raise
            raise SourceError(f"{self.url}: {refused}") from error


class StaticIO(ApiIO):
    """Reads the documents of a static catalogue: as plain objects, not as those of an API."""

    def stac_object_from_dict(self, d: dict[str, Any], href: Any = None, root: Any = None, preserve_dict: bool = True) -> Any:
        """The object that a document describes."""
        return pystac.StacIO.stac_object_from_dict(self, d, href, root, preserve_dict)


def refusal_in(error: BaseException) -> SourceError | None:
    """Our own refusal among the causes of an error of pystac, which says only that a document cannot be read."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, SourceError):
        cause = cause.__cause__ or cause.__context__
    return cause
