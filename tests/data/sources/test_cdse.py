"""The cdse source against a server on this machine that answers like Copernicus: catalogue, tokens, products."""

import hashlib
import http.server
import json
import re
import shutil
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.console import redact
from skysense_cli.data import tokens, web
from skysense_cli.data.acquire import acquire, narrowed
from skysense_cli.data.clouds.scl import Scl
from skysense_cli.data.sources import cdse
from skysense_cli.data.sources.cdse import Cdse
from skysense_cli.data.sources.safe import Safe
from skysense_cli.errors import RecipeError, SourceError
from skysense_cli.geo.grid import make_grid

NAME = "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857"
S2 = narrowed(sensors.get("sentinel2_l2a"), ["B02", "B8A"])
GRD = sensors.get("sentinel1_grd")
HERE = (-139.9, -31.7, -139.8, -31.6)
YEAR = (np.datetime64("2019-01-01"), np.datetime64("2019-12-31"))
FAR = [[[[170.0, 10.0], [171, 10], [171, 11], [170, 10]]], [[[-180, 10], [-179, 10], [-179, 11], [-180, 10]]]]
AROUND = [[[-140.0, -32], [-138, -32], [-138, -31], [-140, -31], [-140, -32]]]


@pytest.fixture(scope="module")
def product(shared_data, geotiff, tmp_path_factory) -> bytes:
    """A zip of the real metadata of a product with small images of its own tile."""
    home = tmp_path_factory.mktemp("product")
    tree = home / f"{NAME}.SAFE"
    shutil.copytree(shared_data("safe_metadata") / tree.name, tree, copy_function=shutil.copyfile)
    for one in (tree, *tree.rglob("*")):
        one.chmod(0o755 if one.is_dir() else 0o644)
    images = next(tree.glob("GRANULE/*")) / "IMG_DATA"
    for band, gsd, value in (("B02", 10, 1500), ("B8A", 20, 2500), ("SCL", 20, 4)):
        pixels = np.full((640 // gsd, 640 // gsd), value, np.uint8 if band == "SCL" else np.uint16)
        place = images / f"R{gsd}m" / f"T07HFE_20190212T192651_{band}_{gsd}m.tif"
        geotiff(place, pixels, left=600000, top=6500020, gsd=gsd, crs="EPSG:32707")
    with zipfile.ZipFile(home / "a.zip", "w") as archive:
        for file in sorted(one for one in tree.rglob("*") if one.is_file()):
            archive.write(file, file.relative_to(home))
    return (home / "a.zip").read_bytes()


def listed(name: str, content: bytes, *, cloud: float | None = 20.0, start="2019-02-12T19:26:51.024000Z", footprint=None, **more) -> dict:
    attributes = [
        {"Name": "orbitDirection", "Value": "DESCENDING"},
        {"Name": "relativeOrbitNumber", "Value": 13},
        {"Name": "platformShortName", "Value": "SENTINEL-2"},
        {"Name": "platformSerialIdentifier", "Value": "A"},
        *([] if cloud is None else [{"Name": "cloudCover", "Value": cloud}]),
    ]
    sums = [{"Value": hashlib.md5(content).hexdigest(), "Algorithm": "MD5"}, {"Value": "00" * 32, "Algorithm": "BLAKE3"}, {}]
    return {
        "Id": f"uuid-{hashlib.md5(name.encode()).hexdigest()[:8]}", "Name": f"{name}.SAFE", "ContentLength": len(content), "Checksum": sums,
        "ContentDate": {"Start": start, "End": start}, "GeoFootprint": footprint or {"type": "Polygon", "coordinates": AROUND},
        "Attributes": attributes, "Assets": [], **more,
    }  # fmt: skip


class Copernicus(http.server.BaseHTTPRequestHandler):
    """`world` is set on a subclass for each test."""

    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        world = self.world
        parts = urlsplit(self.path)
        world.asked.append((self.path, dict(self.headers)))
        if parts.path == "/odata/v1/Products":
            first = int(parse_qs(parts.query).get("$skip", ["0"])[0])
            page = {"value": world.products[first : first + 2]}
            if first + 2 < len(world.products):
                page["@odata.nextLink"] = world.next or f"{world.address}{parts.path}?$skip={first + 2}"
            return self.answer(200, json.dumps(page).encode())
        if not parts.path.endswith("/$value"):
            return self.answer(404)
        if self.headers.get("Authorization") not in [f"Bearer {one}" for one in world.good]:
            return self.answer(401)
        body, tag = world.content, '"v1"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted and self.headers.get("If-Range") in (tag, None) else 0
        self.send_response(206 if first else 200)
        self.send_header("ETag", tag)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        if world.drops:
            world.drops -= 1
            self.wfile.write(body[first : (first + len(body)) // 2])
            self.close_connection = True
            return None
        self.wfile.write(body[first:])
        return None

    def do_POST(self):
        world = self.world
        form = {key: one[0] for key, one in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()}
        world.logins.append(form)
        known = (form.get("username"), form.get("password")) == ("me", "SECRET-PASSWORD") or form.get("refresh_token") in world.refresh
        if not known or form["client_id"] != "cdse-public":
            return self.answer(401, b'{"error": "invalid_grant"}')
        world.good = [f"SECRET-TOKEN-{len(world.logins)}"]
        world.refresh = [f"SECRET-REFRESH-{len(world.logins)}"]
        given = {"access_token": world.good[0], "expires_in": world.life_s, "refresh_token": world.refresh[0], "refresh_expires_in": 3600}
        return self.answer(200, json.dumps(given).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def world(product, monkeypatch, tmp_path):
    """The server's state: what it lists, how it behaves, what it was asked."""
    for name in ("CDSE_USERNAME", "CDSE_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("SKYSENSE_ALLOW", "127.0.0.1")
    monkeypatch.setattr(cdse, "LIMITS", web.Limits(backoff_s=0.01, read_s=2))
    world = SimpleNamespace(
        products=[listed(NAME, product)], content=product, drops=0, next=None, asked=[], logins=[], good=[], refresh=[], life_s=600
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (Copernicus,), {"world": world}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    world.address = f"http://127.0.0.1:{server.server_port}"
    yield world
    server.shutdown()
    server.server_close()


@pytest.fixture
def account(monkeypatch):
    monkeypatch.setenv("CDSE_USERNAME", "me")
    monkeypatch.setenv("CDSE_PASSWORD", "SECRET-PASSWORD")


def source(world, cache: Path, **options) -> Cdse:
    urls = {
        "catalogue_url": f"{world.address}/odata/v1",
        "download_url": f"{world.address}/odata/v1",
        "token_url": f"{world.address}/token",
    }
    return Cdse(cache=str(cache), **{**urls, **options})


def read(item):
    grid = make_grid(600000, 6500020, 10, 32, 32, "EPSG:32707")
    return acquire(item, S2, grid, bands=S2.band_names, cloud_mask=Scl(S2))


# search


def test_a_search_lists_all_pages_and_fetches_nothing(world, tmp_path):
    world.products += [listed(f"{NAME}_{k}", b"", start=f"2019-0{k}-01T19:26:51Z") for k in range(3, 8)]
    found = source(world, tmp_path / "cache", max_cloud=60).search(S2, HERE, YEAR, ("SCL",))
    assert [item.id for item in found] == [NAME, *(f"{NAME}_{k}" for k in range(3, 8))]
    assert str(found[0].time) == "2019-02-12T19:26:51" and found[0].assets == {}
    assert found[0].meta == {"orbit_pass": "descending", "relative_orbit": 13, "cloud_cover": 20.0, "platform": "sentinel-2a"}
    assert len(world.asked) == 3 and not world.logins and not (tmp_path / "cache").exists()
    query = parse_qs(urlsplit(world.asked[0][0]).query)
    assert query["$top"] == ["100"] and query["$expand"] == ["Attributes"]
    assert query["$filter"] == [
        "Collection/Name eq 'SENTINEL-2' and Attributes/OData.CSC.StringAttribute/any(att:att/Name eq 'productType' and "
        "att/OData.CSC.StringAttribute/Value eq 'S2MSI2A') and OData.CSC.Intersects(area=geography'SRID=4326;POLYGON((-139.900000 "
        "-31.700000,-139.800000 -31.700000,-139.800000 -31.600000,-139.900000 -31.600000,-139.900000 -31.700000))') and "
        "ContentDate/Start ge 2019-01-01T00:00:00.000Z and ContentDate/Start lt 2020-01-01T00:00:00.000Z and "
        "Attributes/OData.CSC.DoubleAttribute/any(att:att/Name eq 'cloudCover' and att/OData.CSC.DoubleAttribute/Value le 60.00)"
    ]


def test_what_the_server_should_not_have_listed_is_left_out(world, tmp_path):
    world.products = [
        listed("cloudy", b"", cloud=61.0),
        listed("unknown_cloud", b"", cloud=None),
        listed("other_year", b"", start="2018-02-12T19:26:51Z"),
        listed("other_place", b"", footprint={"type": "Polygon", "coordinates": FAR[0]}),
        listed("two_places", b"", footprint={"type": "MultiPolygon", "coordinates": [*FAR, AROUND]}),
        listed("no_place", b"", GeoFootprint=None, Assets=None, Attributes=None, Checksum=None),
    ]
    found = source(world, tmp_path, max_cloud=60).search(S2, HERE, YEAR)
    assert sorted(item.id for item in found) == ["no_place", "two_places", "unknown_cloud"]


def test_the_antimeridian_is_searched_on_both_sides(world, tmp_path):
    world.products = [listed("a", b"", footprint={"type": "MultiPolygon", "coordinates": FAR})]
    found = source(world, tmp_path).search(S2, (170.5, 9, -179.5, 11), YEAR)
    assert [item.id for item in found] == ["a"]
    asked = [parse_qs(urlsplit(path).query)["$filter"][0] for path, _ in world.asked]
    assert "170.500000 9.000000,180.000000" in asked[0] and "-180.000000 9.000000,-179.500000" in asked[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Name": "../../evil.SAFE"}, "product id ../../evil.SAFE: is no plain name"),
        ({"Name": None}, "product id None: is no text"),
        ({"Attributes": [{"Name": "cloudCover", "Value": float("nan")}]}, "has the cloudCover nan, expected 0 to 100"),
        ({"Id": "x)/../../evil"}, r"has the id x\)/../../evil, expected a UUID"),
    ],
)
def test_hostile_names_are_refused(world, tmp_path, change, reason):
    world.products[0].update(change)
    with pytest.raises(SourceError, match=reason):
        source(world, tmp_path / "cache").search(S2, HERE, YEAR)
    assert not (tmp_path / "cache").exists()


def test_pages_that_do_not_end_or_lead_elsewhere_are_refused(world, tmp_path):
    world.products *= 3
    world.next = f"{world.address}/odata/v1/Products?$skip=0"
    with pytest.raises(SourceError, match="its pages do not end"):
        source(world, tmp_path).search(S2, HERE, YEAR)
    assert len(world.asked) == 2
    for link, reason in (
        ("file:///etc/passwd", "only http, https"),
        ("http://169.254.169.254/", "no public address"),
        ("http://127.0.0.1:9/", "another server"),
        ("https://example.org/", "another server"),
        (5, "is no text"),
    ):
        world.next = link
        with pytest.raises(SourceError, match=f"has its next page (at|on).*{reason}"):
            source(world, tmp_path).search(S2, HERE, YEAR)


def test_an_answer_that_is_no_listing_is_named(world, tmp_path):
    world.products = {"a": 1}.keys()  # cannot be sliced: the server breaks off
    with pytest.raises(SourceError, match=f"^{world.address}/odata/v1/Products: .*given up after 5 tries"):
        source(world, tmp_path).search(S2, HERE, YEAR)
    world.products = ["no object"]
    with pytest.raises(SourceError, match="answers without a list of products"):
        source(world, tmp_path).search(S2, HERE, YEAR)


def test_what_it_cannot_give_is_said_before_anything_is_asked(world, tmp_path):
    with pytest.raises(SourceError, match="has no products that are read as sentinel1_rtc, only as sentinel2_l2a"):
        source(world, tmp_path).search(sensors.get("sentinel1_rtc"), HERE, YEAR)
    with pytest.raises(RecipeError, match="geocoding: ellipsoid"):
        source(world, tmp_path).search(GRD, HERE, YEAR)
    assert world.asked == []


def test_sentinel_1_is_asked_for_without_clouds(world, tmp_path):
    source(world, tmp_path, geocoding="ellipsoid", max_cloud=5, product_type="IW_GRDH_1S-COG").search(GRD, HERE, YEAR)
    (terms,) = parse_qs(urlsplit(world.asked[0][0]).query)["$filter"]
    assert "SENTINEL-1" in terms and "Value eq 'IW_GRDH_1S-COG'" in terms and "cloud" not in terms


# products


def test_a_product_is_fetched_when_it_is_read_and_once(world, account, tmp_path):
    world.drops = 2
    (item,) = source(world, tmp_path / "cache").search(S2, HERE, YEAR, ("SCL",))
    date = read(item)
    assert (date.pixels[0] == 1500).all() and (date.pixels[1] == 2500).all() and date.valid.all()
    assert date.meta["baseline"] == "02.12" and date.meta["offset_applied"] == 0
    ranges = [headers.get("Range") for path, headers in world.asked if "$value" in path]
    assert len(ranges) == 3 and ranges[0] is None and ranges[1].startswith("bytes=")
    assert [one.name for one in (tmp_path / "cache").iterdir()] == [f"{NAME}.zip"]
    assert (tmp_path / "cache" / f"{NAME}.zip").read_bytes() == world.content
    read(item)
    (again,) = source(world, tmp_path / "cache").search(S2, HERE, YEAR, ("SCL",))
    read(again)
    assert len([path for path, _ in world.asked if "$value" in path]) == 3 and len(world.logins) == 1


def test_it_is_what_the_safe_source_reads(world, account, tmp_path):
    (item,) = source(world, tmp_path).search(S2, HERE, YEAR, ("SCL",))
    (local,) = Safe(path=str(tmp_path)).search(S2, HERE, YEAR, ("SCL",)) if item.ready() else ()
    ready = item.ready()
    assert (ready.id, ready.assets, ready.units, ready.meta) == (local.id, local.assets, local.units, local.meta)
    assert np.array_equal(read(item).pixels, read(local).pixels)


def test_tokens_are_refreshed(world, account, tmp_path):
    world.life_s = 0
    (item,) = source(world, tmp_path).search(S2, HERE, YEAR, ("SCL",))
    world.drops = 1
    item.ready()
    assert [form["grant_type"] for form in world.logins] == ["password", "refresh_token"]
    world.refresh = []  # the session ended on the server's side
    (tmp_path / f"{NAME}.zip").unlink()
    item.ready()
    assert [form["grant_type"] for form in world.logins[2:]] == ["refresh_token", "password"]


def test_a_token_that_the_server_forgot_is_replaced(world, account, tmp_path):
    (item,) = source(world, tmp_path).search(S2, HERE, YEAR, ("SCL",))
    item.ready()
    (tmp_path / f"{NAME}.zip").unlink()
    world.good = []
    item.ready()
    assert len(world.logins) == 2


def test_a_product_that_is_not_the_catalogues_is_refused(world, account, tmp_path):
    world.content = world.content[:-1] + b"x"
    (item,) = source(world, tmp_path).search(S2, HERE, YEAR)
    with pytest.raises(SourceError, match="has the md5 .* is expected"):
        item.ready()
    assert list(tmp_path.glob("*.zip")) == []
    world.products[0]["ContentLength"] = 5
    (item,) = source(world, tmp_path).search(S2, HERE, YEAR)
    with pytest.raises(SourceError, match=rf"is {len(world.content)} bytes long, 5 are expected"):
        item.ready()


def test_archives_packed_on_demand_are_checked_by_themselves(world, account, tmp_path):
    world.products[0]["Checksum"][0]["Value"] = "0" * 32
    (item,) = source(world, tmp_path, verify="archive").search(S2, HERE, YEAR, ("SCL",))
    assert (read(item).pixels[0] == 1500).all()


def test_an_account_is_asked_for_by_name(world, tmp_path, monkeypatch):
    (item,) = source(world, tmp_path).search(S2, HERE, YEAR)
    with pytest.raises(SourceError, match=r"needs an account .*: set CDSE_USERNAME and CDSE_PASSWORD, or add `machine 127.0.0.1 login"):
        item.ready()
    (tmp_path / "netrc").write_text("default login me password SECRET-PASSWORD\n")
    with pytest.raises(SourceError, match="needs an account"):
        item.ready()
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password SECRET-PASSWORD\n")
    item.ready()
    assert world.logins[0]["username"] == "me"


def test_a_wrong_password_is_tried_once(world, tmp_path, monkeypatch):
    monkeypatch.setenv("CDSE_USERNAME", "me")
    monkeypatch.setenv("CDSE_PASSWORD", "SECRET-WRONG")
    (item,) = source(world, tmp_path).search(S2, HERE, YEAR)
    with pytest.raises(
        SourceError, match=r"no login at http://127.0.0.1:\d+/token as CDSE_USERNAME or the netrc say: answers 401"
    ) as error:
        item.ready()
    assert redact(str(error.value)) == str(error.value)  # nothing in it looks like a secret
    assert len(world.logins) == 1 and "SECRET" not in f"{error.value!r}{error.value.__cause__!r}"


@pytest.mark.parametrize("option", ["token_url", "download_url"])
def test_a_recipe_cannot_send_the_password_elsewhere(world, account, tmp_path, monkeypatch, option):
    monkeypatch.delenv("SKYSENSE_ALLOW")
    official = {
        "download_url": "https://download.dataspace.copernicus.eu/odata/v1",
        "token_url": "https://identity.dataspace.copernicus.eu/auth/token",
    }
    (item,) = source(world, tmp_path, **{**official, option: f"{world.address}/x"}).search(S2, HERE, YEAR)
    with pytest.raises(
        SourceError, match=f"{option} is {world.address}/x; credentials go to https addresses of dataspace.copernicus.eu only"
    ):
        item.ready()
    assert not world.logins
    for evil in (
        "http://download.dataspace.copernicus.eu",
        "https://evildataspace.copernicus.eu",
        "https://dataspace.copernicus.eu.evil.org",
    ):
        with pytest.raises(SourceError, match="credentials go to"):
            tokens.token_for(evil, official["download_url"], cdse.ACCOUNT)


def test_no_secret_is_shown_or_kept(world, account, tmp_path, capsys):
    world.life_s = 0
    (item,) = source(world, tmp_path / "cache").search(S2, HERE, YEAR, ("SCL",))
    date = read(item)
    shown = f"{item!r} {item.ready()!r} {item.bring!r} {date.meta!r} {capsys.readouterr()!r}"
    assert "SECRET" not in shown
    assert not any(b"SECRET" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert not any("SECRET" in path for path, _ in world.asked)  # a query would be in the server's log
