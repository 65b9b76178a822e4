"""Whether GDAL wrote what it was given. Its TIFF writer prints on stderr that a write failed, and may go on as if nothing was.

On a disk that is full a map can so end as a cut-off file, without an error.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock

import rasterio
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from skysense_cli.geo.opening import decoded_together, environment

LINE = re.compile(rb"_tiff\w+Proc: (.*?)\.?\n")
NUMBERS = {os.strerror(number): number for number in errno.errorcode}
PIPE_BYTES = 1 << 16
_ONE_AT_A_TIME = RLock()  # threads would give each other the wrong stderr back


@contextmanager
def surely_written() -> Iterator[None]:
    """Raises OSError with the reason of the first write that GDAL could not do in the block, whatever else it says of it.

    For blocks in which GDAL alone works: stderr is the process's, and is held back until the end, as much of it as a pipe holds.
    """
    if sys.__stderr__ is None:  # the process was started without one
        yield
        return
    with _ONE_AT_A_TIME:
        yield from _listened_to()


def _listened_to() -> Iterator[None]:
    sys.stderr.flush()
    shown, (ours, theirs) = os.dup(2), os.pipe()
    os.set_blocking(theirs, False)  # GDAL never waits for us,
    os.set_blocking(ours, False)  # nor we for a child that holds the other end
    os.dup2(theirs, 2)
    os.close(theirs)
    failed: BaseException | None = None
    try:
        yield
    except RasterioError as error:
        failed = error
    finally:
        sys.stderr.flush()
        os.dup2(shown, 2)
        os.close(shown)
        with open(ours, "rb", buffering=0) as pipe:
            text = pipe.read(PIPE_BYTES) or b""
        with suppress(OSError):
            os.write(2, LINE.sub(b"", text))
    if (found := LINE.search(text)) is not None:
        reason = found[1].decode(errors="replace")
        raise OSError(NUMBERS.get(reason, errno.EIO), reason) from failed
    if failed is not None:
        raise failed


def is_whole(path: Path) -> bool:
    """Whether every block that a GeoTIFF and its overviews name lies inside the file."""
    with environment():
        with rasterio.open(path, driver="GTiff") as dataset:
            levels = len(dataset.overviews(1))
            ends = [_end(dataset)]
        for level in range(levels):
            with rasterio.open(path, driver="GTiff", overview_level=level) as dataset:
                ends.append(_end(dataset))
    return max(ends) <= path.stat().st_size


def _end(dataset: DatasetReader) -> int:
    """Where the last block of all bands ends, in bytes from the beginning of the file."""
    bands = [1] if decoded_together(dataset) else dataset.indexes
    return max((_block_end(dataset, band, *place) for band in bands for place, _ in dataset.block_windows(band)), default=0)


def _block_end(dataset: DatasetReader, band: int, row: int, column: int) -> int:
    first, size = (dataset.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=band) for what in ("OFFSET", "SIZE"))
    return int(first) + int(size) if first and size else 0  # a block that is not there takes no room
