"""Boxes against shapely's polygons and against plain loops."""

import math

import numpy as np
import pytest
import shapely
import torch

from skysense_cli.core import boxes as B
from skysense_cli.core.polygon_overlap import clipped, meeting, polygon_area

RNG = np.random.default_rng


def rotated(count, seed, extent=20.0, places=None):
    """Boxes that overlap often; `places` rounds them, so that edges and corners coincide."""
    random = RNG(seed)
    values = np.column_stack([random.uniform(0, extent, (count, 2)), random.uniform(0.5, 8, (count, 2)), random.uniform(-4, 4, count)])
    if places is not None:
        values[:, :4] = values[:, :4].round(places)
        values[:, 4] = random.integers(-4, 5, count) * np.pi / 2
    return torch.from_numpy(values)


def horizontal(count, seed, extent=20.0):
    random = RNG(seed)
    low = random.integers(0, extent, (count, 2)).astype(float)
    return torch.from_numpy(np.concatenate([low, low + random.integers(0, 6, (count, 2))], axis=1))


def upright(box):
    """What shapely makes of a box by turning it: an implementation of its own."""
    if len(box) == 4:
        return shapely.box(*box)
    cx, cy, w, h, angle = box
    flat = shapely.box(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    return shapely.affinity.rotate(flat, -angle, origin=(cx, cy), use_radians=True)  # y points down: the other way round


def polygons(boxes):
    return np.array([upright(box) for box in boxes.tolist()], dtype=object)


def iou_by_shapely(a, b):
    shared, union = shapely.area(shapely.intersection(a, b)), shapely.area(shapely.union(a, b))
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


# conversions


def test_an_angle_is_counter_clockwise_as_one_sees_it():
    box = torch.tensor([[10.0, 20.0, 8.0, 2.0, math.pi / 4]])
    half = 4 / math.sqrt(2)
    right_end = B.corners(box)[0, 1:3].mean(dim=0)
    torch.testing.assert_close(right_end, torch.tensor([10 + half, 20 - half]))  # to the right and up the image


def test_corners_of_a_horizontal_box_begin_at_the_upper_left():
    found = B.corners(torch.tensor([[1.0, 2.0, 5.0, 4.0]]))
    assert found.tolist() == [[[1, 2], [5, 2], [5, 4], [1, 4]]]


def test_conversions_come_back():
    boxes = rotated(500, 0)
    back = B.from_corners(B.corners(boxes))
    torch.testing.assert_close(back[:, :4], boxes[:, :4])
    turn = (back[:, 4] - boxes[:, 4]) / (2 * math.pi)
    torch.testing.assert_close(turn, turn.round())
    flat = horizontal(500, 1)
    torch.testing.assert_close(B.to_horizontal(B.to_rotated(flat)), flat)
    around = np.array([shape.bounds for shape in polygons(boxes)])
    np.testing.assert_allclose(B.to_horizontal(boxes).numpy(), around, atol=1e-9)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"boxes are \(N, 4\) or \(N, 5\), not \(3, 6\)"):
        B.corners(torch.zeros(3, 6))


@pytest.mark.parametrize("boxes", [rotated(300, 2), horizontal(300, 3)], ids=["rotated", "horizontal"])
def test_areas_are_shapelys(boxes):
    np.testing.assert_allclose(B.area(boxes).numpy(), shapely.area(polygons(boxes)), atol=1e-9)
    np.testing.assert_allclose(polygon_area(B.corners(boxes)).numpy(), shapely.area(polygons(boxes)), atol=1e-9)


# overlaps


