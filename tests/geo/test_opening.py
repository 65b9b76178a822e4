"""Opening rasters: what is refused, always by name."""

import http.server
import os
import threading
import zipfile

import numpy as np
import pytest
import rasterio

from skysense_cli.errors import GridError, SourceError
from skysense_cli.geo.opening import environment, open_raster
from skysense_cli.geo.raster import describe, read_window

RNG = np.random.default_rng(0)


def put(path, pixels):
    """A plain GeoTIFF of (C, H, W) without a place."""
    settings = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **settings) as file:
        file.write(pixels)
    return path


def counts(bands=3, height=30, width=40):
    return RNG.integers(1, 10000, (bands, height, width)).astype(np.uint16)


def refused(path, action, words, kind=GridError):
    with pytest.raises(kind, match=words) as caught:
        action()
    assert str(path) in str(caught.value)


def test_a_vrt_in_disguise_is_refused(tmp_path):
    secret = put(tmp_path / "secret.tif", counts(1))
    vrt = f"""<VRTDataset rasterXSize="40" rasterYSize="30"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>
        <SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""
    path = tmp_path / "scene.tif"
    path.write_text(vrt)
    rasterio.open(path).close()  # GDAL alone would follow it
    refused(path, lambda: describe(path), "no raster of a known format")


@pytest.mark.parametrize("address", ["/vsizip/a.zip/a.tif", "/vsimem/a.tif", "zip+file://a.zip!a.tif", "ftp://x/a.tif"])
def test_addresses_of_other_kinds_are_refused(address):
    refused(address, lambda: describe(address), "only local files, http")


def test_missing_empty_and_foreign_files_are_refused(tmp_path):
    refused(tmp_path / "a.tif", lambda: describe(tmp_path / "a.tif"), "no such file")
    refused(tmp_path, lambda: describe(tmp_path), "is a folder")
    for content in (b"", b"<html>503</html>", b"II*\0"):
        (tmp_path / "a.tif").write_bytes(content)
        refused(tmp_path / "a.tif", lambda: describe(tmp_path / "a.tif"), "no raster of a known format|cannot be read")


def test_complex_numbers_and_unusable_transforms_are_refused(tmp_path):
    refused(tmp_path / "a.tif", lambda: describe(put(tmp_path / "a.tif", counts(1).astype(np.complex64))), "holds complex64, only real")


def test_budgets_stop_giant_blocks_and_reads(tmp_path):
    path = tmp_path / "sparse.tif"
    settings = {"driver": "GTiff", "dtype": "uint8", "count": 1, "SPARSE_OK": True}
    with rasterio.open(path, "w", height=200_000, width=200_000, tiled=True, BIGTIFF="YES", **settings):
        pass
    with open_raster(path) as dataset:
        assert read_window(dataset, [1], (slice(0, 10), slice(0, 10)))[0].shape == (1, 10, 10)
    refused(path, lambda: read_window(path, [1]), "use smaller tiles")
    with rasterio.open(path, "w", height=40_000, width=40_000, tiled=True, blockxsize=40_000, blockysize=40_000, **settings):
        pass
    refused(path, lambda: describe(path), "stored in blocks of 40000 x 40000 px")
    settings = {**settings, "dtype": "uint16", "count": 10, "compress": "deflate", "interleave": "band"}
    with rasterio.open(path, "w", height=16_384, width=16_384, blockysize=16_384, **settings):
        pass
    refused(path, lambda: read_window(path, [1], (slice(0, 10), slice(0, 10))), "536,870,912 bytes each.*rewrite it in tiles")


def test_no_side_file_is_followed_or_written(tmp_path):
    path = put(tmp_path / "a.tif", counts(1))
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset><Metadata><MDI key='PLANTED'>1</MDI></Metadata></PAMDataset>")
    assert "PLANTED" not in describe(path).tags
    with environment(), rasterio.open(path) as file:
        file.stats(indexes=1)
    assert sorted(os.listdir(tmp_path)) == ["a.tif", "a.tif.aux.xml"] and "PLANTED" in (tmp_path / "a.tif.aux.xml").read_text()


class Files(http.server.BaseHTTPRequestHandler):
    """Serves `content` for every path that ends with a.tif, by ranges; everything else is missing."""

    content = b""

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body):
        if not self.path.endswith("a.tif"):
            self.send_error(404)
            return
        first, last = 0, len(self.content) - 1
        if "Range" in self.headers:
            low, high = self.headers["Range"].removeprefix("bytes=").split("-")
            first, last = int(low), min(int(high or last), last)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if body:
            self.wfile.write(self.content[first : last + 1])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_a_raster_is_read_over_http(server, tmp_path):
    pixels = counts(2)
    Files.content = put(tmp_path / "a.tif", pixels).read_bytes()
    found, data = read_window(f"{server}/scenes/a.tif", [2])
    np.testing.assert_array_equal(found, pixels[1:])
    assert data.all() and describe(f"{server}/scenes/a.tif").path == f"{server}/scenes/a.tif"


def test_a_failing_server_is_a_source_error_with_the_url(server):
    refused(f"{server}/b.tif", lambda: describe(f"{server}/b.tif"), "cannot be read", SourceError)


def test_a_member_of_a_zip_is_opened_where_it_lies_and_named_in_errors(tmp_path):
    path = put(tmp_path / "in.tif", np.arange(16, dtype=np.uint8).reshape(1, 4, 4))
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as members:
        members.write(path, "b/in.tif")
        members.writestr("b/bad.tif", b"II*\0 not a tiff")
    with open_raster(f"zip://{archive}!/b/in.tif") as dataset:
        assert dataset.read(1)[3, 3] == 15
    assert describe(f"zip://{archive}!/b/in.tif").path == f"zip://{archive}!/b/in.tif"
    for member in ("b/gone.tif", "../in.tif", "b/bad.tif", ""):
        with pytest.raises(GridError, match=rf"^zip://{archive}!/{member}: "):
            with open_raster(f"zip://{archive}!/{member}"):
                pass
