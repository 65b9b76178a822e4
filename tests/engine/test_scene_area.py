"""An area of interest: its pixels get the labels of the whole scene's map, only its tiles are read, nothing else is written."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer

from skysense_cli.engine.scene_area import narrowed_plan
from skysense_cli.engine.tiling import make_plan
from skysense_cli.geo.areas import area_on
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.vectors import read_area


@pytest.fixture(scope="module")
def home(tmp_path_factory, scene_kit):
    home = tmp_path_factory.mktemp("areas")
    scene_kit.write_bundle(home / "bundle")
    scene_kit.write_scene(home / "20210401.tif", scene_kit.numbers(90, 130))
    assert scene_kit.command(home / "bundle", home / "20210401.tif", "--out", home / "whole").exit_code == 0
    return home


def lonlat(kit, *pixels):
    """Degrees of places in pixels (column, row) of the scene."""
    change = Transformer.from_crs(kit.CRS, 4326, always_xy=True)
    return [list(change.transform(kit.LEFT + column * 10, kit.TOP - row * 10)) for column, row in pixels]


def test_a_polygon_is_cut_out_of_the_map_and_keeps_its_labels(home, scene_kit, tmp_path):
    ring = lonlat(scene_kit, (30, 20), (80, 20), (80, 40), (50, 40), (50, 75), (30, 75), (30, 20))  # an L
    (tmp_path / "l.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    found = scene_kit.command(home / "bundle", home / "20210401.tif", "--out", tmp_path, "--area", tmp_path / "l.geojson")
    assert found.exit_code == 0, found.output
    whole, profile, _ = scene_kit.mapped(home / "whole" / "20210401.tif")
    part, own, _ = scene_kit.mapped(tmp_path / "20210401.tif")
    assert own["transform"] == profile["transform"] @ Affine.translation(30, 20) and part.shape == (1, 55, 50)
    inside = np.zeros((55, 50), bool)
    inside[:20] = inside[:, :20] = True
    np.testing.assert_array_equal(part[0] != 255, inside)
    np.testing.assert_array_equal(part[0][inside], whole[0, 20:75, 30:80][inside])


@pytest.mark.parametrize("overlap", [0.0, 0.45])
def test_bounds_in_degrees_are_an_area(home, scene_kit, tmp_path, overlap):
    (left, top), (right, bottom) = lonlat(scene_kit, (61, 33), (102, 71))
    words = ["--overlap", overlap, "--out"]
    scene_kit.command(home / "bundle", home / "20210401.tif", *words, tmp_path / "whole")
    area = f"{left},{bottom},{right},{top}"
    assert scene_kit.command(home / "bundle", home / "20210401.tif", *words, tmp_path / "part", "--area", area).exit_code == 0
    whole, profile, _ = scene_kit.mapped(tmp_path / "whole" / "20210401.tif")
    part, own, _ = scene_kit.mapped(tmp_path / "part" / "20210401.tif")
    column, row = (round(number) for number in ~profile["transform"] @ (own["transform"].c, own["transform"].f))
    cut = whole[0, row : row + part.shape[1], column : column + part.shape[2]]
    data = part[0] != 255
    assert data.mean() > 0.9 and 0 < data.sum() < 41 * 40
    np.testing.assert_array_equal(part[0][data], cut[data])


@pytest.mark.slow
def test_processes_and_pieces_make_the_same_map_of_an_area(home, scene_kit, tmp_path):
    ring = lonlat(scene_kit, (10, 5), (120, 30), (60, 85), (10, 5))
    (tmp_path / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    words = [home / "bundle", home / "20210401.tif", "--area", tmp_path / "area.geojson", "--batch", 3, "--what", "class,probability"]
    for name, more in (("one", []), ("ranks", ["--ranks", 2]), ("pieces", ["--max-memory", "67.8MB", "--ranks", 2])):
        found = scene_kit.command(*words, "--out", tmp_path / name, *more)
        assert found.exit_code == 0, f"{found.output} {found.exception}"
        assert ("strips cut into" in found.output) == (name == "pieces")
    for name in ("ranks", "pieces"):
        for path in (tmp_path / "one").iterdir():
            if path.name != "20210401.recipe.yaml":  # says how much memory was allowed
                assert (tmp_path / name / path.name).read_bytes() == path.read_bytes(), f"{name}, {path.name}"


def test_only_tiles_that_hold_a_pixel_of_the_area_are_wanted():
    grid = make_grid(500_000, 5_600_000, 10, 160, 240, "EPSG:32631")
    plan = make_plan((40, 60), size=8, overlap=0.25, batch=4, unit_px=4, shape=(160, 240))
    to_degrees = Transformer.from_crs(32631, 4326, always_xy=True).transform
    (left, top), (right, bottom) = to_degrees(500_000 + 700, 5_600_000 - 300), to_degrees(500_000 + 1500, 5_600_000 - 900)
    area = area_on(read_area((left, bottom, right, top)), grid, "scene")
    narrow = narrowed_plan(plan, area, "area")
    mask = np.zeros((160, 240), bool)
    mask[area.rows, area.columns] = area.inside(area.rows, area.columns)
    places = [(row, column) for row in plan.rows.starts for column in plan.columns.starts]
    wanted = {(row, column) for row, column in places if mask[row * 4 : row * 4 + 32, column * 4 : column * 4 + 32].any()}
    own = narrow.rows.starts, narrow.columns.starts
    found = {(row, column) for k, row in enumerate(own[0]) for j, column in enumerate(own[1]) if narrow.wants(k, j)}
    assert found == wanted and 0 < len(wanted) < plan.count
    assert narrow.origin == (area.rows.start, area.columns.start) and narrow.shape == (len(mask[area.rows]), mask[0, area.columns].size)


PEAK = """
import atexit, sys
def tell():
    with open("/proc/self/status") as status:
        print("peak", next(line.split()[1] for line in status if line.startswith("VmHWM")), file=sys.stderr)
