"""Every object once and in its place, however the scene is cut, in any map; and what larger objects cause."""

import math

import numpy as np
import pytest
import shapely
import torch
from affine import Affine

from skysense_cli.core.boxes import area, corners, decide, from_corners, pairwise_iou
from skysense_cli.core.heads import Found
from skysense_cli.engine.mosaic import Axis
from skysense_cli.engine.vector_mosaic import Claimed, Cores, VectorMosaic
from skysense_cli.errors import BundleError
from skysense_cli.geo.grid import tiles

NORTH_UP = Affine(10, 0, 574_680, 0, -10, 5_622_440)


def axes(shape, size, overlap):
    cut = tiles(shape, size, overlap)
    rows, columns = sorted({tile.row for tile in cut}), sorted({tile.col for tile in cut})
    return Axis(tuple(rows), cut[0].height), Axis(tuple(columns), cut[0].width)


def scattered(count, shape, largest, seed):
    """Rotated boxes (N, 5) inside the scene, none wider or higher than `largest`, far less than half of any covered by another."""
    random = np.random.default_rng(seed)
    kept = torch.zeros(0, 5, dtype=torch.float64)
    while len(kept) < count:
        w, h, angle = random.uniform(3, largest), random.uniform(3, largest / 2), random.uniform(-math.pi, math.pi)
        cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
        shrink = min(1, largest / (w * cosine + h * sine), largest / (w * sine + h * cosine))
        box = torch.tensor([[random.uniform(0, shape[1]), random.uniform(0, shape[0]), w * shrink, h * shrink, angle]], dtype=torch.float64)
        points = corners(box)[0]
        inside = (points >= 0).all() and (points[:, 0] <= shape[1]).all() and (points[:, 1] <= shape[0]).all()
        if inside and (not len(kept) or pairwise_iou(box, kept).max() < 0.1):
            kept = torch.cat([kept, box])
    return kept


def seen(boxes, top, left, height, width, jitter=None):
    """What a good detector says of a tile: whole objects as they are, cut ones as the smallest rectangle of their visible part."""
    window, out, ids = shapely.box(left, top, left + width, top + height), [], []
    for number, box in enumerate(boxes):
        shape = shapely.Polygon(corners(box[None])[0].numpy())
        if window.covers(shape):
            out.append(box.numpy())
        elif shape.intersection(window).area > 1e-3 * shape.area:
            part = shapely.minimum_rotated_rectangle(shape.intersection(window))
            points = np.array(part.exterior.coords)[:4]
            points = points if np.cross(points[1] - points[0], points[3] - points[0]) > 0 else points[::-1]
            out.append(from_corners(torch.from_numpy(points.copy())[None])[0].numpy())
        else:
            continue
        ids.append(number)
    found = np.array(out).reshape(-1, 5) - [left, top, 0, 0, 0]
    if jitter is not None:
        found[:, :2] += jitter.uniform(-0.04, 0.04, (len(found), 2)) * found[:, 2:4].min(axis=1, keepdims=True)
    return torch.from_numpy(found), torch.tensor(ids, dtype=torch.long)


def run(boxes, shape, size, overlap, affine=NORTH_UP, jitter=None, scores=None, same_iou=0.3):
    rows, columns = axes(shape, size, overlap)
    cores, mosaic = Cores(rows, columns, shape), VectorMosaic(rows, columns, affine, same_iou=same_iou)
    polygons = []
    for row, top in enumerate(rows.starts):
        claimed = []
        for column, left in enumerate(columns.starts):
            found, which = seen(boxes, top, left, rows.size, columns.size, jitter)
            score = torch.ones(len(found)) if scores is None else scores(len(found))
            claimed.append(cores.claim(row, column, Found(found, score, torch.zeros(len(found), dtype=torch.long))))
        made = mosaic.add_row(row, Claimed.joined(claimed))
        polygons.append(made.polygons)
    return np.concatenate(polygons)


def on_map(boxes, affine):
    points = corners(boxes).numpy()
    return np.stack([affine @ point for point in points.reshape(-1, 2).tolist()]).reshape(points.shape)


