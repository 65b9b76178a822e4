"""The place a command writes to: locked, marked with its recipe, never mixed with another one's.

A folder gets `recipe.yaml` and `environment.json`; an output that is one file (`predict`) gets
`<stem>.recipe.yaml` and `<stem>.environment.json` beside it.
"""

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from skysense_cli import __version__, console
from skysense_cli.cli.options import Options
from skysense_cli.errors import DiskError, SkySenseError
from skysense_cli.files import AGAIN, TEMPORARY, disk_error, write_text

if TYPE_CHECKING:
    from pydantic import BaseModel

RASTERS, VECTORS = (".tif", ".tiff"), (".gpkg", ".parquet", ".geojson")  # what `predict` writes, by the output's name
PACKAGES = (
    "dask", "geopandas", "numpy", "odc-geo", "odc-stac", "opencv-python-headless", "pydantic", "pyproj", "rasterio", "safetensors", "scipy",
    "timm", "torch", "xarray",
)  # fmt: skip


class OutputError(SkySenseError):
    """The output place is taken: by a running command, by another recipe, or by files that are not ours."""

    exit_code = 2


@dataclass(frozen=True)
class Home:
    """A claimed output.

    path: the folder, or the file to write      digest: of the recipe
    resumed: the same recipe was started here before
    """

    path: Path
    digest: str
    resumed: bool


@contextmanager
def claim(output: Path, recipe: "BaseModel", options: Options) -> Iterator[Home]:
    """`output` for this recipe alone, until the block ends; recipe and environment are written first.

    Raises OutputError when another command is writing there, when it was made with another recipe (naming the
    keys that differ), or when it holds files that are not skysense's. With `overwrite` what another recipe left
    is removed; a folder that is not skysense's never is. Raises DiskError for what the disk does not take in the block;
    then nothing is left unless something was there before or is finished.
    """
    from skysense_cli.geo.opening import UnreadableError
    from skysense_cli.recipe import resolved

    place = _Place.of(output, recipe)
    with _locked(place.lock, output):
        here = Path(output.name) if place.single else Path(".")  # equal runs leave equal files, wherever they are
        text = resolved.to_yaml(recipe.model_copy(update={"output": here}))
        resumed = place.check(recipe, overwrite=options.overwrite)
        try:
            write_text(place.environment, json.dumps(environment(recipe), indent=2, sort_keys=True) + "\n")
            write_text(place.recipe, text)
            yield Home(output, resolved.digest(recipe), resumed)
        except UnreadableError:  # a damaged scene gives no map however often one tries, so nothing of it is kept
            if place.single and not resumed and not output.exists():
                place.withdraw()
            raise
        except (DiskError, OSError) as error:
            told = error if isinstance(error, DiskError) else disk_error(error)
            if told is not None and not resumed and not place.holds_work():
                place.withdraw()
            if told is None or told is error:
                raise
            raise DiskError(f"{told}; {AGAIN}") from error


def environment(recipe: "BaseModel") -> dict[str, Any]:
    """What ran: versions of Python and packages, and the seed; nothing about machine or time."""
    return {
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "seed": _seed(recipe),
        "skysense": __version__,
    }


