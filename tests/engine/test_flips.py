"""Boxes on flipped tiles: flipped as their corners are, and put together so that each object is there once."""

import numpy as np
import pytest
import torch

from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.core.boxes import corners
from skysense_cli.core.heads import Found
from skysense_cli.engine.flips import FLIPS, flipped_boxes, pooled

SIZE = (40, 70)


def found(boxes, scores=None, ids=None):
    boxes = torch.tensor(boxes, dtype=torch.float64)
    count = len(boxes)
    return Found(boxes, torch.tensor([0.5] * count if scores is None else scores), torch.tensor([0] * count if ids is None else ids))


def ring(points):
    """The corners of a box in an order that does not depend on where it begins."""
    return points[np.lexsort(points.round(6).T)]


@pytest.mark.parametrize("axes", FLIPS)
@pytest.mark.parametrize("width", [4, 5])
def test_a_flipped_box_has_the_flipped_corners(axes, width):
    random = np.random.default_rng(width)
    x, y, w, h = random.uniform(0, 70, 50), random.uniform(0, 40, 50), random.uniform(1, 30, 50), random.uniform(1, 30, 50)
    rotated = np.stack([x, y, w, h, random.uniform(-np.pi, np.pi, 50)], axis=1)
    boxes = rotated if width == 5 else np.stack([x, y, x + w, y + h], axis=1)
    given = found(boxes.tolist())
    turned = flipped_boxes(given, axes, SIZE)
    for before, after in zip(corners(given.boxes).numpy(), corners(turned.boxes).numpy(), strict=True):
        expected = before.copy()
        if -1 in axes:
            expected[:, 0] = SIZE[1] - expected[:, 0]
        if -2 in axes:
            expected[:, 1] = SIZE[0] - expected[:, 1]
        np.testing.assert_allclose(ring(after), ring(expected), atol=1e-9)
    torch.testing.assert_close(flipped_boxes(turned, axes, SIZE).boxes, given.boxes)
    assert turned.boxes.shape == given.boxes.shape and turned.scores is given.scores


def test_a_box_by_hand():
    turned = flipped_boxes(found([[10, 5, 8, 2, 0.3]]), (-1,), SIZE)
    assert turned.boxes.tolist() == [[60, 5, 8, 2, -0.3]]
    assert flipped_boxes(found([[10, 5, 14, 8]]), (-2, -1), SIZE).boxes.tolist() == [[56, 32, 60, 35]]


def marked():
    """Two images with a mark in the upper left corner."""
    pixels = torch.zeros(2, 1, 1, *SIZE)
    pixels[..., 0, 0] = 1
    series = SeriesBatch(pixels, torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool), pixels[:, :, 0] >= 0)
    none = torch.zeros(2, dtype=torch.long)
    return Batch({"s2": series}, none, none, torch.zeros(2, 2, 3))


def axes_of(batch):
    """Along which axes the images of a batch are flipped."""
    (row, column), *_ = batch.series["s2"].pixels[0, 0, 0].nonzero().tolist()
    return ((-2,) if row else ()) + ((-1,) if column else ())


def test_of_the_flips_each_object_stays_once_and_as_its_best_view_says():
    shift = {(): 0.0, (-1,): 0.3, (-2,): -0.3, (-2, -1): 0.6}
    score = {(): 0.6, (-1,): 0.9, (-2,): 0.4, (-2, -1): 0.5}

    def find(batch, size):
        axes = axes_of(batch)
        own = found([[20 + shift[axes], 10, 8, 4, 0.2], [20, 10, 8, 4, 0.2]], [score[axes], 0.3], [0, 1])
        only = found([[50, 30, 6, 6, 0.0]], [0.2]) if axes == (-2,) else found(np.zeros((0, 5)).tolist())
        first = flipped_boxes(own, axes, size)
        second = flipped_boxes(Found(only.boxes.view(-1, 5), only.scores.float(), only.ids.long()), axes, size)
        return [first, second]

    first, second = pooled(find, same_iou=0.5)(marked(), SIZE)
    assert first.ids.tolist() == [0, 1] and first.scores.tolist() == pytest.approx([0.9, 0.3])
    np.testing.assert_allclose(first.boxes.numpy(), [[20.3, 10, 8, 4, 0.2], [20, 10, 8, 4, 0.2]])
    np.testing.assert_allclose(second.boxes.numpy(), [[50, 30, 6, 6, 0.0]])  # what one view alone sees is kept
