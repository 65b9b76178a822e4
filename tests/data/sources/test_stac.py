"""The stac source against real items, a static catalogue on disk and over http, and a STAC API on this machine."""

import contextlib
import json
import re
import socket
import subprocess
import sysconfig
import time
import urllib.request
from pathlib import Path

import numpy as np
import pystac
import pytest
import shapely

from skysense_cli import sensors
from skysense_cli.data.acquire import acquire
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.clouds.scl import Scl
from skysense_cli.data.sources.stac import Stac
from skysense_cli.errors import SourceError
from skysense_cli.geo.grid import make_grid

S2, RTC, GRD = sensors.get("sentinel2_l2a"), sensors.get("sentinel1_rtc"), sensors.get("sentinel1_grd")
HERE = (2.9, 50.4, 3.2, 50.7)
YEAR = (np.datetime64("2021-01-01"), np.datetime64("2021-12-31"))
KEYS = {
    "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2", "B07": "rededge3", "B08": "nir", "B8A": "nir08",
    "B11": "swir16", "B12": "swir22", "SCL": "scl",
}  # fmt: skip


def s2_item(folder: Path, geotiff, day: str, *, cloud: float = 10, level: int = 1500, left: float = 500000, **properties) -> dict:
    """An item as Earth Search writes it, its assets 10 and 20 m files beside it."""
    name = f"S2A_31UES_{day.replace('-', '')}_0_L2A"
    assets = {}
    for band, key in KEYS.items():
        coarse = band in ("B05", "B06", "B07", "B8A", "B11", "B12", "SCL")
        side, dtype = (16, "uint16") if coarse else (32, "uint16")
        value = 4 if band == "SCL" else level
        geotiff(folder / name / f"{band}.tif", np.full((side, side), value, np.uint8 if band == "SCL" else dtype),
                gsd=20 if coarse else 10, nodata=0, left=left)  # fmt: skip
        assets[key] = {"href": f"./{band}.tif", "type": "image/tiff; application=geotiff", "roles": ["data"]}
        if band != "SCL":
            assets[key]["eo:bands"] = [{"name": band, "common_name": key}]
            assets[key]["raster:bands"] = [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]
    assets["visual"] = {"href": "./TCI.tif", "roles": ["visual"], "eo:bands": [{"name": "B04", "common_name": "red"}]}
    west = 3.0 if left == 500000 else 9.0
    box = [west, 50.5, west + 0.01, 50.6]
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a", "bbox": box, "links": [], "assets": assets,
        "geometry": shapely.geometry.mapping(shapely.box(*box)),
        "properties": {"datetime": f"{day}T10:50:31Z", "eo:cloud_cover": cloud, "platform": "sentinel-2a", **properties},
    }  # fmt: skip
    (folder / name / f"{name}.json").write_text(json.dumps(item))
    return item


