"""`predict` on scenes as archives give them: the map is that of the same pixels in a GeoTIFF."""

import json
import shutil
import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine

from skysense_cli import sensors
from skysense_cli.data.acquire import acquire
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.sources.safe import Safe
from skysense_cli.geo.grid import make_grid

L2A = sensors.get("sentinel2_l2a")
PRODUCT = "S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825"  # baseline 05.09: its numbers hold 1000 too much
CORNER, CRS, SIDE = (99960, 8200000), "EPSG:32701", 96


@pytest.fixture(scope="module")
def home(tmp_path_factory, scene_kit):
    home = tmp_path_factory.mktemp("archives")
    scene_kit.write_bundle(home / "bundle")
    return home


@pytest.fixture(scope="module")
def product(home, scene_kit, shared_data):
    """The real tree of a product with images of a made landscape."""
    product = home / f"{PRODUCT}.SAFE"
    shutil.copytree(shared_data("safe_metadata") / product.name, product, copy_function=shutil.copyfile)
    for path in (product, *product.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the shared tree is read-only
    granule, pixels = next((product / "GRANULE").iterdir()), scene_kit.numbers(SIDE, SIDE) + 1000
    for number, band in enumerate(L2A.bands):
        step = int(band.native_gsd_m) // 10
        folder = granule / "IMG_DATA" / f"R{band.native_gsd_m:g}m"
        folder.mkdir(parents=True, exist_ok=True)
        image = pixels[number, ::step, ::step]
        with rasterio.open(
            folder / f"T01KAB_20230821T221941_{band.name}_{band.native_gsd_m:g}m.jp2", "w", driver="JP2OpenJPEG", count=1, dtype="uint16",
            height=len(image), width=len(image), crs=CRS, transform=Affine(10 * step, 0, CORNER[0], 0, -10 * step, CORNER[1]),
            QUALITY="100", REVERSIBLE="YES",
        ) as file:  # fmt: skip
            file.write(image, 1)
    return product


def labels(kit, home, scene, out, *words):
    found = kit.command(home / "bundle", scene, "--out", out, *words)
    assert found.exit_code == 0, f"{found.output} {found.exception}"
    (path,) = out.glob("*.tif")
    pixels, profile, tags = kit.mapped(path)
    return pixels[0], profile, tags


def test_a_product_is_mapped_as_its_pixels_are(home, product, scene_kit, tmp_path):
    (item,) = Safe(path=str(product)).search(L2A, None, None)
    grid = make_grid(*CORNER, 10, SIDE, SIDE, CRS)
    date = acquire(item, L2A, grid, bands=L2A.band_names, cloud_mask=NoMask(L2A))
    plain = scene_kit.write_scene(tmp_path / "20230821T221941.tif", date.pixels, transform=grid.affine, crs=CRS)
    expected, profile, _ = labels(scene_kit, home, plain, tmp_path / "plain")
    assert len(np.unique(expected)) > 1
    found, made, tags = labels(scene_kit, home, product, tmp_path / "safe")
    np.testing.assert_array_equal(found, expected)
    assert made["transform"] == profile["transform"] and made["crs"] == profile["crs"] and tags["SKYSENSE_SCENES_S2"] == PRODUCT
    packed = tmp_path / f"{PRODUCT}.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(product.rglob("*")):
            archive.write(file, file.relative_to(product.parent))
    np.testing.assert_array_equal(labels(scene_kit, home, packed, tmp_path / "zip")[0], expected)


@pytest.fixture(scope="module")
def served(home, scene_kit, serve):
    """A tiled scene, larger than what GDAL keeps of what it fetched, and its STAC item on a server: (server, local path)."""
    folder = home / "server"
    path, pixels = folder / "20210401.tif", scene_kit.numbers(1000, 960)
    folder.mkdir()
    with rasterio.open(
        path, "w", driver="GTiff", height=1000, width=960, count=10, dtype="uint16", crs=scene_kit.CRS, nodata=0, tiled=True,
        blockxsize=256, blockysize=256, transform=Affine(10, 0, scene_kit.LEFT, 0, -10, scene_kit.TOP),
    ) as out:  # fmt: skip
        out.write(pixels)
        out.descriptions = L2A.band_names
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "S2_a", "bbox": [3, 50, 5, 51], "links": [],
        "geometry": {"type": "Point", "coordinates": [4.0, 50.5]}, "properties": {"datetime": "2021-04-01T10:50:31Z"},
        "assets": {"data": {"href": "./20210401.tif", "eo:bands": [{"name": band} for band in L2A.band_names]}},
    }  # fmt: skip
    (folder / "item.json").write_text(json.dumps(item))
    return serve(folder), path


def test_a_scene_on_a_server_is_mapped_as_the_file_is_and_fetched_once(home, served, scene_kit, tmp_path):
    server, path = served
    words = ["--set", "tiles.size_m=640"]
    expected, _, _ = labels(scene_kit, home, path, tmp_path / "local", *words)
    found, _, tags = labels(scene_kit, home, f"{server.address}/item.json", tmp_path / "item", *words)
    np.testing.assert_array_equal(found, expected)
    assert tags["SKYSENSE_SCENES_S2"] == "S2_a"
    ranges = [asked.removeprefix("bytes=").split("-") for place, asked in server.asked if place.endswith(".tif") and asked]
    size = path.stat().st_size
    fetched = sum(min(int(last or size), size - 1) - int(first) + 1 for first, last in ranges)
    assert 1.9 < fetched / size < 2.1, "a scene of this size is looked at as a whole, and then every block is read once"
    part, made, tags = labels(scene_kit, home, f"{server.address}/20210401.tif", tmp_path / "file", *words, "--area", "4,50.72,4.08,50.8")
    assert made["transform"].c == scene_kit.LEFT and made["transform"].f == scene_kit.TOP and (part < 255).mean() > 0.9
    same = expected[: part.shape[0], : part.shape[1]]
    np.testing.assert_array_equal(part[part < 255], same[part < 255])
    assert tags["SKYSENSE_SCENES_S2"] == "20210401"
