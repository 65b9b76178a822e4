"""Colour imagery with a near-infrared band, 8 bits a band. Near infrared takes the mean of the colour statistics."""

from skysense_cli.sensors import Band, Sensor
from skysense_cli.sensors.rgb import BANDS, MEAN, STD

sensor = Sensor(
    name="rgbnir", kind="rgb", bands=(*BANDS, Band("N", ("nir", "near infrared", "B4"), 840)), dtype="uint8", nodata=0, units="DN",
    mean=(*MEAN, sum(MEAN) / 3), std=(*STD, sum(STD) / 3), typical=(10, 255), gsd_m=0.3,
)  # fmt: skip
