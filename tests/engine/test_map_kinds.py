"""Several maps from one pass: what the files are called, what they hold, what the STAC item says of them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import torch
from rio_cogeo.cogeo import cog_validate

from skysense_cli.cli.options import Options
from skysense_cli.cli.predict import run
from skysense_cli.core.heads import Head
from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.flips import averaged, flipped
from skysense_cli.engine.predict_map import open_prediction
from skysense_cli.errors import RecipeError
from skysense_cli.recipe.load import load_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_map_project):
    """A scene with a hole, and its class and confidence."""
    folder = tmp_path_factory.mktemp("kinds")
    empty = np.zeros((70, 90), bool)
    empty[5:20, 30:50] = True
    recipe = write_map_project(folder, empty.shape, empty=empty, tiles="{size_m: 160, batch: 4}", write="{what: [class, confidence]}")
    run(load_recipe(recipe, "predict", ()), Options(device="cpu"))
    return folder


def test_the_first_kind_has_the_name_and_the_others_say_what_they_are(place):
    names = {path.name for path in (place / "maps").iterdir()}
    own = {"map.recipe.yaml", "map.environment.json", "map.legend.json", "map.stac.json"}
    assert names == {"map.tif", "map.png", "map_confidence.tif", "map_confidence.png"} | own
    with rasterio.open(place / "maps" / "map.tif") as classes, rasterio.open(place / "maps" / "map_confidence.tif") as confidence:
        assert classes.descriptions == ("class",) and confidence.descriptions == ("confidence",)
        assert confidence.tags()["SKYSENSE_WHAT"] == "confidence" and confidence.scales[0] == pytest.approx(0.005)
        one, other = classes.read(1), confidence.read(1)
    np.testing.assert_array_equal(one == 255, other == 255)
    assert (one[5:20, 30:50] == 255).all() and (other[other != 255] >= 66).all()  # of three classes the likeliest has a third
    for name in ("map.tif", "map_confidence.tif"):
        assert cog_validate(place / "maps" / name, strict=True, quiet=True)[0]


def test_one_pass_gives_what_single_passes_give(place, tmp_path):
    alone = load_recipe(place / "map.yaml", "predict", ("write.what=confidence", f"output={tmp_path}/a.tif"))
    run(alone, Options(device="cpu"))
    with rasterio.open(tmp_path / "a.tif") as one, rasterio.open(place / "maps" / "map_confidence.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())


def test_a_kind_named_twice_is_a_mistake(place):
    with pytest.raises(RecipeError, match="write.what: names class twice"):
        load_recipe(place / "map.yaml", "predict", ("write.what=[class, class]",))


def test_a_stac_item_tells_where_when_and_what(place):
    path = place / "maps" / "map.stac.json"
    item = pystac.Item.from_file(str(path))
    assert item.id == "map" and item.datetime.isoformat() == "2021-04-01T00:00:00+00:00"
    assert item.properties["proj:code"] == "EPSG:32631" and item.properties["proj:shape"] == [70, 90]
    assert item.properties["proj:transform"][:6] == [10, 0, 574_680, 0, -10, 5_622_440]
    west, south, east, north = item.bbox
    assert 4.05 < west < east < 4.08 and 50.73 < south < north < 50.76
    with rasterio.open(place / "maps" / "map.tif") as made:
        tags = made.tags()
    assert item.properties["skysense:bundle_sha256"] == tags["SKYSENSE_BUNDLE_SHA256"]
    assert item.properties["skysense:recipe_sha256"] == tags["SKYSENSE_RECIPE_SHA256"]
    assert item.properties["skysense:scenes_s2"] == "20210401"
    assert set(item.assets) == {"class", "confidence", "preview"}
    for name, asset in item.get_assets(role="data").items():
        file = Path(asset.get_absolute_href())
        assert asset.extra_fields["file:checksum"] == "1220" + hashlib.sha256(file.read_bytes()).hexdigest()
        assert asset.extra_fields["file:size"] == file.stat().st_size and asset.extra_fields["raster:bands"][0]["nodata"] == 255, name
    classes = item.assets["class"].extra_fields["classification:classes"]
    assert [line["name"] for line in classes] == ["field", "wood", "lake"]
    assert str(place) not in path.read_text()


class Plain(Head):
    """Gives what the model gives, as numbers."""

    output, values = "raster", True

    def predict(self, raw, size):
        return raw

    def forward(self, features):
        return features


def test_a_head_that_gives_values_draws_them_as_they_are(place, tmp_path):
    recipe = load_recipe(place / "map.yaml", "predict", ("write.what=value", f"output={tmp_path}/v.tif"))
    loaded = load_bundle(Path(recipe.bundle), "cpu")
    with pytest.raises(RecipeError, match="write.what is value, but the head of .*bundle gives scores of classes"):
        open_prediction(recipe, loaded)

    loaded.model.forward = lambda batch: batch.series["s2"].pixels[:, 0, :3] * 7
    valued = replace(loaded, head=Plain())
    with pytest.raises(RecipeError, match="write.what is class, but the head of .*bundle gives values; say write.what: value"):
        open_prediction(load_recipe(place / "map.yaml", "predict", ()), valued)
    prediction = open_prediction(recipe, valued)
    prediction.write(tmp_path / "v.tif", "digest")
    with rasterio.open(tmp_path / "v.tif") as made, rasterio.open(place / "20210401.tif") as scene:
        values, pixels = made.read(), scene.read([1, 2, 3]).astype(np.float32)
        assert made.dtypes[0] == "float32" and np.isnan(made.nodata) and made.descriptions == ("field", "wood", "lake")
    facts = loaded.inputs["s2"]
    mean, std = (np.array(one[:3], np.float32)[:, None, None] for one in (facts.mean, facts.std))
    np.testing.assert_array_equal(np.isnan(values).all(axis=0), (pixels == 0).all(axis=0))
    known = ~np.isnan(values[0])
    np.testing.assert_allclose(values[:, known], ((pixels - mean) / std * 7)[:, known], atol=1e-4)


def test_flips_are_averaged_so_that_a_flipped_scene_has_the_flipped_scores(place):
    recipe = load_recipe(place / "map.yaml", "predict", ())
    loaded = load_bundle(Path(recipe.bundle), "cpu")
    job = open_prediction(recipe, loaded).job
    strip = job.scene.strip(0, 4)
    batch = job.to_batch([job.scene.tile(strip, left, 4) for left in (0, 3)])

    def forward(given, size):
        return [loaded.head.predict(loaded.head(loaded.model(given)), size)]

    with torch.inference_mode():
        plain = [forward(flipped(batch, axes), (16, 16))[0].flip(axes) for axes in ((), (-1,), (-2,), (-2, -1))]
        (mean,) = averaged(forward)(batch, (16, 16))
        torch.testing.assert_close(mean, sum(plain) / 4)
        assert not torch.allclose(mean, plain[0], atol=1e-3)
        torch.testing.assert_close(averaged(forward)(flipped(batch, (-1,)), (16, 16))[0].flip(-1), mean)


def test_flips_are_a_choice_of_the_recipe(place, tmp_path):
    recipe = load_recipe(place / "map.yaml", "predict", ("tiles.flips=true", f"output={tmp_path}/f.tif"))
    run(recipe, Options(device="cpu"))
    with rasterio.open(tmp_path / "f.tif") as one, rasterio.open(place / "maps" / "map.tif") as other:
        assert 0 < (one.read() != other.read()).mean() < 0.5
    assert json.loads((tmp_path / "f.legend.json").read_text())["classes"]
