import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data.acquire import acquire, narrowed
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.clouds.scl import Scl
from skysense_cli.data.sources.cube import Cube
from skysense_cli.data.sources.folder import Folder
from skysense_cli.errors import SourceError
from skysense_cli.geo import raster

S2, GRD = sensors.get("sentinel2_l2a"), sensors.get("sentinel1_grd")
NINE = narrowed(S2, ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"])


@pytest.fixture(scope="module", autouse=True)
def _extra():
    for name in ("h5netcdf", "h5py"):
        pytest.importorskip(name, reason="needs the extra cubes")


@pytest.fixture(scope="module")
def belgium(shared_data):
    return shared_data("ts_belgium_A")


def test_two_cubes_of_one_place_equal_the_same_dates_as_geotiffs(belgium):
    """10 m and 20 m bands, the classes and the times of both come together, number for number."""
    home = belgium / "original_nc"
    cubes = [str(next(home.glob(f"S2_L2A_{gsd}m_*.nc"))) for gsd in (10, 20)]
    items = Folder(path=cubes).search(S2, None, None, ("SCL",))
    tiffs = Folder(path=str(belgium / "s2"), pattern=r"S2_(?P<date>.{15})\.tif", by_order=True).search(S2, None, None)
    assert [item.time for item in items] == [item.time for item in tiffs] and len(items) == 72
    for number in (0, 30, 71):
        grid = raster.describe(tiffs[number].assets["B02"].path).grid
        one, other = (acquire(items[number], S2, grid, bands=S2.band_names, cloud_mask=NoMask(S2)),
                      acquire(tiffs[number], S2, grid, bands=S2.band_names, cloud_mask=NoMask(S2)))  # fmt: skip
        tens = [S2.band_names.index(name) for name in ("B02", "B03", "B04", "B08")]
        np.testing.assert_array_equal(one.pixels[tens], other.pixels[tens])
        classes = raster.read_on_grid(items[number].assets["SCL"].path, grid, [1])[0][0]
        scl = raster.read_on_grid(
            str(next((belgium / "scl").glob(f"SCL_{str(items[number].time).replace('-', '').replace(':', '')}.tif"))), grid, [1]
        )[0][0]
        np.testing.assert_array_equal(classes, scl)
        assert acquire(items[number], S2, grid, bands=S2.band_names, cloud_mask=Scl(S2)).valid.shape == (64, 64)


def test_radar_is_scaled_as_the_cube_declares(belgium):
    (path,) = (belgium / "original_nc").glob("S1_GRD*.nc")
    items = Cube(path=str(path)).search(GRD, None, (np.datetime64("2019-05-01"), np.datetime64("2019-05-31")))
    tiffs = Folder(path=str(belgium / "s1"), pattern=r"S1_(?P<date>.{15}).*\.tif").search(GRD, None, None)
    same = {item.time: item for item in tiffs}
    assert 3 < len(items) < 10
    for item in items:
        grid = raster.describe(same[item.time].assets["VV"].path).grid
        one, other = (acquire(part, GRD, grid, bands=GRD.band_names, cloud_mask=NoMask(GRD)) for part in (item, same[item.time]))
        np.testing.assert_allclose(one.pixels, other.pixels, atol=1e-4)


def test_monthly_composites_with_odd_nodata_and_amplitudes(shared_data):
    path = str(shared_data("ts_belgium_monthly_100px") / "worldcereal_preprocessed_inputs.nc")
    with pytest.raises(SourceError, match="no variable for B8A of sentinel2_l2a"):
        Cube(path=path).search(S2, None, None)
    optical = Cube(path=path, nodata=-1).search(NINE, None, None)
    radar = Cube(path=path, amplitude_db=-83).search(GRD, None, None)
    assert [str(item.time)[:7] for item in optical] == [str(item.time)[:7] for item in radar] and str(optical[0].time)[:7] == "2020-11"
    grid = raster.describe(optical[0].assets["B02"].path).grid
    holes = 0
    for item in optical:
        date = acquire(item, NINE, grid, bands=NINE.band_names, cloud_mask=NoMask(NINE))
        holes += int((~date.data).sum())
        assert date.pixels.max() < 20000
    assert holes == 2 * 100 * 100  # two months have no scene
    for item in radar:
        date = acquire(item, GRD, grid, bands=GRD.band_names, cloud_mask=NoMask(GRD))
        vv, vh = np.nanmedian(date.pixels, axis=(1, 2))
        assert -14 < vv < -6 and -22 < vh < -12
