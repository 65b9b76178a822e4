"""Sentinel-1 GRD products: annotation, calibration and noise, from their XML texts.

Names follow the Sentinel-1 product specification. Lines run along the azimuth, samples (the
specification's `pixel`) along the ground range; whole numbers are centres.
"""

from dataclasses import dataclass

import numpy as np

from skysense_cli.data.products.document import Document, parse
from skysense_cli.errors import DataError

FIRST_RELATIVE = {"S1A": 73, "S1B": 27, "S1C": 172}  # relative orbit = (absolute - this) % 175 + 1


@dataclass(frozen=True, eq=False)
class Orbit:
    """State vectors in the earth-fixed frame: times (N,) seconds after the first line, positions (N, 3) m, velocities (N, 3) m/s."""

    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True, eq=False)
class GeolocationGrid:
    """Points (R, C) of the image: line, sample, lon and lat (degrees), height above the ellipsoid (m), incidence (degrees)."""

    line: np.ndarray
    sample: np.ndarray
    lon: np.ndarray
    lat: np.ndarray
    height: np.ndarray
    incidence: np.ndarray

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """left, bottom, right, top in degrees; left > right across the antimeridian."""
        middle = self.lon.flat[0]
        lon = middle + (self.lon - middle + 180) % 360 - 180
        left, right = ((float(end) + 180) % 360 - 180 for end in (lon.min(), lon.max()))
        return left, float(self.lat.min()), right, float(self.lat.max())


@dataclass(frozen=True, eq=False)
class GroundRange:
    """Slant to ground range: at times (N,) seconds after the first line, ground = sum of coefficients[i] * (slant - origin)**i."""

    times_s: np.ndarray
    origins_m: np.ndarray
    coefficients: np.ndarray  # (N, K)


@dataclass(frozen=True, eq=False)
class Annotation:
    """What the annotation of one polarisation says. first_line: UTC of line 0     shape: lines, samples"""

    name: str
    mission: str
    polarisation: str
    start: np.datetime64
    orbit_pass: str
    absolute_orbit: int
    first_line: np.datetime64
    line_interval_s: float
    sample_spacing_m: float
    shape: tuple[int, int]
    orbit: Orbit
    grid: GeolocationGrid
    ground_range: GroundRange

    @property
    def relative_orbit(self) -> int | None:
        """1 to 175, by the satellite's numbering; None for one whose numbering is not known."""
        first = FIRST_RELATIVE.get(self.mission)
        return None if first is None else (self.absolute_orbit - first) % 175 + 1


@dataclass(frozen=True, eq=False)
class Vectors:
    """A look-up table: along each of some lines, values at some samples, both ascending."""

    lines: np.ndarray
    samples: tuple[np.ndarray, ...]
    values: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class AzimuthNoise:
    """Factors along the lines for a block of the image: first and last line, first and last sample (inclusive)."""

    block: tuple[int, int, int, int]
    lines: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Noise:
    """Thermal noise in squared digital numbers: a table by range, times factors by azimuth (none in the format before 2018)."""

    by_range: Vectors
    by_azimuth: tuple[AzimuthNoise, ...]


def read_annotation(text: bytes, name: str) -> Annotation:
    """The annotation of one polarisation of a GRD product. Raises DataError that names file and element."""
    document = parse(text, name)
    kind = document.text("adsHeader/productType")
    if document.root.tag != "product" or kind != "GRD":
        raise DataError(f"{name}: is the annotation of a {kind[:20]!r} product, expected a ground range detected one (GRD)")
    image = document.part("imageAnnotation/imageInformation")
    first = image.moment("productFirstLineUtcTime")
    return Annotation(
        name=name,
        mission=document.text("adsHeader/missionId"),
        polarisation=document.text("adsHeader/polarisation").upper(),
        start=document.moment("adsHeader/startTime").astype("datetime64[s]"),
        orbit_pass=document.text("generalAnnotation/productInformation/pass").casefold(),
        absolute_orbit=document.whole("adsHeader/absoluteOrbitNumber", low=1),
        first_line=first,
        line_interval_s=image.number("azimuthTimeInterval", low=1e-6, high=1),
        sample_spacing_m=image.number("rangePixelSpacing", low=0.1, high=1000),
        shape=(image.whole("numberOfLines", low=1, high=1_000_000), image.whole("numberOfSamples", low=1, high=1_000_000)),
        orbit=_orbit(document, first),
        grid=_grid(document),
        ground_range=_ground_range(document, first),
    )


def read_calibration(text: bytes, name: str) -> Vectors:
    """The table of A in sigma0 = DN**2 / A**2. Raises DataError that names file and element."""
    table = _vectors(parse(text, name), "calibrationVectorList/calibrationVector", "sigmaNought")
    if min(values.min() for values in table.values) <= 0:
        raise DataError(f"{name}: sigmaNought holds a value that is not positive, so nothing can be divided by it")
    return table


