"""A prototype map against a class raster: fitted on one half of disjoint squares, scored on the other."""

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.engine.land_cover import LandCover, halves
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.grid import window
from skysense_cli.recipe.schema.maps import CompareSection

SIZE = 64
GRID = GeoBox((SIZE, SIZE), Affine(10, 0, 574_680, 0, -10, 5_622_440), "EPSG:32631")


def write(path, codes, nodata=0, crs="EPSG:32631", transform=GRID.affine):
    with rasterio.open(
        path, "w", driver="GTiff", height=codes.shape[0], width=codes.shape[1], count=1, dtype="uint16", crs=crs, transform=transform,
        nodata=nodata,
    ) as file:  # fmt: skip
        file.write(codes.astype(np.uint16), 1)


def world(seed=0):
    """Class numbers 1..3 in patches of 4 cells, half of the ground of class 1."""
    rng = np.random.default_rng(seed)
    return rng.choice([1, 2, 3], (SIZE // 4, SIZE // 4), p=[0.5, 0.3, 0.2]).repeat(4, 0).repeat(4, 1)


@pytest.fixture
def section(tmp_path):
    (tmp_path / "classes.csv").write_text("code,name\n10,wood\n20,water\n30,town\n")
    write(tmp_path / "truth.tif", world() * 10)
    return CompareSection(raster=tmp_path / "truth.tif", classes=tmp_path / "classes.csv", tiles_m=80.0)


def compare(section, codes, portion=SIZE):
    cover = LandCover.open(section, 10.0)
    for top in range(0, SIZE, portion):
        part = slice(top, min(top + portion, SIZE))
        cover.add(codes[part], window(GRID, part, slice(0, SIZE)))
    return cover.compare()


def report(section, codes):
    return compare(section, codes).report(per_region=100)


def test_a_perfect_map_scores_one(section):
    found = report(section, np.array([0, 7, 3, 5])[world()])
    for half in ("fitted", "scored"):
        assert found[half]["nmi"] == found[half]["ari"] == 1
        assert found[half]["majority"] == {"oa": 1, "miou": 1} and found[half]["hungarian"] == {"oa": 1, "miou": 1, "covered": 1}
    assert {(one["prototype"], one["majority"], one["hungarian"]) for one in found["mapping"]} == {
        (7, "wood", "wood"), (3, "water", "water"), (5, "town", "town")
    }  # fmt: skip
    assert found["fitted"]["cells"] + found["scored"]["cells"] == SIZE**2


def test_a_random_map_scores_chance(section):
    found = report(section, np.random.default_rng(5).integers(0, 8, (SIZE, SIZE)))
    share = np.mean(world()[halves(GRID, 8, 0)[0] == 1] == 1)
    assert found["chance"]["commonest"]["oa"] == pytest.approx(share, abs=1e-6) and found["chance"]["commonest"]["class"] == "wood"
    assert found["scored"]["majority"]["oa"] == pytest.approx(share, abs=0.03)
    assert found["scored"]["nmi"] == pytest.approx(found["chance"]["shuffled"]["nmi"], abs=0.005)
    assert abs(found["scored"]["ari"]) < 0.01 and abs(found["chance"]["shuffled"]["ari"]) < 0.01


def test_renumbering_the_prototypes_changes_no_score(section):
    codes = world() + 3 * np.random.default_rng(1).integers(0, 2, (SIZE, SIZE)) * (np.random.default_rng(2).random((SIZE, SIZE)) < 0.7)
    new = np.random.default_rng(3).permutation(100)
    one, other = report(section, codes), report(section, new[codes])
    for key in ("fitted", "scored", "iou", "confusion", "prototypes"):
        assert one[key] == other[key], key


def test_rows_in_portions_count_the_same(section):
    codes = np.random.default_rng(5).integers(0, 8, (SIZE, SIZE))
    assert compare(section, codes, portion=7).report(100) == report(section, codes)


def test_what_is_fitted_on_one_half_is_not_scored_there(section):
    """On the fitted half every cell has a prototype of its own class; on the other the classes are turned round."""
    half, _ = halves(GRID, 8, 0)
    truth = world()
    codes = np.where(half == 0, truth, truth % 3 + 1)
    found = report(section, codes)
    assert found["fitted"]["majority"]["oa"] == 1 and found["scored"]["majority"]["oa"] == 0
    assert found["scored"]["nmi"] == 1  # which prototype means what plays no part in it


def test_halves_are_equal_disjoint_and_the_same_for_every_map_of_the_ground():
    half, square = halves(GRID, 8, seed=0)
    assert set(np.unique(half)) == {0, 1} and 0.4 < half.mean() < 0.6
    for number in np.unique(square):
        assert len(np.unique(half[square == number])) == 1  # a square is never cut
    part = window(GRID, slice(13, 50), slice(5, 41))
    np.testing.assert_array_equal(halves(part, 8, seed=0)[0], half[13:50, 5:41])
    assert (halves(GRID, 8, seed=1)[0] != half).any()
    wide = GeoBox((1, 4096), Affine(10, 0, 0, 0, -10, 0), "EPSG:32631")
    assert halves(wide, 8, seed=3)[0].mean() == 0.5  # of every two squares side by side one is scored


def test_a_prototype_that_only_the_scored_half_has_counts_as_the_commonest_class(section):
    half, _ = halves(GRID, 8, 0)
    found = report(section, np.where(half == 1, 9, world()))
    assert found["scored"]["majority"]["oa"] == pytest.approx(np.mean(world()[half == 1] == 1), abs=1e-6)
    assert found["scored"]["hungarian"]["covered"] == 0


def test_ignored_unlisted_and_missing_cells_are_left_out(section, tmp_path, capsys):
    truth = world() * 10
    truth[:8], truth[8:16, :8], truth[60:] = 99, 0, 30
    write(tmp_path / "truth.tif", truth)
    codes = world().copy()
    codes[30:34] = -1
    found = report(section.model_copy(update={"ignore": (30,)}), codes)
    kept = np.isin(truth, (10, 20)) & (codes >= 0)
    assert found["fitted"]["cells"] + found["scored"]["cells"] == kept.sum()
    assert f"does not list are left out: 99 ({8 * SIZE} cells)" in capsys.readouterr().err


def test_the_report_is_plain_data_and_the_table_is_readable(section):
    found = compare(section, world())
    assert json.loads(json.dumps(found.report(100), allow_nan=False))["classes"] == ["wood", "water", "town"]
    assert found.lines()[0] == ("prototypes, classes by majority", "1.000", "1.000", "1.000", "1.000")


def test_halves_are_required_of_the_ground_that_is_mapped(section, tmp_path):
    truth = world() * 10
    half, _ = halves(GRID, 8, 0)
    cover = LandCover.open(section, 10.0)
    cover.require_halves([(GRID, np.ones((SIZE, SIZE), bool))])
    portions = [(window(GRID, slice(top, top + 16), slice(0, SIZE)), half[top : top + 16] == top // 16 % 2) for top in range(0, SIZE, 16)]
    cover.require_halves(portions)  # each portion has cells of one half
    with pytest.raises(DataError, match=r"squares of 80 m leave no labelled cell to score; make compare\.tiles_m smaller"):
        cover.require_halves([(GRID, half == 0)])
    with pytest.raises(DataError, match=r"no cell of the map has a class in .*truth\.tif; does the raster cover it"):
        cover.require_halves([(GRID, np.zeros((SIZE, SIZE), bool))])
    truth[half == 0] = 0
    write(tmp_path / "truth.tif", truth)
    with pytest.raises(DataError, match=r"leave no labelled cell to fit on"):
        LandCover.open(section, 10.0).require_halves([(GRID, np.ones((SIZE, SIZE), bool))])


def test_what_cannot_be_compared_is_said(section, tmp_path):
    write(tmp_path / "truth.tif", world() * 10, transform=Affine(10, 0, 0, 0, -10, 0))
    with pytest.raises(DataError, match=r"no cell of the map with a prototype has a class in .*truth\.tif; does the raster cover it"):
        compare(section, world())
    write(tmp_path / "truth.tif", world() * 10)
    with pytest.raises(DataError, match=r"squares of 50000 m leave no labelled cell to (fit on|score); make compare\.tiles_m smaller"):
        compare(section.model_copy(update={"tiles_m": 50_000.0}), world())
    write(tmp_path / "truth.tif", world() * 10, crs=None)
    with pytest.raises(GridError, match=r"truth\.tif has no coordinate reference system"):
        LandCover.open(section, 10.0)
