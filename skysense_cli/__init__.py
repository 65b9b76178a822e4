"""SkySense and SkySense++ as a command-line toolkit for earth observation."""

__version__ = "0.1.0"
