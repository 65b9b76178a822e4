"""Reflectance, backscatter and seasons of the simulated surfaces.

Sources. Vegetation and bare soil have the shape of PROSAIL-D runs (Jacquemoud et al. 2009, Remote Sensing of Environment
113, S56-S66; Feret et al. 2017, 193, 204-215) averaged over the Sentinel-2A bands, with the leaf and canopy settings beside each
line; their level is rounded to that of labelled fields in Belgium (contains modified Copernicus Sentinel data 2019).
Built surfaces and water are rounded to the level that the ECOSTRESS spectral library (Meerdink et al. 2019, Remote Sensing of
Environment 230, 111196) shows for asphalt, concrete, clay tiles, painted metal and lake water. Seasons are double logistic
curves (Beck et al. 2006, Remote Sensing of Environment 100, 321-334) with Central European calendar days; backscatter has
the level and the seasonal change that Sentinel-1 shows over the same labelled fields.
"""

from dataclasses import dataclass

import numpy as np

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

SPECTRA = {  # reflectance in the order of BANDS
    "soil": (0.078, 0.108, 0.136, 0.160, 0.190, 0.212, 0.228, 0.240, 0.288, 0.232),  # dry and wet soil of PROSAIL, 1 : 2
    "cereal": (0.024, 0.052, 0.022, 0.074, 0.290, 0.410, 0.425, 0.432, 0.160, 0.068),  # N 1.5, Cab 45, Cw .012, LAI 3.5, angle 60
    "rapeseed": (0.028, 0.068, 0.025, 0.092, 0.400, 0.530, 0.540, 0.545, 0.193, 0.072),  # N 1.6, Cab 45, Cw .020, LAI 4.5, angle 45
    "flowering": (0.045, 0.155, 0.140, 0.215, 0.400, 0.455, 0.470, 0.480, 0.210, 0.105),  # petals over the canopy
    "maize": (0.028, 0.058, 0.032, 0.082, 0.300, 0.430, 0.445, 0.455, 0.205, 0.095),  # N 1.4, Cab 50, Cw .014, LAI 3.2, angle 55
    "beet": (0.030, 0.078, 0.030, 0.115, 0.425, 0.535, 0.550, 0.555, 0.185, 0.080),  # N 1.6, Cab 55, Cw .035, LAI 4.5, angle 40
    "grass": (0.034, 0.068, 0.038, 0.110, 0.330, 0.420, 0.440, 0.450, 0.220, 0.105),  # N 1.5, Cab 38, Cw .012, LAI 3.0, angle 62
    "dry grass": (0.061, 0.100, 0.095, 0.160, 0.250, 0.290, 0.310, 0.335, 0.310, 0.190),  # N 1.9, Cab 10, brown .6, LAI 2.0
    "straw": (0.085, 0.125, 0.168, 0.205, 0.245, 0.272, 0.288, 0.318, 0.335, 0.250),  # N 2.2, brown .9, Cw .002 over soil
    "broadleaf": (0.022, 0.044, 0.022, 0.072, 0.270, 0.355, 0.370, 0.385, 0.168, 0.070),  # N 1.6, Cab 50, Cw .012, LAI 5.5, crown shade .35
    "bare crowns": (0.034, 0.046, 0.052, 0.072, 0.112, 0.130, 0.145, 0.165, 0.180, 0.115),
    "conifer": (0.016, 0.028, 0.018, 0.044, 0.130, 0.165, 0.178, 0.188, 0.086, 0.038),  # as broadleaf, crown shade .65
    "lake": (0.042, 0.040, 0.024, 0.018, 0.014, 0.013, 0.011, 0.010, 0.006, 0.005),
    "river": (0.052, 0.062, 0.046, 0.042, 0.026, 0.024, 0.020, 0.018, 0.009, 0.007),  # with suspended matter
    "asphalt": (0.085, 0.095, 0.103, 0.108, 0.114, 0.119, 0.124, 0.128, 0.142, 0.134),
    "concrete": (0.170, 0.200, 0.222, 0.233, 0.243, 0.252, 0.262, 0.268, 0.292, 0.272),
    "clay tiles": (0.062, 0.085, 0.165, 0.190, 0.205, 0.218, 0.232, 0.245, 0.300, 0.268),
    "slate": (0.070, 0.075, 0.080, 0.083, 0.087, 0.090, 0.094, 0.097, 0.110, 0.105),
    "painted metal": (0.480, 0.510, 0.520, 0.520, 0.515, 0.510, 0.505, 0.500, 0.430, 0.390),
    "cloud": (0.580, 0.565, 0.560, 0.565, 0.575, 0.580, 0.585, 0.585, 0.370, 0.280),
}


@dataclass(frozen=True)
class Season:
    """A double logistic greenness curve: rises around `rise`, falls around `fall` (days of year), rates in days.

    low, high: cover of green leaves before the season and at its peak; `second`: a catch crop's or regrowth's cover after the harvest
    """

    rise: float
    rise_rate: float
    fall: float
    fall_rate: float
    low: float = 0.03
    high: float = 0.95
    second: float = 0.0

    def cover(self, day: float, early: np.ndarray | float = 0.0) -> np.ndarray:
        """Green cover in 0..1 on a day of the year; `early`: days by which each field is ahead."""
        up = 1 / (1 + np.exp(-(day + early - self.rise) / self.rise_rate))
        down = 1 / (1 + np.exp((day + early - self.fall) / self.fall_rate))
        regrown = self.second / (1 + np.exp(-(day - self.fall - 75) / 9))
        return np.clip((self.low + (self.high - self.low) * up) * down + regrown, 0, 1)


