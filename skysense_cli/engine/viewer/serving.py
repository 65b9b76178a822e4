"""The page on loopback: layers by number, tiles and single pixels read from the files when the browser asks for them.

Only the files that were named are read; no address holds a path.
"""

import errno
import io
import json
import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

import numpy as np
from PIL import Image

from skysense_cli import console
from skysense_cli.engine.viewer.layers import Layer, find_rasters, open_layer
from skysense_cli.engine.viewer.overlay import describe_overlay, placed, stretched
from skysense_cli.engine.viewer.page import RAMP, describe_track, page_text, page_title
from skysense_cli.engine.viewer.reading import invented_codes, numbers_of, sample_layer
from skysense_cli.engine.viewer.tracks import Track, make_tracks
from skysense_cli.errors import RecipeError, SkySenseError
from skysense_cli.geo.raster import read_window
from skysense_cli.geo.web_tiles import (
    DEEPEST_ZOOM,
    TILE_PX,
    check_extra,
    deepest_zoom,
    pixel_at,
    read_tile,
    shallowest_zoom,
)

LOOPBACK = "127.0.0.1"
AT_ONCE = 4  # tiles that are read at a time
SILENT_S = 60  # after which a connection is closed
TILE = re.compile(r"/tiles/(\d{1,3})/(\d{1,2})/(\d{1,7})/(\d{1,7})\.png")
POINT = re.compile(r"/point/(\d{1,3})")
RAMP_COLORS = np.array([[int(RAMP[6 * k + j : 6 * k + j + 2], 16) for j in (0, 2, 4)] for k in range(256)], np.uint8)
WIDE_PX = 1 << 40  # no bound


@dataclass(frozen=True)
class Served:
    """What the server knows: the page, and the layers by their number, each with its track and its shallowest zoom."""

    page: bytes
    layers: tuple[tuple[Layer, Track, int], ...]


class ViewServer(ThreadingHTTPServer):
    """address: of the page      count: layers. It serves until it is interrupted."""

    daemon_threads = True

    def __init__(self, served: Served, port: int) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.served, self.reading = served, threading.BoundedSemaphore(AT_ONCE)
        self.count = len(served.layers)
        self.address = f"http://{LOOPBACK}:{self.server_address[1]}/"


@contextmanager
def open_server(places: Sequence[Path], port: int) -> Iterator[ViewServer]:
    """A server of the rasters in `places` on 127.0.0.1; port 0 is a free one.

    Raises GridError where the extra is missing or a file cannot be shown, RecipeError for a port that is taken.
    """
    check_extra()
    served = _prepare(places)
    try:
        server = ViewServer(served, port)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is taken" if error.errno == errno.EADDRINUSE else "is not yours to open"
        raise RecipeError(f"view: port {port} {why}; choose another, or leave --port out for a free one") from error
    with server:
        yield server


def tile_image(layer: Layer, track: Track, zoom: int, column: int, row: int, hidden: frozenset[int] = frozenset()) -> np.ndarray:
    """A tile (256, 256, 4) in the colours of the legend; what has no data or is hidden is transparent."""
    pixels, known = read_tile(layer.path, layer.bands, zoom, column, row)
    regions = read_tile(layer.region, [1], zoom, column, row)[0][0] if layer.region else None
    numbers = numbers_of(layer, pixels, regions)
    out = np.zeros((TILE_PX, TILE_PX, 4), np.uint8)
    if layer.coded:
        codes, position = np.unique(numbers[0], return_inverse=True)
        out[..., :3] = np.array([layer.color(code) for code in codes.tolist()], np.uint8)[position.reshape(numbers[0].shape)]
        known = known & ~np.isin(numbers[0], list(hidden))
    elif layer.kind == "image":
        out[..., :3] = stretched(numbers, track.limits, layer).transpose(1, 2, 0)
    else:
        low, high = track.limits
        share = (np.where(known, numbers[0], 0).astype(np.float64) * layer.scale + layer.add - low) / (high - low)
        out[..., :3] = RAMP_COLORS[np.rint(255 * np.clip(share, 0, 1)).astype(int)]
    out[..., 3] = np.where(known, 255, 0)
    out[~known] = 0
    return out


