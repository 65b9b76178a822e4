"""Damaged and odd rasters through `skysense predict`: one message that names the file, nothing left, never a traceback.

The whole corpus with the real command, from the folder that SKYSENSE_BADINPUT_DIR names, BUNDLE being any one with a map:
    fault.py bad raster/cases.json --map predict='skysense predict BUNDLE {path} --out {out} --set scene_gsd=resample'
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import rasterio
from affine import Affine

from skysense_cli.errors import SkySenseError

EVERY = 5  # of the published malformed rasters that lie beside the checkout: those whose number is a multiple


@pytest.fixture(scope="module")
def home(tmp_path_factory, scene_kit):
    """A bundle of ten bands, and one of a single band that reads whatever a file holds."""
    home = tmp_path_factory.mktemp("bad")
    scene_kit.write_bundle(home / "bundle", size_m=1280.0)
    scene_kit.write_bundle(home / "one", size_m=1280.0, bands=("B02",))
    return home


def judged(found, out, path):
    """Why a run is wrong; empty when it is right: a map, or a message and nothing else."""
    failed = found.exit_code != 0
    if not failed:
        return ""
    if not isinstance(found.exception, SkySenseError | SystemExit):
        return f"{type(found.exception).__name__}: {found.exception}"
    left = [str(one.relative_to(out)) for one in out.rglob("*") if one.is_file()] if out.exists() else []
    if left:
        return f"left {left[:3]}"
    return "" if path.name in str(found.exception) + found.output else f"does not name the file: {found.exception}"


@pytest.mark.parametrize("bundle", ["bundle", "one"])
def test_published_malformed_rasters_are_named_or_mapped(home, scene_kit, badinput_dir, tmp_path, bundle):
    cases = json.loads((badinput_dir / "raster" / "cases.json").read_text())
    small = [case for case in cases if (badinput_dir / "raster" / case["path"]).stat().st_size < 200_000 or case["want"] == "reject"]
    assert len(small) > 150
    more = ["--bands", "B02", "--set", "scene_gsd=as_is", "--set", "tiles.size_m=5120"] if bundle == "one" else []
    wrong = []
    for number, case in enumerate(small[1 if bundle == "one" else 0 :: EVERY]):
        path, out = badinput_dir / "raster" / case["path"], tmp_path / f"{number}"
        found = scene_kit.command(home / bundle, path, "--out", out, *more)
        why = judged(found, out, path)
        if case["want"] == "reject" and found.exit_code == 0:
            why = "accepted"
        if why:
            wrong.append(f"{case['id']}: {why}")
    assert not wrong, "\n".join(wrong)


def whole(scene_kit, path):
    """A scene in compressed blocks, as it should be."""
    pixels = scene_kit.numbers(256, 256)
    with rasterio.open(
        path, "w", driver="GTiff", height=256, width=256, count=10, dtype="uint16", crs=scene_kit.CRS, tiled=True, blockxsize=64,
        blockysize=64, compress="deflate", nodata=0, transform=Affine(10, 0, scene_kit.LEFT, 0, -10, scene_kit.TOP),
    ) as out:  # fmt: skip
        out.descriptions = scene_kit.S2.band_names
        out.write(pixels)
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.97, 0.5, 0.02])
def test_a_file_that_was_cut_off_leaves_nothing(home, scene_kit, tmp_path, share):
    path = tmp_path / "20210401.tif"
    content = whole(scene_kit, path)
    path.write_bytes(content[: int(len(content) * share)])
    found = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps")
    assert found.exit_code != 0 and judged(found, tmp_path / "maps", path) == ""
    assert isinstance(found.exception, SkySenseError) and found.exception.exit_code == (5 if share == 0.02 else 3)  # 5: no band is found


def test_damage_that_is_met_late_leaves_nothing_either(home, scene_kit, tmp_path):
    with rasterio.open(
        tmp_path / "big_20210401.tif", "w", driver="GTiff", height=1200, width=64, count=10, dtype="uint16", crs=scene_kit.CRS, nodata=0,
        transform=Affine(10, 0, scene_kit.LEFT, 0, -10, scene_kit.TOP), compress="deflate", blockysize=8, interleave="pixel",
    ) as out:  # fmt: skip
        out.descriptions = scene_kit.S2.band_names
        out.write(scene_kit.numbers(1200, 64))
    path = tmp_path / "big_20210401.tif"
    content = bytearray(path.read_bytes())
    place = int(len(content) * 0.62)  # between the windows through which a large scene is looked at
    content[place : place + 300] = bytes(300)
    path.write_bytes(content)
    found = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps", "--set", "tiles.size_m=160")
    assert found.exit_code != 0 and judged(found, tmp_path / "maps", path) == ""


@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_a_block_of_half_a_gigabyte_a_band_is_refused_before_it_is_decoded(home, scene_kit, tmp_path, interleave):
    path = tmp_path / "20210401.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=16384, width=16384, count=10, dtype="uint16", crs=scene_kit.CRS, blockysize=16384, SPARSE_OK=True,
        compress="deflate", interleave=interleave, nodata=0, transform=Affine(10, 0, scene_kit.LEFT, 0, -10, scene_kit.TOP), BIGTIFF="YES",
    ) as out:  # fmt: skip
        out.descriptions = scene_kit.S2.band_names
    found = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps")
    assert found.exit_code != 0 and judged(found, tmp_path / "maps", path) == ""
    assert "is stored in blocks of 16384 x 16384 px" in str(found.exception) and "gdal_translate" in str(found.exception)


def test_a_name_cannot_speak_to_the_terminal(home, scene_kit, tmp_path):
    path = scene_kit.write_scene(tmp_path / "\x1b[31mred$a$_\x07.tif", scene_kit.numbers(16, 16))
    found = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps")
    assert found.exit_code == 0 and "\x1b" not in found.output and "\\x1b[31mred" in found.output


def latin(folder, name):
    """The name in Latin-1, whose bytes are no UTF-8."""
    folder.mkdir(exist_ok=True)
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name.encode("latin1")))


def test_a_name_that_is_no_utf8_is_mapped_and_everything_written_is_valid_text(home, scene_kit, tmp_path):
    pixels = scene_kit.numbers(16, 16)
    plain = scene_kit.write_scene(tmp_path / "plain_20210401.tif", pixels)
    path = latin(tmp_path / "scenes", "été_20210401.tif")
    shutil.copy(plain, path)
    for scene in (plain, path):
        found = scene_kit.command(home / "bundle", scene, "--out", tmp_path / "maps")
        assert found.exit_code == 0, found.output
    names = sorted(one.name for one in (tmp_path / "maps").iterdir())
    ends = [".environment.json", ".legend.json", ".png", ".recipe.yaml", ".stac.json", ".tif"]
    assert names == [f"{stem}{end}" for stem in ("plain_20210401", "xe9txe9_20210401") for end in ends]
    made, _, tags = scene_kit.mapped(tmp_path / "maps" / "xe9txe9_20210401.tif")
    assert (made == scene_kit.mapped(tmp_path / "maps" / "plain_20210401.tif")[0]).all()
    assert str(tags).encode() and (tmp_path / "maps" / "xe9txe9_20210401.stac.json").read_text("utf-8")
    recipe = tmp_path / "maps" / "xe9txe9_20210401.recipe.yaml"
    assert r"\x{e9}t\x{e9}_20210401.tif" in recipe.read_text("utf-8")
    again = scene_kit.command(recipe, "--out", tmp_path / "maps" / "xe9txe9_20210401.tif")
    assert again.exit_code == 0 and "already complete" in again.output
    both = scene_kit.command(home / "bundle", path.parent, "--out", tmp_path / "of_folder")
    assert both.exit_code == 0 and (scene_kit.mapped(tmp_path / "of_folder" / "scenes.tif")[0] == made).all()


def test_what_is_wrong_with_a_file_of_such_a_name_is_said_in_valid_text(home, scene_kit, tmp_path):
    path = latin(tmp_path, "é.tif")
    path.write_bytes(whole(scene_kit, tmp_path / "20210401.tif")[:3000])
    found = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps")
    assert re.search(r"/\\x{e9}\.tif: .*cannot be read \((?!\d)", str(found.exception)) and not (tmp_path / "maps").exists()
    for name in ("é.json", "é.npz"):
        latin(tmp_path, name).write_text("{}")
        found = scene_kit.command(home / "bundle", latin(tmp_path, name), "--out", tmp_path / "maps")
        assert r"\x{e9}" in str(found.exception) and "is fine for a raster only; rename it" in str(found.exception)
    (tmp_path / r"\x{e9}.tif").write_bytes(b"")
    found = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps")
    assert "is the name of one file, and of another whose bytes are no valid UTF-8" in str(found.exception)
    found = scene_kit.command(home / "bundle", tmp_path / "20210401.tif", "--out", latin(tmp_path, "carté"))
    assert r"cart\x{e9}: is no valid UTF-8, which recipes and GDAL need; choose another name" in str(found.exception)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crs": None}, r"has no coordinate reference system \(CRS\); say scene_gsd: as_is"),
        ({"crs": "EPSG:4326", "transform": Affine(0.05, 0, 10, 0, -0.05, 91)}, "reaches from latitude 90.2 to 91"),
        ({"crs": 'LOCAL_CS["site grid",UNIT["metre",1]]'}, "its CRS has no place on the Earth"),
        ({"transform": Affine(10, 0, 574_680, 0, -20, 5_622_440)}, "which are 10 x 20 m on the ground"),
        ({"dtype": "uint8"}, "is uint8, a picture for the eye; sentinel2_l2a stores reflectance"),
    ],
)
def test_odd_scenes_say_what_to_do(home, scene_kit, tmp_path, change, message):
    change = dict(change)
    dtype = change.pop("dtype", "uint16")
    pixels = scene_kit.numbers(16, 16) // (40 if dtype == "uint8" else 1)
    path = scene_kit.write_scene(tmp_path / "20210401.tif", pixels.astype(dtype), **change)
    found = scene_kit.command(home / "bundle", path, "--out", tmp_path / "maps")
    assert judged(found, tmp_path / "maps", path) == ""
    with pytest.raises(SkySenseError, match=message):
        raise found.exception
