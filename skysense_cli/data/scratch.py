"""The dates of a block in a file: written one by one, mapped one by one when they are cut into samples, so that memory holds one."""

from pathlib import Path

import numpy as np


class Dates:
    """(T, ...) numbers of one kind on disk; `dates[k] = values` writes a date, `dates[k]` maps it for as long as the array lives.

    A date that was never written is zeros and takes no disk. Writing raises OSError that names the file.
    """

    def __init__(self, path: Path, dtype: str, count: int, shape: tuple[int, ...]) -> None:
        self._path, self._dtype, self._shape = path, np.dtype(dtype), shape
        self._size = int(self._dtype.itemsize * np.prod(shape))
        with path.open("wb") as file:
            file.truncate(count * self._size)

    def __setitem__(self, number: int, values: np.ndarray) -> None:
        array = np.ascontiguousarray(values, self._dtype)
        assert array.shape == self._shape, "a date is written as a whole"
        left = array.reshape(-1).view(np.uint8).data
        # written, not mapped: a page fault for each 4 kB costs more than the copy, and on a full disk the system kills who writes to a map
        with self._path.open("r+b", buffering=0) as file:
            file.seek(number * self._size)
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._path)) from error

    def __getitem__(self, number: int) -> np.ndarray:
        return np.memmap(self._path, self._dtype, "r", number * self._size, self._shape)
