import numpy as np
import pytest

from skysense_cli.data.products import sentinel2
from skysense_cli.errors import DataError

N0509 = "S2A_MSIL2A_20230821T221941_N0509_R029_T01KAB_20230822T021825.SAFE"
N0212 = "S2A_MSIL2A_20190212T192651_N0212_R013_T07HFE_20201007T160857.SAFE"
N0301 = "S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248.SAFE"


def facts_of(home):
    main = next(home.glob("MTD_MSIL*.xml"))
    return sentinel2.read(main.read_bytes(), next(home.glob("GRANULE/*/MTD_TL.xml")).read_bytes(), main.name)


# read by eye in the files
TABLE = [
    (N0509, "2A", "2023-08-21T22:19:41", "05.09", -1000, 29, 59.050727, (43.3009058, 51.5825610), ("EPSG:32701", 99960, 8200000)),
    (N0212, "2A", "2019-02-12T19:26:51", "02.12", 0, 13, 51.580326, (62.3286549, 57.2929261), ("EPSG:32707", 600000, 6500020)),
    (N0301, "1C", "2021-09-08T04:27:01", "03.01", 0, 133, 88.2972, (142.9875988, 63.5068357), ("EPSG:32646", 499980, 3100020)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "level", "time", "baseline", "offset", "orbit", "cloud", "sun", "corner"), TABLE)
def test_real_products_are_read_right(shared_data, name, level, time, baseline, offset, orbit, cloud, sun, corner):
    facts = facts_of(shared_data("safe_metadata") / name)
    assert facts.level == level and facts.time == np.datetime64(time) and facts.scale == 1
    assert facts.offset == dict.fromkeys(sentinel2.BANDS, offset) and len(facts.offset) == 13
    assert facts.cloud == cloud and facts.tile == (corner[0], (corner[1], corner[2] - 109800, corner[1] + 109800, corner[2]))
    assert {key: facts.meta[key] for key in ("baseline", "platform", "relative_orbit", "orbit_pass")} == {
        "baseline": baseline, "platform": "sentinel-2a", "relative_orbit": orbit, "orbit_pass": "descending",
    }  # fmt: skip
    assert (facts.meta["sun_azimuth_deg"], facts.meta["sun_elevation_deg"]) == pytest.approx(sun, abs=1e-3)
    assert facts.units == ("toa reflectance*10000" if level == "1C" else "reflectance*10000")


def test_images_are_taken_at_the_bands_own_resolution():
    home = "GRANULE/L2A_T01KAB_A042640_20230821T221944/IMG_DATA"
    names = [f"{home}/R{gsd}m/T01KAB_20230821T221941_{band}_{gsd}m.jp2" for gsd in (10, 20, 60) for band in ("B02", "B8A", "SCL", "TCI")]
    found = sentinel2.images([name for name in names if "R10m" not in name or "B02" in name])
    assert {band: name[-12:] for band, name in found.items()} == {"B02": "_B02_10m.jp2", "B8A": "_B8A_20m.jp2", "SCL": "_SCL_20m.jp2"}
    assert sentinel2.images(["GRANULE/L1C_T46RER_A1/IMG_DATA/T46RER_20210908T042701_B01.jp2", "HTML/star_B02.jp2"]) == {
        "B01": "GRANULE/L1C_T46RER_A1/IMG_DATA/T46RER_20210908T042701_B01.jp2"
    }


def test_an_offset_is_read_per_band_and_a_missing_one_is_named(shared_data):
    text = (shared_data("safe_metadata") / N0509 / "MTD_MSIL2A.xml").read_text()
    other = text.replace('<BOA_ADD_OFFSET band_id="3">-1000<', '<BOA_ADD_OFFSET band_id="3">-900<')
    offset = sentinel2.read(other.encode(), None, "a").offset
    assert offset["B04"] == -900 and offset["B8A"] == -1000
    with pytest.raises(DataError, match="^a: BOA_ADD_OFFSET is missing for B8A"):
        sentinel2.read(text.replace('<BOA_ADD_OFFSET band_id="8">-1000</BOA_ADD_OFFSET>', "").encode(), None, "a")
    with pytest.raises(DataError, match="^a: BOA_ADD_OFFSET has the band_id '13', expected 0 to 12"):
        sentinel2.read(text.replace('<BOA_ADD_OFFSET band_id="8">', '<BOA_ADD_OFFSET band_id="13">').encode(), None, "a")


def test_other_metadata_is_refused():
    with pytest.raises(DataError, match="^a: is 'product', expected the metadata of a Sentinel-2 Level-1C or Level-2A product"):
        sentinel2.read(b"<product/>", None, "a")
