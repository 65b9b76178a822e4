import json

import numpy as np
import pytest

from skysense_cli.data.sar.placing import Placing, radar_of
from skysense_cli.data.sources import Asset, Item, Radar
from skysense_cli.errors import GridError, RecipeError

ITEM = Item(
    "a", np.datetime64("2021-08-09"), {"VV": Asset("a.tiff", radar=Radar("p", "c")), "B": Asset("b.tif")}, "sigma0 linear", {"x": 1}
)


def test_the_heights_go_to_radar_assets_and_the_way_to_the_facts():
    placed = Placing(("dem.tif",), "geoid.tif").placed(ITEM)
    assert placed.assets["VV"].radar == Radar("p", "c", None, ("dem.tif",), "geoid.tif") and placed.assets["B"] == ITEM.assets["B"]
    assert placed.meta == {"x": 1, "geocoding": "range-Doppler"}
    assert Placing(geocoding="ellipsoid").placed(ITEM).meta["geocoding"] == "ellipsoid"
    assert Placing(geocoding="ellipsoid").placed(ITEM).assets["VV"].radar.flat is False
    flat = Placing(geocoding="flat").placed(ITEM)
    assert flat.assets["VV"].radar.flat is True and flat.meta["geocoding"] == "ellipsoid"
    assert Placing(("dem.tif",), geocoding="flat").placed(ITEM).assets["VV"].radar.flat is False  # heights know better
    optical = Item("a", ITEM.time, {"B": Asset("b.tif")}, "DN")
    assert Placing().placed(optical) is optical


def test_neither_heights_nor_a_word_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="^source x: Sentinel-1 GRD without a DEM .*recommended.*`geocoding: ellipsoid`"):
        Placing().check("source x")
    Placing(geocoding="ellipsoid").check("source x")
    with pytest.raises(GridError, match="gone.tif: no such file"):
        Placing((str(tmp_path / "gone.tif"),)).check("source x")


def test_annotations_are_found_among_the_assets_of_a_real_catalogue(shared_data):
    document = json.loads((shared_data("stac_items") / "S1A_IW_GRDH_1SDV_20210809T173953.json").read_text())
    hrefs = {key: asset["href"].rpartition("/")[2] for key, asset in document["assets"].items()}
    found = radar_of(hrefs, "VH")
    stem = "s1a-iw-grd-vh-20210809t173953-20210809t174018-039156-049f13-002.xml"
    assert found == Radar(stem, f"calibration-{stem}", f"noise-{stem}")
    assert radar_of(hrefs, "HH") is None and radar_of({}, "VV") is None
    assert radar_of({key: href for key, href in hrefs.items() if "noise" not in key}, "vv").noise is None
