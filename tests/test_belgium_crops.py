"""The walk on real data in examples/belgium_crops, shortened: it checks the mechanics, not the scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

RUN = Path(__file__).parents[1] / "examples" / "belgium_crops" / "run.sh"


@pytest.fixture(scope="module")
def out(shared_data, tmp_path_factory):
    """The output folder of a run with a thirtieth of the steps."""
    data = shared_data("ts_belgium_A").parent
    out = tmp_path_factory.mktemp("belgium")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", RUN, data, out, "30"], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


@pytest.mark.slow
def test_the_scores_hold_what_they_are_compared_with(out):
    scores = json.loads((out / "scores.json").read_text())
    assert {"oa", "macro_f1", "per_class", "oa_coordinates", "oa_no_image", "oa_fields_out"} <= set(scores)
    assert scores["oa_coordinates"] == pytest.approx(0.88, abs=0.01)  # measured with the data, whatever is trained
    assert 0 < scores["oa"] <= 1


@pytest.mark.slow
def test_the_map_lies_on_the_scenes_with_classes_and_colours(out, shared_data):
    with (
        rasterio.open(out / "main" / "crops.tif") as found,
        rasterio.open(shared_data("ts_belgium_A") / "label_croptype_code.tif") as label,
    ):
        assert found.crs == label.crs
        assert found.transform == label.transform
        assert found.shape == label.shape
        assert (found.count, found.dtypes[0], found.nodata) == (1, "uint8", 255)
        assert found.colormap(1)[0][:3] == (0xE6, 0xB4, 0x22)  # winter wheat, as classes.csv says
        assert json.loads(found.tags()["CLASS_NAMES"])["6"] == "grass"
        assert set(np.unique(found.read(1))) <= set(range(7))


@pytest.mark.slow
def test_the_opaque_cloud_that_the_classification_calls_snow_is_dropped(shared_data, tmp_path):
    from skysense_cli.cli.build_data import run
    from skysense_cli.cli.options import Options
    from skysense_cli.data.totals import block_reports
    from skysense_cli.recipe.load import load_recipe

    data = shared_data("ts_belgium_A")
    sets = [
        "period={start: 2018-11-01, end: 2018-11-30}",
        f"area={data}/label_croptype_code.tif",
        f"modalities.s2.source.path={data}/s2",
        f"modalities.s2.source.extra.SCL.path={data}/scl",
        f"modalities.s1.source.path={data}/s1",
        "modalities.s2.dates.at_least=1",
        "modalities.s2.dates.min_valid=0.5",
        "label=null",
    ]
    run(load_recipe(RUN.parent / "recipes" / "build_data.yaml", "build-data", sets, output=tmp_path / "data"), Options())
    dates = {entry["item"]: entry for block in block_reports(tmp_path / "data") for entry in block["dates"]["s2"]}
    assert dates["S2_20181112T105653"]["dropped"]
    assert dates["S2_20181112T105653"]["samples"] == 0
    assert dates["S2_20181117T105649"]["samples"] > 0
