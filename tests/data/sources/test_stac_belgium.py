"""A build from STAC items of COGs over http gives what a build from the folder gives: the real Belgian patch, bit for bit."""

import pytest

from skysense_cli.data.build import build
from skysense_cli.recipe.parts import bind


@pytest.mark.slow
def test_items_over_http_with_ranges_give_the_same_arrays_as_the_folder(belgium, serve, belgium_recipe, check_as_by_folder, tmp_path):
    server = serve(belgium)
    sources = {
        "s2": bind("data/sources", "stac", {"url": f"{server.address}/catalog.json", "collection": "sentinel-2-l2a"}),
        "s1": bind("data/sources", "stac", {"url": f"{server.address}/catalog.json", "collection": "sentinel-1-grd"}),
    }
    build(belgium_recipe(tmp_path, sources), tmp_path, "digest")
    check_as_by_folder(tmp_path)
    pixels = [asked for path, asked in server.asked if path.endswith(".tif")]
    assert pixels and all(asked.startswith("bytes=") for asked in pixels)  # no raster is fetched as a whole
