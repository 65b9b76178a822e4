"""One map of several scenes or of many samples: which of them decides a cell, what lies where, what is refused."""

import json

import numpy as np
import pytest
import rasterio

from skysense_cli.errors import GridError, RecipeError

FAR = 500_000  # metres east, in the next UTM zone


def data(index, batch=3):
    return f"data: {{index: {index}, dates: {{s2: 2}}, batch: {batch}}}"


def nearest_of(shape, placed):
    """(H, W) number of the source whose centre is nearest. placed: (top, left, height, width) in cells; -1 where none lies"""
    best, number = np.full(shape, np.inf), np.full(shape, -1)
    for k, (top, left, height, width) in enumerate(placed):
        rows, columns = np.mgrid[top : top + height, left : left + width] + 0.5
        far = (rows - top - height / 2) ** 2 + (columns - left - width / 2) ** 2
        here = slice(top, top + height), slice(left, left + width)
        nearer = far < best[here]
        best[here][nearer], number[here][nearer] = far[nearer], k
    return number


def test_samples_make_one_map_in_which_the_nearest_decides(world, tmp_path):
    places = [(world.LEFT, world.TOP), (world.LEFT + 100, world.TOP - 40), (world.LEFT + 400, world.TOP - 100)]
    world.write_bundle(tmp_path / "bundle", [world.here()])
    folder = world.map_prototypes(tmp_path, data(world.write_samples(tmp_path / "all", places)), more="patches: 0")
    index, similarity, region = world.open_all(folder)
    with rasterio.open(folder / "prototypes.tif") as file:
        assert file.transform[2] == world.LEFT and file.transform[5] == world.TOP and file.shape == (13, 28)
    placed = [(0, 0, 8, 8), (2, 5, 8, 8), (5, 20, 8, 8)]
    number = nearest_of(index.shape, placed)
    assert (np.unique(number) == [-1, 0, 1, 2]).all()
    np.testing.assert_array_equal(index == 65535, number == -1)
    np.testing.assert_array_equal(region == world.here(), number >= 0)
    for k, (top, left, height, width) in enumerate(placed):
        alone = world.write_samples(tmp_path / f"only{k}", [places[k]], seeds=[k])
        one = world.open_all(world.map_prototypes(tmp_path, data(alone), name=f"map{k}", more="patches: 0"))
        own = number[top : top + height, left : left + width] == k
        np.testing.assert_array_equal(index[top : top + height, left : left + width][own], one[0][own])
        np.testing.assert_allclose(similarity[top : top + height, left : left + width][own], one[1][own], atol=1e-5)
    legend = json.loads((folder / "legend.json").read_text())
    assert "sample that sees it and whose centre is nearest" in legend["seam_rule"] and legend["maps"][0]["sources"] == 3


def test_where_the_nearest_sees_nothing_the_next_one_decides(world, tmp_path, capsys):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    hole = np.zeros((16, 16), bool)
    hole[:8, :8] = True  # whole patches of the encoder, so that cells of it are not seen
    same = [(world.LEFT, world.TOP)] * 3
    folder = world.map_prototypes(tmp_path, data(world.write_samples(tmp_path / "data", same, empty=[hole, None, None])))
    assert (world.open_all(folder)[0] != 65535).all()
    assert "1 samples decide no cell" in capsys.readouterr().err
    legend = json.loads((folder / "legend.json").read_text())
    assert (legend["maps"][0]["sources"], legend["maps"][0]["deciding"]) == (3, 2)


def test_samples_of_two_zones_make_two_rasters_and_one_legend(world, tmp_path):
    crs = ["EPSG:32631", "EPSG:32632", "EPSG:32631"]
    places = [(world.LEFT, world.TOP), (FAR, world.TOP), (world.LEFT + 160, world.TOP)]
    world.write_bundle(tmp_path / "bundle", [world.here(), world.here(FAR, world.TOP, crs[1])])
    folder = world.map_prototypes(tmp_path, data(world.write_samples(tmp_path / "data", places, crs=crs)))
    legend = json.loads((folder / "legend.json").read_text())
    assert [one["folder"] for one in legend["maps"]] == ["epsg_32631", "epsg_32632"]
    cells = 0
    for one, shape in zip(legend["maps"], ((8, 16), (8, 8)), strict=True):
        with rasterio.open(folder / one["folder"] / "prototypes.tif") as file:
            assert file.crs == one["crs"] and file.shape == shape
            cells += int((file.read(1) != 65535).sum())
        assert (folder / one["folder"] / "prototypes.png").exists()
    assert cells == sum(line["cells"] for line in legend["prototypes"]) == 192 and len(legend["regions"]) == 2
    assert not (folder / "prototypes.tif").exists()