def read_noise(text: bytes, name: str) -> Noise:
    """Thermal noise, in the format of today (range and azimuth vectors) or the one before (one list of noise vectors)."""
    document = parse(text, name)
    if document.first("noiseVectorList"):
        return Noise(_vectors(document, "noiseVectorList/noiseVector", "noiseLut"), ())
    return Noise(_vectors(document, "noiseRangeVectorList/noiseRangeVector", "noiseRangeLut"), _azimuth_noise(document))


def _vectors(document: Document, path: str, table: str) -> Vectors:
    lines: list[float] = []
    samples, values = [], []
    for one in document.all(path):
        line, places, numbers = one.number("line"), one.numbers("pixel"), one.numbers(table)
        if len(places) != len(numbers) or (np.diff(places) <= 0).any():
            raise DataError(f"{document.name}: {table} at line {line:g} has {len(numbers)} values for {len(places)} ascending pixels")
        if not lines or line > lines[-1]:  # a repeated line says the same again
            lines.append(line)
            samples.append(places)
            values.append(numbers)
    if not lines:
        raise DataError(f"{document.name}: has no {path.rpartition('/')[2]}; the file is incomplete or of another kind")
    return Vectors(np.array(lines), tuple(samples), tuple(values))


def _azimuth_noise(document: Document) -> tuple[AzimuthNoise, ...]:
    blocks = []
    for one in document.all("noiseAzimuthVectorList/noiseAzimuthVector"):
        lines, values = one.numbers("line"), one.numbers("noiseAzimuthLut")
        if len(lines) != len(values) or (np.diff(lines) <= 0).any():
            raise DataError(f"{document.name}: noiseAzimuthLut has {len(values)} values for {len(lines)} ascending lines")
        whole = one.first("firstRangeSample") is None  # of stripmap products, where it holds for the whole image
        names = ("firstAzimuthLine", "lastAzimuthLine", "firstRangeSample", "lastRangeSample")
        block = (-(2**31), 2**31, -(2**31), 2**31) if whole else tuple(one.whole(name) for name in names)
        blocks.append(AzimuthNoise((block[0], block[1], block[2], block[3]), lines, values))
    return tuple(blocks)


def _orbit(document: Document, first: np.datetime64) -> Orbit:
    vectors = document.all("generalAnnotation/orbitList/orbit")
    if len(vectors) < 2:
        raise DataError(f"{document.name}: orbitList has {len(vectors)} state vectors, at least 2 are needed")
    times = np.array([_seconds(one.moment("time"), first) for one in vectors])
    if (np.diff(times) <= 0).any():
        raise DataError(f"{document.name}: the times of orbitList do not ascend")
    places, speeds = (np.array([[one.number(f"{what}/{axis}") for axis in "xyz"] for one in vectors]) for what in ("position", "velocity"))
    return Orbit(times, places, speeds)


def _grid(document: Document) -> GeolocationGrid:
    points = document.all("geolocationGrid/geolocationGridPointList/geolocationGridPoint")
    names = ("line", "pixel", "longitude", "latitude", "height", "incidenceAngle")
    table = np.array([[one.number(name) for name in names] for one in points]).reshape(-1, len(names))
    rows, columns = len(np.unique(table[:, 0])), len(np.unique(table[:, 1]))
    if min(rows, columns) < 2 or rows * columns != len(table):
        raise DataError(f"{document.name}: the {len(table)} points of geolocationGrid form no grid of lines and pixels")
    ordered = table[np.lexsort((table[:, 1], table[:, 0]))].reshape(rows, columns, len(names))
    if (ordered[:, :1, 0] != ordered[:, :, 0]).any() or (ordered[:1, :, 1] != ordered[:, :, 1]).any():
        raise DataError(f"{document.name}: the points of geolocationGrid form no grid of lines and pixels")
    if np.abs(ordered[..., 3]).max() > 90 or np.abs(ordered[..., 2]).max() > 360:
        raise DataError(f"{document.name}: geolocationGrid has a point outside the globe")
    return GeolocationGrid(*(ordered[..., k] for k in range(len(names))))


def _ground_range(document: Document, first: np.datetime64) -> GroundRange:
    records = document.all("coordinateConversion/coordinateConversionList/coordinateConversion")
    if not records:
        raise DataError(f"{document.name}: has no coordinateConversion")
    coefficients = [one.numbers("srgrCoefficients") for one in records]
    if len({len(one) for one in coefficients}) != 1:
        raise DataError(f"{document.name}: the srgrCoefficients differ in number")
    times = np.array([_seconds(one.moment("azimuthTime"), first) for one in records])
    return GroundRange(times, np.array([one.number("sr0") for one in records]), np.array(coefficients))


def _seconds(time: np.datetime64, first: np.datetime64) -> float:
    return float((time - first) / np.timedelta64(1, "us")) * 1e-6
