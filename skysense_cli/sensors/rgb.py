"""Aerial or very-high-resolution colour imagery, 8 bits a band. Statistics: ImageNet, times 255."""

from skysense_cli.sensors import Band, Sensor

BANDS = (Band("R", ("red", "B1"), 660), Band("G", ("green", "B2"), 550), Band("B", ("blue", "B3"), 470))
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

sensor = Sensor(
    name="rgb", kind="rgb", bands=BANDS, dtype="uint8", nodata=0, units="DN", mean=MEAN, std=STD, typical=(10, 255), gsd_m=0.3,
)  # fmt: skip
