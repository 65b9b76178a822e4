"""What a listing may point to: hostile addresses and ids of a corpus, and the rules by example."""

import contextlib
import http.server
import json
import subprocess
import sys
import threading

import pytest

from skysense_cli import sensors
from skysense_cli.data.acquire import acquire, narrowed
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.sources.stac import Stac
from skysense_cli.errors import GridError, SkySenseError, SourceError
from skysense_cli.geo import hrefs
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.hrefs import Allowed, allowed_for, check, check_address, identifier, shown

API = "https://catalogue.example.org/v1/items/a.json"
S2 = narrowed(sensors.get("sentinel2_l2a"), ["B02"])
GRID = make_grid(500000, 5100000, 10, 8, 8, "EPSG:32633")


@pytest.fixture(autouse=True)
def nothing_more_is_allowed(monkeypatch):
    monkeypatch.delenv("SKYSENSE_ALLOW", raising=False)


@pytest.fixture
def canary():
    """A server on this machine that nothing may reach, and what reached it."""
    reached = []

    class Canary(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            reached.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Canary)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, reached
    server.shutdown()


@pytest.mark.parametrize(
    "href", ["https://example.org/a.tif", "http://example.org:8080/a.tif", "https://8.8.8.8/a.tif", "https://[2606:4700::1]/a"]
)
def test_public_addresses_pass_as_they_are(href):
    assert check(href, allowed_for(API)) == href


def test_relative_addresses_are_made_absolute(tmp_path):
    assert check("./b/B02.tif", allowed_for(API), base=API) == "https://catalogue.example.org/v1/items/b/B02.tif"
    base = tmp_path / "s2" / "item.json"
    assert check("../B02.tif", allowed_for(str(tmp_path / "catalog.json")), base=str(base)) == str(tmp_path / "B02.tif")
    assert check("https://example.org/a.tif", allowed_for(str(base)), base=str(base)) == "https://example.org/a.tif"


@pytest.mark.parametrize(
    ("href", "reason"),
    [
        ("file:///etc/passwd", "only http, https addresses can be read; write a plain path"),
        ("/etc/passwd", "points to the local file of that name; a remote catalogue may not"),
        ("/vsicurl/http://example.org/a.tif", "GDAL's virtual files"),
        ("gs://bucket/a.tif", "only http, https addresses"),
        ("s3://bucket/a.tif", "only http, https addresses"),
        ("GTIFF_DIR:1:/etc/passwd", "only http, https addresses"),
        ("./vrt:///etc/passwd?bands=1", "only http, https addresses"),
        ("http:example.org/a", "only http, https addresses"),
        ("http://169.254.169.254/latest/meta-data/", "leads to 169.254.169.254, which is no public address; to allow it, name the host"),
        ("http://[fd00:ec2::254]/", "leads to fd00:ec2::254"),
        ("http://[::ffff:10.0.0.1]/", "no public address"),
        ("http://[64:ff9b::7f00:1]/", "no public address"),
        ("http://[2002:7f00:1::]/", "no public address"),
        ("http://224.0.0.1/", "no public address"),
        ("http://100.64.0.1/", "no public address"),
        ("http://2130706433/", "has no plain host name"),
        ("http://0x7f.1/", "has no plain host name"),
        ("http://127.0.0.1.:80/", "has no plain host name"),
        ("http://localhost/a", "leads to"),
        ("http://user@example.org/a", "carries a user name or password"),
        ("http://example.org:0/a", "port 0"),
        ("http://example.org:99999/a", "is no valid address"),
        ("http://[::1/a", "is no valid address"),
        ("http:///a", "has no plain host name"),
        ("http://exa mple.org/a", "has no plain host name"),
        ("http://example.org/a\r\nX-Evil: 1", "control characters"),
        ("http://example.org/" + "a" * 5000, "characters long, at most 4096"),
        (5, "is no text"),
        (" ", "is empty"),
    ],
)
def test_what_a_remote_catalogue_may_not_say(href, reason):
    with pytest.raises(SourceError, match=reason) as error:
        check(href, allowed_for(API), base=API, where="item a keeps B02 at")
    assert str(error.value).startswith("item a keeps B02 at ") and len(str(error.value).splitlines()) == 1


