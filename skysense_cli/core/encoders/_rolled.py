"""The windows of a Swin block for traced graphs, where writing into parts of a tensor costs dearly."""

import torch
from torch import Tensor

from skysense_cli.core.encoders._windows import Windows


class RolledWindows(Windows):
    """The same windows in the same order, by rolling the map and putting copies together."""

    def __init__(self, size: tuple[int, int, int], window: int, shift: int) -> None:
        super().__init__(size, window, shift)
        self.shift = shift
        self.down, self.across = ([length // window - 1, 1] if shift else [length // window] for length in size[1:])

    def cut(self, grid: Tensor) -> Tensor:
        """(N, h, w, C) -> (W, window^2, C)."""
        if self.shift:
            grid = grid.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = grid.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window)).transpose(2, 3)  # (N, R, C, y, x, dim)
        kinds = [kind for band in windows.split(self.down, dim=1) for kind in band.split(self.across, dim=2)]
        return torch.cat([kind.flatten(0, 2).flatten(1, 2) for kind in kinds])

    def join(self, windows: Tensor) -> Tensor:
        """(W, window^2, C) -> (N, h, w, C)."""
        parts = zip(windows.split(self.counts), self.shapes, strict=True)
        kinds = [part.unflatten(1, shape[3:]).unflatten(0, shape[:3]) for part, shape in parts]
        step = len(self.across)
        bands = [torch.cat(kinds[start : start + step], dim=2) for start in range(0, len(kinds), step)]
        grid = torch.cat(bands, dim=1).transpose(2, 3).flatten(3, 4).flatten(1, 2)  # (N, R, C, y, x, dim) -> (N, h, w, dim)
        return grid.roll((self.shift, self.shift), dims=(1, 2)) if self.shift else grid