@dataclass(frozen=True)
class _Place:
    """Names of what claims an output: a folder, or a single file."""

    output: Path
    single: bool
    recipe: Path
    environment: Path
    lock: Path

    @classmethod
    def of(cls, output: Path, recipe: "BaseModel") -> "_Place":
        single = getattr(recipe, "recipe", "") == "predict"
        if not single:
            return cls(output, single, output / "recipe.yaml", output / "environment.json", output / ".lock")
        if output.suffix.lower() not in (*RASTERS, *VECTORS):
            raise OutputError(
                f"output {output}: a map is a GeoTIFF; give a name that ends in .tif; objects are written as {', '.join(VECTORS)}"
            )
        recipe_file, environment_file = (output.with_name(output.stem + end) for end in (".recipe.yaml", ".environment.json"))
        return cls(output, single, recipe_file, environment_file, output.with_name(f".{output.name}.lock"))

    def check(self, recipe: "BaseModel", *, overwrite: bool) -> bool:
        """Whether the same recipe was here before; empties the place if that is asked for and allowed."""
        from skysense_cli.recipe import resolved

        if not self.recipe.exists():
            self._refuse_strangers()
            return False
        changed = resolved.differences(self.recipe.read_text(encoding="utf-8"), recipe)
        if not changed:
            return True
        if not overwrite:
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise OutputError(
                f"{self.output} was made with another recipe ({'; '.join(changed[:4])}{more}); "
                "choose another --out, or give --overwrite to replace it"
            )
        self.empty()
        return False

    def _refuse_strangers(self) -> None:
        if self.single:
            from skysense_cli.geo.ours import refuse_strangers

            refuse_strangers([self.environment])
        if self.output.exists() if self.single else self.holds_work():
            raise OutputError(f"{self.output} exists and has no {self.recipe.name}, so it is not skysense's; choose another --out")

    def holds_work(self) -> bool:
        """Whether anything is there but recipe, environment and lock."""
        if self.single:
            return any(path.exists() for path in (self.output, *self._unfinished()))
        ours = {self.recipe.name, self.environment.name, self.lock.name, self.recipe.name + TEMPORARY, self.environment.name + TEMPORARY}
        return any(entry.name not in ours for entry in self.output.iterdir())

    def withdraw(self) -> None:
        """Remove what a run that gave nothing wrote, and no file that may have been there before it."""
        for unfinished in self._unfinished() if self.single else ():
            shutil.rmtree(unfinished, ignore_errors=True)
        for path in (self.environment, self.recipe):
            path.unlink(missing_ok=True)

    def empty(self) -> None:
        """Remove what is ours."""
        if self.single:
            for unfinished in self._unfinished():
                shutil.rmtree(unfinished, ignore_errors=True)
            for path in (*self._beside(), self.output, self.environment, self.recipe):
                path.unlink(missing_ok=True)
            return
        self.environment.unlink(missing_ok=True)
        for entry in self.output.iterdir():
            if entry in (self.lock, self.recipe):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self.recipe.unlink()  # last: a kill on the way leaves a folder that is still known as ours

    def _unfinished(self) -> list[Path]:
        """Folders of a run of `predict` that did not end: strips of a map, maps of a mosaic."""
        return [self.output.with_name(f".{self.output.name}.{what}") for what in ("parts", "scenes")]

    def _beside(self) -> "Iterator[Path]":
        """What `predict` wrote beside its map; what is called so and is not ours, e.g. an area, is not."""
        from skysense_cli.geo.ours import is_ours
        from skysense_cli.recipe.schema.maps import What

        kinds = ("", "_scene", *(f"_{what}" for what in get_args(What)))
        ends = (self.output.suffix, ".png", ".legend.json", ".stac.json", *VECTORS)
        names = [f"{self.output.stem}{kind}{end}" for kind in kinds for end in ends] + [f"{self.output.stem}_counts.tif"]
        yield from (path for name in names if (path := self.output.with_name(name)).exists() and is_ours(path))


@contextmanager
def _locked(lock: Path, output: Path) -> Iterator[None]:
    """Hold `lock` for this process; the system frees it when the process dies, however it does.

    Folders that are made for it are removed again when nothing is left in them.
    """
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not os.path.exists(folder)]  # Path.exists may raise
    try:
        descriptor = _open_lock(lock)
    except BlockingIOError:
        raise OutputError(f"{output} is being written by another skysense command; wait for it, or choose another --out") from None
    except OSError as error:
        _remove_empty(made)
        raise OutputError(f"output {output}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)
        _remove_empty(made)


def _remove_empty(folders: list[Path]) -> None:
    """Remove those that hold nothing, from the innermost outwards."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _open_lock(lock: Path) -> int:
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            if lock.parent.exists():
                raise
            continue  # another command found the folder empty and removed it between our two calls
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.fstat(descriptor).st_ino == lock.stat().st_ino:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the file between our open and our lock: take the new one


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        console.warn(f"the package {package} is not installed")
        return None


def _seed(recipe: "BaseModel") -> int | None:
    for section in ("train", "splits"):
        seed = getattr(getattr(recipe, section, None), "seed", None)
        if seed is not None:
            return seed
    return None