def test_scenes_meet_half_way_between_their_centres(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    whole = world.landscape(32, 96)
    left = world.write_scene(tmp_path / "left.tif", 32, 64, pixels=whole[:, :, :64])
    right = world.write_scene(tmp_path / "right.tif", 32, 64, left=world.LEFT + 320, pixels=whole[:, :, 32:])
    both = world.map_prototypes(tmp_path, f"scenes: [{{s2: ['{left}']}}, {{s2: ['{right}']}}]")
    index, _, region = world.open_all(both)
    one = world.open_all(world.map_prototypes(tmp_path, left, name="one"))[0]
    other = world.open_all(world.map_prototypes(tmp_path, right, name="other"))[0]
    assert index.shape == (16, 48) and (region == world.here()).all()
    np.testing.assert_array_equal(index[:, :24], one[:, :24])
    np.testing.assert_array_equal(index[:, 24:], other[:, 8:])
    with rasterio.open(both / "prototypes.tif") as file:
        assert file.tags()["SKYSENSE_SCENES_S2"] == "left right"


def test_a_scene_off_the_grid_of_the_first_is_moved_and_said_so(world, tmp_path, capsys):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    left = world.write_scene(tmp_path / "left.tif", 16, 16)
    right = world.write_scene(tmp_path / "right.tif", 16, 16, left=world.LEFT + 168)
    folder = world.map_prototypes(tmp_path, f"scenes: [{{s2: ['{left}']}}, {{s2: ['{right}']}}]", more="patches: 0")
    assert "1 of 2 do not lie on the grid of the first; moved by up to 0.40 cells" in capsys.readouterr().err
    assert json.loads((folder / "legend.json").read_text())["maps"][0]["off_grid"] == 1


def test_the_plan_of_samples_names_regions_and_memory_and_writes_nothing(world, tmp_path, capsys):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    index = world.write_samples(tmp_path / "data", [(world.LEFT, world.TOP)])
    folder = world.map_prototypes(tmp_path, data(index), dry_run=True)
    said = capsys.readouterr().out
    assert f"region {world.here()}" in said and "memory for rows" in said and "8 x 8 cells of 20 m" in said and not folder.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("period: {start: 2021-01-01, end: 2021-12-31}", "give exactly one of scene"),
        ("scenes: [{s2: [a.tif]}]\nscene: {s2: [a.tif]}", "give exactly one of scene"),
        ("data: {index: INDEX, dates: {s2: 2}}\nperiod: {start: 2021-01-01, end: 2021-12-31}", "for samples it stands in data.period"),
        ("data: {index: INDEX, dates: {s1: 2}}", "data.dates has 's1', but .* was trained on s2"),
        ("scenes: [{s2: [a.tif]}, {s2: [b.tif]}]\ndates: {s1: 2}", "'s1' is none of the scenes' modalities"),
        ("data: {index: INDEX, dates: {s2: 2}}\ncompare: {raster: INDEX, classes: INDEX, seed: -1}", "compare.seed"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(world, tmp_path, given, message):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    index = world.write_samples(tmp_path / "data", [(world.LEFT, world.TOP)])
    with pytest.raises(RecipeError, match=message):
        world.map_prototypes(tmp_path, given.replace("INDEX", str(index)))


def test_samples_without_a_place_are_refused(world, tmp_path):
    world.write_bundle(tmp_path / "bundle", [world.here()])
    index = world.write_samples(tmp_path / "data", [(world.LEFT, world.TOP)], crs=[""])
    with pytest.raises(GridError, match="none of the 1 samples is georeferenced"):
        world.map_prototypes(tmp_path, data(index))