def test_private_hosts_are_allowed_by_name_number_or_network(monkeypatch):
    for entry in ("127.0.0.1", "127.0.0.0/8", "other.lan, 127.0.0.1"):
        monkeypatch.setenv("SKYSENSE_ALLOW", entry)
        assert check("http://127.0.0.1:9/a", allowed_for(API)) == "http://127.0.0.1:9/a"
        with pytest.raises(SourceError, match="no public address"):
            check("http://10.0.0.1/a", allowed_for(API))
    monkeypatch.setenv("SKYSENSE_ALLOW", "localhost, [::1]")
    assert check("http://localhost:9/a", allowed_for(API))
    assert check("http://[::1]:9/a", allowed_for(API))


def test_a_private_catalogue_may_point_to_its_own_host():
    allowed = allowed_for("http://127.0.0.1:8000/catalog.json")
    assert check("http://127.0.0.1:9000/a.tif", allowed) == "http://127.0.0.1:9000/a.tif"
    with pytest.raises(SourceError, match="no public address"):
        check("http://127.0.0.2:9000/a.tif", allowed)


def test_a_name_is_judged_by_the_numbers_it_leads_to(monkeypatch):
    numbers = {"rebound.example.org": ["8.8.8.8", "10.1.2.3"], "fine.example.org": ["8.8.8.8"]}
    monkeypatch.setattr("socket.getaddrinfo", lambda host, port, **_: [(2, 1, 6, "", (one, port)) for one in numbers[host]])
    assert check("https://fine.example.org/a", allowed_for(API))
    with pytest.raises(SourceError, match="leads to 10.1.2.3"):
        check("https://rebound.example.org/a", allowed_for(API))
    with pytest.raises(SourceError, match=r"fine.example.org: leads to 192.168.0.1"):  # what the connection itself found
        check_address("192.168.0.1", "fine.example.org", allowed_for(API))


def test_a_catalogue_on_disk_stays_in_its_folder(tmp_path, monkeypatch):
    base = str(tmp_path / "catalogue" / "catalog.json")
    for href in ("../other/B02.tif", "/etc/passwd", str(tmp_path / "catalogue2" / "a.tif")):
        with pytest.raises(
            SourceError, match="lies outside the catalogue's folder .*/catalogue; to allow its folder, name it in SKYSENSE_ALLOW"
        ):
            check(href, allowed_for(base), base=base)
    monkeypatch.setenv("SKYSENSE_ALLOW", f"10.0.0.0/8,{tmp_path}/other/")
    assert check("../other/B02.tif", allowed_for(base), base=base) == str(tmp_path / "other" / "B02.tif")


def test_buckets_are_allowed_by_name():
    allowed = allowed_for(API, buckets=("eodata",))
    assert check("s3://eodata/a.jp2", allowed) == "s3://eodata/a.jp2"
    with pytest.raises(SourceError, match="is in another bucket than eodata"):
        check("s3://mine/a.jp2", allowed)
    with pytest.raises(SourceError, match="only http, https addresses"):
        check("s3://eodata/a.jp2", Allowed())


def test_messages_hold_no_secret():
    assert shown("https://user:hunter2@example.org/a.tif?sig=hunter2#x") == "https://***@example.org/a.tif"
    assert shown("a" * 1000) == "a" * 120 + "..."
    assert shown("a\x1b[31m") == "a\\x1b[31m"
    with pytest.raises(SourceError) as error:
        check("https://user:hunter2@example.org/a?token=hunter2", allowed_for(API))
    assert "hunter2" not in str(error.value)


