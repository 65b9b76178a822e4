"""Rasters, grids and areas: numpy and `GeoBox` in, numpy and GeoTIFF out. No tensor is known here."""
