"""Maps as the commands write them, small, each with a place where every class is known."""

import base64
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from skysense_cli import sensors
from skysense_cli.geo.cog import write_geotiff

S2 = sensors.get("sentinel2_l2a")
NAMES = ("water", "wood & scrub", '</script><img src=x onerror="window.pwned=1">')
COLORS = {0: (30, 60, 200), 1: (20, 120, 30), 2: (220, 180, 40)}
AT_60_NORTH = GeoBox((90, 120), Affine(10, 0, 400_000, 0, -10, 6_650_000), "EPSG:32633")
PAGE_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def class_numbers(grid=AT_60_NORTH):
    """Water in the west third, wood in the middle, the last class in the east, and a corner in the north-west without data."""
    height, width = grid.shape
    numbers = np.broadcast_to((np.arange(width) * 3 // width).astype(np.uint8), (height, width)).copy()
    numbers[: height // 9, : width // 12] = 255
    return numbers


def write_classes(path, grid=AT_60_NORTH, numbers=None, names=NAMES, **tags):
    """A map as predict writes it."""
    pixels = (class_numbers(grid) if numbers is None else numbers)[None]
    tags = {"SKYSENSE_WHAT": "class", "SKYSENSE_BUNDLE_SHA256": "0123456789abcdef", "SKYSENSE_SCENES_S2": "S2A_1 S2B_2", **tags}
    write_geotiff(path, pixels, grid, nodata=255, colors=COLORS, names=names, band_names=["class"], tags=tags, overviews="mode")
    return path


def write_confidence(path, grid=AT_60_NORTH):
    """From 0.25 at the upper edge to 0.75 at the lower one, in steps of 1/200."""
    height, width = grid.shape
    pixels = np.broadcast_to(np.linspace(50, 150, height).round().astype(np.uint8)[:, None], (height, width))[None].copy()
    tags = {"SKYSENSE_WHAT": "confidence"}
    write_geotiff(path, pixels, grid, nodata=255, band_names=["confidence"], tags=tags, scale=1 / 200, overviews="average")
    return path


def write_scene(path, grid=AT_60_NORTH, red=2000):
    """Ten bands of Sentinel-2; it is red all over."""
    pixels = np.full((len(S2.band_names), *grid.shape), 300, np.uint16)
    pixels[S2.band_names.index("B04")] = red
    pixels[:, ::2, ::2] += 10
    write_geotiff(path, pixels, grid, nodata=0, band_names=S2.band_names, overviews="average")
    return path


def lonlat_of(grid, column, row):
    """Longitude and latitude of a place in pixels of a grid."""
    a, b, c, d, e, f = grid.affine[:6]
    place = a * column + b * row + c, d * column + e * row + f
    return Transformer.from_crs(grid.crs.to_wkt(), 4326, always_xy=True).transform(*place)


@dataclass(frozen=True)
class Page:
    """What a page holds: text, and the data in it."""

    text: str
    data: dict

    def layer(self, name):
        """The layer of the file called `name`."""
        return next(layer for track in self.data["tracks"] for layer in track["layers"] if layer["name"] == name)

    def number_at(self, name, lon, lat):
        """The embedded number at a place, by the formula of the web map; None outside of the layer."""
        layer = self.layer(name)
        left, bottom, right, top = layer["extent"]
        x, y = np.radians(lon) * 6378137, np.arctanh(np.sin(np.radians(lat))) * 6378137
        x += 2 * np.pi * 6378137 * np.ceil((left - x) / (2 * np.pi * 6378137))
        column, row = (x - left) / (right - left) * layer["width"], (top - y) / (top - bottom) * layer["height"]
        if not (0 <= column < layer["width"] and 0 <= row < layer["height"]):
            return None
        return int(numbers_of(layer)[int(row), int(column)])


def numbers_of(layer):
    """The embedded numbers of a layer as an array."""
    text = zlib.decompress(base64.b64decode(layer["numbers"]))
    return np.frombuffer(text, layer["dtype"]).reshape(layer["height"], layer["width"])


def read_page(path):
    """The page at `path`."""
    text = Path(path).read_text(encoding="utf-8")
    return Page(text, json.loads(PAGE_DATA.search(text)[1]))


@pytest.fixture(scope="session")
def maps():
    """The functions of this file."""
    import types

    return types.SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})


@pytest.fixture(scope="session")
def folder(tmp_path_factory, maps):
    """A class map, its confidence and its scene. No test changes them."""
    home = tmp_path_factory.mktemp("maps")
    write_classes(home / "crops.tif", SIMULATED="yes, by a test")
    write_confidence(home / "crops_confidence.tif")
    write_scene(home / "scene.tif")
    return home
