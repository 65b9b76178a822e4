"""A build from STAC items over http gives what a build from the folder gives: the real Belgian patch, bit for bit."""

import datetime
from pathlib import Path

import numpy as np
import pytest

from skysense_cli.data.build import build
from skysense_cli.recipe.parts import Part, bind
from skysense_cli.recipe.schema import BuildDataRecipe


def recipe_of(home: Path, output: Path, sources: dict[str, Part]) -> BuildDataRecipe:
    """Sixteen samples of 2019 with both modalities."""
    tree = {
        "recipe": "build-data",
        "version": 1,
        "output": output,
        "area": home / "s2" / "S2_20180804T105022.tif",
        "period": {"start": datetime.date(2019, 1, 1), "end": datetime.date(2019, 12, 31)},
        "grid": {"size_m": 160.0, "anchor": "area", "crs": "EPSG:32631"},
        "modalities": {
            "s2": {
                "sensor": "sentinel2_l2a", "gsd": 10.0, "source": sources["s2"], "cloud_mask": bind("data/clouds", "scl"),
                "dates": {"at_least": 8, "at_most": 30, "min_valid": 0.8},
            },
            "s1": {"sensor": "sentinel1_grd", "gsd": 20.0, "source": sources["s1"], "dates": {"at_least": 4, "at_most": 30}},
        },
        "workers": 1,
    }  # fmt: skip
    return BuildDataRecipe.model_validate(tree)


def folder_sources(home: Path) -> dict[str, Part]:
    extra = {"SCL": {"path": str(home / "scl"), "pattern": r"SCL_(?P<date>\d{8}T\d{6})\.tif"}}
    s2 = {"path": str(home / "s2"), "pattern": r"S2_(?P<date>\d{8}T\d{6})\.tif", "extra": extra}
    s1 = {"path": str(home / "s1"), "pattern": r"S1_(?P<date>\d{8}T\d{6})_ASC\.tif"}
    return {"s2": bind("data/sources", "folder", s2), "s1": bind("data/sources", "folder", s1)}


def arrays(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for path in sorted((folder / "samples").iterdir()):
        with np.load(path, allow_pickle=False) as sample:
            found[path.name] = {name: sample[name] for name in sample.files}
    return found


@pytest.fixture(scope="module")
def by_folder(belgium, tmp_path_factory):
    output = tmp_path_factory.mktemp("folder")
    build(recipe_of(belgium, output, folder_sources(belgium)), output, "digest")
    return arrays(output)


def check_same(found, expected):
    """Every array but the names of the items and what their source said of them."""
    assert sorted(found) == sorted(expected) and len(found) == 16
    for name, sample in found.items():
        assert sorted(sample) == sorted(expected[name])
        for key, array in sample.items():
            if key.rpartition("/")[2] in ("items", "meta"):
                assert len(array) == len(expected[name][key])
            elif key != "provenance":
                other = expected[name][key]
                assert (array.dtype, array.shape, array.tobytes()) == (other.dtype, other.shape, other.tobytes()), f"{name}: {key}"


@pytest.mark.slow
def test_items_over_http_with_ranges_give_the_same_arrays_as_the_folder(belgium, serve, by_folder, tmp_path):
    server = serve(belgium)
    sources = {
        "s2": bind("data/sources", "stac", {"url": f"{server.address}/catalog.json", "collection": "sentinel-2-l2a"}),
        "s1": bind("data/sources", "stac", {"url": f"{server.address}/catalog.json", "collection": "sentinel-1-grd"}),
    }
    build(recipe_of(belgium, tmp_path, sources), tmp_path, "digest")
    check_same(arrays(tmp_path), by_folder)
    pixels = [asked for path, asked in server.asked if path.endswith(".tif")]
    assert pixels and all(asked.startswith("bytes=") for asked in pixels)  # no raster is fetched as a whole
