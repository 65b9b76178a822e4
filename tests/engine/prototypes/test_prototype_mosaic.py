"""Many sources on one grid: every cell is decided by the nearest one that sees it, whatever comes in which portions."""

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.engine.prototype_map import NO_PROTOTYPE, NO_REGION, CellRows
from skysense_cli.engine.prototype_mosaic import Piece, Stream, mosaic, place
from skysense_cli.errors import GridError


def grid(left, top, height, width, size=10.0, crs="EPSG:32631"):
    return GeoBox((height, width), Affine(size, 0, left, 0, -size, top), crs)


def cells_of(number, shape, rng):
    """Index = number of the source; one cell in five is not seen, one in ten has no prototype."""
    index = np.full(shape, number, np.uint16)
    region = np.where(rng.random(shape) < 0.2, NO_REGION, 3).astype(np.int32)
    index[(rng.random(shape) < 0.1) | (region == NO_REGION)] = NO_PROTOTYPE
    return CellRows(0, index, np.where(index == NO_PROTOTYPE, np.nan, number / 100).astype(np.float32), region)


def one_portion(tops, pieces):
    return Stream(tops, lambda _: pieces(), [range(len(tops))])


def portions(source, cells, heights):
    for top in range(0, len(cells.index), heights):
        part = slice(top, top + heights)
        yield Piece(source, CellRows(top, cells.index[part], cells.similarity[part], cells.region[part]))


def obvious(cells, places, shape):
    """Each cell asks every source."""
    index, source = np.full(shape, NO_PROTOTYPE, np.uint16), np.full(shape, -1)
    for row in range(shape[0]):
        for column in range(shape[1]):
            asked = []
            for number, (own, at) in enumerate(zip(cells, places, strict=True)):
                inner = row - at.top, column - at.left
                if 0 <= inner[0] < at.shape[0] and 0 <= inner[1] < at.shape[1] and own.region[inner] != NO_REGION:
                    far = (row + 0.5 - at.centre[0]) ** 2 + (column + 0.5 - at.centre[1]) ** 2
                    asked.append((far, number, own.index[inner]))
            if asked:
                _, source[row, column], index[row, column] = min(asked)
    return index, source


@pytest.mark.parametrize("heights", [1, 3, 100])
@pytest.mark.parametrize("scenes", [True, False])
def test_every_cell_is_decided_by_the_nearest_source_that_sees_it(heights, scenes):
    rng = np.random.default_rng(heights)
    corners = [(0, 0), (4, 6), (4, -5), (30, 2), (0, 0)]  # rows and columns; a gap, and the same ground twice
    shapes = [(8, 9), (7, 8), (9, 9), (5, 5), (8, 9)]
    grids = [grid(500_000 + 10 * c, 5_000_000 - 10 * r, *shape) for (r, c), shape in zip(corners, shapes, strict=True)]
    whole, places = place(grids, "scenes")
    assert whole.shape == (35, 19) and places[0].left == 5
    cells = [cells_of(number, shape, rng) for number, shape in enumerate(shapes)]
    if scenes:
        streams = [
            one_portion([at.top + top for top in range(0, at.shape[0], heights)], lambda k=k: portions(k, cells[k], heights))
            for k, at in enumerate(places)
        ]
    else:
        order = sorted(range(5), key=lambda k: places[k].top)
        streams = [one_portion([places[k].top for k in order], lambda: (Piece(k, cells[k]) for k in order))]
    rows = list(mosaic(streams, places, whole.shape))
    assert [part.cells.top for part in rows] == list(np.cumsum([0] + [len(part.source) for part in rows[:-1]]))
    index, source = obvious(cells, places, whole.shape)
    np.testing.assert_array_equal(np.concatenate([part.cells.index for part in rows]), index)
    np.testing.assert_array_equal(np.concatenate([part.source for part in rows]), source)
    region = np.concatenate([part.cells.region for part in rows])
    np.testing.assert_array_equal(region != NO_REGION, source >= 0)


def test_two_scenes_meet_on_the_line_half_way():
    whole, places = place([grid(0, 0, 4, 10), grid(60, 0, 4, 10)], "scenes")
    made = [CellRows(0, np.full((4, 10), k, np.uint16), np.ones((4, 10), np.float32), np.zeros((4, 10), np.int32)) for k in range(2)]
    streams = [one_portion([0], lambda k=k: iter([Piece(k, made[k])])) for k in range(2)]
    (rows,) = mosaic(streams, places, whole.shape)
    assert rows.source[0].tolist() == [0] * 8 + [1] * 8


def test_a_scene_is_started_when_its_turn_comes_and_rows_are_let_go():
    _, places = place([grid(0, -100 * k, 10, 4) for k in range(5)], "scenes")
    begun = []

    def pieces(k):
        begun.append(k)
        yield Piece(k, CellRows(0, np.full((10, 4), k, np.uint16), np.ones((10, 4), np.float32), np.zeros((10, 4), np.int32)))

    for number, rows in enumerate(mosaic([one_portion([at.top], lambda k=k: pieces(k)) for k, at in enumerate(places)], places, (50, 4))):
        assert begun == list(range(number + 1))  # when its last row is done, the next one has not been opened
        assert len(rows.source) == 10


def test_what_lies_off_the_lattice_is_moved_by_less_than_a_cell():
    _, places = place([grid(0, 0, 4, 4), grid(43, -4, 4, 4)], "samples")
    assert (places[1].top, places[1].left) == (0, 4) and places[1].off == pytest.approx(0.4)


def test_cells_of_two_sizes_and_ground_too_far_apart_are_refused():
    with pytest.raises(GridError, match=r"cells of 10 x 10 and of 20 x 20, which are no mosaic; say scene_gsd: resample"):
        place([grid(0, 0, 4, 4), grid(0, 0, 4, 4, size=20.0)], "scenes")
    with pytest.raises(
        GridError, match=r"samples of EPSG:32631 lie so far apart that their mosaic has 9\d\d,\d{3} x 60,004 cells, at most"
    ):
        place([grid(0, 0, 4, 4), grid(600_000, 9_300_000, 4, 4)], "samples")
