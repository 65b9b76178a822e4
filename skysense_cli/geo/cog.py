"""Rasters out: always a valid Cloud-Optimized GeoTIFF, whole or absent, equal bytes for equal content.

`GeoTiffStream` takes pieces as they come and never holds the whole map; `write_geotiff` writes one
that is in memory.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from skysense_cli.errors import DiskError, GridError, SkySenseError
from skysense_cli.files import TEMPORARY, whole_file
from skysense_cli.geo.cog_copy import copy_as_cog
from skysense_cli.geo.opening import environment
from skysense_cli.geo.written import surely_written

BLOCK_PX = 512  # of the result; overviews go down to one block
LEAST_BLOCK_PX = 128  # of maps with many bands: a block holds all of them
BLOCK_BYTES = 32 << 20  # of one block, as far as LEAST_BLOCK_PX allows
STRIP_BLOCK_PX = 256
NAMES_TAG = "CLASS_NAMES"  # JSON object: class id -> name

Overviews = Literal["mode", "average", "nearest", "none"]
Compression = Literal["deflate", "zstd", "lzw"]
Names = Sequence[str] | Mapping[int, str]
Colors = Mapping[int, Sequence[int]]  # class id -> r, g, b[, a]; kept as 8-bit r, g, b


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a map presents itself.

    nodata: None if every value counts      names, colors: of class ids (colors: one band, uint8 or uint16)
    overviews: "mode" for class ids (averaging would invent classes), "average" for measurements
    scale: what one count stands for, e.g. 0.005 for probabilities in 0..200
    """

    nodata: float | None = None
    colors: Colors | None = None
    names: Names | None = None
    band_names: Sequence[str] | None = None
    tags: Mapping[str, str] | None = None
    overviews: Overviews = "nearest"
    compress: Compression = "deflate"
    scale: float = 1.0


def write_geotiff(path: Path, pixels: np.ndarray, grid: GeoBox, *, nodata: float | None = None, colors: Colors | None = None,
                  names: Names | None = None, band_names: Sequence[str] | None = None, tags: Mapping[str, str] | None = None,
                  overviews: Overviews = "nearest", compress: Compression = "deflate", scale: float = 1.0) -> None:  # fmt: skip
    """Write pixels (C, H, W) on `grid`; the options are the fields of `Look`. Raises GridError or DiskError naming the file."""
    look = Look(
        nodata=nodata, colors=colors, names=names, band_names=band_names, tags=tags, overviews=overviews, compress=compress, scale=scale
    )
    with GeoTiffStream(path, grid, len(pixels), str(pixels.dtype), look) as stream:
        stream.write(pixels, 0)


