"""Layers in the order of the list; dated files of one kind become one series, which a slider moves through."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skysense_cli.engine.viewer.layers import SHARES, Kind, Layer
from skysense_cli.geo.opening import open_raster
from skysense_cli.geo.reduction import glimpse

ORDER: tuple[Kind, ...] = ("image", "prototype", "class", "value")  # from the bottom to the top of the map
MIDDLE = (2.0, 98.0)  # percentiles that imagery and values are stretched between


@dataclass(frozen=True)
class Track:
    """One line of the list: a layer, or a series of them by date.

    limits: values that get the first and the last colour      visible, opacity: when the page opens
    """

    title: str
    kind: Kind
    what: str
    layers: tuple[Layer, ...]
    limits: tuple[float, float]
    visible: bool
    opacity: float


def make_tracks(layers: Sequence[Layer]) -> list[Track]:
    """The tracks of a page from the bottom to the top; those of one kind in the order of their layers."""
    groups: dict[tuple[str, ...], list[Layer]] = {}
    for number, layer in enumerate(layers):
        key = (layer.kind, layer.what, layer.stem, str(layer.path.parent)) if layer.date else (str(number),)
        groups.setdefault(key, []).append(layer)
    parts = [part for group in groups.values() for part in _of_different_dates(group)]
    parts.sort(key=lambda part: ORDER.index(part[0].kind))
    kinds = {part[0].kind for part in parts}
    map_kind = next((kind for kind in ("class", "prototype", "value") if kind in kinds), "image")
    tracks, seen = [], set[str]()
    for part in parts:
        first = part[0]
        visible = first.kind in ("image", map_kind) and first.kind not in seen
        seen.add(first.kind)
        opacity = 0.8 if first.kind in ("class", "prototype") and "image" in kinds else 1.0
        tracks.append(Track(_title(part, parts), first.kind, first.what, tuple(part), _limits(part), visible, opacity))
    return tracks


def _of_different_dates(group: list[Layer]) -> list[list[Layer]]:
    """By date; layers that share one are no series."""
    if len({layer.date for layer in group}) < len(group):
        return [[layer] for layer in group]
    return [sorted(group, key=lambda layer: layer.date)]


def _title(part: list[Layer], parts: list[list[Layer]]) -> str:
    """The file's name in words; with that of its folder where two would be called the same."""
    words = _words(part)
    shared = sum(_words(other) == words for other in parts) > 1
    return f"{part[0].path.absolute().parent.name}/{words}" if shared else words


def _words(part: list[Layer]) -> str:
    name = part[0].stem if len(part) > 1 else part[0].path.stem
    return name.replace("_", " ").strip() or part[0].what


def _limits(layers: Sequence[Layer]) -> tuple[float, float]:
    """The same for every date: of the dates' own limits the median, so that one cloudy date does not darken the others."""
    first = layers[0]
    if first.coded:
        return 0.0, 0.0
    if first.what in SHARES:
        return 0.0, 1.0
    if first.kind == "image" and first.info.dtype == "uint8":
        return 0.0, 255.0
    found = np.array([limits for layer in layers if (limits := _limits_of(layer))])
    if not len(found):
        return 0.0, 1.0
    low, high = np.median(found, axis=0).tolist()
    return low, high if high > low else low + 1.0


def _limits_of(layer: Layer) -> tuple[float, float] | None:
    """Of one date; None without data."""
    with open_raster(layer.path) as dataset:
        pixels, data = glimpse(dataset, list(layer.bands))
    kept = pixels[:, data.all(axis=0)]
    kept = kept[np.isfinite(kept)]
    if not kept.size:
        return None
    low, high = np.percentile(kept, MIDDLE).tolist()
    return low * layer.scale + layer.add, high * layer.scale + layer.add
