"""Metadata of satellite products: one file per family makes facts of texts."""