atexit.register(tell)
"""
COMMAND = PEAK + "from skysense_cli.cli.main import main; main()"
MODEL_ALONE = (
    PEAK
    + """
import skysense_cli.cli.main, skysense_cli.engine.predict_map
from skysense_cli.engine.assemble import load_bundle
load_bundle(sys.argv[1], "cpu")
"""
)


def peak_bytes(code, *words):
    """The most memory that a process of its own has had.

    It tells it itself: what `wait4` says of a child includes the peak of the process that started it.
    """
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(re.findall(r"^peak (\d+)$", done.stderr, re.MULTILINE)[-1]) * 1024


@pytest.mark.slow  # two processes
def test_a_raster_far_larger_than_any_memory_has_a_map_of_an_area(home, scene_kit, tmp_path):
    side, corner = 200_000, (300_000, 5_900_000)
    with rasterio.open(
        tmp_path / "20210401.tif", "w", driver="GTiff", height=side, width=side, count=10, dtype="uint16", crs="EPSG:32631", nodata=0,
        transform=Affine(10, 0, corner[0], 0, -10, corner[1]), tiled=True, blockxsize=256, blockysize=256, SPARSE_OK=True, BIGTIFF="YES",
        interleave="pixel",
    ) as out:  # fmt: skip
        out.descriptions = scene_kit.S2.band_names
        out.write(scene_kit.numbers(100, 100), window=rasterio.windows.Window(90_000, 120_000, 100, 100))
    change = Transformer.from_crs(32631, 4326, always_xy=True).transform
    left, top = change(corner[0] + 900_050, corner[1] - 1_200_050)
    right, bottom = change(corner[0] + 900_800, corner[1] - 1_200_800)
    area = f"{left},{bottom},{right},{top}"
    words = ["predict", home / "bundle", tmp_path / "20210401.tif", "--out", tmp_path / "maps", "--area", area, "--device", "cpu"]
    beside = peak_bytes(COMMAND, *words) - peak_bytes(MODEL_ALONE, home / "bundle")
    assert beside <= 300 << 20, f"{beside >> 20} MiB beside imports and model"
    pixels, own, _ = scene_kit.mapped(tmp_path / "maps" / "20210401.tif")
    assert max(pixels.shape) < 100 and (pixels != 255).mean() > 0.75  # a frame of degrees stands askew here
    assert abs(own["transform"].c - corner[0] - 900_050) < 200 and abs(own["transform"].f - corner[1] + 1_200_050) < 200


def test_an_area_elsewhere_or_smaller_than_a_pixel_is_refused(home, scene_kit, tmp_path):
    found = scene_kit.command(home / "bundle", home / "20210401.tif", "--out", tmp_path, "--area", "10,40,11,41")
    assert found.exit_code != 0 and "no part of the area lies on it" in str(found.exception)
    assert "the area reaches 10.0000..11.0000 E" in str(found.exception)
    ((left, top), (right, bottom)) = lonlat(scene_kit, (50.6, 50.6), (50.9, 50.9))
    found = scene_kit.command(home / "bundle", home / "20210401.tif", "--out", tmp_path, "--area", f"{left},{bottom},{right},{top}")
    assert "no part of the area" in str(found.exception) or "holds no centre" in str(found.exception)
    assert not list(tmp_path.glob("*.tif"))


def test_an_area_across_the_antimeridian_is_found_on_a_scene_in_degrees():
    grid = make_grid(179.0, -16.0, 0.01, 100, 200, "EPSG:4326")  # from 179 to 181 E
    area = area_on(read_area((179.5, -16.6, -179.6, -16.2)), grid, "scene")
    assert (area.rows, area.columns) == (slice(20, 60), slice(50, 140))
    assert area.inside(area.rows, area.columns).all()
