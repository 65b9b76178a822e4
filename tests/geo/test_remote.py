"""Rasters in object stores and behind signatures, on servers of this machine: moto's S3, one that refuses, and Azure's signing."""

import datetime
import http.server
import json
import threading

import numpy as np
import pytest
import rasterio
from affine import Affine

from skysense_cli.errors import SourceError
from skysense_cli.geo import remote
from skysense_cli.geo.opening import open_raster
from skysense_cli.geo.raster import read_window

KEYS = {"AWS_ACCESS_KEY_ID": "the-key-id", "AWS_SECRET_ACCESS_KEY": "the-secret"}


class Refusing(http.server.BaseHTTPRequestHandler):
    """Refuses everything as S3 does, and notes the headers."""

    def do_GET(self):
        text = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
        self.server.asked.append(dict(self.headers))
        self.send_response(403)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def no_keys(monkeypatch, tmp_path):
    for name in (*KEYS, "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REQUEST_PAYER", "AWS_NO_SIGN_REQUEST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "nothing"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "nothing"))
    return monkeypatch


@pytest.fixture
def keys(no_keys):
    for name, value in KEYS.items():
        no_keys.setenv(name, value)
    return no_keys


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The address of an object store with one raster, eodata/a/b.tif."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    import boto3

    path = tmp_path_factory.mktemp("store") / "b.tif"
    with rasterio.open(path, "w", driver="GTiff", width=8, height=8, count=1, dtype="uint16", crs="EPSG:32631",
                       transform=Affine(10, 0, 500000, 0, -10, 5600000)) as dataset:  # fmt: skip
        dataset.write(np.arange(64, dtype=np.uint16).reshape(1, 8, 8))
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    client.create_bucket(Bucket="eodata")
    client.upload_file(str(path), "eodata", "a/b.tif")
    yield f"{host}:{port}"
    server.stop()


def failing(address: str) -> str:
    with pytest.raises(SourceError) as caught:
        with open_raster(address) as dataset:
            read_window(dataset, [1])
    assert "\n" not in str(caught.value)
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
    return str(caught.value)


def test_a_raster_of_an_object_store_is_read_with_keys_of_the_environment(store, keys, capfd):
    before = rasterio.env.local._env
    with open_raster(f"s3+http://{store}/eodata/a/b.tif") as dataset:
        pixels, data = read_window(dataset, [1])
    assert pixels.sum() == 64 * 63 // 2 and data.all()
    assert rasterio.env.local._env is before  # the store's settings ended with it
    told = "".join(capfd.readouterr())
    assert "the-key-id" not in told and "the-secret" not in told


def test_settings_of_one_store_do_not_reach_another(store, keys):
    with open_raster(f"s3+http://{store}/eodata/a/b.tif"):
        assert rasterio.env.getenv()["AWS_S3_ENDPOINT"] == store
    assert "AWS_S3_ENDPOINT" not in remote.settings("https://example.org/a.tif")
    assert "AWS_S3_ENDPOINT" not in remote.settings("s3://bucket/a.tif")


def test_a_missing_file_is_named_by_its_address(store, keys):
    assert failing(f"s3+http://{store}/eodata/a/none.tif").startswith(f"s3+http://{store}/eodata/a/none.tif: ")


def test_missing_keys_are_asked_for(store, no_keys):
    assert failing(f"s3+http://{store}/eodata/a/other.tif").endswith(
        "needs keys of its store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
    )


def test_a_refusal_of_a_bucket_that_bills_names_the_cause(refusing, keys):
    place = f"s3+http://127.0.0.1:{refusing.server_port}"
    assert "requester pays: bucket sentinel-s1-l1c bills whoever reads and refused this (403)" in failing(f"{place}/sentinel-s1-l1c/a.tif")
    assert "requester pays: bucket naip-analytic" in failing(f"{place}/naip-analytic/a/b.tif")
    assert "keys in the environment are wrong, or may not read" in failing(f"{place}/eodata/a.tif")
    assert not any("x-amz-request-payer" in {name.lower() for name in headers} for headers in refusing.asked)  # nobody is billed unasked
    keys.setenv("AWS_REQUEST_PAYER", "requester")
    failing(f"{place}/naip-analytic/b.tif")
    assert any(headers.get("x-amz-request-payer") == "requester" for headers in refusing.asked)


def test_a_refusal_of_a_web_server_shows_no_signature(refusing):
    message = failing(f"http://127.0.0.1:{refusing.server_port}/T403/a.tif?sig=hidden")
    assert message.endswith("/T403/a.tif: the server refused it (403): it is not public, or its signed address has run out")
    assert remote.cause("https://sentinel-s1-l1c.s3.amazonaws.com/a.tif", "HTTP response code: 403").startswith("requester pays: ")
    assert remote.cause("https://example.org/T403/a.tif", "HTTP response code: 500") == "HTTP response code: 500"


@pytest.mark.parametrize(
    "address", ["s3://bucket", "s3://bucket/../other/a.tif", "s3+https://host/eodata/a//b.tif", "s3+https://host/../a/b.tif"]
)
def test_an_address_that_leaves_its_bucket_is_refused(address):
    assert failing(address) == f"{address}: is no address of a file in a bucket"


class Answer:
    """What the signing service says."""

    def __init__(self, token: str, seconds: float) -> None:
        expiry = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        self.content = json.dumps({"token": token, "msft:expiry": expiry.isoformat()})

    def raise_for_status(self):
        pass

    def json(self):
        return json.loads(self.content)


def test_addresses_are_signed_when_opened_and_again_before_the_signature_runs_out(monkeypatch):
    sas = pytest.importorskip("planetary_computer.sas")
    monkeypatch.setattr(sas, "TOKEN_CACHE", {})
    answers = [Answer("sig=one", 30), Answer("sig=two", 3600)]
    asked = []

    def get(self, url, *_, **__):
        asked.append(url)
        return answers[min(len(asked), 2) - 1]

    monkeypatch.setattr("requests.Session.get", get)
    name = "planetary+https://somewhere.blob.core.windows.net/box/a/b.tif"
    signed = [remote.address(name) for _ in range(3)]
    assert [address.rpartition("sig=")[2] for address in signed] == ["one", "two", "two"]  # the first was about to run out
    assert signed[0].startswith("/vsicurl/https://somewhere.blob.core.windows.net/box/a/b.tif?")
    assert asked == ["https://planetarycomputer.microsoft.com/api/sas/v1/token/somewhere/box"] * 2
    assert remote.shown(name + "?sig=two") == "https://somewhere.blob.core.windows.net/box/a/b.tif"


def test_a_signing_service_that_is_down_is_one_line(monkeypatch):
    import requests

    sas = pytest.importorskip("planetary_computer.sas")
    monkeypatch.setattr(sas, "TOKEN_CACHE", {})

    def get(*_, **__):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr("requests.Session.get", get)
    message = failing("planetary+https://somewhere.blob.core.windows.net/box/a.tif")
    assert message == "https://somewhere.blob.core.windows.net/box/a.tif: the archive signs no address (ConnectionError); try again later"


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "planetary_computer", None)
    assert "pip install 'skysense-cli[planetary]'" in failing("planetary+https://somewhere.blob.core.windows.net/box/a.tif")
