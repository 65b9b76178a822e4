"""What the satellites and the aeroplane see of the landscape: Sentinel-2, Sentinel-1 and a 2.5 m orthophoto."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

from skysense_cli.demo.landscape import MARGIN_PX, PIXEL_M, World
from skysense_cli.demo.noise import fractal
from skysense_cli.demo.spectra import BANDS, NAMES, SPECTRA, SURFACES, Growth, backscatter, reflectance
from skysense_cli.demo.weather import Sky, Weather, classify, cover_with, make_weather

FINE_BANDS = ("B02", "B03", "B04", "B08")  # 10 m; the others 20 m
BLUR_PX = 0.40  # deviation of the instrument's point spread in its own pixels
LOOKS = 4.4  # equivalent number of looks of an IW GRD product
BOA_OFFSET = 1000  # added to the digital numbers since processing baseline 04.00


@dataclass(frozen=True)
class OpticalDate:
    """One Sentinel-2 acquisition. shift_m: (east, north) by which its image lies off the true ground."""

    time: str
    sky: Sky
    shift_m: tuple[float, float]
    sun_azimuth_deg: float
    sun_elevation_deg: float
    seed: int

    @property
    def day(self) -> float:
        """Day of the year, 0 = 1 January."""
        return day_of_year(self.time)


@dataclass(frozen=True)
class RadarDate:
    """One Sentinel-1 acquisition of a relative orbit; wet_db: what rain before it adds to bare ground."""

    time: str
    orbit: int
    ascending: bool
    incidence_deg: float
    wet_db: float
    shift_m: tuple[float, float]
    seed: int

    @property
    def day(self) -> float:
        """Day of the year, 0 = 1 January."""
        return day_of_year(self.time)


def day_of_year(time: str) -> float:
    """Days since 1 January of an ISO 8601 time."""
    return float((np.datetime64(time[:10]) - np.datetime64(time[:4] + "-01-01")).astype(int))


def sampling(count: int, gsd_m: float, offset_m: float, world_px: int, blur: float = BLUR_PX) -> sparse.csr_array:
    """(count, world_px) weights of the world's pixels in `count` pixels of `gsd_m` that lie `offset_m` further along the axis.

    A pixel averages its own square, blurred by a Gaussian of `blur` pixels.
    """
    centres = MARGIN_PX * PIXEL_M + (np.arange(count) + 0.5) * gsd_m + offset_m
    fine = (np.arange(world_px) + 0.5) * PIXEL_M
    reach = gsd_m * (0.5 + 3 * blur)
    first = np.searchsorted(fine, centres - reach)
    window = first[:, None] + np.arange(int(2 * reach / PIXEL_M) + 1)
    window = np.clip(window, 0, world_px - 1)
    distance = (fine[window] - centres[:, None]) / gsd_m
    weights = _edge((distance + 0.5) / blur) - _edge((distance - 0.5) / blur)
    rows = np.repeat(np.arange(count), window.shape[1])
    matrix = sparse.csr_array((weights.ravel(), (rows, window.ravel())), shape=(count, world_px), dtype=np.float32)
    return sparse.csr_array(sparse.diags_array(1 / matrix.sum(axis=1)) @ matrix).astype(np.float32)


def _edge(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-1.702 * x))  # logistic form of the normal distribution function


def resample(world_image: np.ndarray, size_px: int, gsd_m: float, shift_m: tuple[float, float], blur: float = BLUR_PX) -> np.ndarray:
    """(size, size) image of the world with pixels of `gsd_m` whose content is moved by `shift_m` (east, north)."""
    rows = sampling(size_px, gsd_m, shift_m[1], world_image.shape[0], blur)
    columns = sampling(size_px, gsd_m, -shift_m[0], world_image.shape[1], blur)
    return rows @ (columns @ world_image.T).T


def field_values(world: World, function, day: float) -> list[np.ndarray]:
    """Values (fields, K) of `function(surface, day, growth)` for every field of the world, one array per result."""
    results: list[np.ndarray] = []
    for number, name in enumerate(NAMES):
        mine = np.flatnonzero(world.kind == number)
        growth = Growth(*(values[mine] for values in (world.growth.early, world.growth.vigour, world.growth.soil, world.growth.cut)))
        values = function(name, day, growth)
        values = values if isinstance(values, tuple) else (values,)
        if not results:
            results = [np.zeros((len(world.kind), value.shape[1]), dtype=np.float32) for value in values]
        for result, value in zip(results, values, strict=True):
            result[mine] = value
    return results


def ground(world: World, day: float, bands: tuple[int, ...]):
    """Yields the reflectance (H, W) of the world at 2.5 m, band by band, without atmosphere."""
    levels, slopes = field_values(world, reflectance, day)
    for band in bands:
        yield np.clip((levels[:, band][world.field] + slopes[:, band][world.field] * world.relief) * world.grain, 0.001, 1)


def sentinel2(world: World, date: OpticalDate, size_px: int) -> tuple[dict[str, np.ndarray], Weather]:
    """Digital numbers per band (uint16, offset included; 10 m or 20 m), `SCL` (uint8, 20 m), and the true weather at 10 m.

    size_px: pixels of 10 m along one side.
    """
    rng = np.random.default_rng(date.seed)
    weather = make_weather(date.sky, (size_px, size_px), date.sun_azimuth_deg, date.sun_elevation_deg, date.seed)
    half = Weather(*(_halved(layer) for layer in (weather.alpha, weather.shade, weather.assumed_shade)))
    gain = 1 + rng.normal(0, 0.02)
    images, clear = {}, {}
    for index, pixels in enumerate(ground(world, date.day, tuple(range(len(BANDS))))):
        name = BANDS[index]
        fine = name in FINE_BANDS
        image = resample(pixels, size_px if fine else size_px // 2, 10 if fine else 20, date.shift_m) * gain
        clear[name] = image
        seen = cover_with(image[None], weather if fine else half, np.array([SPECTRA["cloud"][index]]))[0]
        seen = seen + rng.normal(0, 0.0012, seen.shape) + 0.006 * seen * rng.standard_normal(seen.shape)
        images[name] = np.clip(np.round(seen * 10000) + BOA_OFFSET, 1, 65534).astype(np.uint16)
    red, infrared = _halved(clear["B04"]), clear["B8A"]
    bright = resample((world.surface == NAMES.index("painted metal")).astype(np.float32), size_px // 2, 20, date.shift_m)
    water = resample((world.land_cover == 0).astype(np.float32), size_px // 2, 20, date.shift_m)
    images["SCL"] = classify(half, date.sky, bright, (infrared - red) / (infrared + red), water, date.seed + 1)
    return images, weather


def sentinel1(world: World, date: RadarDate, size_px: int) -> np.ndarray:
    """gamma0 as linear power, float32 (2, size, size) at 10 m for VV and VH, with speckle of LOOKS looks.

    Roofs that face the radar shine, those that look away do not: the two orbits differ there.
    """
    rng = np.random.default_rng(date.seed)
    (levels,) = field_values(world, backscatter, date.day)
    bare = np.array([SURFACES[name].land_cover >= 3 for name in NAMES])[world.kind]
    facing = 1 + 0.5 * np.sin(world.field * 2.399 + (0.8 if date.ascending else 2.6)) * (world.height_m > 4) * (world.land_cover == 8)
    images = []
    for channel in range(2):
        level = levels[:, channel] + date.wet_db * bare - 0.13 * (date.incidence_deg - 38)
        power = (10 ** (level / 10)).astype(np.float32)[world.field] * (1 + 1.5 * world.relief) * facing
        mean = np.maximum(resample(power.astype(np.float32), size_px, 10, date.shift_m, blur=0.7), 1e-4)
        images.append(mean * _speckle(mean.shape, rng))
    return np.stack(images).astype(np.float32)


def _speckle(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Gamma-distributed factor with mean 1 and LOOKS looks, correlated between neighbours as in a 20 m resolution cell on a 10 m grid."""
    parts = 1
    fields = [ndimage.gaussian_filter(rng.standard_normal(shape), 0.55) for _ in range(2 * parts * 4)]
    power = np.sum([(field / field.std()) ** 2 for field in fields], axis=0) / len(fields)  # chi squared: gamma with 4 looks
    return power ** np.sqrt(4 / LOOKS)


