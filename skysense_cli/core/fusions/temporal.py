"""Attention over the dates of all modalities, one sequence per cell (SkySense Eq. 2)."""

import torch
from torch import Tensor, nn

from skysense_cli.core.collective import ranks
from skysense_cli.core.fusions import Fusion
from skysense_cli.core.transformer import Layer, init_linear
from skysense_cli.errors import RecipeError

DAYS = 365
MOST_PERIODS = 12  # in a year: a wave is at least a month long
MAX_TOKENS = 65_536  # at once without gradient; a whole scene's cells times its dates would not fit into memory


class Temporal(Fusion):
    """Multi-modal temporal fusion transformer; the output is that of one extra token.

    dim: d'. The row of `date_embedding` (365, d) for a token's day of year is added before the projection d -> d';
    an unknown day adds nothing. There is no other position, so the order of the tokens does not matter.
    dates: whether there is a date table at all (the released SkySense++ has none)
    SkySense, sec. 3.2: 24 layers of 1024 channels, 16 heads. Parameter names are those of the released weights.
    """

    def __init__(
        self, width: int, /, *, depth: int, heads: int, dim: int, mlp: float = 4.0, drop_path: float = 0.0, dates: bool = True
    ) -> None:
        super().__init__()
        if dim % heads or depth < 1:
            raise RecipeError(f"temporal: dim {dim} must be a multiple of heads {heads}, and depth {depth} at least 1")
        self.dim = dim
        self.date_embedding = nn.Parameter(seasons(width)) if dates else None
        self.porj_linear = nn.Linear(width, dim)  # spelled as in the released weights
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        rates = [drop_path * index / max(depth - 1, 1) for index in range(depth)]
        self.layers = nn.ModuleList(Layer(dim, heads, mlp=mlp, drop_path=rate) for rate in rates)
        self.apply(init_linear)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, tokens: Tensor, days: Tensor, seen: Tensor) -> Tensor:
        if torch.is_grad_enabled() or ranks() > 1:  # ranks must run the layers equally often
            return self._fused(tokens, days, seen)
        rows = max(1, MAX_TOKENS // (1 + tokens.shape[1]))
        parts = zip(tokens.split(rows), days.split(rows), seen.split(rows), strict=True)
        return torch.cat([self._fused(*part) for part in parts])

    def _fused(self, tokens: Tensor, days: Tensor, seen: Tensor) -> Tensor:
        count = seen.sum(dim=1)
        rows = count > 0
        rows[0] |= ~rows.any()  # one row at least: every rank of a sharded model runs the layers
        x, allowed = self._packed(tokens, days, seen, count[rows])
        for layer in self.layers[:-1]:
            x = layer(x, allowed)
        x = self.layers[-1](x, allowed, queries=1).squeeze(1)  # only the extra token is read
        out = x.new_zeros(len(tokens), self.dim)
        out[rows] = x * (count[rows] > 0).unsqueeze(1)
        return out

    def _packed(self, tokens: Tensor, days: Tensor, seen: Tensor, count: Tensor) -> tuple[Tensor, Tensor | None]:
        """The extra token and then the seen tokens, projected: (rows, 1 + longest, d'), and what may be attended to.

        count: (rows,) seen tokens of the rows that are computed. Tokens that are not seen are left out before any work;
        only rows shorter than the longest are padded.
        """
        shown = tokens[seen]
        if self.date_embedding is not None:
            day = days[seen]
            shown = shown + self.date_embedding[day.clamp(min=0)] * (day >= 0).unsqueeze(1)
        projected = self.porj_linear(shown)  # (seen tokens of all rows, d')
        longest = int(count.max())
        kept = torch.arange(longest, device=seen.device) < count.unsqueeze(1)
        x = self.cls_token.repeat(len(count), 1 + longest, 1)
        x[:, 1:][kept] = projected.to(x.dtype)
        if bool(kept.all()):
            return x, None
        return x, torch.cat([torch.ones_like(kept[:, :1]), kept], dim=1)


def seasons(width: int) -> Tensor:
    """(365, width): where the date table starts: waves of 1 to 12 periods a year, of deviation 0.3.

    Paper silent. Neighbouring days start alike and December meets January, so that a few hundred steps and dates never
    seen in training are no trouble; from noise every day would have to be learned on its own.
    """
    column = torch.arange(width)
    periods = 1 + column // 2 % MOST_PERIODS
    angle = 2 * torch.pi * torch.arange(DAYS).unsqueeze(1) * periods / DAYS
    return 0.3 * 2**0.5 * torch.where(column % 2 == 0, angle.sin(), angle.cos())


build = Temporal
