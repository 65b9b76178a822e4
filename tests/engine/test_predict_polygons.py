"""Class maps as polygons beside the raster, through the command: equal to GDAL's polygons of the finished map."""

import json
import re
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from pyproj import Geod

from skysense_cli.cli.options import Options
from skysense_cli.cli.predict import run
from skysense_cli.errors import RecipeError
from skysense_cli.recipe.load import load_recipe

GUIDE = (Path(__file__).parents[2] / "examples" / "guides" / "scenes.md").read_text(encoding="utf-8")
NAMES = ["field", "wood", "lake"]


@pytest.fixture
def home(tmp_path, write_map_project):
    empty = np.zeros((70, 81), bool)
    empty[30:44, 20:50] = True
    write_map_project(tmp_path, empty.shape, empty=empty, tiles="{size_m: 160, overlap: 0.25, batch: 8}")
    return tmp_path


def predict(home, write, *sets, overwrite=False):
    sets = (f"write={write}", *sets)
    run(load_recipe(home / "map.yaml", "predict", sets), Options(sets, device="cpu", overwrite=overwrite))


def shapes_of(path):
    with rasterio.open(path) as file:
        ids = file.read(1)
        found = list(rasterio.features.shapes(ids, mask=ids != 255, connectivity=4, transform=file.transform))
    return np.array([shapely.geometry.shape(shape) for shape, _ in found], dtype=object), np.array([int(value) for _, value in found])


def test_polygons_are_those_of_the_finished_map(home):
    predict(home, "{polygons: {format: gpkg}}")
    frame = geopandas.read_file(home / "maps/map.gpkg")
    expected, ids = shapes_of(home / "maps/map.tif")
    assert len(frame) == len(expected) > 5 and frame.crs == "EPSG:32631"
    order = shapely.STRtree(expected).nearest(frame.geometry.representative_point().values)
    assert sorted(order) == list(range(len(expected)))
    assert shapely.equals(frame.geometry.values, expected[order]).all()
    assert frame["class_id"].tolist() == ids[order].tolist() and frame["class"].tolist() == [NAMES[number] for number in ids[order]]
    geod, degrees = Geod(ellps="WGS84"), frame.to_crs("EPSG:4326")
    np.testing.assert_allclose(frame["area_m2"], [abs(geod.geometry_area_perimeter(shape)[0]) for shape in degrees.geometry], atol=0.01)


@pytest.mark.parametrize("end", ["parquet", "geojson"])
def test_simplified_polygons_of_a_list_of_maps(home, end):
    predict(home, f"{{what: [probability, class], polygons: {{format: {end}, simplify_m: 15, min_area_m2: 900}}}}")
    path = home / f"maps/map_class.{end}"
    frame = geopandas.read_parquet(path) if end == "parquet" else geopandas.read_file(path).to_crs("EPSG:32631")
    expected, ids = shapes_of(home / "maps/map_class.tif")
    assert 3 < len(frame) <= len(expected) and (frame["area_m2"] >= 900).all()
    assert 0.85 < frame.area.sum() / shapely.area(expected).sum() < 1.02 and set(frame["class_id"]) <= set(ids)
    assets = json.loads((home / "maps/map.stac.json").read_text())["assets"]
    assert assets["polygons"]["href"] == f"./map_class.{end}" and set(assets) == {
        "probability",
        "class",
        "polygons",
        "preview",
    }


def test_missing_polygons_are_made_again_with_equal_bytes(home, capsys):
    write = "{polygons: {simplify_m: 10}}"
    predict(home, write)
    before = {file.name: file.read_bytes() for file in (home / "maps").iterdir()}
    predict(home, write)
    assert "already complete" in capsys.readouterr().out
    (home / "maps/map.gpkg").unlink()
    predict(home, write)
    assert {file.name: file.read_bytes() for file in (home / "maps").iterdir()} == before


def test_another_recipe_with_overwrite_leaves_no_old_polygons(home):
    predict(home, "{polygons: {format: gpkg}}")
    predict(home, "{what: class}", overwrite=True)
    assert not (home / "maps/map.gpkg").exists() and (home / "maps/map.tif").exists()


def test_a_file_of_the_user_is_never_replaced(home):
    (home / "maps").mkdir()
    area = home / "maps/map.geojson"
    area.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(RecipeError, match="map.geojson exists and is not skysense's; move it, or choose another --out"):
        predict(home, "{polygons: {format: geojson}}")
    predict(home, "{what: class}")
    predict(home, "{what: class, dtype: float32}", overwrite=True)
    assert area.read_text() == '{"type": "FeatureCollection", "features": []}'


@pytest.mark.parametrize(
    "name", ["map_margin.tif", "map.png", "map_margin.png", "map.legend.json", "map.stac.json", "map.environment.json", "map.gpkg"]
)
def test_no_file_of_another_beside_the_map_is_replaced_or_removed(home, name):
    write = "{what: [class, margin], polygons: {}}"
    (home / "maps").mkdir()
    (home / "maps" / name).write_text("theirs")
    with pytest.raises(RecipeError, match=f"{name} exists and is not skysense's; move it, or choose another --out"):
        predict(home, write)
    (home / "maps" / name).unlink()
    predict(home, write)
    made = {path.name for path in (home / "maps").iterdir()}
    assert name in made
    (home / "maps" / name).write_text("theirs")
    if name in ("map_margin.tif", "map_margin.png", "map.gpkg"):  # those that another recipe does not write stay
        predict(home, "{what: class}", overwrite=True)
        gone = {"map_margin.tif", "map_margin.png", "map.gpkg"} - {name}
        assert {path.name for path in (home / "maps").iterdir()} == made - gone
        assert (home / "maps" / name).read_text() == "theirs"


def test_polygons_need_a_class_map_and_boxes_a_detector(home):
    with pytest.raises(RecipeError, match="write.polygons: are made of the class map, which `what` does not name"):
        predict(home, "{what: probability, polygons: {}}")
    with pytest.raises(RecipeError, match="predict: write.boxes is for heads that find objects, this bundle draws a map"):
        predict(home, "{boxes: {min_score: 0.5}}")
    with pytest.raises(RecipeError, match="map.gpkg: this bundle draws a map; give a name that ends in .tif"):
        predict(home, "{what: class}", f"output={home}/maps/map.gpkg")
    assert not (home / "maps").exists()


def test_the_recipes_of_the_guide_are_what_it_says(tmp_path):
    section = GUIDE.partition("## Boxes and polygons")[2].partition("\n## ")[0]
    blocks = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    made = []
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yaml").write_text(block)
        made.append(load_recipe(tmp_path / f"{number}.yaml", "predict", ()))
    assert made[0].write.polygons.simplify_m == 10 and made[0].write.polygons.min_area_m2 == 500
    assert made[1].write.boxes.counts_m == 1000 and made[1].output.suffix == ".gpkg"
