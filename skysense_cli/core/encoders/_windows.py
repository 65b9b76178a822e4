"""Cosine attention inside the windows of a map, as Swin Transformer V2 has it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skysense_cli.core.collective import ranks
from skysense_cli.core.encoders import TABLES
from skysense_cli.core.transformer import attend

MAX_LOGIT_SCALE = math.log(100)
CROSSING = -100.0  # added to the logits of positions that a rolled map's window joins across the map's border
LAST = (slice(None, -1), slice(-1, None))  # all rows (or columns) of windows but the last, and the last


class WindowAttention(nn.Module):
    """Cosine attention inside windows, with a continuous relative position bias."""

    relative_coords_table: Tensor
    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int, pretrained_window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False))
        self.proj = nn.Linear(dim, dim)
        for name, table in zip(TABLES, relative_tables(window, pretrained_window), strict=True):
            self.register_buffer(name, table)
        self._kept: tuple[object, Tensor] | None = None

    def forward(self, windows: Tensor, crossings: Tensor | None) -> Tensor:
        """(N, R, C, window^2, dim) -> the same shape; `crossings` as made by that function, None for a map that is not rolled.

        Only the last row and column of windows join far borders of a rolled map. So there are four kinds of windows,
        and one bias serves all windows of a kind.
        """
        bias = self.bias()
        qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        q, k, v = F.linear(windows, self.qkv.weight, qkv_bias).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        # cosine similarity through the fused kernel: unit vectors, the learned scale folded into the query
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp().squeeze(-1)  # (heads, 1)
        q, k = (F.normalize(q.float(), dim=-1) * scale).to(v.dtype), F.normalize(k.float(), dim=-1).to(v.dtype)
        if crossings is None:
            return self.proj(self._attend(q, k, v, bias))
        bands = []
        for low, rows in enumerate(LAST):
            band = []
            for right, columns in enumerate(LAST):
                kind = bias + crossings[low, right]
                band.append(self._attend(q[:, rows, columns], k[:, rows, columns], v[:, rows, columns], kind))
            bands.append(torch.cat(band, dim=2))
        return self.proj(torch.cat(bands, dim=1))

    def bias(self) -> Tensor:
        """(heads, window^2, window^2) in -16..16: per head and pair of positions, from their offset.

        Kept between calls without gradient in eval mode, as long as the weights it comes from are the same. Not so with
        several ranks: sharded weights are gathered into the same memory, and nothing tells that they changed.
        """
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or ranks() > 1:
            return self._bias()
        state = tuple((weight.data_ptr(), weight._version, weight.dtype) for weight in self.cpb_mlp.parameters())
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self._bias())
        return self._kept[1]

    def train(self, mode: bool = True) -> "WindowAttention":
        """As in torch; either mode forgets the kept bias."""
        self._kept = None
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> "WindowAttention":
        self._kept = None  # moved to another device or type
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        self._kept = None
        own = {prefix + name: getattr(self, name) for name in TABLES}  # whatever the state holds, or lacks
        super()._load_from_state_dict({**state_dict, **own}, prefix, *args)

    def _bias(self) -> Tensor:
        table = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table))  # (1, 2w - 1, 2w - 1, heads)
        return table.flatten(0, 2)[self.relative_position_index].permute(2, 0, 1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """(N, R, C, L, heads, D) each, bias (heads, L, L) -> (N, R, C, L, heads * D)."""
        if not q.numel():
            return v.flatten(4)
        query, key, value = (x.flatten(0, 2).transpose(1, 2) for x in (q, k, v))  # (N * R * C, heads, L, D)
        out = attend(query, key, value, bias[None], scale=1.0)
        return out.transpose(1, 2).flatten(2).unflatten(0, q.shape[:3])


def relative_tables(window: int, pretrained_window: int) -> tuple[Tensor, Tensor]:
    """Log-spaced offsets (1, 2w - 1, 2w - 1, 2) of row and column, and for each pair of positions its entry there (w^2, w^2)."""
    steps = torch.arange(1 - window, window, dtype=torch.float32)
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)[None]
    offsets = offsets / ((pretrained_window or window) - 1) * 8
    offsets = offsets.sign() * torch.log2(offsets.abs() + 1) / math.log2(8)
    place = torch.arange(window)
    rows, columns = place.repeat_interleave(window), place.repeat(window)
    down = rows[:, None] - rows[None] + window - 1
    across = columns[:, None] - columns[None] + window - 1
    return offsets, down * (2 * window - 1) + across


def crossings(window: int, shift: int) -> Tensor:
    """What to add to the logits of a window of a rolled map, (2, 2, w^2, w^2) by [in the last row, in the last column].

    CROSSING between positions that came from different borders of the map, else 0.
    """
    beyond = torch.arange(window) >= window - shift
    kinds = []
    for low in (False, True):
        for right in (False, True):
            border = ((beyond & low)[:, None] * 2 + (beyond & right)[None] * 1).flatten()
            kinds.append((border[:, None] != border[None]) * CROSSING)
    return torch.stack(kinds).unflatten(0, (2, 2))
