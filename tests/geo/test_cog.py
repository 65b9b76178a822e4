"""Rasters out."""

import os
import resource

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from skysense_cli.errors import DiskError, GridError
from skysense_cli.geo import cog_copy
from skysense_cli.geo.cog import GeoTiffStream, Look, class_names, write_geotiff, write_preview
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.raster import describe, read_on_grid

RNG = np.random.default_rng(0)
COLORS = {number: (10 * number, 255 - 20 * number, 7) for number in range(5)}
NAMES = {0: "water", 1: "wheat", 2: "maïs", 3: "town", 4: "tree"}
KINDS = {
    "class": ("uint8", 1, {"nodata": 255, "colors": COLORS, "names": NAMES, "overviews": "mode"}),
    "prototypes": ("uint16", 1, {"nodata": 65535, "colors": {i: (i % 256, 3, 9) for i in range(600)}, "overviews": "mode"}),
    "probability": ("uint8", 4, {"nodata": 255, "overviews": "average", "scale": 0.005, "band_names": ("a", "b", "c", "d")}),
    "similarity": ("float32", 1, {"nodata": float("nan"), "overviews": "average", "compress": "zstd"}),
    "bands": ("uint16", 10, {"nodata": 0, "overviews": "nearest", "compress": "lzw"}),
}


def grid_of(height, width):
    return make_grid(500000, 5600000, 10, height, width, "EPSG:32631")


def content(dtype, count, height, width):
    if dtype == "float32":
        return RNG.normal(size=(count, height, width)).astype(np.float32)
    return RNG.integers(0, 5, (count, height, width)).astype(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 2), (512, 512), (513, 512), (512, 513), (700, 600)])
def test_every_kind_and_size_is_a_strictly_valid_cog_that_reads_back(tmp_path, kind, size):
    dtype, count, options = KINDS[kind]
    pixels = content(dtype, count, *size)
    path = tmp_path / "map.tif"
    write_geotiff(path, pixels, grid_of(*size), tags={"SOURCE": "test"}, **options)
    valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    assert valid and not errors and not warnings
    found, _ = read_on_grid(path, grid_of(*size), range(1, count + 1))
    np.testing.assert_array_equal(found, pixels)
    info = describe(path)
    assert (info.crs, info.transform, info.shape, info.dtype) == ("EPSG:32631", grid_of(*size).affine, size, dtype)
    assert np.isnan(info.nodata[0]) if dtype == "float32" else info.nodata == (options["nodata"],) * count
    assert info.tags["SOURCE"] == "test"
    assert os.listdir(tmp_path) == ["map.tif"]


def test_colours_names_scale_and_band_names_are_kept(tmp_path):
    path = tmp_path / "map.tif"
    write_geotiff(path, content("uint8", 1, 20, 30), grid_of(20, 30), **KINDS["class"][2])
    with rasterio.open(path) as file:
        assert [file.colormap(1)[i] for i in range(5)] == [(*COLORS[i], 255) for i in range(5)]
    assert class_names(describe(path).tags) == NAMES
    write_geotiff(path, content("uint8", 4, 20, 30), grid_of(20, 30), names=list(NAMES.values())[:4], **KINDS["probability"][2])
    with rasterio.open(path) as file:
        assert file.scales == (0.005,) * 4 and file.descriptions == ("a", "b", "c", "d")
    assert class_names(describe(path).tags) == {i: NAMES[i] for i in range(4)}
    assert class_names({}) == class_names({"CLASS_NAMES": "nonsense"}) == {}


