"""Where a raster on a server may lead GDAL, on servers of this machine under several loopback numbers."""

import http.server
import importlib.util
import re
import socket
import threading
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
from affine import Affine

from skysense_cli.errors import SourceError
from skysense_cli.geo import guard, hrefs
from skysense_cli.geo.opening import environment, open_raster
from skysense_cli.geo.raster import read_window


class Moving(http.server.BaseHTTPRequestHandler):
    """Answers /a.tif with the raster, in ranges, and all else by a redirect to what the server's `moves` say."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, dict(self.headers)))
        place = self.path.partition("?")[0]
        if place in server.moves:
            self.send_response(302)
            self.send_header("Location", server.moves[place])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2]), len(body) - 1)) if wanted else (0, len(body) - 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[first : last + 1])

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("guard") / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", width=512, height=512, count=1, dtype="uint16", crs="EPSG:32631", tiled=True,
                       blockxsize=128, blockysize=128, transform=Affine(10, 0, 500000, 0, -10, 5600000)) as dataset:  # fmt: skip
        dataset.write(np.arange(512 * 512, dtype=np.uint32).astype(np.uint16).reshape(1, 512, 512))
    return path.read_bytes()


@pytest.fixture
def servers(content, monkeypatch):
    """A function from a loopback number to a server there, with `address`, `moves` and `asked`."""
    for name in (*guard.PROXIES, "no_proxy", "NO_PROXY", hrefs.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    started = []

    def start(number: str):
        server = http.server.ThreadingHTTPServer((number, 0), Moving)
        server.content, server.moves, server.asked = content, {}, []
        server.address = f"http://{number}:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def total(address: str) -> int:
    with open_raster(address) as dataset:
        return int(read_window(dataset, [1])[0].sum(dtype=np.int64))


WHOLE = int((np.arange(512 * 512) % 65536).sum())


def test_a_raster_behind_an_allowed_redirect_is_read(servers, monkeypatch):
    here, there = servers("127.0.0.1"), servers("127.0.0.7")
    here.moves |= {"/b.tif": "/a.tif", "/c.tif": f"{there.address}/a.tif"}
    assert total(f"{here.address}/b.tif") == WHOLE  # on the same server
    monkeypatch.setenv("SKYSENSE_ALLOW", "127.0.0.7")
    assert total(f"{here.address}/c.tif") == WHOLE and there.asked


def test_a_raster_behind_a_redirect_to_another_private_address_is_refused_and_nothing_is_asked_there(servers):
    here, there = servers("127.0.0.1"), servers("127.0.0.7")
    here.moves |= {"/b.tif": "/c.tif", "/c.tif": f"{there.address}/a.tif"}
    with pytest.raises(SourceError) as caught:
        total(f"{here.address}/b.tif?sig=hidden")
    reason = "127.0.0.7: leads to 127.0.0.7, which is no public address; to allow it, name the host in SKYSENSE_ALLOW"
    assert str(caught.value) == f"{here.address}/b.tif: is redirected to {reason}"
    assert there.asked == []


def test_a_server_that_redirects_only_later_reads_is_refused_then(servers):
    """A check before the raster is opened would not find it."""
    here, there = servers("127.0.0.1"), servers("127.0.0.7")
    with open_raster(f"{here.address}/a.tif") as dataset:
        here.moves["/a.tif"] = f"{there.address}/a.tif"
        with pytest.raises(SourceError, match="is redirected to 127.0.0.7: leads to"):
            read_window(dataset, [1])
    assert there.asked == []


def test_a_name_that_was_public_when_it_was_checked_may_not_lead_to_this_machine_later(servers, monkeypatch):
    there = servers("127.0.0.7")
    monkeypatch.setattr(hrefs, "_resolved", lambda host, port: ("8.8.8.8",))
    numbers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.7", there.server_port))]
    monkeypatch.setattr(guard.socket, "getaddrinfo", lambda *_, **__: numbers)
    with pytest.raises(SourceError, match="is redirected to example.org: leads to 127.0.0.7, which is no public address"):
        total(f"http://example.org:{there.server_port}/a.tif")
    assert there.asked == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [("redirpriv", "is redirected to 169.254.169.254: leads to 169.254"), ("redirfile", "cannot be read|known format"), ("redirloop", ".")],
)
def test_redirects_of_the_fault_server_are_refused(badinput_dir, servers, content, tmp_path, fault, words):
    spec = importlib.util.spec_from_file_location("flaky_server", badinput_dir / "flaky_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "a.tif").write_bytes(content)
    server = module.start(str(tmp_path))
    try:
        with pytest.raises(SourceError, match=words) as caught:
            total(f"http://127.0.0.1:{server.server_address[1]}/{fault}/a.tif")
    finally:
        server.shutdown()
        server.server_close()
    assert len(str(caught.value).splitlines()) == 1 and "root:" not in str(caught.value)


def test_the_proxy_listens_on_loopback_only_and_to_this_process_only(servers):
    here = servers("127.0.0.1")
    place = urlsplit(guard.settings(here.address)["GDAL_HTTP_PROXY"])
    assert place.hostname == "127.0.0.1"
    for secret in ("", "wrong"):
        with socket.create_connection((place.hostname, place.port), 5) as visitor:
            visitor.sendall(bytes([5, 1, 2 if secret else 0]))
            assert visitor.recv(2) == bytes([5, 2 if secret else 255])
            if secret:
                visitor.sendall(bytes([1, 1]) + b"a" + bytes([5]) + secret.encode())
                assert visitor.recv(2) == bytes([1, 1])
            assert visitor.recv(1) == b""
    assert here.asked == []


def test_a_proxy_of_the_user_is_left_to_itself(servers, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    assert guard.settings("https://example.org/a.tif") == {}
    monkeypatch.delenv("https_proxy")
    before = rasterio.env.local._env
    with environment(**guard.settings("https://example.org/a.tif")):
        assert rasterio.env.getenv()["GDAL_HTTP_PROXY"].startswith("socks5h://https%3A%2F%2Fexample.org:")
    assert rasterio.env.local._env is before  # ended with the raster
