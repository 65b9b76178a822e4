"""Sentinel-2 surface reflectance (Level-2A), ten land bands.

Statistics: the published SkySense++ normalisation (digital numbers without baseline offset).
"""

from skysense_cli.sensors import Band, Sensor

BANDS = (
    Band("B02", ("B2", "blue", "B02_10m"), 490, 10),
    Band("B03", ("B3", "green", "B03_10m"), 560, 10),
    Band("B04", ("B4", "red", "B04_10m"), 665, 10),
    Band("B05", ("B5", "rededge1", "rededge705", "B05_20m"), 705, 20),
    Band("B06", ("B6", "rededge2", "rededge740", "B06_20m"), 740, 20),
    Band("B07", ("B7", "rededge3", "rededge783", "B07_20m"), 783, 20),
    Band("B08", ("B8", "nir", "B08_10m"), 842, 10),
    Band("B8A", ("B08A", "nir08", "nir2", "B8A_20m"), 865, 20),
    Band("B11", ("swir16", "swir1", "B11_20m"), 1610, 20),
    Band("B12", ("swir22", "swir2", "B12_20m"), 2190, 20),
)
OTHERS = (  # not stored; cloud masks may ask for them
    Band("B01", ("B1", "coastal", "B01_60m"), 443, 60),
    Band("B09", ("B9", "nir09", "B09_60m"), 945, 60),
    Band("B10", ("cirrus", "B10_60m"), 1373, 60),
)
MEAN = (884.29673756, 1144.16202635, 1297.47289228, 1624.90992062, 2194.6423161,
        2422.21248945, 2517.76053101, 2581.64687018, 2368.51236873, 1805.06846033)  # fmt: skip
STD = (1155.15170768, 1183.6292542, 1368.11351514, 1370.265037, 1355.55390699,
       1416.51487101, 1474.78900051, 1439.3086061, 1455.52084939, 1343.48379601)  # fmt: skip

sensor = Sensor(
    name="sentinel2_l2a", kind="optical", bands=BANDS, dtype="uint16", nodata=0, units="reflectance*10000",
    mean=MEAN, std=STD, typical=(100, 20000), gsd_m=10,
)  # fmt: skip
