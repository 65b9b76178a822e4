"""Horizontal and rotated boxes in one code: the horizontal case is the one without an angle.

    (N, 4)  x0 y0 x1 y1
    (N, 5)  cx cy w h angle; the angle in radians, counter-clockwise from +x as one sees it on the image

x points right and y down, as pixels do, so the side `w` of a box points along (cos angle, -sin angle); on a
north-up map the same angle is counter-clockwise from east. Areas and overlaps are those of polygons.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skysense_cli.core.polygon_overlap import bounds, clipped, meeting, polygon_iou

BLOCK = 512  # boxes decided together; the quadratic work stays within one block


def corners(boxes: Tensor) -> Tensor:
    """(N, 4 or 5) -> (N, 4, 2): upper left, upper right, lower right, lower left of each box as it stands upright."""
    cx, cy, w, h, angle = to_rotated(boxes).unbind(dim=1)
    along = torch.stack([angle.cos(), -angle.sin()], dim=1)[:, None] * (w / 2)[:, None, None]  # (N, 1, 2)
    down = torch.stack([angle.sin(), angle.cos()], dim=1)[:, None] * (h / 2)[:, None, None]
    signs = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=boxes.dtype, device=boxes.device)
    centre = torch.stack([cx, cy], dim=1)[:, None]
    return centre + signs[:, :1] * along + signs[:, 1:] * down


def from_corners(points: Tensor) -> Tensor:
    """(N, 4, 2) of `corners` -> (N, 5), angle in (-pi, pi]."""
    side, height = points[:, 1] - points[:, 0], points[:, 3] - points[:, 0]
    angle = torch.atan2(-side[:, 1], side[:, 0])
    return torch.cat([points.mean(dim=1), torch.stack([side.norm(dim=1), height.norm(dim=1), angle], dim=1)], dim=1)


def to_rotated(boxes: Tensor) -> Tensor:
    """(N, 4 or 5) -> (N, 5); the angle of a horizontal box is 0. Raises ValueError for any other shape."""
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 5):
        raise ValueError(f"boxes are (N, 4) or (N, 5), not {tuple(boxes.shape)}")
    if boxes.shape[1] == 5:
        return boxes
    low, high = boxes[:, :2], boxes[:, 2:]
    return torch.cat([(low + high) / 2, high - low, torch.zeros_like(boxes[:, :1])], dim=1)


def to_horizontal(boxes: Tensor) -> Tensor:
    """(N, 4 or 5) -> (N, 4): the smallest horizontal box around each."""
    return boxes if boxes.shape[1] == 4 else bounds(corners(boxes))


def area(boxes: Tensor) -> Tensor:
    """(N, 4 or 5) -> (N,); a box whose ends are the wrong way round has none."""
    _, _, w, h, _ = to_rotated(boxes).unbind(dim=1)
    return w.clamp(min=0) * h.clamp(min=0)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Each box made as small as what it has inside an image of `size` (h, w) allows, its angle unchanged.

    (N, 4) -> (N, 4), (N, 5) -> (N, 5). A box outside the image becomes one without an area.
    """
    if boxes.shape[1] == 4:
        limit = boxes.new_tensor([size[1], size[0], size[1], size[0]])
        return torch.minimum(boxes.clamp(min=0), limit)
    window = corners(boxes.new_tensor([[0, 0, size[1], size[0]]]).double())
    part = clipped(corners(boxes.double()), window.expand(len(boxes), -1, -1))
    cosine, sine = boxes[:, 4].double().cos()[:, None], boxes[:, 4].double().sin()[:, None]
    along, down = part[..., 0] * cosine - part[..., 1] * sine, part[..., 0] * sine + part[..., 1] * cosine
    left, right, top, bottom = along.amin(dim=1), along.amax(dim=1), down.amin(dim=1), down.amax(dim=1)
    x, y = (left + right) / 2, (top + bottom) / 2
    cosine, sine = cosine[:, 0], sine[:, 0]
    centre = torch.stack([x * cosine + y * sine, y * cosine - x * sine], dim=1)
    sides = torch.stack([right - left, bottom - top], dim=1)
    return torch.cat([centre.to(boxes.dtype), sides.to(boxes.dtype), boxes[:, 4:]], dim=1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4 or 5) and as many others -> (N,) float64, each box with its partner."""
    return polygon_iou(corners(a.double()), corners(b.double()))


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4 or 5), (M, 4 or 5) -> (N, M) float64, every box with every other."""
    first, second = corners(a.double()), corners(b.double())
    i, j = meeting(bounds(first), bounds(second))
    out = first.new_zeros(len(first), len(second))
    out[i, j] = polygon_iou(first[i], second[j])
    return out