@pytest.mark.parametrize(
    "boxes",
    [lambda seed: rotated(2500, seed), lambda seed: rotated(2500, seed, places=0), lambda seed: horizontal(2500, seed, 10)],
    ids=["any angle", "shared edges and corners", "horizontal, some without an area"],
)
def test_iou_is_shapelys(boxes):
    a, b = boxes(1), boxes(2)
    expected = iou_by_shapely(polygons(a), polygons(b))
    assert (expected > 0.3).sum() > 10 and (expected == 0).sum() > 100
    np.testing.assert_allclose(B.iou(a, b).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(B.iou(b, a).numpy(), expected, atol=1e-9)


def test_pairwise_iou_is_shapelys_for_mixed_kinds():
    a, b = rotated(120, 4), horizontal(90, 5)
    expected = iou_by_shapely(polygons(a)[:, None], polygons(b)[None])
    np.testing.assert_allclose(B.pairwise_iou(a, b).numpy(), expected, atol=1e-9)
    assert B.pairwise_iou(a, b[:0]).shape == (120, 0)


def test_known_overlaps():
    square = torch.tensor([[0.0, 0, 10, 10]])
    turned = torch.tensor([[5.0, 5, 10, 10, math.pi / 4]])
    octagon = 200 * (math.sqrt(2) - 1)  # two squares of side 10 about one centre, one turned by 45 degrees
    others = {
        "itself": ([0.0, 0, 10, 10], 1.0), "inside": ([2.0, 2, 4, 4], 0.04), "beside": ([10.0, 0, 20, 10], 0.0),
        "at a corner": ([10.0, 10, 12, 12], 0.0), "a line": ([2.0, 3, 8, 3], 0.0), "a point": ([5.0, 5, 5, 5], 0.0),
        "half": ([5.0, 0, 15, 10], 1 / 3),
    }  # fmt: skip
    for name, (other, expected) in others.items():
        assert B.iou(square, torch.tensor([other])).item() == pytest.approx(expected, abs=1e-12), name
        assert B.iou(torch.tensor([other]), square).item() == pytest.approx(expected, abs=1e-12), name
    assert B.iou(square, turned).item() == pytest.approx(octagon / (200 - octagon), abs=1e-12)
    nothing = torch.tensor([[3.0, 3, 3, 3]])
    assert B.iou(nothing, nothing).item() == 0


def test_a_far_place_loses_nothing():
    a, b = rotated(500, 6), rotated(500, 7)
    away = torch.tensor([6e5, 5.6e6, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(B.iou(a + away, b + away), B.iou(a, b), atol=1e-6, rtol=0)


def test_turning_both_or_giving_them_a_mirrored_map_keeps_the_overlap():
    a, b = B.corners(rotated(500, 8)), B.corners(rotated(500, 9))
    affine = torch.tensor([[3.0, 1.0], [0.5, -2.0]], dtype=torch.float64)
    from skysense_cli.core.polygon_overlap import polygon_iou

    torch.testing.assert_close(polygon_iou(a @ affine, b @ affine), polygon_iou(a, b), atol=1e-9, rtol=0)


def test_a_clipped_polygon_is_shapelys():
    a, b = rotated(500, 10), rotated(500, 11)
    parts = clipped(B.corners(a), B.corners(b))
    expected = shapely.intersection(polygons(a), polygons(b))
    for part, shape in zip(parts.numpy(), expected, strict=True):
        if shape.area > 1e-6:
            hull = shapely.convex_hull(shapely.MultiPoint(part))
            assert hull.symmetric_difference(shape).area < 1e-9


def test_meeting_bounds_are_those_of_a_double_loop():
    for seed, extent in ((0, 20), (1, 400), (2, 3)):
        a, b = B.to_horizontal(rotated(150, seed, extent)), B.to_horizontal(rotated(90, seed + 50, extent))
        a[3] = torch.tensor([-1000.0, 0, 5000, 1])  # one that is much larger than the rest
        low, high = torch.maximum(a[:, None, :2], b[None, :, :2]), torch.minimum(a[:, None, 2:], b[None, :, 2:])
        expected = (low <= high).all(dim=2).nonzero()
        torch.testing.assert_close(torch.stack(meeting(a, b), dim=1), expected)


# clip


def test_clipped_boxes_keep_their_angle_and_hold_what_is_inside():
    boxes = rotated(400, 12)
    window = shapely.box(0, 0, 16, 11)
    for before, after in zip(boxes, B.clip(boxes, (11, 16)), strict=True):
        inside = upright(before.tolist()).intersection(window)
        assert after[4] == before[4]
        if inside.area < 1e-9:
            assert B.area(after[None]).item() < 1e-6
            continue
        flat = shapely.affinity.rotate(inside, before[4].item(), origin=(0, 0), use_radians=True)
        around = shapely.affinity.rotate(shapely.box(*flat.bounds), -before[4].item(), origin=(0, 0), use_radians=True)
        assert around.symmetric_difference(upright(after.tolist())).area < 1e-8


def test_horizontal_boxes_are_clipped_to_the_edge():
    given = torch.tensor([[-5.0, 3, 8, 30], [1, 1, 2, 2], [50, 50, 60, 60]])
    assert B.clip(given, (20, 10)).tolist() == [[0, 3, 8, 20], [1, 1, 2, 2], [10, 20, 10, 20]]
    as_rotated = B.to_horizontal(B.clip(B.to_rotated(given[:2]), (20, 10)))
    torch.testing.assert_close(as_rotated, B.clip(given[:2], (20, 10)))


# suppression


def nms_by_loop(shapes, scores, ids, threshold):
    kept = []
    for index in sorted(range(len(shapes)), key=lambda index: (-scores[index], index)):
        same = [other for other in kept if ids[other] == ids[index]]
        if all(iou_by_shapely(shapes[index], shapes[other]) <= threshold for other in same):
            kept.append(index)
    return kept


@pytest.mark.parametrize("kind", [rotated, horizontal])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_nms_is_a_plain_loop(kind, threshold, monkeypatch):
    monkeypatch.setattr(B, "BLOCK", 64)
    random = RNG(5)
    boxes, ids = kind(350, 13, 25.0), torch.from_numpy(random.integers(0, 3, 350))
    scores = torch.from_numpy(random.integers(0, 40, 350) / 40)  # with ties
    if threshold == 0.0:
        boxes = boxes[:120] + 0.01 * torch.from_numpy(random.random((120, boxes.shape[1])))  # touching is no matter of rounding
    count = len(boxes)
    expected = nms_by_loop(polygons(boxes), scores[:count].tolist(), ids[:count].tolist(), threshold)
    assert B.nms(boxes, scores[:count], ids[:count], threshold=threshold).tolist() == expected
    assert B.nms(boxes, scores[:count], threshold=threshold).tolist() == nms_by_loop(
        polygons(boxes), scores[:count].tolist(), [0] * count, threshold
    )


def test_equal_boxes_of_equal_score_leave_the_first():
    boxes = torch.tensor([[0.0, 0, 4, 4]]).repeat(1000, 1)
    assert B.nms(boxes, torch.ones(1000), threshold=0.5).tolist() == [0]
    assert B.nms(boxes, torch.ones(1000), torch.arange(1000) % 2, threshold=0.5).tolist() == [0, 1]
    assert B.nms(boxes[:0], torch.ones(0), threshold=0.5).tolist() == []


def test_ten_thousand_boxes_need_no_hundred_million_overlaps(monkeypatch):
    compared = []
    exact = B.polygon_iou
    monkeypatch.setattr(B, "polygon_iou", lambda a, b: compared.append(len(a)) or exact(a, b))
    boxes = rotated(10_000, 14, extent=1000.0)
    kept = B.nms(boxes, torch.from_numpy(RNG(1).random(10_000)), threshold=0.3)
    assert sum(compared) < 60_000
    shapes = polygons(boxes[kept])
    left, right = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    pairs = left < right
    assert iou_by_shapely(shapes[left[pairs]], shapes[right[pairs]]).max() <= 0.3


def test_deciding_in_parts_equals_deciding_at_once(monkeypatch):
    monkeypatch.setattr(B, "BLOCK", 32)
    random = RNG(6)
    shapes = B.corners(rotated(600, 15, extent=60.0))
    ids, rank = torch.from_numpy(random.integers(0, 2, 600)), torch.from_numpy(random.permutation(600))
    order = rank.argsort()
    expected = set(order[B.decide(shapes[order], ids[order], threshold=0.2).kept].tolist())
    top, bottom = shapes[..., 1].amin(dim=1), shapes[..., 1].amax(dim=1)
    kept, waiting, lengths = set(), torch.zeros(0, dtype=torch.long), []
    for line in range(-16, 80, 8):
        came = ((top >= line) & (top < line + 8)).nonzero()[:, 0]
        here = torch.cat([waiting, came])
        here = here[rank[here].argsort()]
        reachable = bottom[here] >= line + 8 if line < 72 else torch.zeros(len(here), dtype=torch.bool)
        found = B.decide(shapes[here], ids[here], threshold=0.2, reachable=reachable)
        assert not (found.kept & found.waiting).any()
        kept |= set(here[found.kept].tolist())
        waiting = here[found.waiting]
        lengths.append(len(waiting))
    assert kept == expected and len(waiting) == 0
    assert max(lengths) < 250
