"""Files that skysense wrote say so; no other file is taken for one of them."""

import json

import geopandas
import numpy as np
import pytest
import shapely
from matplotlib.image import imsave
from odc.geo.geobox import GeoBox

from skysense_cli.engine.preview import save_colors
from skysense_cli.errors import RecipeError
from skysense_cli.geo.cog import write_geotiff
from skysense_cli.geo.ours import is_ours, refuse_strangers
from skysense_cli.geo.vector_files import VectorStream

GRID = GeoBox.from_bbox((500_000, 5_600_000, 500_100, 5_600_100), "EPSG:32631", resolution=10)
TAGS = {"SKYSENSE_VERSION": "0.1.0"}


def ours(folder):
    write_geotiff(folder / "a.tif", np.ones((1, 10, 10), np.uint8), GRID, tags=TAGS)
    for end in (".gpkg", ".parquet", ".geojson"):
        with VectorStream(folder / f"a{end}", "EPSG:32631", {"class_id": "int64"}, "objects", TAGS) as stream:
            stream.write(np.array([shapely.box(*GRID.boundingbox)]), {"class_id": np.array([1])})
    save_colors(folder / "a.png", np.zeros((8, 8, 3), np.uint8), "a map")
    (folder / "a.legend.json").write_text(json.dumps({"skysense": "0.1.0", "classes": []}))
    (folder / "a.stac.json").write_text(json.dumps({"type": "Feature", "properties": {"processing:software": {"skysense": "0.1.0"}}}))
    return sorted(folder.iterdir())


def theirs(folder):
    write_geotiff(folder / "a.tif", np.ones((1, 4, 4), np.uint8), GRID[:4, :4], tags={"AUTHOR": "somebody"})
    frame = geopandas.GeoDataFrame({"class_id": [1]}, geometry=[shapely.box(4, 50, 5, 51)], crs="EPSG:4326")
    frame.to_file(folder / "a.gpkg")
    frame.to_parquet(folder / "a.parquet")
    frame.to_file(folder / "a.geojson")
    imsave(folder / "a.png", np.zeros((8, 8, 3), np.uint8))
    (folder / "a.legend.json").write_text(json.dumps({"classes": []}))
    (folder / "a.stac.json").write_text(json.dumps({"type": "Feature", "properties": None}))
    for name, text in (("b.tif", "text"), ("b.png", ""), ("b.json", "[1, 2"), ("c.json", "[]"), ("b.gpkg", "text"), ("b.geojson", "{}")):
        (folder / name).write_text(text)
    return sorted(folder.iterdir())


def test_what_skysense_writes_is_known_and_nothing_else(tmp_path):
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    assert len(ours(tmp_path / "ours")) == 7
    assert [path.name for path in ours(tmp_path / "ours") if not is_ours(path)] == []
    assert [path.name for path in theirs(tmp_path / "theirs") if is_ours(path)] == []


def test_the_first_stranger_is_refused_by_name(tmp_path):
    found = ours(tmp_path)
    refuse_strangers([*found, tmp_path / "absent.tif"])
    (tmp_path / "a.png").write_text("theirs")
    with pytest.raises(RecipeError, match=r"a\.png exists and is not skysense's; move it, or choose another --out"):
        refuse_strangers(found)
