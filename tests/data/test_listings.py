"""Documents of a catalogue that lead to where they may not: each is refused, and what they aim at hears nothing."""

import http.server
import json
import threading

import pytest

from skysense_cli import sensors
from skysense_cli.data.sources.stac import Stac
from skysense_cli.errors import SourceError

S2 = sensors.get("sentinel2_l2a")


@pytest.fixture
def catalogue():
    """A server whose answers are (status, headers, document) by path; and a canary. Both note what they are asked."""
    answers, asked, reached, servers = {}, [], [], []

    class Catalogue(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, document = answers.get(self.path, (404, {}, {}))
            if isinstance(status, list):  # one after the other
                status = status.pop(0) if len(status) > 1 else status[0]
            body = json.dumps(document).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    class Canary(Catalogue):
        def do_GET(self):
            reached.append(self.path)
            self.send_error(404)

    for host, handler in (("127.0.0.7", Catalogue), ("127.0.0.1", Canary)):
        server = http.server.ThreadingHTTPServer((host, 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
    yield f"http://127.0.0.7:{servers[0].server_port}", f"http://127.0.0.1:{servers[1].server_port}", answers, asked, reached
    for server in servers:
        server.shutdown()


def document(*links):
    return {"type": "Catalog", "stac_version": "1.0.0", "id": "a", "description": "a", "links": list(links)}


@pytest.mark.parametrize("rel", ["child", "item"])
def test_links_to_private_hosts_and_local_files_are_refused(catalogue, tmp_path, rel):
    address, canary, answers, _, reached = catalogue
    (tmp_path / "secret.json").write_text(json.dumps(document()))
    for href, reason in (
        (f"{canary}/a.json", "leads to 127.0.0.1, which is no public address"),
        (f"file://{tmp_path}/secret.json", "may not point to local files"),
        ("ftp://example.org/a.json", "may not point to local files"),
    ):
        answers["/catalog.json"] = (200, {}, document({"rel": rel, "href": href}))
        with pytest.raises(SourceError, match=reason) as error:
            Stac(url=f"{address}/catalog.json").search(S2, None, None)
        assert len(str(error.value).splitlines()) == 1
    assert reached == []


def test_redirects_are_checked_at_each_hop(catalogue):
    address, canary, answers, asked, reached = catalogue
    answers["/catalog.json"] = (302, {"Location": f"{address}/moved.json"}, {})
    answers["/moved.json"] = (302, {"Location": f"{canary}/a.json"}, {})
    with pytest.raises(SourceError, match="leads to 127.0.0.1, which is no public address"):
        Stac(url=f"{address}/catalog.json").search(S2, None, None)
    assert asked == ["/catalog.json", "/moved.json"] and reached == []
    answers["/moved.json"] = (200, {}, document())
    assert Stac(url=f"{address}/catalog.json").search(S2, None, None) == []


def test_pages_that_lead_to_themselves_or_elsewhere_end(catalogue):
    address, canary, answers, asked, reached = catalogue
    root = document({"rel": "search", "href": f"{address}/search", "type": "application/geo+json", "method": "GET"})
    core = "https://api.stacspec.org/v1.0.0/"
    answers["/"] = answers[""] = (200, {}, {**root, "conformsTo": [f"{core}core", f"{core}item-search"]})
    page = {"type": "FeatureCollection", "features": []}
    for number, (next_page, reason) in enumerate(((f"{address}/page", "its pages do not end"), (f"{canary}/page", "no public address"))):
        item = {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": f"a{number}",
            "geometry": None,
            "properties": {"datetime": "2021-01-01T00:00:00Z"},
        }
        features = [{**item, "links": [], "assets": {}}]
        link = {"rel": "next", "href": next_page, "method": "GET"}
        first = "/search"
        answers[first] = answers["/page"] = (200, {}, {**page, "features": features, "links": [link]})
        for path in [path for path in asked if path.startswith("/search?")]:
            answers[path] = answers[first]
        with pytest.raises(SourceError) as error:  # the first request tells which query the client writes
            Stac(url=address, collection="c").search(S2, None, None)
        for path in [path for path in asked if path.startswith("/search?")]:
            answers[path] = answers[first]
        with pytest.raises(SourceError, match=reason) as error:
            Stac(url=address, collection="c").search(S2, None, None)
        assert len(str(error.value).splitlines()) == 1
    assert reached == [] and asked.count("/page") < 50


def test_a_busy_server_is_asked_again_but_not_for_a_day(catalogue):
    address, _, answers, asked, _ = catalogue
    answers["/catalog.json"] = ([503, 429, 200], {"Retry-After": "0"}, document())
    assert Stac(url=f"{address}/catalog.json").search(S2, None, None) == []
    assert asked == ["/catalog.json"] * 3
    answers["/catalog.json"] = (429, {"Retry-After": "86400"}, document())
    with pytest.raises(SourceError, match=f"^{address}/catalog.json: answers 429 and asks to wait [0-9]+ s; run"):
        Stac(url=f"{address}/catalog.json").search(S2, None, None)
    answers["/catalog.json"] = (500, {"Retry-After": "0"}, document())
    with pytest.raises(SourceError, match="cannot read the catalogue"):
        Stac(url=f"{address}/catalog.json").search(S2, None, None)
