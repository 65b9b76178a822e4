import importlib.util
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from skysense_cli.errors import GridError
from skysense_cli.geo.foreign import to_cog

installed = pytest.mark.skipif(importlib.util.find_spec("osgeo") is None, reason="needs the extra gdal (osgeo)")


@pytest.fixture
def tile(tmp_path):
    """A function that writes one 4 x 4 tile as an ERDAS file, which no raster door opens."""

    def write(name: str, left: float, value: int, *, crs: str = "EPSG:32631", dtype: str = "uint16") -> Path:
        path = tmp_path / name
        with rasterio.open(
            path, "w", driver="HFA", count=1, height=4, width=4, dtype=dtype, crs=crs, transform=Affine(10, 0, left, 0, -10, 5600000)
        ) as dataset:  # fmt: skip
            dataset.write(np.full((4, 4), value, dtype), 1)
        return path

    return write


@installed
def test_files_become_one_cog_that_is_made_once(tile, tmp_path):
    paths = [tile("a.img", 500000, 7), tile("b.img", 500040, 9)]
    found = to_cog(paths, tmp_path / "out")
    with rasterio.open(found) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG" and dataset.crs.to_epsg() == 32631
        np.testing.assert_array_equal(dataset.read(1), np.repeat([[7, 9]], 4, axis=1).repeat(4, axis=0))
    before = found.stat().st_mtime_ns
    assert to_cog(paths, tmp_path / "out") == found and found.stat().st_mtime_ns == before


@installed
def test_unlike_and_unknown_files_are_named(tile, tmp_path):
    with pytest.raises(GridError, match=r"b.img: differs from .*a.img in bands, type or CRS"):
        to_cog([tile("a.img", 500000, 7), tile("b.img", 500040, 9, crs="EPSG:32632")], tmp_path / "out")
    (tmp_path / "c.hdf").write_bytes(b"nonsense")
    with pytest.raises(GridError, match="cannot be converted"):
        to_cog([tmp_path / "c.hdf"], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(importlib.util.find_spec("osgeo") is not None, reason="osgeo is installed")
def test_without_the_extra_its_name_is_told(tile, tmp_path):
    with pytest.raises(GridError, match=r"a.img: converting it needs GDAL for Python.*skysense-cli\[gdal\]"):
        to_cog([tile("a.img", 500000, 7)], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_missing_files_are_named(tmp_path):
    with pytest.raises(GridError, match=r"a.hdf: no such file"):
        to_cog([tmp_path / "a.hdf"], tmp_path)
