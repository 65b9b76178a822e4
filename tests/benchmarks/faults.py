"""Builds that are killed, interrupted, and left without room, on every kind of source; what they leave is compared byte by byte.

    python tests/benchmarks/faults.py [--n 25] [--paths folder stac safe cdse all] [--checks kill events signal full readonly]
        [--kib 48 ...]

Simulated scenes of one place: `folder` reads them from this disk, `stac` as COGs of a catalogue on a loopback server, `cdse` as products
that a server like that of Copernicus sends slowly, with the download in the output, `safe` is Sentinel-1; `all` has a modality of each.
`kill` and `events` are those of `fault.py` (SKYSENSE_BADINPUT_DIR, else ../shared/badinput), which starts, kills at a random moment or
change of a file, starts again and compares with an undisturbed run. `full` gives the build a disk of few KiB. The last line is JSON:
for each path and check what passed and what failed. The exit code is 1 when something failed.
"""

import argparse
import http.server
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rasterio
from affine import Affine

TESTS = Path(__file__).resolve().parents[1]
SHARED = TESTS.parents[1] / "shared"
BADINPUT = Path(os.environ.get("SKYSENSE_BADINPUT_DIR", SHARED / "badinput"))
DATA = Path(os.environ.get("SKYSENSE_DATA_DIR", SHARED / "data"))
GRD = "S1A_IW_GRDH_1SDV_20210809T173953_20210809T174018_039156_049F13_6FF8.SAFE"
L2A = "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857"
LEFT, TOP, SIDE, CRS = 516200, 5033200, 128, "EPSG:32631"  # pixels of 10 m; where the real Sentinel-1 product lies
DAYS = ("20210803", "20210808", "20210813", "20210818")
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
FULL_KIB = (8, 2048)  # of disk: from nothing to more than a build takes
BUILD = f'exec {sys.executable} -m skysense_cli build-data "$0"'
HEAD = """\
recipe: build-data
version: 1
output: data
area: [3.2090, 45.4420, 3.2200, 45.4500]
period: {start: 2021-08-01, end: 2021-08-31}
grid: {size_m: 160}
splits: {train: 0.5, val: 0.25, test: 0.25, block: 2}
workers: 1
modalities:
"""
MODALITY = """\
  {}:
    sensor: {}
    gsd: {}
    source: {}
"""
MASKED = "    cloud_mask: {kind: scl}\n    dates: {at_least: 2}\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=25, help="kills, disks that are too small, and a quarter of it signals, per path")
    parser.add_argument("--paths", nargs="+", default=["folder", "stac", "safe", "cdse", "all"])
    parser.add_argument("--checks", nargs="+", default=["kill", "events", "signal", "full", "readonly"])
    parser.add_argument("--kib", nargs="+", type=int, default=[], help="sizes of the disk that `full` gives, instead of n of them")
    asked = parser.parse_args()
    kib = asked.kib or [round(size) for size in np.geomspace(*FULL_KIB, asked.n)]
    with tempfile.TemporaryDirectory() as folder, archives(Path(folder)) as recipes:
        found = {f"{path} {check}": run(check, recipes[path], asked.n, kib) for path in asked.paths for check in asked.checks}
    print(json.dumps(found))
    sys.exit(any(result["failed"] for result in found.values()))


def run(check: str, recipe: Path, count: int, sizes: list[int]) -> dict[str, Any]:
    """What passed and failed, and the lines of what failed.   sizes: of the disk for `full`, KiB"""
    start = time.monotonic()
    if check == "full":
        wrong = [text for kib in sizes for text in full(recipe, kib)]
        result: dict[str, Any] = {"passed": len(sizes) - len(wrong), "failed": len(wrong), "lines": wrong}
    else:
        result = by_fault(check, recipe, count)
    print(check, recipe.stem, f"{time.monotonic() - start:.0f} s", result, flush=True)
    return result


