"""The plan of the simulated year: where it lies, what flies over it and when, and what the sky is like."""

import numpy as np

from skysense_cli.demo.observe import OpticalDate, RadarDate
from skysense_cli.demo.weather import Sky

CRS = "EPSG:32632"
SIDE_M = 4000  # of every scene
AREA_M = 3840  # of the area that is cut into samples, in the middle of the scene
LEFT, TOP = 522240.0 - 80, 5544960.0 + 80  # corner of the scene; the corner of the area is a multiple of 6 x 640 m
LATITUDE_DEG = 50.0
SEED = 11
PHOTO_DATE = "2021-05-16"
BASELINE = "05.00"  # reprocessed: carries the offset although it was taken before 2022

SKIES = (
    ("2021-02-24T10:30:21", Sky("clear")),
    ("2021-03-11T10:40:19", Sky("broken", 0.42, 700)),
    ("2021-03-31T10:30:24", Sky("clear")),
    ("2021-04-20T10:40:18", Sky("clear")),
    ("2021-04-25T10:30:22", Sky("broken", 0.55, 900)),
    ("2021-05-10T10:40:21", Sky("cumulus", 0.10, 700)),
    ("2021-05-15T10:30:20", Sky("clear")),
    ("2021-06-04T10:40:19", Sky("broken", 0.50, 1000)),
    ("2021-06-14T10:30:23", Sky("clear")),
    ("2021-06-29T10:40:20", Sky("cumulus", 0.08, 800)),
    ("2021-07-09T10:30:22", Sky("thin", 0.16, 2500)),
    ("2021-07-19T10:40:18", Sky("clear")),
    ("2021-08-03T10:30:21", Sky("overcast", 1.0)),
    ("2021-08-18T10:40:22", Sky("broken", 0.45, 900)),
    ("2021-08-28T10:30:19", Sky("clear")),
    ("2021-09-17T10:40:23", Sky("broken", 0.60, 800)),
    ("2021-10-02T10:30:20", Sky("clear")),
    ("2021-10-27T10:40:21", Sky("broken", 0.30, 600)),
)
ORBITS = ((15, True, 34.0, "T17:17:05"), (139, False, 41.0, "T05:42:31"))  # relative orbit, ascending, incidence, time
RADAR_DAYS = ("02-17", "03-25", "04-30", "05-24", "06-17", "07-11", "08-16", "10-03")


def sun(time: str) -> tuple[float, float]:
    """(azimuth, elevation) of the sun in degrees at about 11 h local solar time, to about a degree."""
    day = (np.datetime64(time[:10]) - np.datetime64(time[:4] + "-01-01")).astype(int) + 1
    declination = np.radians(-23.44) * np.cos(2 * np.pi * (day + 10) / 365.25)
    hour, latitude = np.radians(-15.0), np.radians(LATITUDE_DEG)
    height = np.arcsin(np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour))
    east, north = (
        -np.cos(declination) * np.sin(hour),
        np.cos(latitude) * np.sin(declination) - np.sin(latitude) * np.cos(declination) * np.cos(hour),
    )
    return float(np.degrees(np.arctan2(east, north)) % 360), float(np.degrees(height))


def optical_dates() -> list[OpticalDate]:
    """Every Sentinel-2 date, with its shift: 0.45 to 1.45 pixels in all directions, 0.95 in the median."""
    rng = np.random.default_rng(SEED)
    length_m = rng.permutation(np.linspace(4.5, 14.5, len(SKIES)))
    angle = rng.permutation(np.linspace(0, 2 * np.pi, len(SKIES), endpoint=False))
    dates = []
    for number, (time, sky) in enumerate(SKIES):
        shift = (round(float(length_m[number] * np.cos(angle[number])), 2), round(float(length_m[number] * np.sin(angle[number])), 2))
        dates.append(OpticalDate(time, sky, shift, *sun(time), seed=1000 * SEED + 10 * number))
    return dates


def radar_dates() -> list[RadarDate]:
    """Every Sentinel-1 date of two relative orbits; geocoded without error, wetter on some days."""
    rng = np.random.default_rng(SEED + 1)
    dates = []
    for index, day in enumerate(RADAR_DAYS):
        for orbit, ascending, incidence, clock in ORBITS:
            date = str(np.datetime64(f"2021-{day}") + (0 if ascending else 1))
            wet = float(np.round(rng.choice([0.0, 0.5, 1.8]), 1))
            dates.append(RadarDate(date + clock, orbit, ascending, incidence, wet, (0.0, 0.0), seed=5000 * SEED + 10 * index + ascending))
    return dates