def orthophoto(world: World, day: float, size_px: int, sun_azimuth_deg: float = 150, sun_elevation_deg: float = 52) -> np.ndarray:
    """Colour image, uint8 (3, size, size) at 2.5 m, with the shadows of trees and houses."""
    lit = 1 - 0.55 * _thrown(world.height_m, sun_azimuth_deg, sun_elevation_deg)
    haze = 0.012
    rng = np.random.default_rng(int(day))
    slow = 1 + 0.03 * fractal(world.surface.shape, 300, rng, 2.5)
    channels = [pixels * lit * slow + haze for pixels in ground(world, day, (2, 1, 0))]
    cut = slice(MARGIN_PX, MARGIN_PX + size_px)
    picture = np.stack(channels)[:, cut, cut]
    return np.clip(255 * (picture / 0.30) ** 0.62, 1, 255).astype(np.uint8)


def _thrown(height_m: np.ndarray, azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    """(H, W) share of shadow thrown by `height_m` away from the sun."""
    azimuth, drop = np.radians(azimuth_deg), np.tan(np.radians(elevation_deg)) * PIXEL_M
    shadow = np.zeros(height_m.shape, dtype=np.float32)
    for step in range(1, 7):
        away = (step * np.cos(azimuth), -step * np.sin(azimuth))
        above = ndimage.shift(height_m, away, order=1, mode="nearest") - step * drop
        shadow = np.maximum(shadow, np.clip((above - height_m) / 2, 0, 1))
    return shadow


def _halved(image: np.ndarray) -> np.ndarray:
    """Mean over 2 x 2 pixels."""
    return image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean(axis=(1, 3))
