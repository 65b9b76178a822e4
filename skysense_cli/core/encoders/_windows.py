"""Cosine attention inside the windows of a map, as Swin Transformer V2 has it."""

import math
from collections.abc import Iterator, Sequence

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
    The map is not really rolled: each window is read from, and written to, where it belongs, once.
    """

    def __init__(self, size: tuple[int, int, int], window: int, shift: int) -> None:
        self.size, self.window = size, window
        rows, columns = (_spans(length, window, shift) for length in size[1:])
        down, across = ([length // window - 1, 1] if shift else [length // window] for length in size[1:])
        self.shapes = [(size[0], r, c, window, window) for r in down for c in across]
        self.counts = [math.prod(shape[:3]) for shape in self.shapes]
        self.places = [
            (low * len(across) + right, at_rows, at_columns, in_rows, in_columns)
            for low, at_rows, in_rows in rows
            for right, at_columns, in_columns in columns
        ]

    def cut(self, grid: Tensor) -> Tensor:
        """(N, h, w, C) -> (W, window^2, C)."""
        windows = grid.new_empty(sum(self.counts), self.window**2, grid.shape[-1])
        for inside, outside in self._pairs(windows, grid):
            inside.copy_(outside)
        return windows

    def join(self, windows: Tensor) -> Tensor:
        """(W, window^2, C) -> (N, h, w, C)."""
        grid = windows.new_empty(*self.size, windows.shape[-1])
        for inside, outside in self._pairs(windows, grid):
            outside.copy_(inside)
        return grid

    def _pairs(self, windows: Tensor, grid: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of the same positions in the windows and in the map, (N, rows of windows, columns, y, x, C)."""
        starts = [sum(self.counts[:kind]) for kind in range(len(self.counts))]
        for kind, at_rows, at_columns, in_rows, in_columns in self.places:
            if not self.counts[kind]:
                continue
            shape, own = self.shapes[kind], windows[starts[kind] : starts[kind] + self.counts[kind]]
            inside = own.unflatten(1, shape[3:]).unflatten(0, shape[:3])[:, :, :, in_rows, in_columns]
            _, r, c, y, x, _ = inside.shape
            yield inside, grid[:, at_rows, at_columns].unflatten(2, (c, x)).unflatten(1, (r, y)).transpose(2, 3)


def _spans(length: int, window: int, shift: int) -> list[tuple[int, slice, slice]]:
    """Per stretch of an axis: 0, or 1 for the last window; where it lies on the map, and inside its windows."""
    if not shift:
        return [(0, slice(0, length), slice(0, window))]
    rest = window - shift
    return [
        (0, slice(shift, length - rest), slice(0, window)),
        (1, slice(length - rest, length), slice(0, rest)),
        (1, slice(0, shift), slice(rest, window)),
    ]
