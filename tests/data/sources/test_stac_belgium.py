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


@pytest.mark.slow
def test_items_in_an_object_store_give_the_same_arrays_as_the_folder(belgium, belgium_recipe, check_as_by_folder, tmp_path, monkeypatch):
    """Through the profile of the Copernicus Data Space, whose catalogue and store are on this machine; a second run does nothing."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    import boto3

    place = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=place, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    client.create_bucket(Bucket="eodata")
    for folder in ("s2", "scl", "s1"):
        (tmp_path / folder).mkdir()
        for path in (belgium / folder).iterdir():
            if path.suffix == ".tif":
                client.upload_file(str(path), "eodata", f"{folder}/{path.name}")
            else:
                text = path.read_text().replace('"./S', f'"s3://eodata/{folder}/S').replace('"../scl/', '"s3://eodata/scl/')
                (tmp_path / folder / path.name).write_text(text if path.name != "collection.json" else path.read_text())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    sources = {
        name: bind("data/sources", "stac", {"archive": "cdse", "collection": collection, "endpoint": place,
                                             "url": str(tmp_path / name / "collection.json")})
        for name, collection in (("s2", "sentinel-2-l2a"), ("s1", "sentinel-1-grd"))
    }  # fmt: skip
    try:
        recipe = belgium_recipe(tmp_path / "out", sources)
        report = build(recipe, tmp_path / "out", "digest")
        check_as_by_folder(tmp_path / "out")
    finally:
        server.stop()
    assert build(recipe, tmp_path / "out", "digest") == report  # the store is gone
