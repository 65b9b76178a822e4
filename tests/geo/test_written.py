"""A map that GDAL could not write is never taken for one that it wrote."""

import errno
import os
from threading import Thread

import numpy as np
import pytest
from odc.geo.geobox import GeoBox

from skysense_cli.geo.cog import write_geotiff
from skysense_cli.geo.written import is_whole, surely_written


def test_a_write_that_failed_is_an_error_and_other_lines_are_shown(capfd):
    with pytest.raises(OSError, match="No space left on device") as caught, surely_written():
        os.write(2, b"before\n_tiffWriteProc: No space left on device.\nafter\n_tiffSeekProc: Invalid argument.\n")
    assert caught.value.errno == errno.ENOSPC
    assert capfd.readouterr().err == "before\nafter\n"


def test_nothing_is_said_of_what_went_well(capfd):
    with surely_written():
        os.write(2, b"a line\n")
    with pytest.raises(KeyError), surely_written():
        raise KeyError
    assert capfd.readouterr().err == "a line\n"


def test_more_than_a_pipe_holds_blocks_nobody(capfd):
    with surely_written():
        written = os.write(2, bytes([65]) * (1 << 20))
    assert len(capfd.readouterr().err) == written < 1 << 20


def test_threads_that_write_at_once_give_stderr_back(capfd):
    def work(number):
        for _ in range(50):
            with surely_written():
                os.write(2, b"%d\n" % number)

    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"end\n")
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines[:-1]) == sorted("0123" * 50) and lines[-1] == "end"


@pytest.mark.parametrize("overviews", ["none", "average"])
@pytest.mark.parametrize("bands", [1, 3])
def test_a_file_that_lacks_its_end_is_not_whole(tmp_path, overviews, bands):
    path = tmp_path / "map.tif"
    pixels = np.random.default_rng(0).integers(0, 200, (bands, 1030, 700)).astype(np.uint8)
    write_geotiff(path, pixels, GeoBox.from_bbox((0, 0, 7000, 10300), "EPSG:32631", resolution=10), overviews=overviews)
    assert is_whole(path)
    content = path.read_bytes()
    for lost in (100, len(content) // 2):
        path.write_bytes(content[:-lost])
        assert not is_whole(path)
