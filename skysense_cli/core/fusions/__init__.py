"""Fusions: the tokens of one cell over all dates and modalities to one feature. One kind per file.

To add one, write `core/fusions/<kind>.py` with a `Fusion` and `build = <TheClass>`.
Positional-only arguments come from the program: `(width, /)`, the channels d of a token.
"""

from torch import Tensor, nn


class Fusion(nn.Module):
    """Tokens (N, T, d), days (N, T) and seen (N, T) to (N, d'); `dim` is d'.

    days: day of year 0..364, -1 = unknown.   seen: False tokens change nothing and are not computed.
    A row without any seen token gives zeros.
    """

    dim: int

    def forward(self, tokens: Tensor, days: Tensor, seen: Tensor) -> Tensor:
        raise NotImplementedError
