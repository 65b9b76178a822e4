"""Cells, hectares and similarity of each prototype, and its most typical cells, against counting by hand."""

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.engine.prototype_census import SPREAD_CELLS, Census, Tally, cell_area_m2
from skysense_cli.engine.prototype_map import NO_PROTOTYPE, CellRows

SHAPE = 70, 100


def grid(crs="EPSG:32631", size=20, left=574_680, top=5_622_440, shape=SHAPE):
    return GeoBox(shape, Affine(size, 0, left, 0, -size, top), crs)


@pytest.fixture
def ground():
    """A whole map of two regions: 0 without prototypes, 7 with 5 of them; some ground nobody sees."""
    rng = np.random.default_rng(0)
    index, similarity = rng.integers(0, 5, SHAPE).astype(np.uint16), rng.random(SHAPE).astype(np.float32)
    region = np.full(SHAPE, 7, np.int32)
    region[:, :20], region[:3] = 0, -1
    index[region != 7] = NO_PROTOTYPE
    similarity[region != 7] = np.nan
    return CellRows(0, index, similarity, region)


def counted(ground, portions, typical=6):
    census = Census(5, typical)
    for first, last in zip(portions, [*portions[1:], SHAPE[0]], strict=True):
        part = slice(first, last)
        census.add(CellRows(first, ground.index[part], ground.similarity[part], ground.region[part]), grid())
    return census


def test_cells_hectares_and_similarity_of_each_prototype(ground):
    census = counted(ground, [0, 10, 33])
    for prototype in range(5):
        here = (ground.region == 7) & (ground.index == prototype)
        tally = census.used[7, prototype]
        assert tally.cells == here.sum()
        assert tally.mean_similarity == pytest.approx(ground.similarity[here].mean())
        assert tally.area_ha == pytest.approx(here.sum() * 0.04, rel=2e-3)  # UTM is 0.04 % too small at its middle
    assert census.empty[0].cells == (ground.region == 0).sum() and set(census.empty) == {0}
    assert census.regions() == {7: pytest.approx(census.regions()[7])} and census.regions()[7].cells == (ground.region == 7).sum()


def test_the_most_typical_cells_are_the_best_of_their_squares(ground):
    census = counted(ground, [0])
    for prototype in range(5):
        best = {}
        for row, column in zip(*np.nonzero((ground.region == 7) & (ground.index == prototype)), strict=True):
            square = row // SPREAD_CELLS, column // SPREAD_CELLS
            best[square] = max(best.get(square, (-1.0, 0, 0)), (float(ground.similarity[row, column]), row, column))
        expected = sorted(best.values(), reverse=True)[:6]
        found = [(cell.similarity, cell.row, cell.column) for cell in census.most_typical(7, prototype)]
        assert found == expected


@pytest.mark.parametrize("portions", [[0, 1], [0, 31, 32, 33], list(range(70))])
def test_how_the_rows_arrive_changes_nothing(ground, portions):
    one, other = counted(ground, [0]), counted(ground, portions)
    for prototype in range(5):
        assert one.most_typical(7, prototype) == other.most_typical(7, prototype)
        assert one.used[7, prototype].cells == other.used[7, prototype].cells
        assert one.used[7, prototype].area_ha == pytest.approx(other.used[7, prototype].area_ha, rel=1e-6)


def test_equal_cells_are_kept_in_the_order_of_reading():
    even = CellRows(0, np.zeros((4, 200), np.uint16), np.ones((4, 200), np.float32), np.zeros((4, 200), np.int32))
    census = Census(1, typical=3)
    census.add(even, grid(shape=(4, 200)))
    assert [(cell.row, cell.column) for cell in census.most_typical(0, 0)] == [(0, 0), (0, 32), (0, 64)]


def test_no_typical_cells_are_kept_unless_asked_for(ground):
    assert counted(ground, [0], typical=0).most_typical(7, 1) == []


def test_a_cell_has_its_area_on_the_ground():
    mercator = grid("EPSG:3857", 10, 0, 8_399_737)  # 60 N: map metres are twice as long as those of the ground
    assert cell_area_m2(mercator, 0, 10) == pytest.approx(25, rel=0.01)
    assert cell_area_m2(grid(size=10), 0, 70) == pytest.approx(100, rel=2e-3)


def test_tallies_add_up():
    tally = Tally(2, 0.5, 1.0)
    tally += Tally(2, 0.25, 2.0)
    assert tally == Tally(4, 0.75, 3.0) and tally.mean_similarity == 0.75
    assert np.isnan(Tally().mean_similarity)
