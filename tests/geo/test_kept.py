"""Rasters that stay open: they are the same raster, and what GDAL has decoded of them is not decoded again."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.env import get_gdal_config
from rasterio.transform import from_origin

from skysense_cli.errors import GridError
from skysense_cli.geo import kept, raster
from skysense_cli.geo.kept import kept_open, lent
from skysense_cli.geo.opening import CACHE_BYTES, environment, open_raster

SIDE, BLOCK = 256, 128


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A compressed raster of two bands in blocks that hold both."""
    pixels = np.random.default_rng(0).integers(0, 60_000, (2, SIDE, SIDE), dtype=np.uint16)
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=SIDE, width=SIDE, count=2, dtype="uint16", crs="EPSG:32631", compress="deflate",
        tiled=True, blockxsize=BLOCK, blockysize=BLOCK, interleave="pixel", transform=from_origin(500_000, 5_600_000, 10, 10),
    ) as out:  # fmt: skip
        out.write(pixels)
    return path, pixels


def rows(path: Path, first: int, count: int = 16) -> np.ndarray:
    return raster.read_window(path, [1, 2], (slice(first, first + count), slice(0, SIDE)))[0]


def spoil(path: Path) -> None:
    """Overwrite everything behind the header in place, so that decoding any block fails."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(size // 4)
        file.write(b"\x55" * (size // 2))


def test_the_cache_of_the_process_is_megabytes_large() -> None:
    """Rasterio takes bytes where GDAL takes megabytes: `64` once meant 64 bytes, and no block was ever kept."""
    with environment():
        assert get_gdal_config("GDAL_CACHEMAX") == CACHE_BYTES == 64 << 20


def test_inside_the_cache_has_the_room_that_was_asked_for_and_then_no_more() -> None:
    with kept_open(200 << 20), environment():
        assert get_gdal_config("GDAL_CACHEMAX") == 200 << 20
    with environment():
        assert get_gdal_config("GDAL_CACHEMAX") == CACHE_BYTES


def test_blocks_that_were_decoded_are_not_read_from_the_file_again(stored: tuple[Path, np.ndarray]) -> None:
    path, pixels = stored
    with kept_open(CACHE_BYTES):
        rows(path, 0, SIDE)
        spoil(path)
        for first in range(0, SIDE - 16, 12):
            np.testing.assert_array_equal(rows(path, first), pixels[:, first : first + 16])
    with pytest.raises(GridError, match="scene.tif"):
        rows(path, 0, SIDE)


def test_a_raster_stays_open_until_the_end_of_the_block(stored: tuple[Path, np.ndarray]) -> None:
    path, pixels = stored
    with kept_open(CACHE_BYTES):
        with open_raster(path) as first:
            pass
        path.unlink()
        with open_raster(path) as second:
            assert second is first
            np.testing.assert_array_equal(second.read(), pixels)
    assert first.closed
    with pytest.raises(GridError, match="no such file"), open_raster(path):
        pass


def test_after_an_error_a_raster_is_opened_anew(stored: tuple[Path, np.ndarray]) -> None:
    path, _ = stored
    with kept_open(CACHE_BYTES):
        with pytest.raises(RuntimeError, match="mine"), open_raster(path) as first:
            raise RuntimeError("mine")
        with open_raster(path) as second:
            assert first.closed and not second.closed


def test_other_threads_and_outer_blocks_keep_nothing(stored: tuple[Path, np.ndarray]) -> None:
    path, _ = stored
    with kept_open(CACHE_BYTES):
        with open_raster(path) as outer:
            pass
        with kept_open(CACHE_BYTES), open_raster(path) as inner:
            assert inner is not outer
        assert inner.closed and not outer.closed
    with open_raster(path) as alone:
        pass
    assert alone.closed


def test_a_raster_on_a_server_is_opened_anew_when_its_signature_may_have_ended(
    stored: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = stored
    seen = []
    for stale_s in (60.0, 0.0):
        monkeypatch.setattr(kept, "STALE_S", stale_s)
        with kept_open(CACHE_BYTES):
            for _ in range(2):
                with lent("address", lambda: rasterio.open(path), remote=True) as dataset:
                    seen.append(dataset)
    assert seen[0] is seen[1] and seen[2] is not seen[3] and all(one.closed for one in seen)


def test_no_more_files_are_open_than_allowed(stored: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = stored
    monkeypatch.setattr(kept, "MOST_OPEN", 2)
    with kept_open(CACHE_BYTES):
        opened = []
        for name in "abc":
            with lent(name, lambda: rasterio.open(path)) as dataset:
                opened.append(dataset)
        assert [one.closed for one in opened] == [True, False, False]


def test_rasters_in_memory_share_the_room_that_was_asked_for(stored: tuple[Path, np.ndarray]) -> None:
    path, _ = stored
    with kept_open(int(1.5 * SIDE * SIDE * 8)):
        opened = []
        for name in "ab":
            with lent(name, lambda: rasterio.open(path), in_memory=True) as dataset:
                opened.append(dataset)
        assert [one.closed for one in opened] == [True, False]


def test_a_row_of_blocks_is_counted_with_all_bands_that_come_with_it(stored: tuple[Path, np.ndarray]) -> None:
    info = raster.describe(stored[0])
    assert info.block == (BLOCK, BLOCK) and info.together
    assert info.block_row_bytes(1, SIDE) == BLOCK * SIDE * 2 * 2  # two bands of two bytes
    assert info.block_row_bytes(2, SIDE) == info.block_row_bytes(1, SIDE)
