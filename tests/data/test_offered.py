"""What is named on the command line becomes the recipe a person could have written; what could mean two things is refused."""

import json

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from skysense_cli import sensors
from skysense_cli.data.offered import Wishes, entry_of, stem_of
from skysense_cli.data.sources import parse_time
from skysense_cli.errors import DataError, RecipeError
from skysense_cli.recipe.load import bind_recipe

S2 = "sentinel2_l2a"
BANDS = sensors.get(S2).band_names


def put(path, bands=BANDS, names=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", height=4, width=4, count=len(bands), dtype="uint16", crs="EPSG:32631",
        transform=from_origin(500_000, 5_600_000, 10, 10),
    ) as out:  # fmt: skip
        out.write(np.full((len(bands), 4, 4), 2000, np.uint16))
        if names:
            out.descriptions = bands
    return path


def found(given, sensor=S2, wishes=None, modality="s2"):
    """The items that the entry for `given` leads to, through a recipe."""
    entry = entry_of(str(given), sensor, modality, wishes or Wishes())
    tree = {"recipe": "predict", "version": 1, "bundle": "b", "scene": {modality: entry}, "output": "m.tif"}
    scene = bind_recipe(tree).scene[modality]
    mask = scene.cloud_mask.build(sensors.get(sensor))
    return scene.source.build().search(sensors.get(sensor), None, None, mask.extra_bands)


@pytest.mark.parametrize(
    ("name", "time"),
    [
        ("S2_20210401.tif", "2021-04-01"),
        ("T32UPU_20210401T105031_20210402T000000.tif", "2021-04-01T10:50:31"),
        ("field-2021-04-01.tif", "2021-04-01"),
        ("tile_20219901.tif", None),  # no month 99
        ("120210401.tif", None),  # a longer number
        ("map.tif", None),
    ],
)
def test_a_file_is_of_the_date_of_its_name(tmp_path, name, time):
    (item,) = found(put(tmp_path / name))
    assert (np.isnat(item.time) and time is None) or item.time == parse_time(time)
    assert set(item.assets) == set(BANDS)


def test_a_date_may_be_given_for_files_that_carry_none(tmp_path):
    (item,) = found(put(tmp_path / "map.tif"), wishes=Wishes(date="2021-06-01"))
    assert item.time == np.datetime64("2021-06-01")
    (item,) = found(put(tmp_path / "20200101.tif"), wishes=Wishes(date="2021-06-01"))
    assert item.time == np.datetime64("2020-01-01")
    with pytest.raises(RecipeError, match="date 'June' is no date"):
        found(tmp_path / "map.tif", wishes=Wishes(date="June"))


def test_bands_without_names_are_named_by_the_command(tmp_path):
    path = put(tmp_path / "map.tif", names=False)
    (item,) = found(path, wishes=Wishes(bands=("order",)))
    assert [item.assets[band].number for band in BANDS] == list(range(1, 11))
    (item,) = found(path, wishes=Wishes(bands=tuple(reversed(BANDS))))
    assert [item.assets[band].number for band in BANDS] == list(range(10, 0, -1))


@pytest.mark.parametrize("shape", ["{date}_{band}.tif", "{band}_{date}.tif", "{date}/{band}.tif", "T31_{date}T105031_{band}_10m.tif"])
def test_a_folder_of_bands_is_put_together_by_date(tmp_path, shape):
    for date in ("20210401", "20210501"):
        for band in BANDS:
            put(tmp_path / shape.format(date=date, band=band), bands=("",), names=False)
    items = found(tmp_path)
    assert [str(item.time)[:10] for item in items] == ["2021-04-01", "2021-05-01"]
    for item in items:
        assert all(f"{band}" in asset.path for band, asset in item.assets.items())


def test_bands_of_one_undated_scene_are_put_together(tmp_path):
    for band in BANDS:
        put(tmp_path / f"scene_{band}.tif", bands=("",), names=False)
    (item,) = found(tmp_path)
    assert item.id == "scene" and item.assets["B8A"].path.endswith("scene_B8A.tif") and item.assets["B08"].path.endswith("scene_B08.tif")


def test_a_folder_of_dates_is_a_series_and_leaves_the_classification_out(tmp_path):
    for date in ("20210401", "20210501"):
        put(tmp_path / f"S2_{date}.tif")
        put(tmp_path / f"SCL_{date}.tif", bands=("SCL",))
    assert [item.id for item in found(tmp_path)] == ["S2_20210401", "S2_20210501"]
    items = found(tmp_path, wishes=Wishes(clouds="scl"))
    assert [item.assets["SCL"].path.rsplit("/")[-1] for item in items] == ["SCL_20210401.tif", "SCL_20210501.tif"]


def test_a_folder_of_which_some_files_are_dated_is_refused(tmp_path):
    put(tmp_path / "20210401.tif")
    put(tmp_path / "reference.tif")
    with pytest.raises(RecipeError, match=r"1 of 2 rasters have a date in their names, reference.tif has none; name the scenes themselves"):
        found(tmp_path)


def test_an_undated_folder_is_all_its_rasters(tmp_path):
    put(tmp_path / "west.tif")
    put(tmp_path / "east.tif")
    assert [item.id for item in found(tmp_path)] == ["east", "west"]


def test_what_is_no_scene_says_what_to_name_instead(tmp_path):
    put(tmp_path / "a.tif")
    for name, message in (
        ("b.tif", r"no such file or folder \(.* holds a.tif ...\)"),
        ("gone/b.tif", "gone is not there either"),
    ):
        with pytest.raises(DataError, match=message):
            found(tmp_path / name)
    for name in ("scene.vrt", "table.csv"):
        (tmp_path / name).write_text("")
        with pytest.raises(DataError, match="is no scene; a"):
            found(tmp_path / name)
    for name, message in (
        ("readme.txt", "holds no raster .*it holds readme.txt"),
        ("s.npz", "name them one by one: .*/npz"),
        ("bundle.json", "is a bundle"),
    ):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_text("")
        with pytest.raises(DataError, match=message.replace("/npz", r"/\*.npz")):
            found(folder)


def test_a_stac_item_is_a_scene(tmp_path):
    put(tmp_path / "a.tif")
    properties = {"datetime": "2021-04-01T10:50:31Z"}
    bands = [{"name": band} for band in BANDS]
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "a", "bbox": [3, 50.5, 3.1, 50.6], "links": [], "properties": properties,
        "geometry": {"type": "Point", "coordinates": [3.0, 50.5]}, "assets": {"data": {"href": "./a.tif", "eo:bands": bands}},
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(item))
    (one,) = found(tmp_path / "a.json")
    assert one.id == "a" and one.time == np.datetime64("2021-04-01T10:50:31") and one.assets["B12"].number == 10
    with pytest.raises(RecipeError, match="--bands is for plain rasters"):
        found(tmp_path / "a.json", wishes=Wishes(bands=("order",)))


def test_a_real_product_is_a_scene(shared_data):
    item = next(iter(sorted(shared_data("safe_metadata").glob("*.SAFE"))), None)
    if item is None:
        pytest.skip("no product there")
    assert entry_of(str(item), S2, "s2", Wishes())["source"] == {"kind": "safe", "path": str(item)}


def test_a_map_is_called_after_its_scene():
    names = {
        "a/b.c.tif": "b.c", "S2A_X.SAFE": "S2A_X", "S2A_X.SAFE.zip": "S2A_X", "scenes/": "scenes", "https://x.org/a.tif?sig=1": "a",
        "cube.zarr": "cube", "s.npz": "s",
    }  # fmt: skip
    assert {given: stem_of(given) for given in names} == names
