"""`skysense doctor`: what this machine has, and one line of advice for each thing that is missing."""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from skysense_cli import __version__, console
from skysense_cli.cli.options import DebugOption

OLDEST_PYTHON = (3, 11)
DRIVERS = {
    "GTiff": "nothing can be read or written",
    "COG": "maps cannot be written",
    "JP2OpenJPEG": "Sentinel-2 archives (JPEG 2000) cannot be read",
    "netCDF": "netCDF files cannot be read",
}
LITTLE_MEMORY_GB = 4
LITTLE_DISK_GB = 10
ImportFailure = (ImportError, RuntimeError, OSError, AttributeError)  # what a broken binary package raises on import

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Finding:
    """One fact. state: ok, note (something optional is missing) or bad (commands will fail)."""

    name: str
    value: str
    state: Literal["ok", "note", "bad"] = "ok"
    advice: str = ""


def doctor(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Report what this machine has, and what to do about what it lacks."""
    findings = [finding for check in CHECKS for finding in check()]
    bad = any(finding.state == "bad" for finding in findings)
    if as_json:
        console.say(json.dumps({"ok": not bad, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        console.table(
            f"skysense {__version__}", ["what", "found", ""], [(f.name, f.value, "" if f.state == "ok" else f.state) for f in findings]
        )
        for finding in findings:
            if finding.advice:
                console.say(f"{finding.state}: {finding.name}: {finding.advice}")
    if bad:
        raise typer.Exit(3)


def _python() -> Iterator[Finding]:
    old = sys.version_info[:2] < OLDEST_PYTHON
    yield Finding("python", platform.python_version(), "bad" if old else "ok", "install Python 3.11 or newer" if old else "")
    yield Finding("cpu cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportFailure as error:
        advice = "install it with `pip install -c constraints.txt -e .`, which picks versions that fit each other"
        yield Finding("torch", f"does not import ({_line(error)})", "bad", advice)
        return
    yield Finding("torch", torch.__version__)
    if not torch.cuda.is_available():
        reason = "a CUDA build, but no device answers" if torch.version.cuda else "a CPU build"
        advice = "training and maps run on the CPU; for a GPU install torch's CUDA build and a driver, then try --device cuda"
        yield Finding("cuda devices", f"none ({reason})", "note", advice)
        return
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        yield Finding(f"cuda:{number}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GB, {bf16}")


def _torchvision() -> Iterator[Finding]:
    try:
        import torchvision
    except ImportError:
        yield Finding("torchvision", "not installed", "note", "`kind: timm` encoders need it; install it with -c constraints.txt")
    except ImportFailure as error:
        if "torchvision::nms" in str(error):
            advice = "it is a CUDA wheel beside a CPU torch; skysense works around it, nothing to do"
        else:
            advice = "`kind: timm` encoders need it; install the version that fits torch, with -c constraints.txt"
        yield Finding("torchvision", f"does not import ({_line(error)})", "note", advice)
    else:
        yield Finding("torchvision", torchvision.__version__)


def _gdal() -> Iterator[Finding]:
    try:
        import rasterio
        from rasterio.crs import CRS
        from rasterio.env import Env
        from rasterio.errors import CRSError
    except ImportFailure as error:
        yield Finding("rasterio", f"does not import ({_line(error)})", "bad", "reinstall it: `pip install --force-reinstall rasterio`")
        return
    yield Finding("rasterio", f"{rasterio.__version__}, GDAL {rasterio.__gdal_version__}")
    with Env() as env:
        drivers = env.drivers()
    for name, consequence in DRIVERS.items():
        if name in drivers:
            yield Finding(f"driver {name}", "there")
        else:
            necessary = name in ("GTiff", "COG")
            advice = f"{consequence}; rasterio's own wheel has it: `pip install --force-reinstall --only-binary :all: rasterio`"
            yield Finding(f"driver {name}", "missing", "bad" if necessary else "note", advice)
    try:
        CRS.from_epsg(32633).to_wkt()
        yield Finding("coordinate systems", "there")
    except CRSError as error:
        advice = "another program's PROJ_DATA or PROJ_LIB is set in this shell; unset it"
        yield Finding("coordinate systems", f"not found ({_line(error)})", "bad", advice)


def _memory() -> Iterator[Finding]:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    little = free < LITTLE_MEMORY_GB
    advice = "close other programs, or use smaller train.batch, tiles.batch and workers" if little else ""
    yield Finding("free memory", f"{free:.1f} GB", "note" if little else "ok", advice)


def _disk() -> Iterator[Finding]:
    for name, folder in (("disk here", Path.cwd()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / 2**30
        little = free < LITTLE_DISK_GB
        advice = f"free some space on the disk of {folder}, or work elsewhere (--out, TMPDIR)" if little else ""
        yield Finding(name, f"{free:.1f} GB free", "note" if little else "ok", advice)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (_python, _torch, _torchvision, _gdal, _memory, _disk)
