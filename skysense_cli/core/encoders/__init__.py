"""Encoders: images of one date in, a pyramid of feature maps out. One kind per file.

To add one, write `core/encoders/<kind>.py`:

    class MyEncoder(Encoder):
        def __init__(self, *, channels: int, dim: int = 96, patch: int = 4) -> None: ...
    build = MyEncoder

and set `channels`, `stride`, `tap_channels`, `tap_strides`, `units` and `taps`. Then `kind: my` works in a recipe.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class Encoder(nn.Module):
    """(N, C, H, W) normalised pixels to a list of (N, C_k, H_k, W_k), fine to coarse.

    channels: of the images, C
    stride: pixels per position of the last map; H and W must be multiples of it
    tap_channels, tap_strides: of each map of the pyramid
    units: the steps of the trunk, each (N, h, w, C) -> (N, h', w', C'); what is checkpointed, compiled and sharded
    taps: indices of the units whose output is kept
    """

    channels: int
    stride: int
    tap_channels: tuple[int, ...]
    tap_strides: tuple[int, ...]
    taps: tuple[int, ...]

    @property
    def units(self) -> Sequence[nn.Module]:
        """The steps of the trunk in order."""
        raise NotImplementedError

    def embed(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, h, w, C), without positions."""
        raise NotImplementedError

    def position(self, grid: Tensor) -> Tensor:
        """`grid` (N, h, w, C) with position terms added, resized to h x w where needed."""
        return grid

    def tap(self, number: int, grid: Tensor) -> Tensor:
        """The `number`-th kept map as it leaves the encoder (e.g. normalised), (N, h, w, C)."""
        return grid

    def forward(self, pixels: Tensor) -> list[Tensor]:
        grid = self.position(self.embed(pixels))
        maps = []
        for index, unit in enumerate(self.units):
            grid = unit(grid)
            if index in self.taps:
                maps.append(self.tap(self.taps.index(index), grid).permute(0, 3, 1, 2))  # NHWC -> NCHW
        return maps


def drop_rates(rate: float, count: int) -> list[float]:
    """`count` stochastic-depth rates that rise evenly from 0 to `rate`."""
    return [rate * index / max(count - 1, 1) for index in range(count)]  # no tensor: also right on the meta device