@pytest.fixture(scope="module")
def catalog(tmp_path_factory, geotiff) -> Path:
    """Four items: clear, cloudy, of another year, of another place."""
    folder = tmp_path_factory.mktemp("catalog") / "s2"
    items = [
        s2_item(folder, geotiff, "2021-06-11", level=2500, **{"s2:processing_baseline": "05.00"}),
        s2_item(folder, geotiff, "2021-04-02", **{"s2:processing_baseline": "02.14"}),
        s2_item(folder, geotiff, "2021-05-02", cloud=90),
        s2_item(folder, geotiff, "2020-05-02"),
        s2_item(folder, geotiff, "2021-07-02", left=900000),
    ]
    collection = {
        "type": "Collection", "stac_version": "1.0.0", "id": "sentinel-2-l2a", "description": "made for a test", "license": "other",
        "extent": {"spatial": {"bbox": [[2.9, 50, 10, 51]]}, "temporal": {"interval": [["2020-01-01T00:00:00Z", None]]}},
        "links": [{"rel": "item", "href": f"./{item['id']}/{item['id']}.json"} for item in items],
    }  # fmt: skip
    (folder / "collection.json").write_text(json.dumps(collection))
    root = {"type": "Catalog", "stac_version": "1.0.0", "id": "root", "description": "made for a test",
            "links": [{"rel": "child", "href": "./s2/collection.json"}]}  # fmt: skip
    (folder.parent / "catalog.json").write_text(json.dumps(root))
    (folder.parent / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return folder.parent


@pytest.fixture(scope="module")
def address(catalog, serve):
    return serve(catalog).address


def check_first_item(item):
    assert item.id == "S2A_31UES_20210402_0_L2A"
    assert str(item.time) == "2021-04-02T10:50:31"
    assert item.meta == {"platform": "sentinel-2a", "baseline": "02.14"}
    assert set(item.assets) == set(KEYS)
    grid = make_grid(500000, 5600000, 10, 32, 32, "EPSG:32631")
    date = acquire(item, S2, grid, bands=S2.band_names, cloud_mask=Scl(S2))
    assert (date.pixels == 1500).all() and date.valid.all()


def test_a_static_catalogue_on_disk(catalog):
    items = Stac(url=str(catalog / "catalog.json"), max_cloud=60).search(S2, HERE, YEAR, ("SCL",))
    assert [item.id[10:18] for item in items] == ["20210402", "20210611"]
    check_first_item(items[0])
    assert len(Stac(url=str(catalog / "s2" / "collection.json")).search(S2, None, None)) == 5


def test_a_static_catalogue_over_http(address):
    items = Stac(url=f"{address}/catalog.json", max_cloud=60).search(S2, HERE, YEAR, ("SCL",))
    assert len(items) == 2
    assert items[0].assets["B02"].path.startswith(address)
    check_first_item(items[0])


def test_the_offset_is_taken_off_by_baseline(catalog):
    old, new = Stac(url=str(catalog / "catalog.json"), max_cloud=60).search(S2, HERE, YEAR)
    assert (old.assets["B02"].offset, new.assets["B02"].offset) == (0, -1000)
    grid = make_grid(500000, 5600000, 10, 8, 8, "EPSG:32631")
    date = acquire(new, S2, grid, bands=S2.band_names, cloud_mask=NoMask(S2))
    assert (date.pixels == 1500).all()
    assert date.meta["offset_applied"] == -1000


@pytest.mark.parametrize(
    ("properties", "offset"),
    [
        ({"s2:processing_baseline": "04.00", "earthsearch:boa_offset_applied": True}, 0),
        ({"s2:processing_baseline": "04.00", "earthsearch:boa_offset_applied": False}, -1000),
        ({"s2:processing_baseline": "03.01", "earthsearch:boa_offset_applied": False}, 0),
        ({"sentinel:product_id": "S2A_MSIL2A_20200714T115221_N0509_R123_T28QCH_20200714T191310"}, -1000),
        ({"sentinel:product_id": "S2A_MSIL2A_20220714T115221_N0214_R123_T28QCH_20220714T191310"}, 0),
        ({}, -1000),  # nothing but the raster extension's offset
    ],
)
def test_who_says_what_about_the_offset(tmp_path, geotiff, properties, offset):
    item = s2_item(tmp_path, geotiff, "2021-06-11", **properties)
    root = {"type": "Catalog", "stac_version": "1.0.0", "id": "a", "description": "a",
            "links": [{"rel": "item", "href": f"./{item['id']}/{item['id']}.json"}]}  # fmt: skip
    (tmp_path / "catalog.json").write_text(json.dumps(root))
    (found,) = Stac(url=str(tmp_path / "catalog.json")).search(S2, None, None)
    assert found.assets["B04"].offset == offset and found.assets["B04"].scale == 1


@pytest.mark.parametrize(
    ("name", "sensor", "extra", "units", "asset"),
    [
        ("S2A_28QCH_20200714_0_L2A", S2, ("SCL",), "reflectance*10000", "B8A.tif"),
        ("S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531", S2, ("SCL",), "reflectance*10000", "B8A_20m.tif"),
        ("S2A_T07HFE_20190212T192646_L2A", S2, (), "reflectance*10000", "B8A_20m.tif"),
        ("S1A_20200103_17RMJ_ASC", RTC, (), "gamma0 linear", "Gamma0_VH.tif"),
        ("S1A_IW_GRDH_1SDV_20210809T173953", GRD, (), "sigma0 linear", "-002.tiff"),
    ],
)
def test_items_of_real_archives(shared_data, tmp_path, name, sensor, extra, units, asset):
    content = pystac.Item.from_file(str(shared_data("stac_items") / f"{name}.json"))
    content.clear_links()
    root = pystac.Catalog("root", "a")
    root.add_item(content)
    for one in content.assets.values():
        one.href = re.sub(r"^s3://", "https://s3.example.org/", one.href)
        one.href = one.href if "://" in one.href else f"https://s3.example.org/{one.href}"
    root.normalize_and_save(str(tmp_path), pystac.CatalogType.SELF_CONTAINED)
    (item,) = Stac(url=str(tmp_path / "catalog.json"), geocoding="ellipsoid").search(sensor, None, None, extra)
    assert item.units == units
    assert item.assets[sensor.band_names[-3 if sensor is S2 else -1]].path.endswith(asset)
    assert item.assets[sensor.band_names[0]].offset == 0
    if sensor is S2:  # the sharpest copy where the archive keeps several
        assert not re.search(r"_[26]0m", item.assets["B02"].path)
    if sensor.kind == "sar":
        assert item.meta["relative_orbit"] in (59, 121) and item.meta["orbit_pass"] == "ascending"


def test_a_missing_band_is_named_with_what_there_is(catalog):
    with pytest.raises(SourceError, match=r"item S2A_31UES_\d+_0_L2A has no asset for band VV \(assets: blue, green"):
        Stac(url=str(catalog / "catalog.json")).search(RTC, None, None)


def test_a_remote_catalogue_may_not_point_to_local_files(catalog, address, tmp_path_factory):
    item = json.loads(next((catalog / "s2").glob("*20210402*/*.json")).read_text())
    item["assets"]["blue"]["href"] = "file:///etc/passwd"
    folder = catalog / "evil"
    folder.mkdir(exist_ok=True)
    (folder / "item.json").write_text(json.dumps(item))
    root = {"type": "Catalog", "stac_version": "1.0.0", "id": "e", "description": "e", "links": [{"rel": "item", "href": "./item.json"}]}
    (folder / "catalog.json").write_text(json.dumps(root))
    with pytest.raises(SourceError, match="points to the local file file:///etc/passwd|keeps blue at"):
        Stac(url=f"{address}/evil/catalog.json").search(S2, None, None)


def test_an_unreadable_catalogue_is_named(tmp_path, address):
    with pytest.raises(SourceError, match=r"nothing/catalog.json: cannot read the catalogue"):
        Stac(url=str(tmp_path / "nothing" / "catalog.json")).search(S2, None, None)
    with pytest.raises(SourceError, match=r"missing.json: cannot read the catalogue"):
        Stac(url=f"{address}/missing.json").search(S2, None, None)
    (tmp_path / "catalog.json").write_text("{broken")
    with pytest.raises(SourceError, match=r"catalog.json: cannot read the catalogue"):
        Stac(url=str(tmp_path / "catalog.json")).search(S2, None, None)


@contextlib.contextmanager
def rustac(collection: dict, items: list[dict], folder: Path):
    """The address of a STAC API with one collection. rustac answers ids, bounding box, time and paging."""
    program = Path(sysconfig.get_path("scripts")) / "rustac"
    if not program.exists():
        pytest.skip("rustac is not installed")
    (folder / "served.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    (folder / "served_collection.json").write_text(json.dumps(collection | {"links": []}))  # it would follow them from where it runs
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(program), "serve", "-a", f"127.0.0.1:{port}", str(folder / "served_collection.json"), str(folder / "served.json")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def test_a_stac_api(catalog, address, tmp_path):
    """Cloud cover is filtered here."""
    items = json.loads((catalog / "items.json").read_text())["features"]
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = f"{address}/s2/{item['id']}/{asset['href'][2:]}"
    with rustac(json.loads((catalog / "s2" / "collection.json").read_text()), items, tmp_path) as url:
        with pytest.raises(SourceError, match="is a STAC API, say which `collection`"):
            Stac(url=url).search(S2, HERE, YEAR)
        found = Stac(url=url, collection="sentinel-2-l2a", max_cloud=60).search(S2, HERE, YEAR, ("SCL",))
        assert [item.id[10:18] for item in found] == ["20210402", "20210611"]
        check_first_item(found[0])


def test_pages_of_an_api_are_followed_to_the_end(belgium, serve, tmp_path):
    """72 real dates, ten on a page; the API is asked for the period, whose last day counts."""
    files = serve(belgium).address
    items = [json.loads(path.read_text()) for path in sorted((belgium / "s2").glob("S2_*.json"))]
    for item in items:
        item["assets"] = {"data": item["assets"]["data"] | {"href": f"{files}/s2/{item['id']}.tif"}}
    with rustac(json.loads((belgium / "s2" / "collection.json").read_text()), items, tmp_path) as url:
        asked = urllib.request.Request(f"{url}/search", b'{"collections": ["sentinel-2-l2a"]}', {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=5) as answer:
            assert len(json.load(answer)["features"]) == 10  # so there are pages
        found = Stac(url=url, collection="sentinel-2-l2a").search(S2, (4.0, 50.7, 4.1, 50.8), None)
        assert [item.id for item in found] == [item["id"] for item in items] and len(found) == 72
        period = (np.datetime64("2018-08-04"), np.datetime64("2018-08-14"))
        assert [item.id for item in Stac(url=url, collection="sentinel-2-l2a").search(S2, (4.0, 50.7, 4.1, 50.8), period)] == [
            "S2_20180804T105022",
            "S2_20180814T105021",
        ]


def _wait_for(url: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"{url} does not answer")


def collected(folder: Path, item: dict, collection: str) -> str:
    """The address of a collection with this one item, whose addresses stay as they are."""
    (folder / "item.json").write_text(json.dumps(item | {"links": [], "collection": collection}))
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-01-01T00:00:00Z", None]]}}
    root = {"type": "Collection", "stac_version": "1.0.0", "id": collection, "description": "a", "license": "other", "extent": extent,
            "links": [{"rel": "item", "href": "./item.json"}]}  # fmt: skip
    (folder / "collection.json").write_text(json.dumps(root))
    return str(folder / "collection.json")


def test_an_item_of_the_planetary_computer_is_signed_when_it_is_opened(shared_data, tmp_path):
    """The real document, through the profile: addresses without a signature, facts of the date, the classes."""
    name = "S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531"
    url = collected(tmp_path, json.loads((shared_data("stac_items") / f"{name}.json").read_text()), "sentinel-2-l2a")
    (item,) = Stac(archive="planetary_computer", collection="sentinel-2-l2a", url=url).search(S2, None, None, ("SCL",))
    assert all(asset.path.startswith("planetary+https://sentinel2l2a01.blob.core.windows.net/") for asset in item.assets.values())
    assert {asset.offset for asset in item.assets.values()} == {0}
    assert item.meta["baseline"] == "02.12" and item.meta["relative_orbit"] == 43 and item.meta["orbit_pass"] == "descending"
    assert item.meta["sun_elevation_deg"] == pytest.approx(90 - 37.9128805)


@pytest.mark.parametrize(("declared", "offset"), [(-0.1, -1000), (0.0, 0)])
def test_collection_1_follows_the_offset_that_its_assets_declare(tmp_path, geotiff, declared, offset):
    properties = {"s2:processing_baseline": "05.00", "earthsearch:boa_offset_applied": declared != 0}
    item = s2_item(tmp_path, geotiff, "2021-06-11", **properties)
    for asset in item["assets"].values():
        if "raster:bands" in asset:
            asset["raster:bands"][0]["offset"] = declared
        asset["href"] = asset["href"].replace("./", f"./{item['id']}/")
    url = collected(tmp_path, item, "sentinel-2-c1-l2a")
    (found,) = Stac(archive="earth_search", collection="sentinel-2-c1-l2a", url=url).search(S2, None, None)
    assert {asset.offset for asset in found.assets.values()} == {offset}


@pytest.fixture
def eodata(catalog, monkeypatch):
    """An object store with the files of one item, as the Copernicus Data Space keeps them: its address."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    import boto3

    place = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=place, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    client.create_bucket(Bucket="eodata")
    for path in (catalog / "s2" / "S2A_31UES_20210611_0_L2A").glob("*.tif"):
        client.upload_file(str(path), "eodata", f"Sentinel-2/{path.name}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "only-here")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "kept-secret")
    yield place
    server.stop()


def test_files_in_the_object_store_of_the_copernicus_data_space(catalog, eodata, tmp_path, capfd):
    """Addresses as its catalogue writes them (s3://eodata, a band and its metres), read with keys of the environment."""
    given = json.loads((catalog / "s2" / "S2A_31UES_20210611_0_L2A" / "S2A_31UES_20210611_0_L2A.json").read_text())
    assets = {}
    for band in KEYS:
        metres = "20m" if band in ("B05", "B06", "B07", "B8A", "B11", "B12", "SCL") else "10m"
        assets[f"{band}_{metres}"] = {"href": f"s3://eodata/Sentinel-2/{band}.tif", "roles": ["data"]}
    item = given | {"assets": assets, "properties": {"datetime": "2021-06-11T10:50:31Z", "processing:version": "05.00"}}
    url = collected(tmp_path, item, "sentinel-2-l2a")
    (found,) = Stac(archive="cdse", collection="sentinel-2-l2a", url=url, endpoint=eodata).search(S2, None, None, ("SCL",))
    assert found.assets["SCL"].path == f"s3+{eodata}/eodata/Sentinel-2/SCL.tif"
    grid = make_grid(500000, 5600000, 10, 32, 32, "EPSG:32631")
    date = acquire(found, S2, grid, bands=S2.band_names, cloud_mask=Scl(S2))
    assert (date.pixels == 1500).all() and date.valid.all() and date.meta["offset_applied"] == -1000
    told = "".join(capfd.readouterr()) + repr(found)
    assert "only-here" not in told and "kept-secret" not in told
    item["assets"]["B02_10m"]["href"] = "s3://another/B02.tif"
    with pytest.raises(SourceError, match="keeps B02_10m at s3://another/B02.tif: is in another bucket than eodata"):
        Stac(archive="cdse", collection="sentinel-2-l2a", url=collected(tmp_path, item, "sentinel-2-l2a")).search(S2, None, None)
