"""The one door for rasters: an allow-list of formats, budgets, one set of GDAL settings, errors that name the file."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from skysense_cli.errors import GridError, SkySenseError, SourceError
from skysense_cli.geo import cube, remote
from skysense_cli.geo.kept import lent
from skysense_cli.geo.names import is_plain, path_of, text_of

DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG")  # no VRT: one can read any file of the machine, whatever its own name
MOST_BLOCK_BYTES = 256 << 20  # one block is decoded as a whole, for every window that meets it
MOST_BANDS = 10_000
DESCRIPTORS = "/proc/self/fd/"  # where the system names the files that this process has open
UNKNOWN = "not recognized as being in a supported file format"  # what GDAL says when it is no file of a driver

CACHE_BYTES = 64 << 20  # of decoded blocks; `kept_open` makes more room, GDAL's default is 5 % of the memory
os.environ.setdefault("GDAL_CACHEMAX", str(CACHE_BYTES >> 20))  # of the process: GDAL has one cache for all threads

ENVIRONMENT = {
    "GDAL_PAM_ENABLED": "NO",  # side files are neither followed nor written
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_HTTP_TIMEOUT": 60,  # without these a silent server blocks for ever
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_LOW_SPEED_TIME": 30,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 100,
    "GDAL_HTTP_MAX_RETRY": 2,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_NUM_THREADS": 1,
    "GDAL_TIFF_OVR_BLOCKSIZE": 512,
    "GTIFF_SRS_SOURCE": "EPSG",
}


class UnreadableError(GridError):
    """A raster on this machine is not what it should be; reading it again gives the same."""


Place = str | os.PathLike[str]
ZIP = "zip://"  # and the archive's path, `!/`, the member's name


def environment(**changes: str) -> rasterio.Env:
    """The GDAL settings under which every raster is opened and written."""
    return rasterio.Env(**{**ENVIRONMENT, **changes})


@contextmanager
def open_raster(path: Place) -> Iterator[DatasetReader]:
    """The raster at `path`, open for reading: a local file, a member of a local zip (`zip:///data/a.zip!/b/c.jp2`), or an address of
    `geo/remote.py`.

    Raises GridError (SourceError for a remote one) that names the file: missing, damaged, not of an allowed
    format, or with blocks beyond the budget. Errors of reads inside the block name it too.
    """
    name = str(path)
    with environment(**remote.settings(name)):
        try:
            in_memory = name.startswith(cube.SCHEME)
            with lent(name, lambda: _opened(name), remote=remote.is_remote(name), in_memory=in_memory) as dataset:
                yield dataset
        except (RasterioError, CRSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
            raise failure(name, reason_of(error)) from error


@contextmanager
def _opened(name: str) -> Iterator[DatasetReader]:
    with ExitStack() as stack:
        if name.startswith(cube.SCHEME):
            dataset = stack.enter_context(cube.open_slice(name))
        else:
            dataset = stack.enter_context(_open(stack.enter_context(_within_reach(_address(name)))))
        _check_layout(dataset, remote.shown(name))
        yield dataset


@contextmanager
def _within_reach(address: str) -> Iterator[str]:
    """`address`, or another name of a file that this process opens, where GDAL, which takes UTF-8 alone, cannot spell it."""
    try:
        address.encode()
        descriptor = None
    except UnicodeEncodeError:
        descriptor = os.open(address, os.O_RDONLY)
    if descriptor is None:
        yield address
        return
    try:
        if not os.path.exists(f"{DESCRIPTORS}{descriptor}"):
            raise GridError(f"{text_of(address)}: its name is no valid UTF-8, which GDAL needs; rename it")
        yield f"{DESCRIPTORS}{descriptor}"
    finally:
        os.close(descriptor)


def _address(name: str) -> str:
    """What GDAL is given: an absolute path of a file that is there, /vsizip/ for a member, what `remote` says for an address."""
    if remote.is_remote(name):
        return remote.address(name)
    if name.startswith(ZIP):
        archive, _, member = name.removeprefix(ZIP).rpartition("!/")
        if not Path(archive).is_file() or "}" in archive or not member or ".." in member.split("/"):
            raise GridError(f"{name}: no such file in a zip archive")
        return f"/vsizip/{{{Path(archive).absolute()}}}/{member}"
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE) or name.startswith("/vsi"):
        raise GridError(f"{name}: only local files, http(s) and s3 addresses are opened")
    path = path_of(name)
    if not path.is_file():
        raise GridError(f"{name}: " + ("is a folder, expected a raster" if path.is_dir() else "no such file"))
    return str(path.absolute())


def place_of(address: str) -> str:
    """What `open_raster` was given for an address that it gave to GDAL, as a message may hold it."""
    if address.startswith("/vsis3/"):
        return "s3://" + address.removeprefix("/vsis3/")
    if address.startswith("/vsicurl/"):
        return remote.shown(address.removeprefix("/vsicurl/"))
    if (of_cube := cube.place_in(address)) is not None:
        return of_cube
    if address.startswith(DESCRIPTORS):
        return text_of(os.readlink(address))
    archive, inside, member = address.removeprefix("/vsizip/{").partition("}/")
    return f"{ZIP}{archive}!/{member}" if inside and address.startswith("/vsizip/{") else address


def _open(address: str) -> DatasetReader:
    """By the first allowed driver that knows the format; GDAL alone would try all it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # whoever needs a place asks for it and is told
        for driver in DRIVERS:
            try:
                return rasterio.open(address, driver=driver, sharing=False)
            except RasterioError as error:
                if driver == DRIVERS[-1] or UNKNOWN not in str(error):
                    raise
    raise AssertionError