def slow_modes(classes, factor, nodata):
    """The set of commonest classes of every block; {nodata} where there is nothing else."""
    height, width = (-(-side // factor) for side in classes.shape)
    for i in range(height):
        for j in range(width):
            block = classes[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            numbers, times = np.unique(block[block != nodata], return_counts=True)
            yield i, j, set(numbers[times == times.max()].tolist()) if len(numbers) else {nodata}


@pytest.mark.parametrize("dtype, nodata", [("uint8", 255), ("uint16", 65535)])
def test_class_overviews_are_the_mode_of_the_map_at_every_level(tmp_path, dtype, nodata):
    classes = (RNG.integers(0, 3, (300, 1032)) + 2 * RNG.integers(0, 3, (300, 1032))).astype(dtype) * 10
    classes[:100, :333] = nodata
    path = tmp_path / "map.tif"
    colors = {number: (number, 0, 0) for number in range(0, 70, 10)}
    write_geotiff(path, classes[None], grid_of(300, 1032), nodata=nodata, colors=colors, overviews="mode")
    assert cog_validate(path, strict=True, quiet=True)[0]
    with rasterio.open(path) as file:
        factors = file.overviews(1)
    assert factors == [2, 4]
    for level, factor in enumerate(factors):
        with rasterio.open(path, overview_level=level) as file:
            found = file.read(1)
        assert found.shape == tuple(-(-side // factor) for side in classes.shape)
        for i, j, commonest in slow_modes(classes, factor, nodata):
            assert found[i, j] in commonest


def test_overviews_of_odd_sizes_hold_only_classes_that_are_there(tmp_path):
    classes = RNG.integers(0, 3, (61, 1031)).astype(np.uint8) * 20
    classes[:, 500:] += 7
    write_geotiff(tmp_path / "map.tif", classes[None], grid_of(61, 1031), overviews="mode")
    for level, factor in enumerate((2, 4)):
        with rasterio.open(tmp_path / "map.tif", overview_level=level) as file:
            found = file.read(1)
        for i, j in np.ndindex(found.shape):  # GDAL stretches the last level over the edge, so blocks are moved by up to a pixel
            assert found[i, j] in classes[max(i * factor - 1, 0) : (i + 1) * factor + 1, max(j * factor - 1, 0) : (j + 1) * factor + 1]


def test_equal_maps_are_equal_bytes(tmp_path):
    for dtype, count, options in KINDS.values():
        pixels = content(dtype, count, 600, 40)
        for name in ("a.tif", "b.tif"):
            write_geotiff(tmp_path / name, pixels, grid_of(600, 40), tags={"B": "2", "A": "1"}, **options)
        assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_strips_in_any_order_make_the_same_file_as_one_piece(tmp_path):
    dtype, _, options = KINDS["class"]
    pixels = content(dtype, 1, 700, 600)
    write_geotiff(tmp_path / "a.tif", pixels, grid_of(700, 600), **options)
    with GeoTiffStream(tmp_path / "b.tif", grid_of(700, 600), 1, dtype, Look(**options)) as stream:
        for row in (320, 0, 640, 64, 128, 192, 256, *range(384, 640, 64)):
            stream.write(pixels[:, row : row + 64], row)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.tif", "b.tif"]


def stop_early(path, error):
    with GeoTiffStream(path, grid_of(20, 30), 1, "uint8", Look()) as stream:
        stream.write(content("uint8", 1, 10, 30), 0)
        if error:
            raise error("boom")


def test_a_failure_leaves_the_old_map_and_no_partial_one(tmp_path):
    path = tmp_path / "map.tif"
    write_geotiff(path, content("uint8", 1, 20, 30), grid_of(20, 30))
    before = path.read_bytes()
    for words, error in (("boom", RuntimeError), ("rows from 10 on", ValueError)):
        with pytest.raises(error, match=words):
            stop_early(path, error if error is RuntimeError else None)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["map.tif"]


@pytest.mark.parametrize("small", [cog_copy.SMALL, 0])  # the last step is done here, or by a child
@pytest.mark.parametrize("limit", [100_000, 263_000, 280_000, 310_000])
def test_a_map_that_the_disk_does_not_take_is_never_a_cut_off_one(tmp_path, monkeypatch, capfd, small, limit):
    """262,144 bytes as strips; as a COG noise takes as much, and its overview a quarter of it."""
    monkeypatch.setattr(cog_copy, "SMALL", small)
    noise = np.random.default_rng(0).integers(0, 255, (1, 512, 512)).astype(np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(DiskError, match=r"map\.tif: cannot be written \(File too large"):
            write_geotiff(tmp_path / "map.tif", noise, grid_of(512, 512))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == [] and capfd.readouterr().err == ""


def test_mistakes_are_refused_by_name(tmp_path):
    path = tmp_path / "map.tif"
    with pytest.raises(GridError, match=r"map\.tif: colours need one band of uint8 or uint16, not 2 of uint8"):
        write_geotiff(path, content("uint8", 2, 4, 4), grid_of(4, 4), colors=COLORS)
    with pytest.raises(GridError, match=r"map\.tif: 1 band names for 2 bands"):
        write_geotiff(path, content("uint8", 2, 4, 4), grid_of(4, 4), band_names=("a",))
    with pytest.raises(GridError, match=r"map\.tif: cannot be written"):
        write_geotiff(path, content("uint8", 1, 4, 4), grid_of(4, 4), nodata=-5)
    assert not path.exists()


def test_a_map_without_a_place_is_written_too(tmp_path):
    nowhere = GeoBox((30, 40), Affine(1, 0, 0, 0, -1, 30), None)
    write_geotiff(tmp_path / "a.tif", content("uint8", 1, 30, 40), nowhere)
    assert describe(tmp_path / "a.tif").crs == "" and describe(tmp_path / "a.tif").grid == nowhere


def test_the_preview_of_classes_has_only_their_colours(tmp_path):
    classes = content("uint8", 1, 90, 200)[0]
    classes[:50] = 255
    write_preview(tmp_path / "a.png", classes, colors=COLORS, max_px=100)
    with rasterio.open(tmp_path / "a.png") as file:
        found = file.read()
    assert found.shape == (4, 45, 100)
    assert not found[3, :25].any() and (found[3, 25:] == 255).all()
    assert {tuple(color) for color in found[:3, 25:].reshape(3, -1).T.tolist()} == set(COLORS.values())
    assert os.listdir(tmp_path) == ["a.png"]


def test_the_preview_of_an_image_is_averaged(tmp_path):
    image = RNG.integers(0, 256, (3, 40, 60)).astype(np.uint8)
    write_preview(tmp_path / "a.png", image, max_px=30)
    with rasterio.open(tmp_path / "a.png") as file:
        np.testing.assert_array_equal(file.read(), np.round(image.reshape(3, 20, 2, 30, 2).mean((2, 4))))
    write_preview(tmp_path / "a.png", image)
    with rasterio.open(tmp_path / "a.png") as file:
        np.testing.assert_array_equal(file.read(), image)
