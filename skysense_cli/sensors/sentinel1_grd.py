"""Sentinel-1 GRD backscatter on the ellipsoid, sigma0 in dB.

Statistics: the published SkySense++ normalisation (VV, VH in dB).
"""

from skysense_cli.sensors import Band, Sensor

BANDS = (Band("VV", ("vv", "sigma0_vv", "gamma0_vv")), Band("VH", ("vh", "sigma0_vh", "gamma0_vh")))
MEAN = (-12.54847273, -20.19237134)
STD = (5.25697717, 5.91150917)

sensor = Sensor(
    name="sentinel1_grd", kind="sar", bands=BANDS, dtype="float32", nodata=float("nan"), units="sigma0 dB",
    mean=MEAN, std=STD, typical=(-35, 5), gsd_m=10,
)  # fmt: skip