@dataclass(frozen=True)
class Surface:
    """One kind of ground.

    land_cover: index of its class in CLASSES   green, bare: names in SPECTRA that the season mixes
    vv, vh: sigma0 in dB when bare              vv_green, vh_green: what full cover adds, dB
    """

    land_cover: int
    green: str
    bare: str
    season: Season | None
    vv: float
    vh: float
    vv_green: float = 0.0
    vh_green: float = 0.0


CLASSES = ("water", "broadleaf forest", "conifer forest", "grassland", "winter cereal", "rapeseed", "maize", "sugar beet", "built-up")
COLORS = (
    (52, 120, 190), (70, 140, 60), (24, 84, 54), (168, 205, 110), (226, 186, 90),
    (245, 225, 60), (214, 120, 50), (160, 80, 140), (150, 150, 155),
)  # fmt: skip

LEAVES = Season(rise=112, rise_rate=6, fall=296, fall_rate=9, low=0.0, high=1.0)
MEADOW = Season(rise=84, rise_rate=14, fall=345, fall_rate=16, low=0.55, high=0.95)
SURFACES = {
    "lake": Surface(0, "lake", "lake", None, -19.5, -27.0),
    "river": Surface(0, "river", "river", None, -18.0, -26.0),
    "broadleaf": Surface(1, "broadleaf", "bare crowns", LEAVES, -8.6, -14.8, -0.9, 0.8),
    "conifer": Surface(2, "conifer", "conifer", None, -9.6, -15.6),
    "grassland": Surface(3, "grass", "dry grass", MEADOW, -11.0, -18.4, -0.8, 0.8),
    "cereal": Surface(4, "cereal", "soil", Season(72, 15, 181, 6, low=0.22, second=0.30), -8.0, -16.2, -6.5, -4.5),
    "rapeseed": Surface(5, "rapeseed", "soil", Season(70, 12, 176, 7, low=0.35, second=0.45), -8.6, -17.0, -2.0, 4.2),
    "maize": Surface(6, "maize", "soil", Season(175, 7, 262, 8), -8.8, -17.6, -0.4, 2.6),
    "beet": Surface(7, "beet", "soil", Season(153, 8, 305, 10), -8.4, -17.8, 1.6, 4.0),
    "track": Surface(8, "grass", "soil", Season(95, 12, 300, 16, low=0.25, high=0.5), -10.5, -18.0),
    "asphalt": Surface(8, "asphalt", "asphalt", None, -12.0, -20.5),
    "concrete": Surface(8, "concrete", "concrete", None, -10.0, -18.0),
    "clay tiles": Surface(8, "clay tiles", "clay tiles", None, -3.2, -11.5),
    "slate": Surface(8, "slate", "slate", None, -3.6, -11.8),
    "painted metal": Surface(8, "painted metal", "painted metal", None, -0.5, -9.5),
    "garden": Surface(8, "grass", "dry grass", MEADOW, -9.0, -16.0),
}
NAMES = tuple(SURFACES)
CROPS = ("grassland", "cereal", "rapeseed", "maize", "beet")
STRAW_DAYS = 45.0  # how long stubble stays before the soil is turned
FLOWER_DAY, FLOWER_DAYS = 126.0, 9.0  # rapeseed, early May


@dataclass(frozen=True)
class Growth:
    """How single fields differ: days ahead of the season, vigour (factor on cover), soil brightness (factor), first cut of a meadow."""

    early: np.ndarray
    vigour: np.ndarray
    soil: np.ndarray
    cut: np.ndarray


def reflectance(surface: str, day: float, growth: Growth) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance (N, 10) of N fields of one surface, and its change (N, 10) per unit of relative cover."""
    kind = SURFACES[surface]
    green, bare = np.asarray(SPECTRA[kind.green]), np.asarray(SPECTRA[kind.bare])
    cover = green_cover(surface, day, growth)[:, None]
    bare = np.broadcast_to(bare, (len(growth.early), len(BANDS)))
    if surface == "rapeseed":
        flowers = np.exp(-0.5 * ((day + growth.early - FLOWER_DAY) / FLOWER_DAYS) ** 2)[:, None]
        green = green + flowers * (np.asarray(SPECTRA["flowering"]) - green)
    if surface in ("cereal", "rapeseed") and kind.season:
        since = day + growth.early - kind.season.fall
        straw = (1 / (1 + np.exp(-since / 4)) / (1 + np.exp((since - STRAW_DAYS) / 5)))[:, None]
        bare = bare + straw * (np.asarray(SPECTRA["straw"]) - bare)
    bare = bare * growth.soil[:, None]
    return bare + cover * (green - bare), cover * (green - bare)


def green_cover(surface: str, day: float, growth: Growth) -> np.ndarray:
    """Green cover (N,) in 0..1 of N fields of one surface."""
    kind = SURFACES[surface]
    if kind.season is None:
        return np.ones(len(growth.early))
    cover = kind.season.cover(day, growth.early) * growth.vigour
    if surface == "grassland":  # three cuts, seven weeks apart, each followed by three weeks of regrowth
        for number in range(3):
            since = day - (growth.cut + 49 * number)
            cover = cover * np.where(since >= 0, 1 - 0.6 * np.exp(-np.maximum(since, 0) / 14), 1)
    return np.clip(cover, 0, 1)


def backscatter(surface: str, day: float, growth: Growth) -> np.ndarray:
    """sigma0 in dB, (N, 2) for VV and VH, of N fields of one surface, without speckle."""
    kind = SURFACES[surface]
    cover = green_cover(surface, day, growth) if kind.season else np.zeros(len(growth.early))
    roughness = 8 * (growth.soil - 1)  # a coarse seedbed is darker to the eye and brighter to the radar
    return np.stack([kind.vv + cover * kind.vv_green - roughness, kind.vh + cover * kind.vh_green - roughness], axis=1)
