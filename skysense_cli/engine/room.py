"""The disk under an output: whether it has the room that is needed for certain, and what is kept when it takes no more."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit
from shutil import disk_usage

from skysense_cli.engine.parts import Parts
from skysense_cli.errors import DiskError
from skysense_cli.files import AGAIN, disk_error


@dataclass(frozen=True)
class Room:
    """Bytes that an output needs at least. total: of all its files together, while it is made      largest: of one file"""

    total: int = 0
    largest: int = 0

    def check(self, output: Path) -> None:
        """Raise DiskError when the folder of `output`, which is there, has less, or when the process may not write such a file."""
        allowed = getrlimit(RLIMIT_FSIZE)[0]
        if allowed != RLIM_INFINITY and self.largest > allowed:
            raise DiskError(
                f"{output}: needs a file of at least {_size(self.largest)}, too large for the limit of this shell ({_size(allowed)}); "
                "raise it with `ulimit -f`"
            )
        disk = disk_usage(output.parent)
        if disk.total and self.total > disk.free:  # some network file systems say 0 of 0
            raise DiskError(
                f"{output}: needs at least {_size(self.total)} of disk, {_size(disk.free)} are free in {output.parent}; "
                "free more, or choose another --out"
            )


@contextmanager
def kept_on_failure(parts: Parts, count: int) -> Iterator[None]:
    """What the disk does not take in the block is a DiskError that says how many of `count` strips are kept; without any, none is.

    Other errors pass, and keep what there is.
    """
    try:
        yield
    except (DiskError, OSError) as error:
        told = error if isinstance(error, DiskError) else disk_error(error)
        if told is None:
            raise
        if finished := len(parts.finished()):
            kept = f"{finished} of {count} strips are finished and kept; make room and run the same command again to go on from there"
            raise DiskError(f"{told}; {kept}") from error
        with suppress(OSError):
            parts.remove()
        raise DiskError(str(told) if told is error else f"{told}; {AGAIN}") from error


def _size(size: int) -> str:
    return f"{size:,} bytes" if size < 1 << 20 else f"{size / 2**20:,.1f} MiB"
