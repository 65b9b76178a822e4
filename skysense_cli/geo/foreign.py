"""Formats and mosaics that only a full GDAL reads (extra `gdal`), turned into a Cloud-Optimized GeoTIFF.

The only file that uses osgeo, and only in a process of its own: two GDAL libraries in one process share names.
    to_cog([Path("MOD09A1.hdf")], Path("converted"), layer="sur_refl_b01")     # a subdataset of an HDF4 file
    to_cog(sorted(Path("tiles").glob("*.ecw")), Path("converted"))             # many files as one raster
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skysense_cli.errors import GridError
from skysense_cli.files import whole_file

# no VRT and no database: they lead to other files and hosts
DRIVERS = ("GTiff", "HDF4", "HDF4Image", "HDF5", "HDF5Image", "netCDF", "ECW", "MrSID", "JP2KAK", "JP2ECW", "JP2MrSID", "JP2OpenJPEG",
           "HFA", "ENVI", "EHdr", "AAIGrid", "SRTMHGT", "PNG", "JPEG")  # fmt: skip
LIMIT_S = 3600
ABSENT = 3  # exit status of the process when osgeo is not installed
REFUSED = 4


def to_cog(paths: Sequence[Path], home: Path, *, layer: str | None = None) -> Path:
    """A COG below `home` with the pixels of the files, put together if there are several; one that is there already comes back.

    paths: rasters of one CRS, one type and one number of bands; where they overlap the later one is on top
    layer: the subdataset to take, by the end of its name, for files that hold several rasters
    Raises GridError that names a file: missing, unreadable, unlike the first; or the extra, where it is not installed.
    """
    if not paths:
        raise GridError("no file to convert")
    facts = []
    for path in paths:
        if not path.is_file():
            raise GridError(f"{path}: no such file")
        facts.append((str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns))
    name = hashlib.sha256(json.dumps([facts, layer]).encode()).hexdigest()[:16]
    target = home / f"{paths[0].stem}-{name}.tif"
    if target.is_file():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as temporary:
        job = json.dumps({"paths": [path for path, _, _ in facts], "layer": layer, "target": str(temporary)})
        try:
            done = subprocess.run(
                [sys.executable, "-m", "skysense_cli.geo.foreign"], input=job, capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise GridError(f"{paths[0]}: converting it took more than {LIMIT_S} s") from error
        if done.returncode == ABSENT:
            raise GridError(f"{paths[0]}: converting it needs GDAL for Python (osgeo); get it with: pip install 'skysense-cli[gdal]'")
        if done.returncode:
            said = done.stdout.strip() or (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise GridError(said if done.returncode == REFUSED else f"{paths[0]}: cannot be converted ({said[:300]})")
    return target


# in the process with osgeo


def _convert(gdal: Any, job: dict[str, Any]) -> str:
    """Write the COG; what is wrong comes back as a sentence, "" if nothing is."""
    opened: list[tuple[Any, Any]] = []
    for path in job["paths"]:
        dataset, wrong = _opened(gdal, path, job["layer"])
        if wrong:
            return wrong
        kind = (dataset.RasterCount, dataset.GetRasterBand(1).DataType, dataset.GetProjection())
        if opened and kind != opened[0][1]:
            return f"{path}: differs from {job['paths'][0]} in bands, type or CRS, so they make no mosaic"
        opened.append((dataset, kind))
    source = opened[0][0] if len(opened) == 1 else gdal.BuildVRT("", [dataset for dataset, _ in opened], strict=True)
    options = ["COMPRESS=DEFLATE", "PREDICTOR=YES", "BIGTIFF=IF_SAFER"]
    gdal.Translate(job["target"], source, format="COG", creationOptions=options, callback=None)
    return ""


def _opened(gdal: Any, path: str, layer: str | None) -> tuple[Any, str]:
    dataset = gdal.OpenEx(path, gdal.OF_RASTER, allowed_drivers=list(DRIVERS))
    parts = [name for name, _ in dataset.GetSubDatasets()]
    if layer is not None:
        chosen = [name for name in parts if name.endswith((f":{layer}", f'"{layer}"', f"/{layer}"))]
        if len(chosen) != 1:
            return None, f"{path}: has {len(chosen)} layers called {layer} (layers: {', '.join(part.rsplit(':', 1)[-1] for part in parts)})"
        return gdal.OpenEx(chosen[0], gdal.OF_RASTER, allowed_drivers=list(DRIVERS)), ""
    if not dataset.RasterCount:
        return None, f"{path}: holds several rasters; name a layer ({', '.join(part.rsplit(':', 1)[-1] for part in parts)})"
    return dataset, ""


def _main() -> int:
    try:
        from osgeo import gdal
    except ImportError:
        return ABSENT
    gdal.UseExceptions()
    gdal.SetConfigOption("GDAL_PAM_ENABLED", "NO")
    try:
        wrong = _convert(gdal, json.load(sys.stdin))
    except RuntimeError as error:
        wrong = f"cannot be converted ({error})"
    sys.stdout.write(wrong)
    return REFUSED if wrong else 0


if __name__ == "__main__":
    sys.exit(_main())
