"""Rasters that stay open from one read to the next, so that what GDAL has decoded of them is still there.

GDAL forgets the blocks of a raster that is closed, and the strips of a scene meet the same blocks again and again:
a row of blocks of 512 px is met by ten strips that lie 48 px apart.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import local

import rasterio
from rasterio.io import DatasetReader

MOST_OPEN = 256  # rasters; each is a file handle
STALE_S = 60.0  # a raster on a server is opened anew then: its signature may have been about to expire

Open = Callable[[], AbstractContextManager[DatasetReader]]


class _Kept:
    """What a thread keeps open. memory: bytes that rasters which lie in memory as a whole may take together"""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._open: OrderedDict[str, tuple[DatasetReader, float, int, ExitStack]] = OrderedDict()

    def lend(self, name: str, opened: Open, remote: bool, in_memory: bool) -> DatasetReader:
        """The raster of this name, opened if it is not yet."""
        found = self._open.get(name)
        if found is not None and (not remote or time.monotonic() - found[1] < STALE_S):
            self._open.move_to_end(name)
            return found[0]
        self.drop(name)
        with ExitStack() as stack:
            dataset = stack.enter_context(opened())
            size = dataset.width * dataset.height * 8 if in_memory else 0
            self._open[name] = dataset, time.monotonic(), size, stack.pop_all()
        while len(self._open) > MOST_OPEN or (len(self._open) > 1 and sum(one[2] for one in self._open.values()) > self._memory):
            self.drop(next(iter(self._open)))
        return dataset

    def drop(self, name: str) -> None:
        """Close one, if it is open."""
        if name in self._open:
            self._open.pop(name)[3].close()

    def close(self) -> None:
        """Close all."""
        for name in list(self._open):
            self.drop(name)


_of_thread = local()


@contextmanager
def kept_open(cache: int) -> Iterator[None]:
    """Inside, the rasters that this thread opens stay open until the end.

    cache: bytes for decoded blocks in GDAL's cache, which all threads share
    """
    before, kept = getattr(_of_thread, "kept", None), _Kept(cache)
    _of_thread.kept = kept
    try:
        with rasterio.Env(GDAL_CACHEMAX=cache):  # here it is bytes; in the environment of the process, megabytes
            yield
    finally:
        _of_thread.kept = before
        kept.close()


@contextmanager
def lent(name: str, opened: Open, *, remote: bool = False, in_memory: bool = False) -> Iterator[DatasetReader]:
    """The raster that `opened` gives, kept if this thread keeps rasters; after an error in the block it is not kept."""
    kept: _Kept | None = getattr(_of_thread, "kept", None)
    if kept is None:
        with opened() as dataset:
            yield dataset
        return
    try:
        yield kept.lend(name, opened, remote, in_memory)
    except BaseException:
        kept.drop(name)
        raise
