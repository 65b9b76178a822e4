"""Sentinel-2 top-of-atmosphere reflectance (Level-1C), the ten land bands of the Level-2A sensor."""

from skysense_cli.sensors import Sensor
from skysense_cli.sensors.sentinel2_l2a import BANDS, MEAN, STD

sensor = Sensor(
    name="sentinel2_l1c", kind="optical", bands=BANDS, dtype="uint16", nodata=0, units="toa reflectance*10000",
    mean=MEAN, std=STD, typical=(100, 20000), gsd_m=10,
)  # fmt: skip
