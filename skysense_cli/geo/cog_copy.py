"""The last step of a map: overviews and the COG driver, for large maps in a process that can be stopped.

One call of GDAL copies the whole map, and Python takes no signal before it returns. So above SMALL numbers the call is
made by a child, which ends with its parent.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from skysense_cli.geo.opening import environment
from skysense_cli.geo.written import is_whole, surely_written
from skysense_cli.processes import end_with

SMALL = 1 << 25  # about a second
REFUSED = 4


def copy_as_cog(strips: Path, target: Path, numbers: int, mode_factors: list[int], options: dict[str, Any]) -> None:
    """Write `target` from `strips`, a GeoTIFF that is changed on the way.

    numbers: of the map, pixels times bands      mode_factors: of overviews to be made by mode; [] leaves all to the driver
    Raises RasterioError or OSError.
    """
    if numbers <= SMALL:
        with environment():
            _copy(str(strips), str(target), mode_factors, options)
        return
    job = {"strips": str(strips), "target": str(target), "factors": mode_factors, "options": options, "parent": os.getpid()}
    done = subprocess.run(
        [sys.executable, "-m", "skysense_cli.geo.cog_copy"], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stdout.strip() or (done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"])[-1]
        raise RasterioError(said[:300])


def _copy(strips: str, target: str, mode_factors: list[int], options: dict[str, Any]) -> None:
    with surely_written():
        _write(strips, target, mode_factors, options)
    if not is_whole(Path(target)):
        raise RasterioError("the file was cut off")


def _write(strips: str, target: str, mode_factors: list[int], options: dict[str, Any]) -> None:
    for factor in mode_factors:  # each level from the map itself; in one call GDAL would take the mode of the level before
        with rasterio.open(strips, "r+", driver="GTiff") as dataset:
            dataset.build_overviews([factor], Resampling.mode)
    try:
        rasterio.shutil.copy(strips, target, driver="COG", **options)
    except CPLE_BaseError as error:  # GDAL's own, which this function alone lets out
        raise RasterioError(str(error)) from error


def _main() -> int:
    job = json.load(sys.stdin)
    end_with(job["parent"])
    try:
        with environment():
            _copy(job["strips"], job["target"], job["factors"], job["options"])
    except (RasterioError, OSError) as error:
        sys.stdout.write(getattr(error, "strerror", None) or str(error.__cause__ or error))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main())
