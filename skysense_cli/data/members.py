"""The arrays in an npz file: stored uncompressed and aligned, so that a part can be mapped instead of read.

Nothing here unpickles. The zip's directory and every array header are checked before any data is read.
"""

import io
import math
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from skysense_cli import console
from skysense_cli.errors import DataError

ALIGN = 64  # bytes; data of a stored member starts at a multiple
MOST_BYTES = 8 << 30
MOST_MEMBERS = 2048
LONGEST_HEADER = 10_000
EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's first date; a real one would make equal content unequal bytes
LOCAL_HEADER = 30  # bytes before the member's name


class Header(NamedTuple):
    """What the array header of a member says. start: of the data, from the start of the member."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int


def write_members(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays in the given order; equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, given in arrays.items():
            array = np.asarray(given, order="C")
            if array.dtype.hasobject or array.dtype.names:
                raise TypeError(f"{key} is {array.dtype}, which npz files here do not hold")
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
            info = zipfile.ZipInfo(f"{key}.npy", EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            info.file_size = header.tell() + array.nbytes
            large = info.file_size > 1 << 30  # a zip64 field of 20 bytes is added to the local header then
            info.extra = _padding(archive.fp.tell() + LOCAL_HEADER + len(info.filename) + 20 * large)  # type: ignore[union-attr]
            with archive.open(info, "w", force_zip64=large) as member:
                member.write(header.getvalue())
                member.write(array.reshape(-1).view(np.uint8).data if array.nbytes else b"")


class Members:
    """An npz file open for reading. Raises DataError naming file and key for anything that is not as it should be."""

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path}: cannot be opened ({error.strerror})") from error
        try:
            self._archive = zipfile.ZipFile(self._file)
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._members = self._directory(most_bytes)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error) as error:
            self._file.close()
            raise DataError(f"{path}: is no npz file, or a damaged one ({error})") from error
        except DataError:
            self._file.close()
            raise
        self._headers: dict[str, Header] = {}
        self._data: dict[str, memoryview] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._archive.close()
        self._file.close()  # the map lives on for as long as a view of it does

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def __iter__(self) -> Iterator[str]:
        """Names of the arrays, in file order."""
        return iter(self._members)

    def is_stored(self, key: str) -> bool:
        """Whether an array can be mapped; a deflated one cannot."""
        return self._info(key).compress_type == zipfile.ZIP_STORED

    def header(self, key: str) -> Header:
        """Shape and dtype of an array, without its data."""
        if key not in self._headers:
            self._headers[key] = self._read_header(key)
        return self._headers[key]

    def load(self, key: str) -> np.ndarray:
        """A whole array in memory, in native byte order; its checksum has been compared."""
        header, info = self.header(key), self._info(key)
        if info.compress_type == zipfile.ZIP_STORED:
            data = self._stored(key)
            if zlib.crc32(data) != info.CRC:
                raise DataError(f"{self.path}: {key} is damaged (its checksum differs)")
        else:
            data = memoryview(self._inflated(key, info.file_size))
        return np.array(_array(data, header), dtype=header.dtype.newbyteorder("="), order="C")

    def view(self, key: str) -> np.ndarray:
        """An array that is read from the file page by page as it is used; a deflated one is loaded, with a warning."""
        if self._info(key).compress_type != zipfile.ZIP_STORED:
            _warn_deflated(self.path.parent)
            return self.load(key)
        header = self.header(key)
        if header.dtype.newbyteorder("=") != header.dtype:
            return self.load(key)
        return _array(self._stored(key), header)

    def text(self, key: str) -> str:
        """A single text."""
        array = self.load(key)
        if array.dtype.kind != "U" or array.shape != ():
            raise DataError(f"{self.path}: {key} is {_kind(array)}, expected one text")
        return str(array)

    def _info(self, key: str) -> zipfile.ZipInfo:
        if key not in self._members:
            raise DataError(f"{self.path}: has no {key}")
        return self._members[key]

    def _directory(self, most_bytes: int) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        infos = self._archive.infolist()
        if len(infos) > MOST_MEMBERS:
            raise DataError(f"{self.path}: has {len(infos)} members, at most {MOST_MEMBERS} are read")
        for info in infos:
            key = info.filename.removesuffix(".npy")
            if key in found:
                raise DataError(f"{self.path}: holds {key} twice")
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{self.path}: {key} is encrypted or packed in a way that is not read (only stored and deflated are)")
            found[key] = info
        total = sum(info.file_size for info in infos)
        if total > most_bytes:
            raise DataError(f"{self.path}: declares {total:,} bytes of arrays, at most {most_bytes:,} are read")
        return found

    def _read_header(self, key: str) -> Header:
        info = self._info(key)
        stored = info.compress_type == zipfile.ZIP_STORED
        start = self._stored(key)[: LONGEST_HEADER + 12] if stored else memoryview(self._inflated(key, LONGEST_HEADER + 12))
        try:
            found = _parsed(bytes(start[: _header_length(start)]))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise DataError(f"{self.path}: {key} has no readable array header ({str(error)[:100]})") from error
        shape, dtype = found.shape, found.dtype
        if dtype.hasobject or dtype.names or dtype.subdtype:
            raise DataError(f"{self.path}: {key} is {dtype}; objects and structured arrays are not read")
        expected = found.start + dtype.itemsize * math.prod(int(n) for n in shape)
        if any(n < 0 for n in shape) or expected != info.file_size:
            raise DataError(f"{self.path}: {key} declares {dtype} {shape}, {expected:,} bytes, but has {info.file_size:,}")
        return found

    def _stored(self, key: str) -> memoryview:
        """The bytes of a stored member in the map."""
        if key not in self._data:
            self._data[key] = self._found(key)
        return self._data[key]

    def _found(self, key: str) -> memoryview:
        info = self._info(key)
        local = self._map[info.header_offset : info.header_offset + LOCAL_HEADER]
        if len(local) < LOCAL_HEADER or local[:4] != b"PK\3\4":
            raise DataError(f"{self.path}: {key} has no zip header where the directory says")
        name, extra = struct.unpack("<HH", local[26:30])
        start = info.header_offset + LOCAL_HEADER + name + extra
        if info.compress_size != info.file_size or start + info.file_size > len(self._map):
            raise DataError(f"{self.path}: {key} reaches beyond the end of the file (is it cut off?)")
        return memoryview(self._map)[start : start + info.file_size]

    def _inflated(self, key: str, most: int) -> bytes:
        try:
            with self._archive.open(self._info(key)) as member:
                data = member.read(most)
                if len(data) == self._info(key).file_size and member.read(1):  # reading to the end compares the checksum
                    raise DataError(f"{self.path}: {key} is longer than the directory says")
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{self.path}: {key} is damaged ({error})") from error
        if len(data) < min(most, self._info(key).file_size):
            raise DataError(f"{self.path}: {key} is cut off")
        return data


def _header_length(start: memoryview) -> int:
    """Bytes of an array header from the member's first byte, as it says itself; at most those of `start`."""
    size = 2 if start[6:7] == b"\x01" else 4
    return 8 + size + int.from_bytes(start[8 : 8 + size], "little")


@lru_cache(maxsize=1024)
def _parsed(start: bytes) -> Header:
    """What an array header says; remembered, since files of one data set have the same ones and parsing is slow."""
    stream = io.BytesIO(start)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream, max_header_size=LONGEST_HEADER)
    return Header(shape, dtype, fortran, stream.tell())


def _array(data: memoryview, header: Header) -> np.ndarray:
    flat = np.frombuffer(data[header.start :], dtype=header.dtype) if header.dtype.itemsize else np.zeros(header.shape, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _padding(position: int) -> bytes:
    """A zip extra field that moves what follows to a multiple of ALIGN."""
    length = -position % ALIGN
    if 0 < length < 4:  # the field's own head takes 4 bytes
        length += ALIGN
    return struct.pack("<HH", 0x5353, length - 4) + bytes(length - 4) if length else b""


@lru_cache(maxsize=64)
def _warn_deflated(folder: Path) -> None:
    """Cached, so that it is said once per folder: a thousand files of one origin need one line."""
    console.warn(f"{folder}: holds deflated npz files, which read about a thousand times slower than stored ones; build them again")


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
