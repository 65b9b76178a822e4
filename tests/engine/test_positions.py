"""Position tables on other grids."""

import pytest
import torch
import torch.nn.functional as F

from skysense_cli.engine.positions import MAX_ROWS, Table, square

ROWS = torch.randn(1, 17, 6, generator=torch.Generator().manual_seed(0))


def resized(image, size, mode):
    """By torch's own function on (1, h, w, C)."""
    return F.interpolate(image.permute(0, 3, 1, 2), size=size, mode=mode, align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_a_class_row_stays_and_the_rest_is_an_image(mode):
    table = Table((8, 6), True, mode).resize(ROWS)
    assert torch.equal(table[:, :1], ROWS[:, :1])
    assert torch.equal(table[:, 1:], resized(ROWS[:, 1:].unflatten(1, (4, 4)), (8, 6), mode))


def test_a_table_without_class_row_for_a_model_that_has_one():
    table = Table((4, 4), True, "bicubic").resize(ROWS[:, 1:])
    assert not table[:, 0].any() and torch.equal(table[:, 1:], ROWS[:, 1:])


def test_a_class_row_is_dropped_for_a_model_without_one():
    assert torch.equal(Table((4, 4), False, "bicubic").resize(ROWS), ROWS[:, 1:])


def test_half_precision_is_resized_in_single():
    assert Table((2, 2), False, "bicubic").resize(ROWS.half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("rows", "found"), [(16, (4, False)), (17, (4, True)), (257, (16, True)), (1, (1, False)), (2, (1, True)), (19, None)]
)
def test_what_a_number_of_rows_means(rows, found):
    assert square(rows) == found


def test_claims_of_endless_tables_are_no_tables():
    assert square(MAX_ROWS) == (256, False) and square(2**40) is None and square(0) is None