def nms(boxes: Tensor, scores: Tensor, ids: Tensor | None = None, *, threshold: float) -> Tensor:
    """Indices (K,) of the boxes that stay, the best first.

    A box goes when one that stays, of a higher score (or of an equal one and an earlier place) and of the same
    class id, has an IoU above `threshold` with it.   boxes: (N, 4 or 5)   scores: (N,)   ids: (N,) or one class
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    found = decide(corners(boxes.double()[order]), None if ids is None else ids[order], threshold=threshold)
    return order[found.kept]


class Decided(NamedTuple):
    """(N,) bool each. kept: stays for certain      waiting: depends on boxes that may still come; all others go"""

    kept: Tensor
    waiting: Tensor


def decide(polygons: Tensor, ids: Tensor | None = None, *, threshold: float, reachable: Tensor | None = None) -> Decided:
    """Non-maximum suppression of convex polygons (N, V, 2) given with the best first.

    reachable: (N,) bool, those that a polygon still to come could overlap. They wait, and so does whatever one
    that waits would suppress, unless a certain one suppresses it already. Deciding the waiting ones again with
    those that came equals deciding all of them at once.
    """
    count, device = len(polygons), polygons.device
    kept, gone = (torch.zeros(count, dtype=torch.bool, device=device) for _ in range(2))
    waiting = torch.zeros_like(kept) if reachable is None else reachable.clone()
    around = bounds(polygons)
    for start in range(0, count, BLOCK):
        block = torch.arange(start, min(start + BLOCK, count), device=device)
        block = block[~gone[block]]
        i, j = _overlaps(polygons, around, ids, block, block, threshold)
        _settle(block, i[i < j], j[i < j], kept, waiting, gone)
        rest = torch.arange(min(start + BLOCK, count), count, device=device)
        rest = rest[~gone[rest]]
        for source, mark in ((kept, gone), (waiting, waiting)):
            _, hit = _overlaps(polygons, around, ids, block[source[block]], rest, threshold)
            mark[hit] = True
    return Decided(kept, waiting & ~gone)


def _overlaps(polygons: Tensor, around: Tensor, ids: Tensor | None, a: Tensor, b: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The pairs (P,), (P,) of indices from `a` and `b` whose polygons are of one class and overlap by more than `threshold`."""
    i, j = meeting(around[a], around[b])
    i, j = a[i], b[j]
    if ids is not None:
        same = ids[i] == ids[j]
        i, j = i[same], j[same]
    much = polygon_iou(polygons[i], polygons[j]) > threshold
    return i[much], j[much]


def _settle(block: Tensor, i: Tensor, j: Tensor, kept: Tensor, waiting: Tensor, gone: Tensor) -> None:
    """Decide the indices of `block` one after the other; (i, j): the better and the worse of pairs that overlap."""
    below: dict[int, list[int]] = {}
    for better, worse in zip(i.tolist(), j.tolist(), strict=True):
        below.setdefault(better, []).append(worse)
    dead, open_ = set[int](), set(block[waiting[block]].tolist())
    for index in block.tolist():
        if index in dead:
            continue
        (open_ if index in open_ else dead).update(below.get(index, ()))
    gone[torch.tensor(sorted(dead), dtype=torch.long, device=kept.device)] = True
    waiting[torch.tensor(sorted(open_), dtype=torch.long, device=kept.device)] = True
    waiting[block] &= ~gone[block]
    kept[block] = ~gone[block] & ~waiting[block]
