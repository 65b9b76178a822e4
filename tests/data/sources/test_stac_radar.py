"""Detected radar that a catalogue lists with its annotations: as the product itself gives it."""

import json
import shutil

import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data.acquire import acquire
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.sar import scene
from skysense_cli.data.sources.safe import Safe
from skysense_cli.data.sources.stac import Dem, Stac
from skysense_cli.errors import DataError, RecipeError, SourceError
from skysense_cli.geo.grid import make_grid

GRD = sensors.get("sentinel1_grd")
GRID = make_grid(516200, 5033200, 10, 40, 40, "EPSG:32631")


@pytest.fixture(scope="module")
def home(grd_product, shared_data, tmp_path_factory):
    """A static catalogue of the real item, its assets a simulated product beside it."""
    folder = tmp_path_factory.mktemp("radar")
    product = grd_product(folder, {band: [(7900, 11700, np.full((200, 200), 150))] for band in ("VV", "VH")})
    item = json.loads((shared_data("stac_items") / "S1A_IW_GRDH_1SDV_20210809T173953.json").read_text())
    item["links"] = []
    for asset in item["assets"].values():
        asset["href"] = f"./{product.name}/" + asset["href"].partition(".SAFE/")[2]
    (folder / "item.json").write_text(json.dumps(item))
    root = {"type": "Catalog", "stac_version": "1.0.0", "id": "a", "description": "a", "links": [{"rel": "item", "href": "./item.json"}]}
    (folder / "catalog.json").write_text(json.dumps(root))
    return folder


def read(item):
    return acquire(item, GRD, GRID, bands=GRD.band_names, cloud_mask=NoMask(GRD))


def test_a_catalogue_gives_what_the_product_gives(home, serve):
    server = serve(home)
    dates = []
    for source in (
        Safe(path=str(home), geocoding="ellipsoid"),
        Stac(url=str(home / "catalog.json"), geocoding="ellipsoid"),
        Stac(url=f"{server.address}/catalog.json", geocoding="ellipsoid"),
    ):
        (item,) = source.search(GRD, (3.2, 45.4, 3.3, 45.5), None)
        assert item.units == "sigma0 linear" and item.meta["geocoding"] == "ellipsoid"
        assert item.meta["calibration"] == "sigma0, thermal noise removed" and item.meta["relative_orbit"] == 59
        dates.append(read(item))
    assert dates[0].valid.all() and all(np.array_equal(dates[0].pixels, other.pixels) for other in dates[1:])
    asked = [path for path, range_ in server.asked if path.endswith("tiff") and not range_]
    assert not asked  # windows of the images only


def test_heights_are_asked_for_and_handed_on(home, geotiff, tmp_path):
    with pytest.raises(RecipeError, match=r"^source stac: item S1A_IW_GRDH_.*: Sentinel-1 GRD without a DEM .*sentinel-1-rtc, recommended"):
        Stac(url=str(home / "catalog.json")).search(GRD, None, None)
    dem = geotiff(tmp_path / "dem.tif", np.full((200, 200), 500, np.float32), left=515000, top=5035000, gsd=30)
    (item,) = Stac(url=str(home / "catalog.json"), dem=Dem(str(dem), 0.0)).search(GRD, None, None)
    date = read(item)
    assert date.meta["geocoding"] == "range-Doppler" and date.meta["relief_m"] < 200 and date.valid.all()


def test_an_item_without_annotations_holds_plain_numbers(home, tmp_path):
    other = shutil.copytree(home, tmp_path / "other")
    item = json.loads((other / "item.json").read_text())
    item["assets"] = {key: asset for key, asset in item["assets"].items() if "calibration" not in key}
    (other / "item.json").write_text(json.dumps(item))
    (found,) = Stac(url=str(other / "catalog.json")).search(GRD, None, None)
    with pytest.raises(DataError, match=r"holds uncalibrated numbers .DN.; sentinel1_grd needs sigma0 in dB or linear power"):
        read(found)


def test_annotations_that_are_not_there_are_named(home, serve, tmp_path):
    other = shutil.copytree(home, tmp_path / "other")
    gone = next(other.rglob("calibration-*-vv-*"))
    gone.unlink()
    (item,) = Stac(url=f"{serve(other).address}/catalog.json", geocoding="ellipsoid").search(GRD, None, None)
    with pytest.raises(SourceError, match=r"/annotation/calibration/c.*: answers 404"):
        read(item)


def test_an_object_store_gives_what_the_product_gives(home, tmp_path, monkeypatch, capfd):
    """Images and annotations lie at s3:// addresses, as the Copernicus Data Space keeps them, and are read with the same keys."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        import boto3

        store = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=store, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
        client.create_bucket(Bucket="eodata")
        item = json.loads((home / "item.json").read_text())
        for key, asset in item["assets"].items():
            if key in ("vv", "vh") or key.startswith("schema-"):
                client.upload_file(str(home / asset["href"]), "eodata", f"Sentinel-1/{key}")
                asset["href"] = f"s3://eodata/Sentinel-1/{key}"
        extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]}}
        (tmp_path / "item.json").write_text(json.dumps(item | {"collection": "sentinel-1-grd"}))
        root = {"type": "Collection", "stac_version": "1.0.0", "id": "sentinel-1-grd", "description": "a", "license": "other",
                "extent": extent, "links": [{"rel": "item", "href": "./item.json"}]}  # fmt: skip
        (tmp_path / "collection.json").write_text(json.dumps(root))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "only-here")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "kept-secret")
        options = {"archive": "cdse", "collection": "sentinel-1-grd", "url": str(tmp_path / "collection.json"), "geocoding": "ellipsoid"}
        (found,) = Stac(**options, endpoint=store).search(GRD, None, None)
        assert found.assets["VV"].radar.calibration == f"s3+{store}/eodata/Sentinel-1/schema-calibration-vv"
        (own,) = Safe(path=str(home), geocoding="ellipsoid").search(GRD, None, None)
        assert np.array_equal(read(found).pixels, read(own).pixels)
        client.delete_object(Bucket="eodata", Key="Sentinel-1/schema-noise-vv")
        scene._loaded.cache_clear()
        with pytest.raises(SourceError, match=r"schema-noise-vv: answers 404"):
            read(found)
    finally:
        server.stop()
    told = "".join(capfd.readouterr()) + repr(found)
    assert "only-here" not in told and "kept-secret" not in told
