"""The published sample of TreeSatAI time series becomes a sound sample of three modalities."""

import shutil

import numpy as np
import pytest
import rasterio

from skysense_cli import sensors
from skysense_cli.data import index, npz
from skysense_cli.data.readers import write_data_set
from skysense_cli.data.readers.treesat import TreeSat, species_of
from skysense_cli.errors import DataError

NAME = "Abies_alba_1_1005_WEFL_NLF"


@pytest.fixture(scope="module")
def home(shared_data, tmp_path_factory):
    """The data set written once."""
    home = tmp_path_factory.mktemp("treesat")
    assert write_data_set(TreeSat(str(shared_data("trimodal_treesat"))), home, name="treesat") == 1
    return home


@pytest.fixture(scope="module")
def sample(home):
    (path,) = home.glob("samples/*/*.npz")
    npz.check(path)
    return npz.read(path)


@pytest.fixture(scope="module")
def published(shared_data):
    with np.load(shared_data("trimodal_treesat") / f"{NAME}_timeseries.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def copy(shared_data, tmp_path):
    """The files, where a test may spoil them."""
    for path in shared_data("trimodal_treesat").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


def test_three_modalities_lie_on_the_middle_60_m_of_the_aerial_image(sample, shared_data):
    assert {name: series.pixels.shape[1:] for name, series in sample.series.items()} == {
        "hr": (4, 300, 300),
        "s2": (10, 6, 6),
        "s1": (2, 6, 6),
    }
    assert sample.crs == "EPSG:25832"
    assert sample.bounds == pytest.approx((565643.0, 5770920.0, 565703.0, 5770980.0), abs=1e-6)
    assert sample.lonlat == pytest.approx((9.9594, 52.0856), abs=1e-3)
    with rasterio.open(shared_data("trimodal_treesat") / f"{NAME}.tif") as dataset:
        whole = dataset.read()
    assert (sample.series["hr"].pixels[0] == whole[[3, 1, 2, 0], 2:302, 2:302]).all()
    assert sample.series["hr"].bands == ("R", "G", "B", "N")
    red, _, _, infrared = np.median(sample.series["hr"].pixels[0], axis=(1, 2))
    assert infrared > red, "trees are brighter in the near infrared"


def test_linear_power_is_stored_in_decibels_of_both_directions(sample, published):
    series = sample.series["s1"]
    assert series.units == "sigma0 dB" and len(series.times) == 60 + 86
    for key, direction in (("s1_asc", "ascending"), ("s1_des", "descending")):
        places = [series.items.index(str(name)) for name in published[f"{key}_products"]]
        assert {series.meta[place]["orbit_pass"] for place in places} == {direction}
        expected = np.maximum(10 * np.log10(published[key].astype(np.float64)), -35)
        np.testing.assert_allclose(series.pixels[places], expected, rtol=0, atol=1e-5)
    low, high = sensors.get("sentinel1_grd").typical
    assert all(low < median < high for median in np.median(series.pixels, axis=(0, 2, 3)))
    assert len({(one["orbit_pass"], one["relative_orbit"]) for one in series.meta}) <= 6


def test_optical_counts_are_as_published_and_clouds_and_snow_are_not_valid(sample, published):
    series = sample.series["s2"]
    clear = (published["s2_masks_snow_cloud"] < 50).all(axis=1)
    kept = np.flatnonzero(clear.any(axis=(1, 2)))
    assert len(series.times) == len(kept) == 146 - sample.provenance["dates_without_clear_pixel"]
    assert (series.pixels == published["s2"][kept]).all() and (series.valid == clear[kept]).all()
    assert series.items == tuple(published["s2_products"][kept])
    assert series.meta[0]["baseline"] == "02.13" and series.meta[0]["offset_applied"] == 0


def test_dates_ascend_and_the_unknown_day_of_the_aerial_image_stays_unknown(sample):
    for name in ("s1", "s2"):
        times = sample.series[name].times
        assert (np.diff(times) >= np.timedelta64(0)).all() and str(times[0]).startswith("2020-01")
    assert np.isnat(sample.series["hr"].times).all()


def test_what_was_assumed_is_recorded_and_the_species_is_the_label(sample):
    assert sample.provenance["alignment"] == "assumed" and "middle" in sample.provenance["assumed"]
    assert sample.label.names == ("Abies alba",) and sample.label.classes.tolist() == [0]


def test_the_index_lists_the_sample(home):
    (row,) = index.read(home / "index", "train")
    assert row.id == NAME and row.modalities == ("hr", "s1", "s2") and (home / row.path).is_file()


def test_the_published_hdf5_gives_the_same_but_for_rounded_probabilities(copy, sample):
    pytest.importorskip("h5py")
    (copy / f"{NAME}_timeseries.npz").unlink()
    (other,) = TreeSat(str(copy)).samples()
    assert (other.series["s1"].pixels == sample.series["s1"].pixels).all()
    both = [
        (list(other.series["s2"].items).index(item), k)
        for k, item in enumerate(sample.series["s2"].items)
        if item in other.series["s2"].items
    ]
    assert len(both) >= 75
    assert all((other.series["s2"].pixels[a] == sample.series["s2"].pixels[b]).all() for a, b in both)


def test_ids_follow_the_given_classes(shared_data):
    (found,) = TreeSat(str(shared_data("trimodal_treesat")), classes=("Acer pseudoplatanus", "Abies alba")).samples()
    assert found.label.classes.tolist() == [1]
    with pytest.raises(DataError, match=r"Abies_alba_1_1005_WEFL_NLF.tif: Abies alba is none of the classes \(Betula\)"):
        list(TreeSat(str(shared_data("trimodal_treesat")), classes=("Betula",)).samples())


def test_power_that_is_decibels_already_is_refused(copy, published):
    decibels = {**published, "s1_asc": 10 * np.log10(published["s1_asc"])}
    np.savez(copy / f"{NAME}_timeseries.npz", **decibels)
    with pytest.raises(DataError, match="s1_asc"):
        list(TreeSat(str(copy)).samples())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: given.pop("s2_products"), "has no s2_products, expected"),
        (lambda given: given.update(s2=given["s2"][:, :9]), r"s2 has the shape \(146, 9, 6, 6\), expected \(dates, 10, 6, 6\)"),
        (lambda given: given.update(s1_asc_products=given["s1_asc_products"][1:]), "names 59 products, expected 60"),
        (lambda given: given.update(s1_des_products=np.array(["x"] * 86)), "holds 'x', which is no name of a product"),
    ],
)
def test_a_series_that_is_not_what_it_should_be_is_refused_by_name(copy, published, change, message):
    given = dict(published)
    change(given)
    np.savez(copy / f"{NAME}_timeseries.npz", **given)
    with pytest.raises(DataError, match=f"{NAME}_timeseries.npz: .*{message}"):
        list(TreeSat(str(copy)).samples())


def test_missing_files_and_names_without_a_species_are_named(copy, tmp_path):
    with pytest.raises(DataError, match=r"holds no \*\.tif"):
        list(TreeSat(str(tmp_path / "nothing")).samples())
    with pytest.raises(DataError, match="gives no species, expected a name such as"):
        species_of(tmp_path / "tile7.tif")
    (copy / f"{NAME}_timeseries.npz").unlink()
    (copy / f"{NAME}.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DataError, match=r"\.h5: cannot be read as HDF5"):
        list(TreeSat(str(copy)).samples())
    (copy / f"{NAME}.h5").unlink()
    with pytest.raises(DataError, match="has no series beside it"):
        list(TreeSat(str(copy)).samples())
