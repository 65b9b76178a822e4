"""Files that are either whole or absent: temporary name, sync, rename; and what it means when the disk does not take one."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skysense_cli.errors import DiskError

TEMPORARY = ".tmp"  # a name that ends so may be partial after a kill and is removed by the next run
NOT_WRITTEN = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)  # of the user's disk, not bugs
AGAIN = "free or choose another disk and run the same command again"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on a clean exit it is synced and renamed to `path`.

    When the block raises, nothing is left under either name. The temporary name keeps the suffix
    before `.tmp`, e.g. `map.tif.tmp`, and is the same in every run, so a kill leaves at most one.
    An OSError of the disk names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        yield temporary
        publish(temporary, path)
    except OSError as error:
        if error.errno in NOT_WRITTEN and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Give the finished file `temporary` the name `path`, in the same folder, once its bytes are on the disk."""
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A fresh temporary folder beside `path`; on a clean exit it takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        _sync(temporary)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def disk_error(error: OSError) -> DiskError | None:
    """One line on a file that the disk does not take; None for an error that says something else."""
    if error.errno not in NOT_WRITTEN:
        return None
    place = f"{error.filename}: " if error.filename else ""
    return DiskError(f"{place}cannot be written ({error.strerror})")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