class GeoTiffStream:
    """A map that is written in pieces, in any order; on a clean exit of the block it becomes a COG at `path`.

    Pieces go to an uncompressed `<path>.strips.tmp`, which is never resumed: a killed one opens
    without an error and reads zeros. Memory: GDAL's cache. Disk, for a while: map and strips.
    sparse: what is not written is nodata and takes no room; otherwise every pixel must be written
    Raises DiskError that names the file for what the disk does not take.
    """

    def __init__(self, path: Path, grid: GeoBox, count: int, dtype: str, look: Look, *, sparse: bool = False) -> None:
        self.path, self.grid, self.look = Path(path), grid, look
        self.count, self.dtype, self.sparse = count, np.dtype(dtype), sparse
        self._strips = self.path.with_name(f"{self.path.name}.strips{TEMPORARY}")
        self._columns = np.zeros(grid.shape[0], np.int64)  # written of each row
        self._blocks = np.zeros([-(-side // STRIP_BLOCK_PX) for side in grid.shape], bool)  # that hold anything
        self._stack = ExitStack()
        if look.colors is not None and (count != 1 or self.dtype not in (np.uint8, np.uint16)):
            raise GridError(f"{path}: colours need one band of uint8 or uint16, not {count} of {dtype}")
        if look.band_names is not None and len(look.band_names) != count:
            raise GridError(f"{path}: {len(look.band_names)} band names for {count} bands")

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._strips.unlink(missing_ok=True)
        self._stack.enter_context(environment())
        try:
            self._dataset = self._create()
        except (RasterioError, OSError, ValueError) as error:  # ValueError: a nodata value that the dtype cannot hold
            self._stack.close()
            raise self._failure(error) from error
        return self

    def write(self, pixels: np.ndarray, row: int, column: int = 0) -> None:
        """Write pixels (C, h, w) from `row` and `column` on; no pixel twice."""
        height, width = pixels.shape[1:]
        if pixels.shape[0] != self.count or pixels.dtype != self.dtype or column + width > self.grid.shape[1]:
            raise ValueError(
                f"piece is {pixels.dtype} {pixels.shape} from column {column} on, "
                f"the map has {self.count} bands of {self.dtype}, {self.grid.shape[1]} wide"
            )
        try:
            with surely_written():
                self._dataset.write(pixels, window=Window(column, row, width, height))
        except (RasterioError, OSError) as error:
            raise self._failure(error) from error
        self._columns[row : row + height] += width
        if self.sparse:
            self._note(pixels, row, column)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._stack:
            try:
                with surely_written():
                    self._dataset.close()
                if kind is None:
                    self._finish()
            except (RasterioError, OSError) as problem:
                if kind is None:  # else what is on its way says more
                    raise self._failure(problem) from problem
            finally:
                self._strips.unlink(missing_ok=True)

    def _create(self) -> DatasetWriter:
        height, width = self.grid.shape
        look = self.look
        dataset = rasterio.open(
            self._strips, "w", driver="GTiff", height=height, width=width, count=self.count, dtype=self.dtype.name, nodata=look.nodata,
            crs=self.grid.crs.to_wkt() if self.grid.crs else None, transform=self.grid.affine, tiled=True, blockxsize=STRIP_BLOCK_PX,
            blockysize=STRIP_BLOCK_PX, interleave="band", BIGTIFF="IF_SAFER", SPARSE_OK=self.sparse,
            photometric="PALETTE" if look.colors else "MINISBLACK",
        )  # fmt: skip
        if look.colors:
            dataset.write_colormap(1, {int(number): _rgba(color) for number, color in look.colors.items()})
        if look.names is not None:
            names = look.names if isinstance(look.names, Mapping) else dict(enumerate(look.names))
            dataset.update_tags(
                **{NAMES_TAG: json.dumps({str(number): name for number, name in sorted(names.items())}, ensure_ascii=False)}
            )
        dataset.update_tags(**dict(sorted((look.tags or {}).items())))
        for number, name in enumerate(look.band_names or (), start=1):
            dataset.set_band_description(number, name)
        if look.scale != 1:
            dataset.scales = (look.scale,) * self.count
        return dataset

    def _finish(self) -> None:
        height, width = self.grid.shape
        if not self.sparse and not (self._columns == width).all():
            raise ValueError(f"{self.path}: rows from {int(np.argmin(self._columns == width))} on were not all written")
        pixels = int(self._blocks.sum()) * STRIP_BLOCK_PX**2 if self.sparse else height * width
        if self._strips.stat().st_size < pixels * self.count * self.dtype.itemsize:
            raise DiskError(f"{self.path}: cannot be written in full; is the disk full?")
        factors: list[int] = []
        while self.look.overviews == "mode" and max(self.grid.shape) > BLOCK_PX << len(factors):
            factors.append(2 << len(factors))
        with whole_file(self.path) as temporary:
            copy_as_cog(self._strips, temporary, height * width * self.count, factors, self._cog_options())

    def _note(self, pixels: np.ndarray, row: int, column: int) -> None:
        """Mark the blocks in which the file must now hold numbers."""
        empty = np.nan if self.look.nodata is None else self.look.nodata
        known = ~np.isnan(pixels) if np.isnan(empty) and pixels.dtype.kind == "f" else pixels != empty
        edges = [
            np.unique([0, *range(-start % STRIP_BLOCK_PX, side, STRIP_BLOCK_PX)])
            for start, side in zip((row, column), known.shape[1:], strict=True)
        ]
        held = np.logical_or.reduceat(np.logical_or.reduceat(known.any(axis=0), edges[0], axis=0), edges[1], axis=1)
        first = row // STRIP_BLOCK_PX, column // STRIP_BLOCK_PX
        self._blocks[first[0] : first[0] + held.shape[0], first[1] : first[1] + held.shape[1]] |= held

    def _cog_options(self) -> dict[str, str | int]:
        block = self._block_px()
        block = block if self.grid.shape[1] != block else block // 2  # a single column of tiles would look like strips
        options: dict[str, str | int] = {"COMPRESS": self.look.compress.upper(), "BLOCKSIZE": block, "BIGTIFF": "IF_SAFER"}
        if self.sparse:
            options["SPARSE_OK"] = "TRUE"
        options["OVERVIEWS"] = "NONE" if self.look.overviews == "none" else "AUTO"
        if self.look.overviews != "none":
            options["OVERVIEW_RESAMPLING"] = self.look.overviews.upper()
        if not self.look.colors and self.look.names is None:  # neighbouring class ids say nothing of each other
            options["PREDICTOR"] = "YES"
        return options

    def _block_px(self) -> int:
        """Side of a block: BLOCK_PX, halved while a block would be too large."""
        block = BLOCK_PX
        while block > LEAST_BLOCK_PX and block**2 * self.count * self.dtype.itemsize > BLOCK_BYTES:
            block //= 2
        return block

    def _failure(self, error: BaseException) -> SkySenseError:
        if isinstance(error, ValueError):
            return GridError(f"{self.path}: cannot be written ({error})")
        if isinstance(error, OSError) and error.strerror:
            return DiskError(f"{self.path}: cannot be written ({error.strerror})")
        cause = str(error.__cause__ or error).rstrip(".")
        return DiskError(f"{self.path}: cannot be written ({cause}; is the disk full?)")


def class_names(tags: Mapping[str, str]) -> dict[int, str]:
    """Names of the classes of a map by its tags; empty if it has none."""
    try:
        return {int(number): str(name) for number, name in json.loads(tags.get(NAMES_TAG, "{}")).items()}
    except (ValueError, AttributeError):
        return {}


def write_preview(path: Path, image: np.ndarray, *, colors: Colors | None = None, max_px: int = 1024) -> None:
    """A PNG for people, its longer side at most `max_px`.

    image: (3 or 4, H, W) uint8, averaged down; or class ids (H, W) with `colors`, thinned out; an id
    without a colour is transparent
    """
    step = -(-max(image.shape[-2:]) // max_px)
    if image.ndim == 2:
        small = _colored(image[step // 2 :: step, step // 2 :: step], colors or {})
    else:
        small = _averaged(image, step)
    with environment(), whole_file(Path(path)) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(
                temporary, "w", driver="PNG", height=small.shape[1], width=small.shape[2], count=len(small), dtype="uint8"
            ) as png:
                png.write(small)
        except RasterioError as error:
            raise GridError(f"{path}: cannot be written ({error.__cause__ or error})") from error


def _colored(ids: np.ndarray, colors: Colors) -> np.ndarray:
    out = np.zeros((4, *ids.shape), np.uint8)
    for number in np.unique(ids).tolist():
        if number in colors:
            out[:, ids == number] = np.array(_rgba(colors[number]), np.uint8)[:, None]
    return out


def _averaged(image: np.ndarray, step: int) -> np.ndarray:
    bands, height, width = image.shape
    padded = np.pad(image, ((0, 0), (0, -height % step), (0, -width % step)), mode="edge")
    blocks = padded.reshape(bands, padded.shape[1] // step, step, padded.shape[2] // step, step)
    return np.round(blocks.mean((2, 4))).astype(np.uint8)


def _rgba(color: Sequence[int]) -> tuple[int, int, int, int]:
    red, green, blue, *alpha = (int(part) for part in color)
    return red, green, blue, alpha[0] if alpha else 255
