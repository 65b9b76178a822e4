import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data.sources import Asset
from skysense_cli.data.sources.folder import Extra, Folder
from skysense_cli.errors import SourceError

S2, S1, RGB = sensors.get("sentinel2_l2a"), sensors.get("sentinel1_grd"), sensors.get("rgb")
TEN = np.full((10, 4, 4), 500, np.uint16)
YEAR = (np.datetime64("2021-01-01"), np.datetime64("2021-12-31"))


@pytest.fixture
def scenes(tmp_path, geotiff):
    for day in ("20210401", "20210611", "20220101"):
        geotiff(tmp_path / f"S2_{day}T105031.tif", TEN, names=S2.band_names)
    return tmp_path


def test_one_file_per_date_with_the_date_in_its_name(scenes):
    items = Folder(path=str(scenes), pattern=r"S2_(?P<date>\d{8}T\d{6})\.tif").search(S2, None, YEAR)
    assert [str(item.time) for item in items] == ["2021-04-01T10:50:31", "2021-06-11T10:50:31"]
    assert [item.id for item in items] == ["S2_20210401T105031", "S2_20210611T105031"]
    assert items[0].assets["B8A"] == Asset(str(scenes / "S2_20210401T105031.tif"), 8)
    assert items[0].units == "reflectance*10000"


def test_the_order_of_the_bands_in_the_file_does_not_matter(tmp_path, geotiff):
    names = ["nir", "B2", "green", "Red", "swir16", "B12", "B05", "rededge2", "B7", "B08A", "quality"]
    path = geotiff(tmp_path / "a.tif", np.ones((11, 4, 4), np.uint16), names=names)
    (item,) = Folder(path=str(path)).search(S2, None, None)
    assert [item.assets[band].number for band in S2.band_names] == [2, 3, 4, 7, 8, 9, 1, 10, 5, 6]


def test_one_file_per_band_and_date(tmp_path, geotiff):
    for day in ("20210401", "20210611"):
        for band in (*S2.band_names, "SCL", "B09"):
            geotiff(tmp_path / f"tile_{day}" / f"{band}.tif", np.ones((4, 4), np.uint16))
    source = Folder(path=str(tmp_path), pattern=r"tile_(?P<date>\d{8})/(?P<band>\w+)\.tif")
    items = source.search(S2, None, None, ("SCL",))
    assert [item.id for item in items] == ["tile_20210401", "tile_20210611"]
    assert set(items[0].assets) == {*S2.band_names, "SCL"}
    assert items[1].assets["B11"].path.endswith("tile_20210611/B11.tif")


def test_a_band_without_a_file_is_named(tmp_path, geotiff):
    for band in ("B02", "B03"):
        geotiff(tmp_path / f"20210401_{band}.tif", np.ones((4, 4), np.uint16))
    with pytest.raises(SourceError, match=r"has no file for B04, B05, .*found: B02, B03"):
        Folder(path=str(tmp_path), pattern=r"(?P<date>\d{8})_(?P<band>B..)\.tif").search(S2, None, None)


def test_bands_without_names_are_taken_in_order_only_on_request(tmp_path, geotiff):
    path = geotiff(tmp_path / "a.tif", np.ones((3, 4, 4), np.uint8))
    with pytest.raises(SourceError, match=r"no band for R, G, B of rgb among its 3 bands \(they carry no names\).*by_order: true"):
        Folder(path=str(path)).search(RGB, None, None)
    (item,) = Folder(path=str(path), by_order=True).search(RGB, None, None)
    assert [item.assets[band].number for band in "RGB"] == [1, 2, 3]
    (item,) = Folder(path=str(path), bands=["blue", "green", "red"]).search(RGB, None, None)
    assert [item.assets[band].number for band in "RGB"] == [3, 2, 1]


def test_more_names_than_bands_are_refused(tmp_path, geotiff):
    path = geotiff(tmp_path / "a.tif", np.ones((2, 4, 4), np.uint8))
    with pytest.raises(SourceError, match="has 2 bands, but 3 are named"):
        Folder(path=str(path), bands=["R", "G", "B"]).search(RGB, None, None)


def test_dates_and_orbits_from_a_table(tmp_path, geotiff):
    for name in ("one", "two"):
        geotiff(tmp_path / "s1" / f"{name}.tif", np.ones((2, 4, 4), np.float32), names=["VV_dB", "VH_dB"])
    table = tmp_path / "dates.csv"
    table.write_text("file,date,relative_orbit\ns1/one.tif,2021-03-01T17:30:00,88\ns1/two.tif,2021-02-01,15\n")
    items = Folder(path=str(tmp_path), csv=str(table)).search(S1, None, YEAR)
    assert [item.id for item in items] == ["s1/two", "s1/one"]
    assert [item.meta["relative_orbit"] for item in items] == [15, 88]


def test_a_table_that_cannot_be_used_is_named(tmp_path):
    table = tmp_path / "dates.csv"
    table.write_text("path,day\na.tif,1\n")
    with pytest.raises(SourceError, match="needs the columns `file` and one of date, .*found: path, day"):
        Folder(path=str(tmp_path), csv=str(table)).search(S2, None, None)
    table.write_text("file,date\na.tif,1 April\n")
    with pytest.raises(SourceError, match="line 2: '1 April' is no date"):
        Folder(path=str(tmp_path), csv=str(table)).search(S2, None, None)


