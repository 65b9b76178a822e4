import re
import shutil
import tracemalloc

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from skysense_cli import sensors
from skysense_cli.data.acquire import acquire
from skysense_cli.data.clouds.none import NoMask
from skysense_cli.data.sar.scene import understood
from skysense_cli.data.sources.safe import Dem, Safe
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.grid import make_grid

GRD = sensors.get("sentinel1_grd")
UTM = "EPSG:32631"
LINE, SAMPLE = 8008, 11772  # a point of the geolocation grid, in the middle of the image
AMPLITUDE = 200
TO_UTM = Transformer.from_crs("EPSG:4326", UTM, always_xy=True)
TO_DEGREES = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)


@pytest.fixture(scope="module")
def place(annotation):
    """x, y, height and incidence of the grid point at (LINE, SAMPLE)."""
    grid = annotation.grid
    (r,), (c,) = np.flatnonzero(grid.line[:, 0] == LINE), np.flatnonzero(grid.sample[0] == SAMPLE)
    return *TO_UTM.transform(grid.lon[r, c], grid.lat[r, c]), grid.height[r, c], grid.incidence[r, c]


@pytest.fixture(scope="module")
def product(grd_product, tmp_path_factory):
    """An even ground with a bright spot of 3 x 3 at (LINE, SAMPLE), a black hole beside it, and nothing elsewhere."""
    even = np.full((800, 1000), AMPLITUDE, np.uint16)
    even[399:402, 499:502] = 3000
    even[300:320, 500:520] = 0
    pieces = [(LINE - 400, SAMPLE - 500, even)]
    return grd_product(tmp_path_factory.mktemp("grd"), {"VV": pieces, "VH": pieces})


def item_of(product, dem=None):
    (item,) = Safe(path=str(product), dem=dem, geocoding="ellipsoid").search(GRD, None, None)
    return item


def get(item, grid, **given):
    return acquire(item, GRD, grid, bands=GRD.band_names, cloud_mask=NoMask(GRD), **given)


def around(x, y, side_m=3000, gsd=10):
    half = side_m / 2
    return make_grid(round(x) - half, round(y) + half, gsd, round(side_m / gsd), round(side_m / gsd), UTM)


def brightest(date, grid):
    """x and y of the middle of the spot, weighted by power."""
    power = 10 ** (date.pixels[0] / 10)
    power = np.where(np.isnan(power) | (power < np.nanmax(power) / 4), 0, power)
    rows, columns = (np.arange(n) + 0.5 for n in power.shape)
    a, _, c, _, e, f = grid.affine[:6]
    return c + a * (power * columns).sum() / power.sum(), f + e * (power * rows[:, None]).sum() / power.sum()


def test_sigma0_has_the_calibrated_value_without_noise(product, place):
    date = get(item_of(product), around(*place[:2], 1000))
    # by eye in the files, around line 8008 and sample 11772: A about 601.2 and 603.8, noise of VV about 823 x 1.03
    vv, vh = (float(np.median(date.pixels[band][date.valid])) for band in (0, 1))
    assert vv == pytest.approx(10 * np.log10((AMPLITUDE**2 - 850) / 600**2), abs=0.15)
    assert vh == pytest.approx(vv, abs=0.1) and vh != vv
    assert date.meta["calibration"] == "sigma0, thermal noise removed" and date.meta["geocoding"] == "ellipsoid"
    assert date.meta["converted"] == "linear power to dB" and date.meta["floored_share"] == 0


def test_a_bright_spot_lies_where_the_product_says(product, place):
    grid = around(*place[:2])
    x, y = brightest(get(item_of(product), grid), grid)
    assert np.hypot(x - place[0], y - place[1]) < 2


def test_the_number_zero_is_no_data(product, place):
    date = get(item_of(product), around(*place[:2]))
    missing = ~date.valid
    assert 380 <= missing.sum() <= 420 and np.isnan(date.pixels[:, missing]).all()
    assert np.nanmin(date.pixels) > -12  # no black number was mixed into its neighbours