def _check_layout(dataset: DatasetReader, name: str) -> None:
    if not dataset.count:
        raise GridError(f"{name}: has no band")
    if dataset.count > MOST_BANDS:
        raise GridError(f"{name}: has {dataset.count} bands, at most {MOST_BANDS} are read")
    unreadable = [dtype for dtype in dataset.dtypes if np.dtype(dtype).kind not in "iuf"]
    if unreadable:
        raise GridError(f"{name}: holds {unreadable[0]}, only real numbers are read")
    height, width = dataset.block_shapes[0]
    size = height * width * np.dtype(dataset.dtypes[0]).itemsize * (dataset.count if decoded_together(dataset) else 1)
    if size > MOST_BLOCK_BYTES:
        raise GridError(
            f"{name}: is stored in blocks of {height} x {width} px, {size:,} bytes each, at most {MOST_BLOCK_BYTES:,} are decoded; "
            f"rewrite it in tiles, e.g. gdal_translate -co TILED=YES -co COMPRESS=DEFLATE {name} tiled.tif"
        )


def decoded_together(dataset: DatasetReader) -> bool:
    """Whether a block holds all bands."""
    return bool(dataset.interleaving) and dataset.interleaving.name == "pixel"


def failure(name: str, reason: str) -> SkySenseError:
    """A reader's fault for a file, a source's for a remote one."""
    if remote.is_remote(name):
        reason = remote.cause(name, reason.replace("/vsicurl/", "").replace("/vsis3/", "s3://"))
        return SourceError(f"{remote.shown(name)}: {reason}")
    if not is_plain(name):
        reason = re.sub(rf"(?<=\()(?:{DESCRIPTORS})?\d+(?=[:,] )", lambda _: Path(name).name, reason)
    reason = reason.replace("/vsizip/{", ZIP).replace("}/", "!/").replace(f"{Path(name).name}: ", "")
    return UnreadableError(f"{name}: {reason}")


def reason_of(error: BaseException) -> str:
    """What GDAL said first; the outer message is often only `Read failed`."""
    said = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        said.append(str(error))
    text = next((line for line in reversed(said) if line.strip()), type(error).__name__)
    if UNKNOWN in text:
        return f"is no raster of a known format ({', '.join(DRIVERS)}), or is damaged"
    return f"cannot be read ({text})"
