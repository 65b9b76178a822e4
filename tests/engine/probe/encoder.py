"""An encoder that hands on the pixels themselves, 4 x 4 of them per position."""

import torch.nn.functional as F
from torch import Tensor, nn

from skysense_cli.core.encoders import Encoder

PATCH = 4


class Pixels(Encoder):
    """Pixels as features."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.channels, self.stride, self.patch, self.dim = channels, PATCH, PATCH, channels * PATCH**2
        self.tap_channels, self.tap_strides, self.taps, self.ends = (self.dim,), (PATCH,), (0,), (1,)
        self.end_channels = (self.dim,)
        self.nothing = nn.Identity()

    @property
    def units(self):
        return [self.nothing]

    def embed(self, pixels: Tensor) -> Tensor:
        return F.pixel_unshuffle(pixels, PATCH).permute(0, 2, 3, 1)


build = Pixels