def same(found, expected, tolerance):
    """Both hold the same polygons, in any order and each with any first corner."""
    assert len(found) == len(expected)
    a, b = found.mean(axis=1), expected.mean(axis=1)
    nearest = np.linalg.norm(a[:, None] - b[None], axis=2).argmin(axis=1)
    assert sorted(nearest) == list(range(len(expected)))
    for polygon, other in zip(found, expected[nearest], strict=True):
        assert shapely.hausdorff_distance(shapely.Polygon(polygon), shapely.Polygon(other)) <= tolerance
        assert abs(shapely.Polygon(polygon).area - shapely.Polygon(other).area) <= tolerance * shapely.Polygon(other).length


MAPS = {
    "north up": NORTH_UP,
    "rotated": Affine.translation(4e5, 5e6) @ Affine.rotation(33) @ Affine.scale(2.5, -2.5),
    "degrees": Affine(1e-4, 0, 4.1, 0, -6e-5, 50.7),
    "south up": Affine(3, 0, 10, 0, 3, 20),
}
CUTS = [(64, 0.25), (40, 0.4), (48, 0.34), (200, 0.25), (33, 0.49)]  # the overlap is at least 16 px


@pytest.mark.parametrize(
    "name, size, overlap", [*(("north up", *cut) for cut in CUTS), ("rotated", 40, 0.4), ("degrees", 64, 0.25), ("south up", 64, 0.25)]
)
def test_every_object_comes_once_and_in_its_place(name, size, overlap, capsys):
    shape, affine = (137, 181), MAPS[name]
    boxes = scattered(40, shape, 16, seed=size)
    found = run(boxes, shape, size, overlap, affine)
    scale = math.sqrt(abs(affine.determinant))
    same(found, on_map(boxes, affine), 1e-6 * scale)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("size, overlap", [(64, 0.25), (40, 0.4), (33, 0.49)])
def test_none_is_lost_where_tiles_disagree_about_its_centre(size, overlap):
    """Objects stand on the borders of cores, and every tile sees them a little elsewhere."""
    shape = (120, 120)
    rows, _ = axes(shape, size, overlap)
    edge = [(a + rows.size + b) / 2 for a, b in zip(rows.starts, rows.starts[1:])]
    places = [(x, y) for x in edge for y in np.arange(10, 112, 20.0)]
    boxes = torch.tensor([[x, y, 12.0, 6.0, 0.3] for x, y in places], dtype=torch.float64)
    for seed in range(2):
        found = run(boxes, shape, size, overlap, Affine.identity(), jitter=np.random.default_rng(seed))
        same(found, on_map(boxes, Affine.identity()), 0.5)


def test_the_result_is_that_of_the_whole_scene_and_little_waits():
    """Raw boxes, many over one another, chains across the rows of tiles: equal to suppression at once."""
    random = np.random.default_rng(0)
    shape = (600, 60)
    rows, columns = axes(shape, 60, 0.34)
    cores, mosaic = Cores(rows, columns, shape), VectorMosaic(rows, columns, NORTH_UP, same_iou=0.2)
    boxes = np.column_stack(
        [random.uniform(0, 60, 900), random.uniform(0, 600, 900), random.uniform(4, 14, (900, 2)), random.uniform(-3, 3, 900)]
    )
    scores, ids = random.integers(0, 30, 900) / 30, random.integers(0, 2, 900)
    edges = [0, *((a + 60 + b) / 2 for a, b in zip(rows.starts, rows.starts[1:])), 600]
    polygons, kept_scores, waiting = [], [], []
    for row, top in enumerate(rows.starts):
        mine = (edges[row] <= boxes[:, 1]) & (boxes[:, 1] < edges[row + 1])
        found = Found(torch.from_numpy(boxes[mine] - [0, top, 0, 0, 0]), torch.from_numpy(scores[mine]), torch.from_numpy(ids[mine]))
        made = mosaic.add_row(row, cores.claim(row, 0, found))
        polygons.append(made.polygons)
        kept_scores.append(made.scores)
        waiting.append(len(mosaic._waiting.scores))
    order = np.lexsort((boxes[:, 0], boxes[:, 1], -scores.astype(np.float32)))
    expected = order[decide(corners(torch.from_numpy(boxes[order])), torch.from_numpy(ids[order]), threshold=0.2).kept.numpy()]
    same(np.concatenate(polygons), on_map(torch.from_numpy(boxes[expected]), NORTH_UP), 1e-5)
    assert sorted(np.concatenate(kept_scores)) == sorted(scores[expected].astype(np.float32))
    assert waiting[-1] == 0 and max(waiting) < 120
    top_edges = np.concatenate([polygon.mean(axis=1)[:, 1] for polygon in polygons if len(polygon)])
    assert len(top_edges) == len(expected)