def test_dates_and_units_from_tags(tmp_path, geotiff):
    geotiff(tmp_path / "a.tif", np.ones((2, 4, 4), np.float32), names=["VV", "VH"], ACQUISITION="2021-05-01T17:31:51",
            UNITS="gamma0 linear", ORBIT="descending")  # fmt: skip
    geotiff(tmp_path / "b.tif", np.ones((2, 4, 4), np.float32), names=["VV", "VH"], TIFFTAG_DATETIME="2021:06:01 17:31:51")
    geotiff(tmp_path / "c.tif", np.ones((2, 4, 4), np.float32), names=["VV", "VH"])
    items = Folder(path=str(tmp_path)).search(S1, None, YEAR)
    assert [str(item.time) for item in items] == ["2021-05-01T17:31:51", "2021-06-01T17:31:51", "NaT"]
    assert [item.units for item in items] == ["gamma0 linear", "sigma0 dB", "sigma0 dB"]
    assert items[0].meta == {"orbit_pass": "descending"}
    assert Folder(path=str(tmp_path), units="sigma0 linear").search(S1, None, None)[0].units == "sigma0 linear"


def test_the_classification_is_joined_by_time_or_by_day(scenes, geotiff):
    geotiff(scenes / "scl" / "SCL_20210401T105031.tif", np.ones((4, 4), np.uint8))
    geotiff(scenes / "scl" / "SCL_20210611.tif", np.ones((4, 4), np.uint8))
    extra = {"SCL": Extra(str(scenes / "scl"), r"SCL_(?P<date>[\dT]+)\.tif")}
    source = Folder(path=str(scenes), pattern=r"S2_(?P<date>\d{8}T\d{6})\.tif", extra=extra)
    items = source.search(S2, None, YEAR, ("SCL",))
    assert [item.assets["SCL"].path.rpartition("/")[2] for item in items] == ["SCL_20210401T105031.tif", "SCL_20210611.tif"]
    with pytest.raises(SourceError, match="found 0 SCL files for 2022-01-01T10:50:31"):
        source.search(S2, None, None, ("SCL",))


def test_a_mask_whose_band_is_nowhere_says_how_to_give_it(scenes):
    with pytest.raises(SourceError, match=r"the cloud mask needs SCL; say where it lies with `extra: \{SCL:"):
        Folder(path=str(scenes), pattern=r"S2_(?P<date>\d{8}T\d{6})\.tif").search(S2, None, YEAR, ("SCL",))


def test_only_scenes_that_touch_the_bounds_are_listed(scenes, geotiff):
    geotiff(scenes / "S2_20210501T105031.tif", TEN, names=S2.band_names, left=600000)
    source = Folder(path=str(scenes), pattern=r"S2_(?P<date>\d{8}T\d{6})\.tif")
    here = source.search(S2, (2.9, 50.5, 3.1, 50.6), YEAR)
    assert len(here) == 2
    assert len(source.search(S2, (4.3, 50.5, 4.6, 50.6), YEAR)) == 1
    assert not source.search(S2, (10, 10, 11, 11), YEAR)


def test_the_offset_follows_the_baseline_in_the_name_unless_it_is_given(tmp_path, geotiff):
    geotiff(tmp_path / "N0509_20210401.tif", TEN, names=S2.band_names)
    geotiff(tmp_path / "N0301_20210402.tif", TEN, names=S2.band_names)
    pattern = r"N(?P<baseline>\d{4})_(?P<date>\d{8})\.tif"
    items = Folder(path=str(tmp_path), pattern=pattern).search(S2, None, None)
    assert [item.assets["B02"].offset for item in items] == [-1000, 0]
    items = Folder(path=str(tmp_path), pattern=pattern, offset=0.0).search(S2, None, None)
    assert [item.assets["B02"].offset for item in items] == [0, 0]


def test_a_place_without_scenes_is_named(tmp_path):
    with pytest.raises(SourceError, match="no such file or folder"):
        Folder(path=str(tmp_path / "nowhere")).search(S2, None, None)
    (tmp_path / "a.jp2").touch()
    with pytest.raises(SourceError, match=r"no file matches '\*.tif' \(the folder holds a.jp2"):
        Folder(path=str(tmp_path)).search(S2, None, None)


def test_a_pattern_that_takes_something_else_for_a_date_is_refused(tmp_path, geotiff):
    geotiff(tmp_path / "20219901.tif", TEN)
    with pytest.raises(SourceError, match="the pattern takes '20219901' for a date"):
        Folder(path=str(tmp_path), pattern=r"(?P<date>\d{8})\.tif").search(S2, None, None)


def test_a_list_of_files(scenes):
    paths = [str(scenes / "S2_20210611T105031.tif"), str(scenes / "S2_20210401T105031.tif")]
    items = Folder(path=paths, pattern=r"S2_(?P<date>\d{8}T\d{6})\.tif").search(S2, None, None)
    assert [item.id for item in items] == ["S2_20210401T105031", "S2_20210611T105031"]