def test_a_coarser_grid_gets_the_mean_power(product, place):
    fine, coarse = around(*place[:2], 2400), around(*place[:2], 2400, gsd=40)
    small, large = get(item_of(product), fine), get(item_of(product), coarse)
    power = 10 ** (small.pixels / 10)
    mean = np.nanmean(power.reshape(2, 60, 4, 60, 4), axis=(2, 4))
    assert np.allclose(large.pixels, 10 * np.log10(mean), atol=1e-3, equal_nan=True)


def test_a_shift_moves_the_scene(product, place):
    grid = around(*place[:2])
    x, y = brightest(get(item_of(product), grid, shift_m=(60.0, -35.0)), grid)
    assert x - place[0] == pytest.approx(60, abs=2) and y - place[1] == pytest.approx(-35, abs=2)


def test_only_the_window_is_read(product, place):
    item = item_of(product)
    get(item, around(*place[:2], 100))
    tracemalloc.start()
    get(item, around(*place[:2], 5000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6  # the image as float32 has 1,744 MB


def test_outside_the_image_there_is_nothing(product):
    date = get(item_of(product), make_grid(900000, 5100000, 10, 20, 20, UTM))
    assert not date.valid.any() and np.isnan(date.pixels).all()


def dem_of(path, geotiff, heights, left, top, gsd=30, **given):
    return geotiff(path, np.asarray(heights, np.float32), left=left, top=top, gsd=gsd, crs=UTM, **given)


def test_a_simulated_hill_shifts_as_range_doppler_predicts(product, place, tmp_path, geotiff, away):
    """A bright thing on a top of 200 m is imaged where the low ground h / tan(incidence) nearer to the satellite is."""
    x, y, low, incidence = place
    top_x, top_y = TO_UTM.transform(*away(*TO_DEGREES.transform(x, y), LINE, 200 / np.tan(np.deg2rad(incidence))))
    assert 240 < np.hypot(top_x - x, top_y - y) < 280
    columns, rows = np.meshgrid(x - 4500 + 30 * (np.arange(300) + 0.5), y + 4500 - 30 * (np.arange(300) + 0.5))
    distance = np.clip(np.hypot(columns - top_x, rows - top_y) - 60, 0, 1200)
    path = dem_of(tmp_path / "hill.tif", geotiff, low + 100 * (1 + np.cos(np.pi * distance / 1200)), x - 4500, y + 4500)
    grid = around(x, y)
    flat, item = get(item_of(product), grid), item_of(product, Dem(str(path), 0.0))
    date = get(item, grid)
    assert np.hypot(*np.subtract(brightest(flat, grid), (x, y))) < 2
    assert np.hypot(*np.subtract(brightest(date, grid), (top_x, top_y))) < 5
    assert date.meta["geocoding"] == "range-Doppler" and 195 < date.meta["relief_m"] < 260


def test_heights_above_the_geoid_get_the_geoid_added(product, place, tmp_path, geotiff):
    x, y, low, _ = place
    plain = dem_of(tmp_path / "a.tif", geotiff, np.full((300, 300), low), x - 4500, y + 4500)
    lower = dem_of(tmp_path / "b.tif", geotiff, np.full((300, 300), low - 49.5), x - 4500, y + 4500)
    geoid = dem_of(tmp_path / "geoid.tif", geotiff, np.full((30, 30), 49.5), x - 4500, y + 4500, gsd=300)
    grid = around(x, y, 1000)
    one, *others = (get(item_of(product, dem), grid) for dem in (Dem(str(plain), 0.0), Dem(str(lower), 49.5), Dem(str(lower), str(geoid))))
    assert all(np.allclose(one.pixels, other.pixels, atol=1e-2, equal_nan=True) for other in others)
    assert np.hypot(*np.subtract(brightest(one, grid), (x, y))) < 4


def test_tiles_of_a_dem_are_laid_together_and_holes_have_no_data(product, place, tmp_path, geotiff):
    x, y, low, _ = place
    west = dem_of(tmp_path / "west.tif", geotiff, np.full((300, 150), low), x - 4500, y + 4500)
    east = np.full((300, 150), low)
    east[:, 20:] = -9999
    other = dem_of(tmp_path / "east.tif", geotiff, east, x, y + 4500, nodata=-9999)
    grid = around(x, y, 3000)
    date = get(item_of(product, Dem([str(west), str(other)], 0.0)), grid)
    without = get(item_of(product, Dem([str(west)], 0.0)), grid)
    assert date.valid[100:200, 160:200].all() and not date.valid[:, 215:].any()
    assert not without.valid[:, 155:].any() and without.valid[100:200, 50:145].all()


def test_ground_without_any_height_and_other_faults_are_named(product, place, tmp_path, geotiff, grd_product):
    x, y, low, _ = place
    grid = around(x, y, 1000)
    far = dem_of(tmp_path / "far.tif", geotiff, np.full((30, 30), low), x + 90000, y)
    with pytest.raises(GridError, match=f"^{far}: the DEM has no height here; give one that covers the area"):
        get(item_of(product, Dem(str(far), 0.0)), grid)
    other = grd_product(tmp_path, {})
    item = item_of(other)
    table = next((other / "annotation" / "calibration").glob("calibration-*-vv-*"))
    whole = table.read_text()
    table.write_text("<calibration/>")
    with pytest.raises(GridError, match=r"calibration-s1a-iw-grd-vv-.*xml: has no calibrationVector"):  # costs the date only
        get(item, grid)
    table.write_text(whole)
    path = next((other / "measurement").glob("*-vv-*"))
    for dtype, height, words in (("uint16", 8, "has 8 lines of 26144 samples, its annotation says 16676 of 26144; calibration and place"),
                                 ("float32", 16676, "holds float32, expected digital numbers of amplitude .uint16.")):  # fmt: skip
        settings = {"count": 1, "height": height, "width": 26144, "dtype": dtype, "sparse_ok": True, "tiled": True}
        rasterio.open(path, "w", driver="GTiff", **settings).close()
        with pytest.raises(GridError, match=rf"-vv-.*tiff: {words}"):
            get(item, grid)


def test_texts_alone_make_a_scene(grd_tree):
    """As a catalogue gives them, without a folder."""
    home = grd_tree / "annotation"
    texts = [next(path.glob(f"{name}-vv-*")).read_bytes() for path, name in (
        (home, "s1a-iw-grd"), (home / "calibration", "calibration-s1a-iw-grd"), (home / "calibration", "noise-s1a-iw-grd"))]  # fmt: skip
    scene = understood(texts[0], texts[1], texts[2], ("a", "c", "n"))
    assert scene.annotation.polarisation == "VV" and scene.noise is not None
    assert understood(texts[0], texts[1], None, ("a", "c", "")).noise is None
    vector = b"<calibrationVector><line>0</line><pixel>0 40</pixel><sigmaNought>1 1</sigmaNought></calibrationVector>"
    other = b"<calibration><calibrationVectorList>" + vector + b"</calibrationVectorList></calibration>"
    with pytest.raises(DataError, match="^c: does not cover the image of a .16676 lines, 26144 samples."):
        understood(texts[0], other, None, ("a", "c", ""))


def test_ground_that_is_not_flat_is_refused_by_name_and_flat_ground_is_taken(product, place, tmp_path):
    """The real product lies over the Massif Central; the other has its heights rise evenly from south to north."""
    grid = around(*place[:2], 1000)
    (hilly,) = Safe(path=str(product), geocoding="flat").search(GRD, None, None)
    with pytest.raises(
        GridError, match=r"annotation/s1a-iw-grd-vv-.*: the ground here departs by \d+ m or more from the surface .*give `dem`"
    ):
        get(hilly, grid)
    seen = get(item_of(product), grid).meta["relief_seen_m"]
    assert 10 < seen < 600
    other = shutil.copytree(product, tmp_path / product.name)
    for text in (other / "annotation").glob("*.xml"):
        lines = iter(re.findall(r"<line>(\d+)</line>", text.read_text().partition("<geolocationGridPointList")[2]))
        sloped = re.sub(r"<height>[^<]*</height>", lambda _, lines=lines: f"<height>{int(next(lines)) / 1000}</height>", text.read_text())
        text.write_text(sloped)
    (even,) = Safe(path=str(other), geocoding="flat").search(GRD, None, None)
    date = get(even, grid)
    assert date.valid.all() and date.meta["relief_seen_m"] == 0 and date.meta["geocoding"] == "ellipsoid"
    assert np.array_equal(date.pixels, get(item_of(product), grid).pixels)
