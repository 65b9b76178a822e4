"""Servers on this machine: files with byte ranges, and the Belgian patch as a STAC catalogue."""

import datetime
import functools
import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.warp import transform_bounds

from skysense_cli.data.build import build
from skysense_cli.recipe.parts import Part, bind
from skysense_cli.recipe.schema.build import BuildDataRecipe

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
BELGIUM = {"sentinel-2-l2a": ("s2", r"S2_(\d{8}T\d{6})\.tif"), "sentinel-1-grd": ("s1", r"S1_(\d{8}T\d{6})_ASC\.tif")}


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with byte ranges, as object stores do, and notes what was asked for."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range", "")
        self.server.asked.append((self.path, asked))  # type: ignore[attr-defined]
        wanted = re.match(r"bytes=(\d+)-(\d*)$", asked)
        if not wanted or not path.is_file():
            super().do_GET()
            return
        size = path.stat().st_size
        first, last = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
        if first > last:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with path.open("rb") as file:
            file.seek(first)
            content = file.read(last - first + 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], Any]]:
    """A function that serves a folder with ranges on loopback: a server with `address` and `asked` (path, range)."""
    servers = []

    def start(folder: Path) -> Any:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Ranges, directory=str(folder)))
        server.asked, server.address = [], f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()


@pytest.fixture(scope="session")
def belgium(shared_data: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Belgian patch as COGs with STAC items beside them: two collections, a static catalogue, relative hrefs."""
    home = tmp_path_factory.mktemp("belgium") / "archive"
    source = shared_data("ts_belgium_A")
    children = []
    (home / "scl").mkdir(parents=True)
    for path in (source / "scl").iterdir():
        _cloud_optimized(path, home / "scl" / path.name)
    for collection, (folder, pattern) in BELGIUM.items():
        (home / folder).mkdir(parents=True)
        originals = [(path, re.fullmatch(pattern, path.name)) for path in sorted((source / folder).iterdir())]
        items = []
        for path, found in originals:
            if found:
                _cloud_optimized(path, home / folder / path.name)
                items.append(_item(home / folder / path.name, collection, found[1]))
        for item in items:
            (home / folder / f"{item['id']}.json").write_text(json.dumps(item))
        west, south, east, north = items[0]["bbox"]
        listed = {
            "type": "Collection", "stac_version": "1.0.0", "id": collection, "description": "a patch in Belgium", "license": "other",
            "extent": {"spatial": {"bbox": [[west, south, east, north]]}, "temporal": {"interval": [["2018-08-01T00:00:00Z", None]]}},
            "links": [{"rel": "item", "href": f"./{item['id']}.json"} for item in items],
        }  # fmt: skip
        (home / folder / "collection.json").write_text(json.dumps(listed))
        children.append({"rel": "child", "href": f"./{folder}/collection.json"})
    root = {"type": "Catalog", "stac_version": "1.0.0", "id": "belgium", "description": "a patch in Belgium", "links": children}
    (home / "catalog.json").write_text(json.dumps(root))
    return home


def _cloud_optimized(path: Path, copy: Path) -> None:
    rasterio.shutil.copy(path, copy, driver="COG", compress="deflate", blocksize=128)


def _item(path: Path, collection: str, stamp: str) -> dict[str, Any]:
    """A STAC item as an archive would write it: the bands of one file, and the classes beside it."""
    with rasterio.open(path) as dataset:
        box = list(transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds))
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    names = BANDS if collection == "sentinel-2-l2a" else ("VV", "VH")
    assets: dict[str, Any] = {"data": {"href": f"./{path.name}", "roles": ["data"], "eo:bands": [{"name": name} for name in names]}}
    properties = {"datetime": f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:11]}:{stamp[11:13]}:{stamp[13:]}Z"}
    if collection == "sentinel-2-l2a":
        assets["scl"] = {"href": f"../scl/SCL_{stamp}.tif", "roles": ["data"]}
        properties |= {"platform": "sentinel-2a", "s2:processing_baseline": "02.11"}
    else:
        assets["data"]["raster:bands"] = [{"unit": "dB"}, {"unit": "dB"}]
        properties |= {"platform": "sentinel-1a", "sat:orbit_state": "ascending", "sar:product_type": "GRD"}
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": path.stem, "collection": collection, "bbox": box, "links": [],
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties, "assets": assets,
    }  # fmt: skip


@pytest.fixture(scope="session")
def belgium_recipe(belgium: Path) -> Callable[[Path, dict[str, Part]], BuildDataRecipe]:
    """A function of an output folder and the sources of s2 and s1: the recipe of sixteen samples of 2019."""

    def recipe_of(output: Path, sources: dict[str, Part]) -> BuildDataRecipe:
        tree = {
            "recipe": "build-data",
            "version": 1,
            "output": output,
            "area": belgium / "s2" / "S2_20180804T105022.tif",
            "period": {"start": datetime.date(2019, 1, 1), "end": datetime.date(2019, 12, 31)},
            "grid": {"size_m": 160.0, "anchor": "area", "crs": "EPSG:32631"},
            "modalities": {
                "s2": {
                    "sensor": "sentinel2_l2a", "gsd": 10.0, "source": sources["s2"], "cloud_mask": bind("data/clouds", "scl"),
                    "dates": {"at_least": 8, "at_most": 30, "min_valid": 0.8},
                },
                "s1": {"sensor": "sentinel1_grd", "gsd": 20.0, "source": sources["s1"], "dates": {"at_least": 4, "at_most": 30}},
            },
            "workers": 1,
        }  # fmt: skip
        return BuildDataRecipe.model_validate(tree)

    return recipe_of


@pytest.fixture(scope="session")
def check_as_by_folder(
    shared_data: Callable[[str], Path], belgium_recipe: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], None]:
    """A function that compares a build with that of the `folder` source on the original files: every array bit for bit,
    but the items' names and facts."""
    source = shared_data("ts_belgium_A")
    extra = {"SCL": {"path": str(source / "scl"), "pattern": r"SCL_(?P<date>\d{8}T\d{6})\.tif"}}
    s2 = {"path": str(source / "s2"), "pattern": r"S2_(?P<date>\d{8}T\d{6})\.tif", "extra": extra}
    s1 = {"path": str(source / "s1"), "pattern": r"S1_(?P<date>\d{8}T\d{6})_ASC\.tif"}
    output = tmp_path_factory.mktemp("by-folder")
    build(belgium_recipe(output, {"s2": bind("data/sources", "folder", s2), "s1": bind("data/sources", "folder", s1)}), output, "digest")
    expected = _arrays(output)

    def check(output: Path) -> None:
        found = _arrays(output)
        assert sorted(found) == sorted(expected) and len(found) == 16
        for name, sample in found.items():
            assert sorted(sample) == sorted(expected[name])
            for key, array in sample.items():
                other = expected[name][key]
                if key.rpartition("/")[2] in ("items", "meta"):
                    assert len(array) == len(other)
                elif key != "provenance":
                    assert (array.dtype, array.shape, array.tobytes()) == (other.dtype, other.shape, other.tobytes()), f"{name}: {key}"

    return check


def _arrays(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for path in sorted((folder / "samples").rglob("*.npz")):
        with np.load(path, allow_pickle=False) as sample:
            found[path.name] = {name: sample[name] for name in sample.files}
    return found