def by_fault(check: str, recipe: Path, count: int) -> dict[str, Any]:
    """A check of `fault.py` on a build in {out}/data, with the cache of products beside it."""
    options = {
        "kill": ["kill", "--n", str(count)],
        "events": ["kill", "--events", "--n", str(count), "--seed", "1"],
        "signal": ["signal", "--n", str(max(count // 4, 1))],
        "readonly": ["readonly"],
    }[check]
    where = 'cd "$(dirname "$1")"' if check == "readonly" else 'mkdir -p "$1" && cd "$1"'
    command = [sys.executable, str(BADINPUT / "fault.py"), *options, "--", "sh", "-c", f"{where} && {BUILD}", str(recipe), "{out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    passed, failed = re.findall(r"^(\d+) passed, (\d+) failed$", done.stdout, re.MULTILINE)[-1]
    return {"passed": int(passed), "failed": int(failed), "lines": done.stdout.splitlines()[:-1]}


def full(recipe: Path, kib: int) -> list[str]:
    """What is wrong with a build on a disk of so many KiB: it ends with 3 and one line, or finds room enough; every file left is whole."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as kept:
        inner = (
            f'mount -t tmpfs -o size={kib}k none "$1" && cp "$0" "$2"/r.yaml && cd "$1" && ({BUILD}); rc=$?; cp -a "$1"/. "$2"; exit $rc'
        )
        done = subprocess.run(["unshare", "-m", "sh", "-c", inner, str(recipe), folder, kept], capture_output=True, text=True, check=False)
        left = [path for path in Path(kept).rglob("*") if path.is_file()]
        wrong = [path.name for path in left if not is_whole(path)]
        last = done.stderr.splitlines()[-1:]
    told = "No space left" in "".join(last) and done.stderr.count("No space left") == 1 and "Traceback" not in done.stderr
    if (done.returncode == 0 or (done.returncode == 3 and told)) and not wrong:
        return []
    return [f"{kib} KiB: exit {done.returncode}, left partial {wrong}: {done.stderr[-500:]}"]


def is_whole(path: Path) -> bool:
    """Whether the file can be read to its end."""
    if path.suffix in (".npz", ".zip"):
        return zipfile.is_zipfile(path) and zipfile.ZipFile(path).testzip() is None
    if path.suffix == ".parquet":
        return path.read_bytes()[-4:] == b"PAR1"
    return path.suffix in (".yaml", ".json", ".jsonl") and path.read_bytes().endswith((b"\n", b"}"))


# the archives


@contextmanager
def archives(home: Path) -> Iterator[dict[str, Path]]:
    """A recipe for each path, while the servers run that some of them need."""
    scenes(home / "scenes")
    catalogue(home / "scenes")
    functions = runpy.run_path(str(TESTS / "data" / "conftest.py"))
    radar = functions["grd_product"].__wrapped__(DATA / "safe_metadata" / GRD)
    random = np.random.default_rng(2)
    pieces = {band: [(7900, 11600, random.normal(150, 20, (300, 300)).clip(1))] for band in ("VV", "VH")}
    product = radar(home / "safe", pieces)
    ranges = runpy.run_path(str(TESTS / "data" / "sources" / "conftest.py"))["Ranges"]
    with served(partial(ranges, directory=str(home / "scenes")), asked=[]) as files, copernicus(archive_of(home / "scenes")) as address:
        os.environ |= {"SKYSENSE_ALLOW": "127.0.0.1", "CDSE_USERNAME": "me", "CDSE_PASSWORD": "SECRET-PASSWORD", "OMP_NUM_THREADS": "1"}
        pattern = f'path: {home}/scenes, pattern: "S2_(?P<date>\\\\d{{8}}).tif"'
        extra = f'extra: {{SCL: {{path: {home}/scenes, pattern: "SCL_(?P<date>\\\\d{{8}}).tif"}}}}'
        odata = f"catalogue_url: {address}/odata/v1, download_url: {address}/odata/v1, token_url: {address}/token"
        s2 = {
            "folder": f"{{kind: folder, {pattern}, {extra}}}",
            "stac": f"{{kind: stac, url: {files}/catalog.json}}",
            "cdse": f"{{kind: cdse, cache: cache, {odata}}}",
        }
        radar_part = MODALITY.format("s1", "sentinel1_grd", 10, f"{{kind: safe, path: {product}, geocoding: ellipsoid}}")
        image = MODALITY.format("hr", "rgb", 5, f"{{kind: stac, url: {files}/rgb.json}}")
        texts = {path: HEAD + MODALITY.format("s2", "sentinel2_l2a", 10, source) + MASKED for path, source in s2.items()}
        texts["safe"] = HEAD + radar_part
        texts["all"] = texts["cdse"].replace("block: 2", "block: 8") + radar_part + image + "coregister: {reference: s2}\n"
        recipes = {}
        for path, text in texts.items():
            recipes[path] = home / f"{path}.yaml"
            recipes[path].write_text(text)
        yield recipes


def scenes(home: Path) -> None:
    """Sentinel-2 with its classes, four dates of one ground, and an aerial image of twice the resolution."""
    home.mkdir()
    random = np.random.default_rng(1)
    points = random.uniform(0, SIDE, (80, 2))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    fields = np.argmin([(rows - y) ** 2 + (columns - x) ** 2 for y, x in points], axis=0)
    ground = random.uniform(400, 3000, (10, len(points)))[:, fields]
    for day in DAYS:
        pixels = (ground + random.normal(0, 40, ground.shape)).clip(1).astype(np.uint16)
        write(home / f"S2_{day}.tif", pixels, 10, BANDS)
        write(home / f"SCL_{day}.tif", np.full((1, SIDE // 2, SIDE // 2), 4, np.uint8), 20, ("SCL",))
    colours = (ground[:3] / 12).clip(1, 255).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    write(home / f"RGB_{DAYS[0]}.tif", colours, 5, ("red", "green", "blue"))


def write(path: Path, pixels: np.ndarray, gsd: float, names: tuple[str, ...], driver: str = "COG") -> None:
    """Pixels (C, H, W) as a cloud-optimized GeoTIFF, or a plain one."""
    options = {"blocksize": 128, "compress": "deflate"} if driver == "COG" else {}
    with rasterio.open(path, "w", driver=driver, count=len(pixels), height=pixels.shape[1], width=pixels.shape[2], dtype=pixels.dtype,
                       crs=CRS, transform=Affine(gsd, 0, LEFT, 0, -gsd, TOP), **options) as dataset:  # fmt: skip
        dataset.write(pixels)
        dataset.descriptions = names


def catalogue(home: Path) -> None:
    """`catalog.json` of the Sentinel-2 dates and `rgb.json` of the image, with their items."""
    box = [3.2, 45.43, 3.24, 45.46]
    ring = [[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]], [box[0], box[1]]]

    def item(kind: str, day: str, names: tuple[str, ...], **assets: Any) -> dict[str, Any]:
        properties = {"datetime": f"{day[:4]}-{day[4:6]}-{day[6:]}T10:50:31Z", "s2:processing_baseline": "02.11"}
        assets["data"] = {"href": f"./{kind}_{day}.tif", "roles": ["data"], "eo:bands": [{"name": name} for name in names]}
        return {
            "type": "Feature", "stac_version": "1.0.0", "id": f"{kind}_{day}", "bbox": box, "links": [], "properties": properties,
            "geometry": {"type": "Polygon", "coordinates": [ring]}, "assets": assets,
        }  # fmt: skip

    dates = [item("S2", day, BANDS, scl={"href": f"./SCL_{day}.tif", "roles": ["data"]}) for day in DAYS]
    for name, items in (("catalog", dates), ("rgb", [item("RGB", DAYS[0], ("red", "green", "blue"))])):
        links = [{"rel": "item", "href": f"./{one['id']}.json"} for one in items]
        for one in items:
            (home / f"{one['id']}.json").write_text(json.dumps(one))
        root = {"type": "Catalog", "stac_version": "1.0.0", "id": name, "description": "made to be broken", "links": links}
        (home / f"{name}.json").write_text(json.dumps(root))


def archive_of(scenes_: Path) -> bytes:
    """A zip of the real metadata of a product, moved to our place, with the images of the first date."""
    buffer = io.BytesIO()
    source = DATA / "safe_metadata" / f"{L2A}.SAFE"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(buffer, "w") as archive:
        tree = Path(folder) / source.name
        shutil.copytree(source, tree, copy_function=shutil.copyfile)
        for path in (tree, *tree.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # the shared tree is read-only
        granule = next((tree / "GRANULE").iterdir())
        text = (granule / "MTD_TL.xml").read_text().replace("EPSG:32707", CRS)
        text = re.sub(r"<ULX>\d+<", f"<ULX>{LEFT}<", re.sub(r"<ULY>\d+<", f"<ULY>{TOP}<", text))
        (granule / "MTD_TL.xml").write_text(text)
        with rasterio.open(scenes_ / f"S2_{DAYS[0]}.tif") as dataset:
            pixels = dataset.read()
        for band, image in zip((*BANDS, "SCL"), (*pixels, np.full((SIDE, SIDE), 4, np.uint8)), strict=True):
            gsd = 10 if band in ("B02", "B03", "B04", "B08") else 20
            place = granule / "IMG_DATA" / f"R{gsd}m" / f"T31TEL_{DAYS[0]}T105031_{band}_{gsd}m.tif"
            place.parent.mkdir(parents=True, exist_ok=True)
            step = gsd // 10
            write(place, image[None, ::step, ::step], gsd, (band,), driver="GTiff")
        for path in sorted(one for one in tree.rglob("*") if one.is_file()):
            archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


# the servers


@contextmanager
def served(handler: Any, **facts: Any) -> Iterator[str]:
    """The address of a server on loopback. Each request is answered by a thread, so that a killed reader holds up nobody."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    vars(server).update(facts)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # readers are killed here
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextmanager
def copernicus(content: bytes) -> Iterator[str]:
    """A server like that of Copernicus with a product a day; a download takes half a second, so that kills come into it."""
    functions = runpy.run_path(str(TESTS / "data" / "sources" / "test_cdse.py"))
    world = SimpleNamespace(content=content, drops=0, next=None, asked=[], logins=[], good=[], refresh=[], life_s=600, products=[])
    around = {"type": "Polygon", "coordinates": [[[3, 45], [4, 45], [4, 46], [3, 46], [3, 45]]]}

    class Slow(functions["Copernicus"]):  # type: ignore[misc]
        def setup(self) -> None:
            super().setup()
            self.wfile = Slowly(self.wfile, len(content) / 0.5)

    Slow.world = world
    with served(Slow) as world.address:
        for day in DAYS:
            name = L2A.replace("20190212T192651", f"{day}T105031")
            start = f"{day[:4]}-{day[4:6]}-{day[6:]}T10:50:31.024000Z"
            world.products.append(functions["listed"](name, content, start=start, footprint=around))
        yield world.address


class Slowly:
    """A stream that writes so many bytes a second."""

    def __init__(self, stream: Any, speed: float) -> None:
        self.stream, self.speed = stream, speed

    def write(self, content: bytes) -> None:
        for start in range(0, len(content), 32768):
            part = content[start : start + 32768]
            self.stream.write(part)
            time.sleep(len(part) / self.speed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


if __name__ == "__main__":
    main()
