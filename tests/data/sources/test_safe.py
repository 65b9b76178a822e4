import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine

from skysense_cli import sensors
from skysense_cli.data.acquire import acquire
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.clouds.scl import Scl
from skysense_cli.data.sources import Radar
from skysense_cli.data.sources.folder import Folder
from skysense_cli.data.sources.safe import Dem, Safe
from skysense_cli.errors import GridError, RecipeError, SkySenseError, SourceError
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.raster import read_window
from skysense_cli.recipe.parts import bind

L2A, L1C, GRD = (sensors.get(name) for name in ("sentinel2_l2a", "sentinel2_l1c", "sentinel1_grd"))
N0509 = "S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825"
N0212 = "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857"
N0301 = "S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248"
S1 = "S1A_IW_GRDH_1SDV_20210809T173953_20210809T174018_039156_049F13_6FF8"
CORNERS = {N0509: (99960, 8200000, "EPSG:32701"), N0212: (600000, 6500020, "EPSG:32707"), N0301: (499980, 3100020, "EPSG:32646")}
YEAR_2023 = (np.datetime64("2023-01-01"), np.datetime64("2023-12-31"))


@pytest.fixture(scope="module")
def filled(shared_data, tmp_path_factory):
    """The real Sentinel-2 trees with small images: 2500 in every band (B05 at 20 m: 2600), one hole, half of it cloud in SCL."""
    home = tmp_path_factory.mktemp("safe")
    for name, (left, top, crs) in CORNERS.items():
        product = home / f"{name}.SAFE"
        shutil.copytree(shared_data("safe_metadata") / product.name, product, copy_function=shutil.copyfile)
        for path in (product, *product.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # the shared tree is read-only
        granule = next((product / "GRANULE").iterdir())
        for band in (*L2A.bands, *([] if "L1C" in name else [None])):
            gsd = int(band.native_gsd_m) if band else 20
            pixels = np.full((640 // gsd, 640 // gsd), 2600 if band and band.name == "B05" else 2500, np.uint16)
            pixels[:2, :2] = 0
            if band is None:
                pixels = np.where(np.arange(32) < 16, 4, 9).astype(np.uint8) * np.ones((32, 1), np.uint8)
            folder = granule / "IMG_DATA" if "L1C" in name else granule / "IMG_DATA" / f"R{gsd}m"
            folder.mkdir(parents=True, exist_ok=True)
            end = "" if "L1C" in name else f"_{gsd}m"
            file = folder / f"T_{name[11:26]}_{band.name if band else 'SCL'}{end}.jp2"
            with rasterio.open(
                file, "w", driver="JP2OpenJPEG", count=1, height=len(pixels),
                width=len(pixels), dtype=pixels.dtype, crs=crs, transform=Affine(gsd, 0, left, 0, -gsd, top), QUALITY="100",
                REVERSIBLE="YES",
            ) as dataset:  # fmt: skip
                dataset.write(pixels, 1)
    return home


@pytest.fixture(scope="module")
def zipped(filled, tmp_path_factory):
    """The baseline 05.09 product as a zip."""
    path = tmp_path_factory.mktemp("zip") / f"{N0509}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((filled / f"{N0509}.SAFE").rglob("*")):
            archive.write(file, file.relative_to(filled))
    return path


def get(item, sensor, name, mask=None):
    left, top, crs = CORNERS[name]
    mask = mask or NoMask(sensor)
    return acquire(item, sensor, make_grid(left, top, 10, 64, 64, crs), bands=sensor.band_names, cloud_mask=mask)


@pytest.mark.parametrize(("name", "sensor", "offset"), [(N0509, L2A, -1000), (N0212, L2A, 0), (N0301, L1C, 0)])
def test_offsets_follow_the_metadata_of_the_product(filled, name, sensor, offset):
    (item,) = Safe(path=str(filled / f"{name}.SAFE")).search(sensor, None, None)
    date = get(item, sensor, name)
    assert item.id == name and item.units == sensor.units and item.meta["baseline"] == f"{name[28:30]}.{name[30:32]}"
    assert (date.pixels[0, 10:, 10:] == 2500 + offset).all() and (date.pixels[3, 10:, 10:] == 2600 + offset).all()
    assert date.meta["offset_applied"] == offset and date.meta["sun_elevation_deg"] > 50
    assert not date.valid[:2, :2].any() and date.valid[10:, 10:].all()


def test_a_zip_gives_what_its_folder_gives(filled, zipped):
    mask = Scl(L2A)
    dates = []
    for path in (filled / f"{N0509}.SAFE", zipped):
        (item,) = Safe(path=str(path)).search(L2A, None, None, mask.extra_bands)
        assert item.id == N0509 and item.time == np.datetime64("2023-08-21T22:19:41")
        dates.append(get(item, L2A, N0509, mask))
    assert (dates[0].pixels == dates[1].pixels).all() and (dates[0].valid == dates[1].valid).all() and dates[0].meta == dates[1].meta
    assert dates[0].valid[10:, :20].all() and not dates[0].valid[:, 40:].any()  # class 9 is cloud
    assert item.assets["B02"].path.startswith(f"zip://{zipped}!/{N0509}.SAFE/GRANULE/")


def test_a_folder_of_products_is_searched_by_place_time_cloud_and_pattern(filled, zipped):
    def found(sensor=L2A, bounds=None, period=None, **options):
        return [item.id for item in Safe(**{"path": str(filled), **options}).search(sensor, bounds, period)]

    assert found() == [N0212, N0509] and found(L1C) == [N0301]
    assert found(period=YEAR_2023) == [N0509]
    assert found(bounds=(-179.0, -17.0, -178.0, -16.0)) == [] and found(bounds=(179.5, -17.0, -179.0, -16.0)) == [N0509]
    assert found(max_cloud=55) == [N0212]
    assert found(pattern="*N0212*") == [N0212]
    assert found(path=[str(filled), str(zipped)]) == [N0212, N0509]  # the zip is one of them again


def test_a_product_without_its_images_is_named(shared_data):
    home = shared_data("safe_metadata")
    with pytest.raises(SourceError, match=rf"{N0509}.SAFE: has no image of B02, B03, .*, B12 \(found: no image at all\); fetch the whole"):
        Safe(path=str(home), pattern="*N0509*").search(L2A, None, None)


def test_what_is_not_there_is_named(filled, tmp_path):
    with pytest.raises(SourceError, match=f"^{tmp_path}/gone: no such file or folder"):
        Safe(path=str(tmp_path / "gone")).search(L2A, None, None)
    with pytest.raises(SourceError, match=r"no product .\*.SAFE folder or \*.zip. matches 'S3\*' .the folder holds S2A_MSIL1C"):
        Safe(path=str(filled), pattern="S3*").search(L2A, None, None)
    with pytest.raises(SourceError, match=r"no product of sentinel1_grd .Sentinel-1., only Sentinel-2 L1C, Sentinel-2 L2A"):
        Safe(path=str(filled), geocoding="ellipsoid").search(GRD, None, None)
    with pytest.raises(SourceError, match=r"no product of sentinel2_l1c .Sentinel-2 L1C., only Sentinel-2 L2A"):
        Safe(path=str(filled / f"{N0212}.SAFE")).search(L1C, None, None)


def test_a_product_of_several_tiles_is_named(filled, tmp_path):
    home = shutil.copytree(filled / f"{N0509}.SAFE", tmp_path / f"{N0509}.SAFE")
    (home / "GRANULE" / "other").mkdir()
    (home / "GRANULE" / "other" / "MTD_TL.xml").write_text("<a/>")
    with pytest.raises(SkySenseError, match=r"SAFE: holds 2 tiles; only products of one tile .made since December 2016. are read"):
        Safe(path=str(home)).search(L2A, None, None)


def test_the_real_radar_product_is_listed_with_its_facts(grd_tree):
    (item,) = Safe(path=str(grd_tree), geocoding="ellipsoid").search(GRD, (3.0, 45.0, 3.1, 45.1), None)
    assert item.id == S1 and item.time == np.datetime64("2021-08-09T17:39:53") and item.units == "sigma0 linear"
    assert item.meta == {
        "platform": "sentinel-1a", "orbit_pass": "ascending", "relative_orbit": 59, "baseline": "003.31",
        "view_incidence_deg": pytest.approx(38.5, abs=0.6), "calibration": "sigma0, thermal noise removed", "geocoding": "ellipsoid",
    }  # fmt: skip
    stem = "s1a-iw-grd-vh-20210809t173953-20210809t174018-039156-049f13-002"
    home = grd_tree / "annotation"
    assert item.assets["VH"].path == str(grd_tree / "measurement" / f"{stem}.tiff")
    assert item.assets["VH"].radar == Radar(
        str(home / f"{stem}.xml"), str(home / "calibration" / f"calibration-{stem}.xml"), str(home / "calibration" / f"noise-{stem}.xml")
    )
    assert Safe(path=str(grd_tree), geocoding="ellipsoid").search(GRD, (8.0, 45.0, 9.0, 46.0), None) == []
    with pytest.raises(GridError, match=r"measurement/s1a-iw-grd-vv-.*tiff: "):  # its measurements are empty
        acquire(item, GRD, make_grid(500000, 5000000, 10, 8, 8, "EPSG:32631"), bands=("VV",), cloud_mask=NoMask(GRD))


def test_radar_without_a_dem_is_refused_unless_the_ellipsoid_is_asked_for(grd_tree):
    with pytest.raises(
        RecipeError, match=r"Use terrain-corrected products \(sentinel-1-rtc, recommended\), give `dem:.*or.*`geocoding: ellipsoid`"
    ):
        Safe(path=str(grd_tree)).search(GRD, None, None)


def test_a_dem_goes_to_the_assets_and_a_missing_one_is_named(grd_tree, geotiff, tmp_path):
    dem = geotiff(tmp_path / "dem.tif", np.ones((4, 4), np.float32))
    part = bind("data/sources", "safe", {"path": str(grd_tree), "dem": {"path": str(dem), "geoid": 49}})
    (item,) = part.build().search(GRD, None, None)
    assert item.assets["VV"].radar.dem == (str(dem),) and item.assets["VV"].radar.geoid == 49
    assert item.meta["geocoding"] == "range-Doppler"
    with pytest.raises(GridError, match="gone.tif: no such file"):
        Safe(path=str(grd_tree), dem=Dem(str(tmp_path / "gone.tif"), 0.0)).search(GRD, None, None)
    with pytest.raises(ValueError, match="geoid"):  # no default: 50 m of height are 80 m on the ground
        bind("data/sources", "safe", {"path": "a", "dem": {"path": "b"}})


def test_radar_in_a_zip_is_calibrated_as_in_its_folder(grd_product, tmp_path):
    product = grd_product(tmp_path, {band: [(7900, 11700, np.full((200, 200), 150))] for band in ("VV", "VH")})
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(product.rglob("*")):
            archive.write(file, file.relative_to(tmp_path))
    grid = make_grid(516200, 5033200, 10, 60, 60, "EPSG:32631")
    dates = []
    for path in (product, tmp_path / "a.zip"):
        (item,) = Safe(path=str(path), geocoding="ellipsoid").search(GRD, None, None)
        dates.append(acquire(item, GRD, grid, bands=GRD.band_names, cloud_mask=NoMask(GRD)))
    assert dates[0].valid.any() and np.array_equal(dates[0].pixels, dates[1].pixels, equal_nan=True)


def test_measurements_without_annotations_are_refused_by_name(shared_data):
    home = shared_data("s1_grd_iw_20180716")
    for source in (Safe(path=str(home), pattern="S1*", geocoding="ellipsoid"), Safe(path=str(next(home.iterdir())), geocoding="ellipsoid")):
        with pytest.raises(SourceError, match=r"FD5B: has no annotation/iw-vv.xml, so its digital numbers cannot be calibrated and placed"):
            source.search(GRD, None, None)


def test_a_product_without_one_polarisation_or_its_noise(grd_product, tmp_path):
    product = grd_product(tmp_path, {})
    for noise in (product / "annotation" / "calibration").glob("noise-*"):
        noise.unlink()
    (item,) = Safe(path=str(product), geocoding="ellipsoid").search(GRD, None, None)
    assert item.meta["calibration"] == "sigma0, thermal noise not annotated" and item.assets["VV"].radar.noise is None
    next((product / "measurement").glob("*-vh-*")).unlink()
    other = product.rename(tmp_path / "other.SAFE")
    with pytest.raises(SourceError, match=r"other.SAFE: has no image of VH .found: VV.; fetch the whole product"):
        Safe(path=str(other), geocoding="ellipsoid").search(GRD, None, None)


def test_samples_are_built_from_a_product(grd_product, tmp_path):
    product = grd_product(tmp_path, {band: [(7900, 11600, np.full((300, 300), 150))] for band in ("VV", "VH")})
    (tmp_path / "recipe.yaml").write_text(f"""\
recipe: build-data
version: 1
output: {tmp_path}/out
area: [3.2080, 45.4430, 3.2090, 45.4440]
period: {{start: 2021-08-01, end: 2021-08-31}}
grid: {{size_m: 320}}
modalities:
  s1:
    sensor: sentinel1_grd
    gsd: 10
    source: {{kind: safe, path: {product}, geocoding: ellipsoid}}
    dates: {{at_least: 1}}
splits: {{train: 1.0, val: 0.0, test: 0.0}}
workers: 1
""")
    run = subprocess.run([sys.executable, "-m", "skysense_cli", "build-data", tmp_path / "recipe.yaml"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    path = next((tmp_path / "out").rglob("*.npz"))
    with np.load(path) as sample:
        assert sample["s1/items"].tolist() == [S1] and sample["s1/units"] == "sigma0 dB" and sample["s1/pixels"].shape == (1, 2, 32, 32)
        facts = json.loads(str(sample["s1/meta"][0]))
        assert np.nanmedian(sample["s1/pixels"]) == pytest.approx(10 * np.log10((150**2 - 850) / 600**2), abs=0.2)
    assert facts["geocoding"] == "ellipsoid" and facts["relative_orbit"] == 59 and facts["calibration"] == "sigma0, thermal noise removed"


def test_the_folder_source_says_that_a_raster_with_control_points_needs_geocoding(shared_data):
    home = next(shared_data("s1_grd_iw_20180716").iterdir()) / "measurement"
    (item,) = Folder(path=str(home), pattern=r"iw-(?P<band>v[vh])\.tiff").search(GRD, None, None)
    with pytest.raises(GridError, match="iw-v[vh].tiff: is placed by 210 ground control points only; geocode it to a grid first"):
        acquire(item, GRD, make_grid(500000, 2000000, 10, 8, 8, "EPSG:32643"), bands=("VV",), cloud_mask=NoMask(GRD))


@pytest.mark.slow
def test_hostile_and_damaged_archives_are_refused_in_one_line(badinput_dir, filled, tmp_path):
    (tmp_path / "raster").mkdir()  # the image that the toy products are made of
    shutil.copyfile(next((filled / f"{N0509}.SAFE").rglob("*_B02_10m.jp2")), tmp_path / "raster" / "good.jp2")
    subprocess.run([sys.executable, badinput_dir / "make_bad.py", tmp_path, "--only", "archive"], check=True, capture_output=True)
    cases = json.loads((tmp_path / "cases.json").read_text())
    assert len(cases) > 20
    for case in cases:
        try:
            (item,) = Safe(path=str(tmp_path / case["path"])).search(L2A, None, None, ("SCL",))
        except SkySenseError as error:
            text = str(error)
            assert case["want"] != "handle" and "\n" not in text and "\x1b" not in text, case["id"]
            assert case["want"] == "bounded" or case["say"].casefold() in text.casefold(), case["id"]
        else:
            assert case["want"] != "reject" and len(item.assets) == 11, case["id"]
    assert not any((tmp_path / "PWNED").glob("*"))


def test_a_damaged_image_in_a_zip_is_found_before_it_is_used(zipped, tmp_path):
    path = tmp_path / zipped.name
    raw = bytearray(zipped.read_bytes())
    with zipfile.ZipFile(zipped) as archive:
        member = next(one for one in archive.infolist() if "_B08_" in one.filename)
    raw[member.header_offset + 400] ^= 1
    path.write_bytes(raw)
    with pytest.raises(SkySenseError, match=r"B08_10m.jp2: cannot be read .Bad CRC-32.*; fetch the product again"):
        Safe(path=str(path)).search(L2A, None, None)
    (item,) = Safe(path=str(path), verify=False).search(L2A, None, None)
    assert read_window(item.assets["B02"].path, [1])[0].max() == 2500
