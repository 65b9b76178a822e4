"""Recipes: one YAML file, one command. Reads neither torch nor rasterio."""
