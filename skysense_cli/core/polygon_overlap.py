"""What convex polygons share, many pairs at once: intersection by clipping, IoU, and which of them meet at all.

A polygon is (V, 2) corners in order, either way round. Everything is computed in float64 about the pair's own
place, so that map coordinates of seven digits lose nothing.
"""

import torch
from torch import Tensor

CHUNK = 1 << 15  # pairs clipped at once: about 30 MB for quadrilaterals
LOAD = 8  # bucket entries per polygon at most; buckets grow until that holds


def polygon_area(corners: Tensor) -> Tensor:
    """(N, V, 2) -> (N,) areas, not negative."""
    return _signed_area(corners).abs()


def bounds(corners: Tensor) -> Tensor:
    """(N, V, 2) -> (N, 4): least x, least y, largest x, largest y."""
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def clipped(subject: Tensor, window: Tensor) -> Tensor:
    """(N, V, 2) polygons within (N, W, 2) convex ones: (N, V + W, 2), the rest filled with a corner of the polygon.

    Sutherland and Hodgman, "Reentrant polygon clipping" (1974): one half plane after the other, so that rounding
    moves a corner and never loses one. Where nothing is left all corners are equal.
    """
    turn = torch.where(_signed_area(window) < 0, -1.0, 1.0).to(subject)[:, None]
    for number in range(window.shape[1]):
        start, end = window[:, number], window[:, (number + 1) % window.shape[1]]
        subject = _halved(subject, start, (end - start) * turn)
    return subject


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """(N, V, 2), (N, W, 2) convex -> (N,) float64 area that each pair shares."""
    parts = [_intersection(x, y) for x, y in zip(a.double().split(CHUNK), b.double().split(CHUNK), strict=True)]
    return torch.cat(parts) if parts else a.new_zeros(0, dtype=torch.float64)


def polygon_iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, V, 2), (N, W, 2) convex -> (N,) float64 intersection over union; 0 where both have no area."""
    a, b = a.double(), b.double()
    shared = intersection(a, b)
    union = polygon_area(a) + polygon_area(b) - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0).clamp(max=1)


def meeting(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Which bounds (N, 4) share a point with which of (M, 4): indices (P,), (P,), ascending, every pair once.

    Both are put into square buckets and compared bucket by bucket; a pair counts in the bucket that holds the
    lower corner of what it shares. Time and memory go with the entries and the pairs that share a bucket.
    """
    if not len(a) or not len(b):
        none = torch.zeros(0, dtype=torch.long, device=a.device)
        return none, none
    both = torch.cat([a, b]).double()
    origin, side = both[:, :2].amin(dim=0), _bucket_side(both)
    of_a, keys_a = _entries(a.double(), origin, side)
    of_b, keys_b = _entries(b.double(), origin, side)
    keys_b, order = keys_b.sort(stable=True)
    first, behind = torch.searchsorted(keys_b, keys_a), torch.searchsorted(keys_b, keys_a, right=True)
    count = behind - first
    i, keys = of_a.repeat_interleave(count), keys_a.repeat_interleave(count)
    j = of_b[order][_ranges(first, count)]
    low, high = torch.maximum(a[i, :2], b[j, :2]), torch.minimum(a[i, 2:], b[j, 2:])
    cell = ((low.double() - origin) / side).floor().long()
    here = (low <= high).all(dim=1) & (_key(cell) == keys)
    i, j = i[here], j[here]
    order = (i * len(b) + j).argsort()
    return i[order], j[order]


def _signed_area(corners: Tensor) -> Tensor:
    moved = corners - corners[:, :1]
    following = moved.roll(-1, dims=1)
    return (moved[..., 0] * following[..., 1] - moved[..., 1] * following[..., 0]).sum(dim=1) / 2


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    centre = b.mean(dim=1, keepdim=True)
    shared = polygon_area(clipped(a - centre, b - centre))
    return torch.minimum(shared, torch.minimum(polygon_area(a), polygon_area(b)))  # a window without an area cuts nothing off


def _halved(polygon: Tensor, start: Tensor, direction: Tensor) -> Tensor:
    """(N, V, 2) -> (N, V + 1, 2): what lies left of the line from `start` (N, 2) on, in `direction` (N, 2)."""
    count, sides = polygon.shape[:2]
    away = polygon - start[:, None]
    side = direction[:, None, 0] * away[..., 1] - direction[:, None, 1] * away[..., 0]  # (N, V), > 0: left
    following, other = polygon.roll(-1, dims=1), side.roll(-1, dims=1)
    inside, crossed = side >= 0, (side >= 0) != (other >= 0)
    share = torch.where(crossed, side / torch.where(crossed, side - other, 1.0), 0.0)
    cuts = polygon + share[..., None] * (following - polygon)
    points = torch.stack([polygon, cuts], dim=2).reshape(count, 2 * sides, 2)  # each corner, then the cut behind it
    kept = torch.stack([inside, crossed], dim=2).reshape(count, 2 * sides)
    place = torch.where(kept, kept.cumsum(dim=1) - 1, sides + 1).clamp(max=sides + 1)  # the last slot takes what is cut off
    first = kept.to(torch.uint8).argmax(dim=1)
    out = points[torch.arange(count, device=points.device), first][:, None].repeat(1, sides + 2, 1)
    out.scatter_(1, place[..., None].expand(-1, -1, 2), points)
    return out[:, : sides + 1]


def _bucket_side(both: Tensor) -> Tensor:
    """Sides (2,) of the buckets: the mean size of the bounds, larger where some would lie in very many."""
    size = both[:, 2:] - both[:, :2]
    whole = both[:, 2:].amax(dim=0) - both[:, :2].amin(dim=0)
    side = torch.maximum(size.mean(dim=0), whole / (1 << 20)).clamp(min=1e-12)
    while ((size / side + 1).prod(dim=1).sum() > LOAD * len(both)).item():
        side = side * 2
    return side


def _entries(bounds: Tensor, origin: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """(index, bucket) of every bucket that each of the bounds (N, 4) touches."""
    low, high = ((bounds[:, :2] - origin) / side).floor().long(), ((bounds[:, 2:] - origin) / side).floor().long()
    columns, rows = (high - low + 1).unbind(dim=1)
    count = columns * rows
    index = torch.arange(len(bounds), device=bounds.device).repeat_interleave(count)
    number = _ranges(torch.zeros_like(count), count)
    cell = torch.stack([low[index, 0] + number % columns[index], low[index, 1] + number // columns[index]], dim=1)
    return index, _key(cell)


def _key(cell: Tensor) -> Tensor:
    return (cell[:, 0] << 24) + cell[:, 1]  # at most 2**20 + 1 buckets along an axis


def _ranges(first: Tensor, count: Tensor) -> Tensor:
    """first[0], first[0] + 1, ..., first[1], ...: `count` numbers from each `first`."""
    behind = count.cumsum(dim=0)
    return torch.arange(int(count.sum()), device=count.device) + (first - behind + count).repeat_interleave(count)