def test_ids_are_names_or_refused():
    assert identifier("S2A_MSIL2A_20200714T115221_N0509_R123_T28QCH_20200714T191310.SAFE").endswith(".SAFE")
    for value, reason in (
        ("../a", "no plain name"),
        ("a\\b", "no plain name"),
        ("", "empty"),
        ("a\0", "printed"),
        (None, "no text"),
        ("x" * 201, "201"),
    ):
        with pytest.raises(SourceError, match=f"catalogue: item id .*{reason}"):
            identifier(value, "catalogue: item")


# the corpus


@pytest.fixture(scope="module")
def corpus(badinput_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    subprocess.run([sys.executable, badinput_dir / "make_bad.py", folder, "--only", "stac"], check=True, capture_output=True)
    cases = json.loads((folder / "cases.json").read_text())
    return [(case["id"], case["want"], (folder / case["path"]).read_text()) for case in cases]


def build(url: str, want: str) -> None:
    """Builds as far as pixels; what must be refused is refused by the listing already, in one line."""
    try:
        items = Stac(url=url).search(S2, None, None)
    except SourceError as error:
        assert want != "handle" and len(str(error).splitlines()) == 1 and str(error).isprintable(), str(error)
        return
    assert want != "reject", url
    for item in items:
        with contextlib.suppress(SkySenseError):  # nothing answers at example.org
            acquire(item, S2, GRID, bands=["B02"], cloud_mask=NoMask(S2))


def catalogues(corpus, folder, port, begins):
    """One catalogue of one item for each case; what the corpus aims at port 9 is aimed at the canary."""
    for name, want, text in corpus:
        if name.startswith(begins):
            place = folder / name.rpartition("/")[2]
            place.mkdir()
            (place / "item.json").write_text(text.replace(":9/", f":{port}/").replace("%3A9%2F", f"%3A{port}%2F"))
            root = {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "a",
                "description": "a",
                "links": [{"rel": "item", "href": "./item.json"}],
            }
            (place / "catalog.json").write_text(json.dumps(root))
            yield name, want, place.relative_to(folder) / "catalog.json"


def test_hostile_addresses_on_disk_reach_nothing(corpus, tmp_path, canary):
    port, reached = canary
    cases = list(catalogues(corpus, tmp_path, port, "stac/href_"))
    assert len(cases) == 42
    for name, want, path in cases:
        build(str(tmp_path / path), "bounded" if "backslash" in name else want)  # pystac makes it a slash, the host is example.org
    assert reached == []


def test_hostile_addresses_of_a_server_reach_nothing(corpus, tmp_path, canary, monkeypatch):
    """The catalogue is served under another loopback number than the canary's, so that its own host is not the canary's."""
    port, reached = canary
    cases = list(catalogues(corpus, tmp_path, port, "stac/href_"))
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.7", 0), lambda *given: handler(*given, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for name, want, path in cases:
            inside = any(one in name for one in ("rel_traversal", "empty", "spaces", "backslash"))  # ends at the catalogue's own server
            build(f"http://127.0.0.7:{server.server_port}/{path}", "bounded" if inside else want)
    finally:
        server.shutdown()
    assert reached == []


def test_hostile_ids_are_refused_or_harmless(corpus, tmp_path):
    cases = list(catalogues(corpus, tmp_path, 9, "stac/id_"))
    assert len(cases) == 21
    for name, want, path in cases:
        try:
            items = Stac(url=str(tmp_path / path)).search(S2, None, None)
        except (SourceError, GridError) as error:
            assert str(error).isprintable()
        else:
            assert want != "reject", name
            assert [hrefs.identifier(item.id) for item in items] == [item.id for item in items]


def test_other_damaged_items_are_refused_in_one_line(corpus, tmp_path):
    cases = [one for one in catalogues(corpus, tmp_path, 9, "stac/") if not one[0].startswith(("stac/href_", "stac/id_"))]
    assert len(cases) == 26
    for name, want, path in cases:
        try:
            Stac(url=str(tmp_path / path)).search(S2, None, None)
        except SourceError as error:
            assert len(str(error).splitlines()) == 1
            assert want != "handle" or "page" in name  # a page of items is no item
        else:
            assert want != "reject", name
