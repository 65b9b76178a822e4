"""Patch embeddings for other bands than they were trained on, matched by band name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skysense_cli import sensors
from skysense_cli.data.dataset import Input
from skysense_cli.errors import BundleError

NEAREST = 2  # bands whose mean a new band starts from


@dataclass(frozen=True)
class BandPlan:
    """How each wanted band is made: `sources[i]` are the trained channels whose mean it is, times `scales[i]`."""

    sources: tuple[tuple[int, ...], ...]
    scales: tuple[float, ...]
    text: str

    def apply(self, weight: Tensor) -> Tensor:
        """(O, trained bands, p, p) -> (O, wanted bands, p, p), float32."""
        weight = weight.float()
        planes = [weight[:, list(chosen)].mean(dim=1) * scale for chosen, scale in zip(self.sources, self.scales, strict=True)]
        return torch.stack(planes, dim=1)


def plan_bands(trained: Input, wanted: Input, where: str) -> BandPlan | None:
    """How `trained` bands become `wanted` ones; None when they are the same in the same order.

    A band that was trained keeps its weights; if some are left out, the kept ones are scaled by all / kept, so that the
    response to a grey image stays. A new band is the mean of its two nearest in wavelength, unscaled.
    Raises BundleError for a new band that has no wavelength.
    """
    if trained.bands == wanted.bands:
        return None
    kept = [band for band in wanted.bands if band in trained.bands]
    scale = len(trained.bands) / len(kept) if kept else 1.0
    sources: list[tuple[int, ...]] = []
    scales: list[float] = []
    notes: list[str] = []
    for band in wanted.bands:
        if band in trained.bands:
            sources.append((trained.bands.index(band),))
            scales.append(scale)
            continue
        near = _nearest(band, trained, wanted, where)
        sources.append(near)
        scales.append(1.0)
        notes.append(f"{band} is the mean of {' and '.join(trained.bands[index] for index in near)}")
    if kept:
        factor = f", times {len(trained.bands)}/{len(kept)}" if scale != 1 else ""
        notes.insert(0, f"{' '.join(kept)} by name{factor}")
    return BandPlan(tuple(sources), tuple(scales), f"bands {' '.join(trained.bands)} -> {' '.join(wanted.bands)}: {'; '.join(notes)}")


def _nearest(band: str, trained: Input, wanted: Input, where: str) -> tuple[int, ...]:
    """The trained bands nearest to `band` in wavelength, at most NEAREST, nearest first."""
    aim = _wavelengths(wanted.sensor, (band,))[0]
    if aim is None:
        raise BundleError(
            f"{where}: was trained on {' '.join(trained.bands)}, and {band} of {wanted.sensor} has no wavelength to be derived from"
        )
    known = [(abs(length - aim), index) for index, length in enumerate(_wavelengths(trained.sensor, trained.bands)) if length]
    if not known:
        raise BundleError(f"{where}: {band} cannot be derived from {' '.join(trained.bands)}, which have no wavelength")
    return tuple(index for _, index in sorted(known)[:NEAREST])


def _wavelengths(sensor: str, bands: Sequence[str]) -> list[float | None]:
    known = {band.name: band.wavelength_nm for band in sensors.get(sensor).bands}
    return [known.get(band) for band in bands]
