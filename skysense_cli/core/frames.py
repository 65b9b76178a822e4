"""Where a view lies: affine frames from view to footprint, and the ground that two views share.

A frame is (2, 3): (x, y) of the view to (x, y) of the footprint, both with corners (0, 0) and (1, 1), x right, y down.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor

EDGE = 1e-4  # of a cell: how far outside a view a position may lie by rounding


def identity(count: int) -> Tensor:
    """(count, 2, 3) frames of views that show the whole footprint as it is."""
    return torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat(count, 1, 1)


def view_frame(box: tuple[float, float, float, float] = (0, 0, 1, 1), *, flip: bool = False, quarters: int = 0) -> Tensor:
    """The frame (2, 3) of a view cut from `box` (left, top, right, bottom as shares of the footprint), then turned.

    The view's array is `rot90(flipped, quarters)` of the last two axes, where `flipped` is the cut, mirrored left to right
    when `flip` is set; `rot90` as in numpy and torch, counter-clockwise.
    """
    left, top, right, bottom = box
    frame = torch.tensor([[right - left, 0.0, left], [0.0, bottom - top, top], [0.0, 0.0, 1.0]], dtype=torch.float64)
    if flip:
        frame = frame @ torch.tensor([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    turn = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)  # one rot90: (x, y) shows (1 - y, x)
    frame = frame @ torch.linalg.matrix_power(turn, quarters % 4)
    return frame[:2].float()


def overlap(u: Tensor, v: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Where the cells of view u lie in u and in v, and which of them v shows too.

    u, v: (B, 2, 3) frames      size: (h, w) cells of u
    Returns grid_u, grid_v (B, h, w, 2), positions for `grid_sample(align_corners=False)`, and inside (B, h, w) bool.
    The positions are the centres of u's cells, so nothing is interpolated in u; where v is a crop, flip or quarter turn
    on the same cell grid they are centres of v's cells too.
    """
    h, w = size
    rows = (torch.arange(h, device=u.device, dtype=torch.float64) + 0.5) / h
    columns = (torch.arange(w, device=u.device, dtype=torch.float64) + 0.5) / w
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    in_u = torch.stack([x, y], dim=-1).expand(len(u), h, w, 2)
    to_v = _square(v).inverse() @ _square(u)  # view u -> footprint -> view v
    in_v = in_u @ to_v[:, None, :2, :2].transpose(-1, -2) + to_v[:, None, None, :2, 2]
    inside = ((in_v >= -EDGE / max(h, w)) & (in_v <= 1 + EDGE / max(h, w))).all(dim=-1)
    return (in_u * 2 - 1).float(), (in_v * 2 - 1).float(), inside


def sample(maps: Tensor, grid: Tensor) -> Tensor:
    """`maps` (B, ..., H, W) read bilinearly at `grid` (B, h, w, 2) -> (B, ..., h, w) float32; outside, the nearest cell."""
    folded = maps.float().flatten(1, -3) if maps.ndim > 3 else maps.float()[:, None]  # (B, ..., H, W) -> (B, C, H, W)
    read = functional.grid_sample(folded, grid.to(folded.dtype), mode="bilinear", padding_mode="border", align_corners=False)
    return read.reshape(*maps.shape[:-2], *grid.shape[1:3])


def sample_flags(flags: Tensor, grid: Tensor) -> Tensor:
    """`flags` (B, ..., H, W) bool at `grid` -> (B, ..., h, w) bool: True where every cell that `sample` would mix is True."""
    return sample(flags.float(), grid) > 1 - 1e-3


def _square(frame: Tensor) -> Tensor:
    """(B, 2, 3) -> (B, 3, 3) float64."""
    last = torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64, device=frame.device).expand(len(frame), 1, 3)
    return torch.cat([frame.double(), last], dim=1)