def test_the_better_of_two_tiles_stays():
    rows, columns = axes((40, 100), 60, 0.34)
    cores, mosaic = Cores(rows, columns, (40, 100)), VectorMosaic(rows, columns, Affine.identity(), same_iou=0.5)
    border = (60 + columns.starts[1]) / 2
    left = Found(torch.tensor([[border - 0.2, 20.0, 10, 10, 0]]), torch.tensor([0.6]), torch.tensor([1]))
    right = Found(torch.tensor([[border + 0.2 - columns.starts[1], 20.0, 10, 10, 0]]), torch.tensor([0.9]), torch.tensor([1]))
    other = Found(right.boxes, torch.tensor([0.7]), torch.tensor([2]))
    made = mosaic.add_row(0, Claimed.joined([cores.claim(0, 0, left), cores.claim(0, 1, right), cores.claim(0, 1, other)]))
    assert made.scores.tolist() == pytest.approx([0.9, 0.7]) and made.ids.tolist() == [1, 2]


def test_horizontal_boxes_are_taken_as_they_are():
    rows, columns = axes((50, 50), 50, 0.2)
    cores, mosaic = Cores(rows, columns, (50, 50)), VectorMosaic(rows, columns, NORTH_UP, same_iou=0.5)
    made = mosaic.add_row(0, cores.claim(0, 0, Found(torch.tensor([[10.0, 20, 14, 30]]), torch.ones(1), torch.zeros(1))))
    assert shapely.Polygon(made.polygons[0]).equals(shapely.box(574_780, 5_622_140, 574_820, 5_622_240))


def test_what_lies_beyond_the_scene_is_left_out():
    rows, columns = axes((64, 64), 64, 0.2)
    cores = Cores(rows, columns, (50, 60))  # the tile reaches beyond the scene
    found = torch.tensor([[59.0, 10, 8, 8, 0], [61, 10, 8, 8, 0], [10, 49, 8, 8, 0], [10, 51, 8, 8, 0]])
    claimed = cores.claim(0, 0, Found(found, torch.ones(4), torch.zeros(4)))
    assert claimed.boxes[:, 0].tolist() == [59, 10] and claimed.owned.all()


def test_larger_objects_are_warned_about_once_with_numbers(capsys):
    shape = (100, 150)
    boxes = torch.tensor([[75.0, 50, 24, 6, 0], [20, 20, 23, 6, 0], [60, 80, 6, 22, 0]], dtype=torch.float64)
    run(boxes, shape, 64, 0.25)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: an object at x 574880, y 5622240 is 23 px wide and tiles overlap by 16 px: what is larger")
    run(boxes, shape, 200, 0.25)
    assert not capsys.readouterr().err


def test_numbers_that_are_not_finite_are_refused():
    rows, columns = axes((64, 64), 64, 0.2)
    bad = Found(torch.tensor([[1.0, 1, float("nan"), 2, 0]]), torch.ones(1), torch.zeros(1))
    with pytest.raises(BundleError, match=r"boxes or scores that are not finite \(tile 0, 0\)"):
        Cores(rows, columns, (64, 64)).claim(0, 0, bad)


def test_nothing_found_is_nothing():
    assert len(run(torch.zeros(0, 5, dtype=torch.float64), (100, 100), 40, 0.25)) == 0
    assert area(torch.zeros(0, 5)).shape == (0,)
