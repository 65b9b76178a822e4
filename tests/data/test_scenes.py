"""A scene is one grid however many files it has, and its parts are read as the whole was judged."""

from dataclasses import dataclass

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from skysense_cli import sensors
from skysense_cli.data.dataset import Input
from skysense_cli.data.scenes import SceneOptions, open_scene
from skysense_cli.errors import DataError, GridError
from skysense_cli.recipe.parts import Part, bind
from skysense_cli.recipe.schema.section import CoregisterSection

S2 = sensors.get("sentinel2_l2a")
INPUTS = {"s2": Input(S2.name, S2.band_names, 10.0, S2.mean, S2.std)}
LEFT, TOP = 500_000, 5_600_000
NO_MASK = Part("data/clouds", "none", {})


@dataclass(frozen=True)
class Entry:
    source: Part
    cloud_mask: Part = NO_MASK


def write(path, pixels, left=LEFT, top=TOP, gsd=10, crs="EPSG:32631", transform=None):
    """A scene whose ten bands all hold `pixels` (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = transform or from_origin(left, top, gsd, gsd)
    with rasterio.open(
        path, "w", driver="GTiff", height=pixels.shape[0], width=pixels.shape[1], count=10, dtype="uint16", crs=crs, transform=transform,
        nodata=0,
    ) as out:  # fmt: skip
        out.write(np.repeat(pixels[None], 10, 0).astype(np.uint16))
        out.descriptions = S2.band_names
    return str(path)


def scene_of(paths, options=None, unit_m=40.0, **source):
    entry = Entry(bind("data/sources", "folder", {"path": paths, "pattern": r"(?P<date>\d{8}).*\.tif", **source}))
    return open_scene({"s2": entry}, INPUTS, "s2", unit_m, options or SceneOptions())


def test_a_scene_is_extended_to_whole_units_without_data(tmp_path):
    path = write(tmp_path / "20210401.tif", np.full((13, 22), 2000))
    scene = scene_of([path])
    assert scene.units == (4, 6) and scene.grid.shape == (13, 22)
    strip = scene.strip(2, 2)["s2"]
    assert strip.pixels.shape == (1, 10, 8, 24)
    np.testing.assert_array_equal(strip.valid[0, :5, :22], True)
    assert strip.valid.sum() == 5 * 22 and (strip.pixels[0, :, ~strip.valid[0]] == 0).all()


def test_files_side_by_side_make_one_scene(tmp_path):
    west = write(tmp_path / "20210401_a.tif", np.full((8, 8), 1000))
    east = write(tmp_path / "20210406_b.tif", np.full((8, 8), 3000), left=LEFT + 120, top=TOP + 40)
    scene = scene_of([west, east])
    assert scene.grid.shape == (12, 20) and scene.grid.affine.f == TOP + 40
    strip = scene.strip(0, 3)["s2"]
    assert (strip.pixels[0, 0, 4:, :8] == 1000).all() and (strip.pixels[1, 0, :8, 12:] == 3000).all()
    assert strip.valid.sum() == 128


def test_a_tile_leaves_out_dates_that_do_not_reach_it(tmp_path):
    west = write(tmp_path / "20210401_a.tif", np.full((8, 8), 1000))
    east = write(tmp_path / "20210406_b.tif", np.full((8, 8), 3000), left=LEFT + 160)
    scene = scene_of([west, east])
    strip = scene.strip(0, 2)
    assert scene.tile(strip, 0, 2).series["s2"].items == ("20210401_a",)
    assert scene.tile(strip, 4, 2).series["s2"].items == ("20210406_b",)
    assert scene.tile(strip, 2, 2) is None
    both = scene.tile(strip, 0, 6)
    assert both.bounds == (LEFT, TOP - 80, LEFT + 240, TOP) and both.crs == "EPSG:32631"


def test_one_strip_may_hold_what_a_whole_scene_may_not(tmp_path):
    pixels = np.full((32, 32), 2000)
    pixels[:8] = 3  # deep water: far below the median of any scene
    path = write(tmp_path / "20210401.tif", pixels)
    assert (scene_of([path]).strip(0, 2)["s2"].pixels == 3).all()
    write(tmp_path / "20210401.tif", np.full((32, 32), 3))
    with pytest.raises(DataError, match="median of .* is 3"):
        scene_of([path])


def test_whether_an_offset_is_still_in_the_numbers_is_decided_for_the_whole_scene(tmp_path, capsys):
    pixels = np.full((32, 32), 800)  # below 1000: the offset was removed already
    pixels[:8] = 3000
    scene = scene_of([write(tmp_path / "20210401.tif", pixels)], offset=-1000.0)
    assert (scene.strip(0, 2)["s2"].pixels == 3000).all() and (scene.strip(4, 2)["s2"].pixels == 800).all()
    assert "nothing is removed" in capsys.readouterr().err
    scene = scene_of([write(tmp_path / "20210401.tif", pixels + 1000)], offset=-1000.0)
    assert (scene.strip(0, 2)["s2"].pixels == 3000).all() and (scene.strip(4, 2)["s2"].pixels == 800).all()


def test_a_large_scene_is_judged_through_windows(tmp_path):
    pixels = np.full((1100, 1100), 2000)
    pixels[:500] = 3
    scene = scene_of([write(tmp_path / "20210401.tif", pixels)], unit_m=440.0)
    assert scene.units == (25, 25)


def test_a_scene_of_which_nothing_is_in_the_period_is_refused(tmp_path):
    path = write(tmp_path / "20210401.tif", np.full((8, 8), 2000))
    period = np.datetime64("2020-01-01"), np.datetime64("2020-12-31")
    with pytest.raises(DataError, match=r"scene.s2: .* has no item between 2020-01-01 and 2020-12-31"):
        scene_of([path], SceneOptions(period=period))


def test_a_turned_scene_is_refused(tmp_path):
    turned = from_origin(LEFT, TOP, 10, 10) * rasterio.Affine.rotation(30)
    path = write(tmp_path / "20210401.tif", np.full((8, 8), 2000), transform=turned)
    with pytest.raises(GridError, match="turned"):
        scene_of([path])


def fields(rng, east_px=0):
    """Ground of square fields, shown `east_px` too far east, with a little noise."""
    ground = np.kron(np.random.default_rng(5).uniform(600, 4000, (16, 18)), np.ones((9, 9)))[:128]
    return ground[:, 16 - east_px : 144 - east_px] + rng.normal(0, 15, (128, 128))


def test_dates_are_laid_on_each_other_before_they_are_read(tmp_path):
    rng = np.random.default_rng(0)
    paths = [write(tmp_path / f"2021{month:02d}01.tif", fields(rng)) for month in (3, 5, 6, 7)]
    paths.append(write(tmp_path / "20210901.tif", fields(rng, east_px=2)))
    options = SceneOptions(coregister=CoregisterSection(reference="s2", max_shift_m=30, min_shift_m=5))
    scene = scene_of(paths, options)
    inside = np.s_[:, :, 16:112, 16:112]
    pixels = scene.strip(0, 32)["s2"].pixels.astype(float)[inside]
    plain = scene_of(paths).strip(0, 32)["s2"].pixels.astype(float)[inside]
    before, after = (np.abs(read[4] - read[0]).mean() for read in (plain, pixels))
    assert before > 200
    assert after < 0.35 * before  # what is left is the interpolation at the edges of fields
    assert scene.tags["SKYSENSE_COREGISTERED"] == "s2"


def test_a_date_without_a_match_is_left_out(tmp_path, capsys):
    rng = np.random.default_rng(0)
    paths = [write(tmp_path / f"2021{month:02d}01.tif", fields(rng)) for month in (3, 5, 6, 7)]
    paths.append(write(tmp_path / "20210901.tif", rng.normal(5000, 15, (128, 128))))  # overcast
    options = SceneOptions(coregister=CoregisterSection(reference="s2", max_shift_m=30, min_shift_m=5))
    assert len(scene_of(paths, options).channels["s2"].items) == 4
    assert "left out without a match: 20210901" in capsys.readouterr().out


def test_pixels_taken_as_they_are_cannot_be_laid_on_each_other(tmp_path):
    path = write(tmp_path / "20210401.tif", np.full((16, 16), 2000), gsd=100)
    options = SceneOptions(gsd="as_is", coregister=CoregisterSection(reference="s2"))
    with pytest.raises(GridError, match="coregister needs scenes in metres"):
        scene_of([path], options)


def test_files_of_one_day_are_one_date(tmp_path):
    west = write(tmp_path / "20210401_a.tif", np.full((8, 8), 1000))
    east = write(tmp_path / "20210401_b.tif", np.full((8, 12), 3000), left=LEFT + 40)  # four pixels of both
    later = write(tmp_path / "20210406_a.tif", np.full((8, 8), 2000))
    scene = scene_of([east, later, west])
    assert [item.id for item in scene.channels["s2"].items] == ["20210401_a+20210401_b", "20210406_a"]
    assert scene.tags["SKYSENSE_SCENES_S2"] == "20210401_a+20210401_b 20210406_a"
    strip = scene.strip(0, 2)["s2"]
    assert scene.grid.shape == (8, 16) and strip.pixels.shape[0] == 2
    assert (strip.pixels[0, :, :, :8] == 1000).all() and (strip.pixels[0, :, :, 8:] == 3000).all() and strip.valid[0].all()
    assert strip.valid[1].sum() == 64


def test_a_hole_of_one_file_is_filled_by_another_of_that_day(tmp_path):
    pixels = np.full((8, 8), 1000)
    pixels[2:4] = 0
    first, second = write(tmp_path / "20210401_a.tif", pixels), write(tmp_path / "20210401_b.tif", np.full((8, 8), 3000))
    strip = scene_of([first, second]).strip(0, 2)["s2"]
    assert strip.valid.all() and (strip.pixels[0, 0, 2:4] == 3000).all() and (strip.pixels[0, 0, 4:] == 1000).all()


def test_undated_files_side_by_side_are_one_image_and_others_are_refused(tmp_path):
    paths = [write(tmp_path / f"{name}.tif", np.full((8, 8), 2000), left=LEFT + 80 * k) for k, name in enumerate("ab")]
    scene = scene_of(paths, pattern="*.tif")
    assert scene.grid.shape == (8, 16) and len(scene.channels["s2"].items) == 1 and scene.strip(0, 2)["s2"].valid.all()
    paths.append(write(tmp_path / "c.tif", np.full((8, 8), 2000), left=LEFT + 30))
    with pytest.raises(DataError, match=r"3 scenes have no date \(a, b, c\); give `pattern`"):
        scene_of(paths, pattern="*.tif")
