"""The server: tiles where pyproj says, pixels of the files themselves, nothing but what was named, and an end on Ctrl+C."""

import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image
from pyproj import Geod, Transformer

from skysense_cli.engine.viewer.layers import find_rasters, open_layer
from skysense_cli.engine.viewer.serving import open_server, point_answer, tile_image
from skysense_cli.engine.viewer.tracks import make_tracks
from skysense_cli.errors import GridError, RecipeError
from skysense_cli.geo.cog import write_geotiff

WORLD_M = 2 * np.pi * 6378137
GRIDS = {
    "utm at 60 N": GeoBox((90, 120), Affine(10, 0, 400_000, 0, -10, 6_650_000), "EPSG:32633"),
    "degrees": GeoBox((90, 120), Affine(0.0004, 0, 15, 0, -0.0002, 60.05), "EPSG:4326"),
    "rotated": GeoBox((90, 120), Affine(8, 5, 400_000, 5, -8, 6_650_000), "EPSG:32633"),
    "south up": GeoBox((90, 120), Affine(10, 0, 400_000, 0, 10, 6_640_000), "EPSG:32633"),
    "across the antimeridian": GeoBox((90, 120), Affine(100, 0, 327_705, 0, -100, 6_660_205), "EPSG:32601"),
}


@contextmanager
def running(*places):
    """A function from a path to (status, kind, body) of a server of `places`, and its port."""
    with open_server(list(places), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.server_address[1]

        def get(path, method="GET", **headers):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(method, path, headers=headers)
            reply = connection.getresponse()
            answer = reply.status, reply.headers["Content-Type"], reply.read()
            connection.close()
            return answer

        try:
            yield get, port
        finally:
            server.shutdown()
            thread.join()


def web_tile(lon, lat, zoom):
    """(column, row) of the tile and (x, y) of the pixel in it, with fractions, by pyproj."""
    x, y = Transformer.from_crs(4326, 3857, always_xy=True).transform(lon, lat)
    column, row = (x / WORLD_M + 0.5) * 2**zoom, (0.5 - y / WORLD_M) * 2**zoom
    return (int(column), int(row)), ((column % 1) * 256, (row % 1) * 256)


@pytest.mark.parametrize("name", GRIDS)
def test_a_corner_of_a_tile_lies_within_a_pixel_of_where_pyproj_says(tmp_path, maps, name):
    grid = GRIDS[name]
    numbers = np.full(grid.shape, 255, np.uint8)
    numbers[40:44, 60:64] = 1
    track = make_tracks([open_layer(maps.write_classes(tmp_path / "crops.tif", grid, numbers))])[0]
    zoom = 16 if name != "across the antimeridian" else 13
    tile, _ = web_tile(*maps.lonlat_of(grid, 62, 42), zoom)
    shown = tile_image(track.layers[0], track, zoom, *tile)
    assert {tuple(color) for color in shown.reshape(-1, 4).tolist()} <= {(0, 0, 0, 0), (*maps.COLORS[1], 255)}
    found = 0
    for column, row in ((60, 40), (64, 40), (60, 44), (64, 44)):
        of_corner, (x, y) = web_tile(*maps.lonlat_of(grid, column, row), zoom)
        inner, (inner_x, inner_y) = web_tile(*maps.lonlat_of(grid, 62, 42), zoom)
        length = np.hypot(x - inner_x, y - inner_y)
        step = np.array([x - inner_x, y - inner_y]) / length * 1.5  # one pixel and a half of the diagonal: one along each axis
        inside, outside = np.array([x, y]) - step, np.array([x, y]) + step
        if of_corner != inner or not (0 <= np.array([inside, outside])).all() or not (np.array([inside, outside]) < 256).all():
            continue
        assert shown[int(inside[1]), int(inside[0]), 3] == 255 and shown[int(outside[1]), int(outside[0]), 3] == 0, (column, row)
        found += 1
    assert found >= 2


def test_a_click_reads_the_pixel_of_the_file(tmp_path, maps, folder):
    layers = {path.name: open_layer(path) for path in find_rasters([folder])}
    grid = maps.AT_60_NORTH
    with rasterio.open(folder / "crops.tif") as classes, rasterio.open(folder / "crops_confidence.tif") as confidence:
        codes, steps = classes.read(1), confidence.read(1)
    for row, column in ((20, 0), (0, 119), (89, 40), (45, 39), (45, 80)):
        place = maps.lonlat_of(grid, column + 0.5, row + 0.5)
        found = point_answer(layers["crops.tif"], *place)
        assert (found["row"], found["column"], found["code"]) == (row, column, codes[row, column])
        assert (found["x"], found["y"]) == pytest.approx((400_005 + 10 * column, 6_649_995 - 10 * row), abs=1e-3)
        assert point_answer(layers["crops_confidence.tif"], *place)["value"] == pytest.approx(steps[row, column] / 200)
    assert point_answer(layers["crops.tif"], *maps.lonlat_of(grid, 3, 3))["code"] is None
    assert point_answer(layers["crops.tif"], *maps.lonlat_of(grid, -1, 3)) == {"inside": False}
    values = point_answer(layers["scene.tif"], *maps.lonlat_of(grid, 61.5, 45.5))["values"]
    assert values == [("B04", 2000), ("B03", 300), ("B02", 300)]


def test_the_server_answers_for_its_layers_and_nothing_else(folder, maps):
    with running(folder) as (get, port):
        status, kind, body = get("/")
        assert (status, kind) == (200, "text/html; charset=utf-8") and b"crops.tif" in body and str(folder).encode() not in body
        number = next(
            layer["number"]
            for track in json.loads(maps.PAGE_DATA.search(body.decode())[1])["tracks"]
            for layer in track["layers"]
            if layer["name"] == "crops.tif"
        )
        lon, lat = maps.lonlat_of(maps.AT_60_NORTH, 60, 45)
        (column, row), (x, y) = web_tile(lon, lat, 14)
        status, kind, body = get(f"/tiles/{number}/14/{column}/{row}.png")
        image = np.asarray(Image.open(io.BytesIO(body)))
        assert (status, kind, image.shape) == (200, "image/png", (256, 256, 4))
        assert tuple(image[int(y), int(x)]) == (*maps.COLORS[1], 255)
        hidden = np.asarray(Image.open(io.BytesIO(get(f"/tiles/{number}/14/{column}/{row}.png?hide=1")[2])))
        assert hidden[int(y), int(x), 3] == 0 and hidden[..., 3].max() == 255
        assert not np.asarray(Image.open(io.BytesIO(get(f"/tiles/{number}/14/0/0.png")[2]))).any()
        assert json.loads(get(f"/point/{number}?lon={lon}&lat={lat}")[2])["code"] == 1
        for path in (
            f"/tiles/{number + 10}/14/0/0.png", f"/tiles/{number}/23/0/0.png", f"/tiles/{number}/9/0/0.png",
            f"/tiles/{number}/14/16384/0.png", f"/tiles/{number}/14/0/0.tif",
            "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", f"{folder}/crops.tif", "/crops.tif", "/tiles/../0/0/0/0.png",
            f"/point/{number}", f"/point/{number}?lon=nan&lat=0", f"/point/{number}?lon=1e9&lat=0", f"/point/{number + 10}?lon=0&lat=0",
        ):  # fmt: skip
            assert get(path)[0] == 404, path
        assert get("/", Host=f"evil.example:{port}")[0] == 403
        assert get("/", method="POST")[0] == 501
        with pytest.raises(OSError), socket.create_connection((socket.gethostbyname(socket.gethostname()), port), timeout=5) as other:
            if other.getpeername()[0].startswith("127."):
                raise OSError("this machine knows no other address of its own")


def test_a_file_that_breaks_while_it_is_served_is_named_and_the_rest_goes_on(tmp_path, maps):
    maps.write_classes(tmp_path / "crops.tif")
    with running(tmp_path) as (get, _):
        (tmp_path / "crops.tif").write_bytes(b"no raster any more")
        status, _, body = get("/tiles/0/14/0/0.png")
        assert status == 500 and b"crops.tif" in body
        assert get("/")[0] == 200


def test_areas_of_a_raster_too_large_to_be_read_come_from_its_overviews(tmp_path, maps, monkeypatch):
    monkeypatch.setattr("skysense_cli.engine.viewer.reading.MOST_COUNTED_PX", 1000)
    grid = GeoBox((600, 630), Affine(0.0004, 0, 15, 0, -0.0002, 60.05), "EPSG:4326")
    maps.write_classes(tmp_path / "crops.tif", grid, np.broadcast_to((np.arange(630) // 210).astype(np.uint8), grid.shape))
    with running(tmp_path) as (get, _):
        layer = json.loads(maps.PAGE_DATA.search(get("/")[2].decode())[1])["tracks"][0]["layers"][0]
    assert layer["notes"] == ["Areas are estimated from an overview of the file."]
    share, zero = np.linspace(0, 1, 50), np.zeros(50)
    columns, rows = np.concatenate([share, zero + 1, 1 - share, zero]) * 210, np.concatenate([zero, share, zero + 1, 1 - share]) * 600
    truth = abs(Geod(ellps="WGS84").polygon_area_perimeter(*maps.lonlat_of(grid, columns, rows))[0]) / 10_000
    assert [entry["hectares"] for entry in layer["classes"]] == pytest.approx([truth] * 3, rel=5e-3)
    pixels = np.zeros((1, 400, 400), np.uint8)
    write_geotiff(tmp_path / "plain.tif", pixels, GeoBox((400, 400), grid.affine, "EPSG:4326"), overviews="none")
    with pytest.raises(GridError, match=r"plain\.tif: has 160,000 pixels and no overviews"), open_server([tmp_path / "plain.tif"], 0):
        pass


def test_class_maps_with_averaged_overviews_are_warned_about(tmp_path, maps, capsys):
    grid = GeoBox((600, 600), Affine(10, 0, 400_000, 0, -10, 6_650_000), "EPSG:32633")
    pixels = np.tile(np.array([[[0, 2], [0, 2]]], np.uint8), (1, 300, 300))
    write_geotiff(tmp_path / "crops.tif", pixels, grid, names=["a", "b", "c"], overviews="average")
    with open_server([tmp_path], 0):
        pass
    assert "crops.tif: its overviews show classes that it does not have, e.g. 1; make them by mode" in capsys.readouterr().err


def test_a_taken_port_and_a_missing_extra_are_one_clear_line(folder, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RecipeError, match=f"port {port} is taken; choose another"), open_server([folder], port):
            pass
    monkeypatch.setitem(sys.modules, "rio_tiler.io", None)
    with pytest.raises(GridError, match=r"pip install 'skysense-cli\[serve\]'"), open_server([folder], 0):
        pass


def test_ctrl_c_ends_the_command_with_130(folder):
    command = [sys.executable, "-m", "skysense_cli", "view", str(folder), "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            assert said.startswith("serving 3 layers on http://127.0.0.1:")
            port = int(said.split("127.0.0.1:")[1].split("/")[0])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200  # and the connection stays open
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and errors == ""
