"""The files of cubes, opened with care.

Numbers only: nothing that runs code (pickled objects, unknown codecs) and nothing that points to other files
(external or virtual HDF5 storage, links) is read.
"""

import importlib.util
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skysense_cli.errors import GridError

if TYPE_CHECKING:
    import xarray  # at run time it is imported where a cube is opened: half a second that rasters do not need

SIGNATURES = {b"\x89HDF": "h5netcdf", b"CDF\x01": "scipy", b"CDF\x02": "scipy"}
MOST_SLICE_BYTES = 1 << 30
MOST_METADATA_BYTES = 16 << 20
MOST_VARIABLES = 1000
CODECS = ("blosc", "zlib", "gzip", "zstd", "lz4", "lzma", "bz2", "shuffle", "delta", "fixedscaleoffset", "crc32", "crc32c", "bytes",
          "transpose", "sharding_indexed")  # fmt: skip


def stamp_of(path: str) -> int:
    """When a cube was last changed. Raises GridError where there is none."""
    place = Path(path)
    if not place.exists():
        raise GridError(f"{path}: no such file or folder")
    return place.stat().st_mtime_ns


@lru_cache(maxsize=8)
def opened(path: str, stamp: int) -> "xarray.Dataset":
    """Open, nothing decoded, nothing read. stamp: of the last change, so that a new file is opened anew"""
    import xarray

    place = Path(path)
    engine = "zarr" if place.is_dir() else SIGNATURES.get(_start(place), "")
    if not engine:
        raise GridError(f"{path}: is neither netCDF nor Zarr")
    needed = {"zarr": ("zarr",), "h5netcdf": ("h5netcdf", "h5py"), "scipy": ()}[engine]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise GridError(f"{path}: reading it needs {missing[0]}; get it with: pip install 'skysense-cli[cubes]'")
    try:
        _check_zarr(place) if engine == "zarr" else _check_hdf5(place) if engine == "h5netcdf" else None
        options = {"consolidated": False} if engine == "zarr" else {}
        dataset = xarray.open_dataset(path, engine=engine, decode_cf=False, chunks=None, backend_kwargs=options)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, RecursionError) as error:
        raise GridError(f"{path}: cannot be read ({str(error)[:200] or type(error).__name__})") from error
    if len(dataset.variables) > MOST_VARIABLES:
        raise GridError(f"{path}: has {len(dataset.variables)} variables, at most {MOST_VARIABLES} are read")
    return dataset


def _start(place: Path) -> bytes:
    with place.open("rb") as file:
        return file.read(4)


def _check_hdf5(place: Path) -> None:
    import h5py

    with h5py.File(place, "r") as file:
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise GridError(f"{place}: {name} is a link to elsewhere, which is not followed")
            one = file[name]
            if isinstance(one, h5py.Dataset) and (one.external or one.is_virtual):
                raise GridError(f"{place}: {name} keeps its numbers in other files, which are not opened")
            if isinstance(one, h5py.Dataset) and one.chunks and one.dtype.itemsize * np.prod(one.chunks, dtype=float) > MOST_SLICE_BYTES:
                raise GridError(f"{place}: {name} is stored in blocks beyond {MOST_SLICE_BYTES:,} bytes")


def _check_zarr(place: Path) -> None:
    """Refuse codecs that are not known, since some run code, and objects; only the arrays at the top are ever read."""
    for home in (place, *(one for one in sorted(place.iterdir()) if one.is_dir())):
        for name in (".zarray", "zarr.json"):
            file = home / name
            if not file.is_file():
                continue
            if file.stat().st_size > MOST_METADATA_BYTES:
                raise GridError(f"{file}: has {file.stat().st_size:,} bytes, at most {MOST_METADATA_BYTES:,} are read")
            facts = json.loads(file.read_text(encoding="utf-8"))
            unknown = sorted(set(_codecs(facts)).difference(CODECS))
            if unknown:
                raise GridError(f"{file}: is stored with the codec {unknown[0]}, which is not read (known: {', '.join(sorted(CODECS))})")
            shapes = [facts.get("chunks"), facts.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape")]
            if any(shape and np.prod(shape, dtype=float) * 8 > 8 * MOST_SLICE_BYTES for shape in shapes):
                raise GridError(f"{file}: is stored in blocks beyond {MOST_SLICE_BYTES:,} numbers")


def _codecs(facts: dict[str, Any]) -> Iterator[str]:
    """Names of the codecs of an array, also those inside others; `object` for what is no number."""
    if facts.get("dtype") == "|O":
        yield "object"
    for one in (facts.get("compressor"), *(facts.get("filters") or ()), *(facts.get("codecs") or ())):
        if one:
            yield str(one.get("id") or one.get("name"))
            inner = one.get("configuration") or {}
            yield from _codecs({"codecs": [*(inner.get("codecs") or ()), *(inner.get("index_codecs") or ())]})
