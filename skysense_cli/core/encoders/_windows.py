"""Cosine attention inside the windows of a map, as Swin Transformer V2 has it."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skysense_cli.core.collective import ranks
from skysense_cli.core.encoders import TABLES
from skysense_cli.core.transformer import attend

MAX_LOGIT_SCALE = math.log(100)
CROSSING = -100.0  # added to the logits of positions that a rolled map's window joins across the map's border
TINY = 1e-12  # the shortest length that a vector is divided by


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

    def forward(self, windows: Tensor, counts: Sequence[int], crossings: Tensor | None) -> Tensor:
        """(W, window^2, dim) -> the same shape: the windows of all samples, those of a kind in a row.

        counts: how many of each kind.   crossings: as made by that function, None for a map that is not rolled. One bias
        serves all windows of a kind.
        """
        qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(windows, self.qkv.weight, qkv_bias).unflatten(-1, (3, self.heads, -1))
        # cosine similarity through the fused kernel: unit vectors, the learned scale folded into the query
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp().squeeze(-1)  # (heads, 1)
        exact = torch.promote_types(qkv.dtype, torch.float32)
        length = torch.linalg.vector_norm(qkv[:, :, :2], dim=-1, keepdim=True, dtype=exact).clamp(min=TINY)
        unit = (qkv[:, :, :2] * (torch.stack([scale, torch.ones_like(scale)]) / length)).to(qkv.dtype)
        query, key = unit.transpose(1, 3).unbind(2)  # (W, L, 2, heads, D) -> 2 x (W, heads, L, D)
        value = qkv[:, :, 2].transpose(1, 2)
        parts = zip(*(x.split(list(counts)) for x in (query, key, value)), self.bias(crossings), strict=True)
        outs = [attend(q, k, v, bias[None], scale=1.0).transpose(1, 2) for q, k, v, bias in parts if q.shape[0]]
        return self.proj(torch.cat(outs).flatten(2) if len(outs) > 1 else outs[0].flatten(2))  # (W, L, heads, D) -> (W, L, dim)

    def bias(self, crossings: Tensor | None) -> Tensor:
        """(kinds, heads, window^2, window^2): per head and pair of positions -16..16, from their offset, and the crossings.

        Kept between calls without gradient in eval mode, as long as the weights it comes from are the same. Not so with
        several ranks: sharded weights are gathered into the same memory, and nothing tells that they changed.
        """
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or ranks() > 1:
            return self._bias(crossings)
        weights = list(self.cpb_mlp.parameters())
        if any(weight.is_inference() for weight in weights):  # made in inference mode: nothing counts their changes
            return self._bias(crossings)
        state = ([(weight.data_ptr(), weight._version, weight.dtype) for weight in weights], crossings is None)
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self._bias(crossings))
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

    def _bias(self, crossings: Tensor | None) -> Tensor:
        table = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table))  # (1, 2w - 1, 2w - 1, heads)
        bias = table.flatten(0, 2)[self.relative_position_index].permute(2, 0, 1)[None]
        return bias.contiguous() if crossings is None else bias + crossings.unsqueeze(1)


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
    """What to add to the logits of a window of a rolled map, (4, w^2, w^2) by kind: inside, right, low, low right.

    CROSSING between positions that came from different borders of the map, else 0.
    """
    beyond = torch.arange(window) >= window - shift
    kinds = []
    for low in (False, True):
        for right in (False, True):
            border = ((beyond & low)[:, None] * 2 + (beyond & right)[None] * 1).flatten()
            kinds.append((border[:, None] != border[None]) * CROSSING)
    return torch.stack(kinds)


class Windows:
    """Where the windows of a map (N, h, w, C) lie after it was rolled by `shift`; h and w are whole windows.

    Only the last row and the last column of windows join far borders of the map, so there are four kinds: inside, right,
    low, low right. Windows of a kind lie in a row: one bias serves them, and nothing is copied to tell them apart.
    The map is not really rolled: the windows inside are a part of it, and only the borders are put together.
    """

    def __init__(self, size: tuple[int, int, int], window: int, shift: int) -> None:
        self.window, self.shift = window, shift
        down, across = ([length // window - 1, 1] if shift else [length // window] for length in size[1:])
        self.shapes = [(size[0], r, c) for r in down for c in across]
        self.counts = [math.prod(shape) for shape in self.shapes]

    def cut(self, grid: Tensor) -> Tensor:
        """(N, h, w, C) -> (W, window^2, C)."""
        side, dim = self.window, grid.shape[-1]
        pieces = [piece for band in self._apart(grid, 1) for piece in self._apart(band, 2)]
        kinds = [
            piece.reshape(n, r, side, c, side, dim).transpose(2, 3).reshape(n * r * c, side**2, dim)
            for piece, (n, r, c) in zip(pieces, self.shapes, strict=True)
        ]
        return torch.cat(kinds) if self.shift else kinds[0]

    def join(self, windows: Tensor) -> Tensor:
        """(W, window^2, C) -> (N, h, w, C)."""
        side, dim = self.window, windows.shape[-1]
        pieces = [
            kind.reshape(n, r, c, side, side, dim).transpose(2, 3).reshape(n, r * side, c * side, dim)
            for kind, (n, r, c) in zip(windows.split(self.counts), self.shapes, strict=True)
        ]
        if not self.shift:
            return pieces[0]
        inside, right, low, corner = pieces
        return self._together(self._together(inside, right, 2), self._together(low, corner, 2), 1)

    def _apart(self, grid: Tensor, axis: int) -> list[Tensor]:
        """Along an axis, what all windows but the last hold, and what the last one holds: the end of the map, then its start."""
        if not self.shift:
            return [grid]
        length, rest = grid.shape[axis], self.window - self.shift
        end, start = grid.narrow(axis, length - rest, rest), grid.narrow(axis, 0, self.shift)
        return [grid.narrow(axis, self.shift, length - self.window), torch.cat([end, start], dim=axis)]

    def _together(self, inside: Tensor, last: Tensor, axis: int) -> Tensor:
        rest = self.window - self.shift
        return torch.cat([last.narrow(axis, rest, self.shift), inside, last.narrow(axis, 0, rest)], dim=axis)
