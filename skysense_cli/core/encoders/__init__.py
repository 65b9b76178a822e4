"""Encoders: images of one date in, a pyramid of feature maps out. One kind per file.

To add one, write `core/encoders/<kind>.py`:

    class MyEncoder(Encoder):
        def __init__(self, *, channels: int, dim: int = 96, patch: int = 4) -> None: ...
    build = MyEncoder

and set the attributes of `Encoder`. Then `kind: my` works in a recipe.
"""

from collections.abc import Sequence

from torch import Tensor, nn

TABLES = ("relative_coords_table", "relative_position_index")  # buffers that depend on options alone: stored, never loaded


class Encoder(nn.Module):
    """(N, C, H, W) normalised pixels to a list of (N, C_k, H_k, W_k), fine to coarse.

    channels: of the images, C
    stride: pixels per position of the last map; H and W must be multiples of it
    patch, dim: pixels per position of `embed`'s map, and its channels
    tap_channels, tap_strides: of each map of the pyramid
    units: the steps of the trunk, each (N, h, w, C) -> (N, h', w', C'); what is checkpointed, compiled and sharded
    taps: indices of the units whose output is kept
    ends, end_channels: per stage (in an encoder without stages: per layer) the number of units after which it is done, and
        the channels it ends with; between stages a prompted encoder merges its halves and puts its bridges

    One that does without `embed` (its units are not on maps of positions) cannot be prompted.
    """

    channels: int
    stride: int
    patch: int
    dim: int
    tap_channels: tuple[int, ...]
    tap_strides: tuple[int, ...]
    taps: tuple[int, ...]
    ends: tuple[int, ...]
    end_channels: tuple[int, ...]

    @property
    def units(self) -> Sequence[nn.Module]:
        """The steps of the trunk in order."""
        raise NotImplementedError

    @property
    def layer_numbers(self) -> Sequence[int]:
        """The layer that each unit belongs to, from 0; a step between stages belongs to the layer that follows it."""
        return range(len(self.units))

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
