import importlib.util
import json
import pickle

import numpy as np
import pytest
import xarray
from affine import Affine

from skysense_cli.errors import GridError
from skysense_cli.geo import raster
from skysense_cli.geo.cube import address, describe_cube
from skysense_cli.geo.opening import open_raster

TIMES = np.array(["2021-04-01T10:50:31", "2021-04-11T10:50:31"], "datetime64[ns]")


def made(values, *, rising=False, crs="EPSG:32631", **attributes):
    """A data set of one variable B02 (2, 3, 4) at 10 m."""
    import pyproj

    y, x = 5600000 - 5 - 10.0 * np.arange(3), 500000 + 5 + 10.0 * np.arange(4)
    values = np.asarray(values)
    values, y = (values[:, ::-1], y[::-1]) if rising else (values, y)
    one = xarray.DataArray(values, dims=("t", "y", "x"), coords={"t": TIMES, "y": y, "x": x}, attrs={"grid_mapping": "crs", **attributes})
    return xarray.Dataset({"B02": one, "crs": xarray.DataArray(0, attrs=pyproj.CRS(crs).to_cf())})


@pytest.fixture(params=["a.nc", "a.zarr", "old.nc"])
def written(request, tmp_path):
    """A function that writes a data set as netCDF-4, Zarr or netCDF-3; its path."""
    for name in ("h5netcdf", "h5py", "zarr"):
        pytest.importorskip(name, reason="needs the extra cubes")

    def write(dataset):
        path = tmp_path / request.param
        if path.suffix == ".zarr":
            dataset.to_zarr(path, zarr_format=2, consolidated=False)
        else:
            dataset.to_netcdf(path, engine="scipy" if path.stem == "old" else "h5netcdf")
        return str(path)

    return write


NUMBERS = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 1


@pytest.mark.parametrize("rising", [False, True])
def test_slices_are_rasters_north_up(written, rising):
    path = written(made(NUMBERS, rising=rising, missing_value=np.int16(-1)))
    info = describe_cube(path)
    assert (info.crs, info.shape, info.transform) == ("EPSG:32631", (3, 4), Affine(10, 0, 500000, 0, -10, 5600000))
    assert info.bounds == (500000, 5599970, 500040, 5600000)
    (variable,) = info.variables
    assert variable.times == tuple(TIMES.astype("datetime64[s]")) and variable.fill == -1
    with open_raster(address(path, "B02", 1)) as dataset:
        np.testing.assert_array_equal(dataset.read(1), NUMBERS[1])
    facts = raster.describe(address(path, "B02", 0))
    assert (facts.crs, facts.nodata, facts.descriptions) == ("EPSG:32631", (-1.0,), ("B02",))
    pixels, data = raster.read_on_grid(address(path, "B02", 0), facts.grid, [1])
    np.testing.assert_array_equal(data[0], NUMBERS[0] != -1)
    assert facts.path == address(path, "B02", 0)


def test_declared_numbers_and_amplitudes(written):
    path = written(made(NUMBERS, scale_factor=0.5, add_offset=2.0, missing_value=np.int16(3)))
    with open_raster(address(path, "B02", 1, "scaled")) as dataset:
        np.testing.assert_allclose(dataset.read(1), NUMBERS[1] * 0.5 + 2)
    with open_raster(address(path, "B02", 0, "amplitude", -83)) as dataset:
        found = dataset.read(1)
    assert np.isnan(found.ravel()[[0, 1, 4]]).all()  # -1, 0 and no data
    np.testing.assert_allclose(found.ravel()[5:], 20 * np.log10(np.arange(4, 11)) - 83, rtol=1e-6)


def test_unsigned_numbers_stored_signed(written):
    path = written(made(NUMBERS, _Unsigned="true", missing_value=np.int16(-1)))
    assert describe_cube(path).variables[0].fill == 65535
    with open_raster(address(path, "B02", 0)) as dataset:
        assert dataset.read(1)[0, 0] == 65535 and dataset.nodata == 65535


def test_uneven_axes_and_other_faults_are_named(written, tmp_path):
    uneven = made(NUMBERS).assign_coords(x=[0.0, 1.0, 2.0, 4.0])
    path = written(uneven)
    with pytest.raises(GridError, match=r"its axis x is not evenly spaced"):
        describe_cube(path)
    with pytest.raises(GridError, match="has no slice 7 of B02"), open_raster(address(written_again(tmp_path), "B02", 7)):
        pass


def written_again(home):
    path = home / "again.nc"
    made(NUMBERS).to_netcdf(path, engine="scipy")
    return str(path)


def test_axes_that_are_no_dates(tmp_path):
    made(NUMBERS).assign_coords(t=[1, 2]).to_netcdf(tmp_path / "a.nc", engine="scipy")
    with pytest.raises(GridError, match="its axis t holds no dates"):
        describe_cube(str(tmp_path / "a.nc"))


def test_what_is_no_cube_is_named(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"nonsense")
    with pytest.raises(GridError, match="is neither netCDF nor Zarr"):
        describe_cube(str(tmp_path / "a.nc"))
    with pytest.raises(GridError, match="no such file or folder"):
        describe_cube(str(tmp_path / "b.nc"))
    pytest.importorskip("h5py", reason="needs the extra cubes")
    (tmp_path / "c.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 100)
    with pytest.raises(GridError, match=r"c.nc: cannot be read"):
        describe_cube(str(tmp_path / "c.nc"))
    with pytest.raises(GridError, match="is no address of a slice"), open_raster("cube:///a.nc!/B02?index=x"):
        pass


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GridError, match=r"needs h5netcdf; get it with: pip install 'skysense-cli\[cubes\]'"):
        describe_cube(str(tmp_path / "a.nc"))


def test_hdf5_that_points_elsewhere_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs the extra cubes")
    (tmp_path / "secret").write_bytes(bytes(64))
    for name, make in (
        ("link", lambda file: file.__setitem__("B02", h5py.ExternalLink("other.h5", "/B02"))),
        ("external", lambda file: file.create_dataset("B02", (2, 3, 4), "u1", external=[(str(tmp_path / "secret"), 0, 24)])),
    ):
        path = tmp_path / f"{name}.nc"
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(GridError, match="is not followed|keeps its numbers in other files"):
            describe_cube(str(path))


def test_zarr_with_a_pickling_codec_runs_nothing(tmp_path):
    pytest.importorskip("zarr", reason="needs the extra cubes")
    path = tmp_path / "a.zarr"
    made(NUMBERS).to_zarr(path, zarr_format=2, consolidated=False)
    facts = json.loads((path / "B02" / ".zarray").read_text())
    (path / "B02" / ".zarray").write_text(json.dumps(facts | {"filters": [{"id": "pickle"}], "compressor": None}))
    (path / "B02" / "0.0.0").write_bytes(pickle.dumps(list))
    with pytest.raises(GridError, match="is stored with the codec pickle, which is not read"):
        describe_cube(str(path))
    (path / "B02" / ".zarray").write_text(json.dumps(facts | {"dtype": "|O"}))
    with pytest.raises(GridError, match="codec object"):
        describe_cube(str(path))
