"""Detected radar products: from digital numbers to sigma0, and from lines and samples to places on the ground."""
