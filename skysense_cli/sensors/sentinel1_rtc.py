"""Sentinel-1 radiometrically terrain-corrected backscatter, gamma0 in dB."""

from skysense_cli.sensors import Sensor
from skysense_cli.sensors.sentinel1_grd import BANDS, MEAN, STD

sensor = Sensor(
    name="sentinel1_rtc", kind="sar", bands=BANDS, dtype="float32", nodata=float("nan"), units="gamma0 dB",
    mean=MEAN, std=STD, typical=(-35, 5), gsd_m=10,
)  # fmt: skip