def point_answer(layer: Layer, lon: float, lat: float) -> dict[str, Any]:
    """What the file itself holds at a place: `inside`, x and y in its CRS, and `code`, `value` or, of several bands, `values`."""
    x, y, row, column = pixel_at(layer.info.grid, lon, lat)
    height, width = layer.info.shape
    if not (0 <= row < height and 0 <= column < width):
        return {"inside": False}
    window = slice(row, row + 1), slice(column, column + 1)
    pixels, data = read_window(layer.path, layer.bands, window)
    found: dict[str, Any] = {"inside": True, "x": x, "y": y, "row": row, "column": column}
    if layer.coded:
        regions = read_window(layer.region, [1], window)[0][0] if layer.region else None
        return found | {"code": int(numbers_of(layer, pixels, regions)[0, 0, 0]) if data.all() else None}
    values = [_value(layer, number, ok) for number, ok in zip(pixels[:, 0, 0], data[:, 0, 0], strict=True)]
    if len(values) == 1:
        return found | {"value": values[0]}
    names = [layer.info.descriptions[number - 1] or f"band {number}" for number in layer.bands]
    return found | {"values": list(zip(names, values, strict=True))}


# private


def _prepare(places: Sequence[Path]) -> Served:
    tracks = make_tracks([open_layer(raster) for raster in find_rasters(places)])
    numbered: list[tuple[Layer, Track, int]] = []
    told, home = [], None
    for track in tracks:
        layers = []
        for layer in track.layers:
            grid = placed(layer, layer.info.grid, WIDE_PX).grid
            shallowest, deepest = shallowest_zoom(grid.affine.a * max(grid.shape)), deepest_zoom(grid.affine.a)
            reading = sample_layer(layer)
            facts = describe_overlay(layer, reading, placed(layer, reading.grid, WIDE_PX), home).facts
            home = facts["bounds"][0][1] if home is None else home
            layers.append(facts | {"number": len(numbered), "shallowest": shallowest, "deepest": deepest})
            numbered.append((layer, track, shallowest))
            if wrong := invented_codes(layer, reading):
                console.warn(f"{layer.path}: its overviews show classes that it does not have, e.g. {wrong[0]}; make them by mode")
        told.append(describe_track(track, layers))
    return Served(page_text(page_title(tracks), told, {}, served=True).encode(), tuple(numbered))


def _value(layer: Layer, number: Any, known: bool) -> float | None:
    return float(number) * layer.scale + layer.add if known and math.isfinite(number) else None


class _Handler(BaseHTTPRequestHandler):
    """GET of the page, a tile or a pixel; everything else is refused."""

    server: ViewServer
    protocol_version = "HTTP/1.1"
    timeout = SILENT_S

    def do_GET(self) -> None:
        port = self.server.server_address[1]
        if self.headers.get("Host", "") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):  # a page of another site, by a name of its own
            self._send(403, "text/plain", b"asked for by another name than 127.0.0.1")
            return
        try:
            status, kind, body = self._answer(urlsplit(self.path))
        except SkySenseError as error:
            console.warn(str(error))
            status, kind, body = 500, "text/plain; charset=utf-8", console.redact(str(error)).encode()
        self._send(status, kind, body)

    def _answer(self, address: SplitResult) -> tuple[int, str, bytes]:
        if address.path == "/":
            return 200, "text/html; charset=utf-8", self.server.served.page
        if found := TILE.fullmatch(address.path):
            number, zoom, column, row = (int(part) for part in found.groups())
            layers = self.server.served.layers
            if number < len(layers) and layers[number][2] <= zoom <= DEEPEST_ZOOM and max(column, row) < 2**zoom:
                return 200, "image/png", self._tile(number, zoom, column, row, _hidden(address.query))
        if (found := POINT.fullmatch(address.path)) and int(found[1]) < self.server.count:
            place = _place(parse_qs(address.query))
            if place is not None:
                return 200, "application/json", self._point(int(found[1]), *place)
        return 404, "text/plain", b"no such page, layer, tile or place"

    def _tile(self, number: int, zoom: int, column: int, row: int, hidden: frozenset[int]) -> bytes:
        with self.server.reading:
            image = tile_image(*self.server.served.layers[number][:2], zoom, column, row, hidden)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=1)
        return file.getvalue()

    def _point(self, number: int, lon: float, lat: float) -> bytes:
        with self.server.reading:
            found = point_answer(self.server.served.layers[number][0], lon, lat)
        return json.dumps(found, allow_nan=False).encode()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each tile tells nobody anything."""


def _place(query: dict[str, list[str]]) -> tuple[float, float] | None:
    """Longitude and latitude; None where they are none."""
    try:
        lon, lat = float(query["lon"][0]), float(query["lat"][0])
    except (KeyError, ValueError):
        return None
    return (lon, lat) if abs(lon) <= 360 and abs(lat) <= 90 else None


def _hidden(query: str) -> frozenset[int]:
    text = parse_qs(query).get("hide", [""])[0]
    return frozenset(int(code) for code in re.findall(r"-?\d{1,18}", text)[:65536])
