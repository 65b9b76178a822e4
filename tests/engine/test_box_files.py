"""Objects in files: sizes and directions by hand, counts by a plain histogram."""

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from skysense_cli.core.boxes import corners
from skysense_cli.engine.box_files import CellCounts, seen_cells, write_objects
from skysense_cli.engine.vector_mosaic import Objects
from skysense_cli.errors import RecipeError
from skysense_cli.geo.vector_files import read_tags

CLASSES = ("ship", "storage tank")
UTM = GeoBox((200, 300), Affine(10, 0, 574_680, 0, -10, 5_622_440), "EPSG:32631")


def objects(boxes, affine, scores=None, ids=None):
    boxes = torch.tensor(boxes, dtype=torch.float64)
    points = corners(boxes).numpy()
    placed = points @ np.array([[affine.a, affine.d], [affine.b, affine.e]]) + [affine.c, affine.f]
    count = len(boxes)
    return Objects(
        placed,
        boxes[:, :2].numpy(),
        np.asarray([0.9] * count if scores is None else scores, np.float32),
        np.asarray([0] * count if ids is None else ids),
    )


@pytest.mark.parametrize("end", [".gpkg", ".parquet"])
def test_objects_have_class_score_size_and_direction(tmp_path, end):
    angles = [0.0, np.pi / 6, -np.pi / 6, np.pi / 2, -np.pi / 2, np.pi, 3.0]
    boxes = [[100 + 10 * n, 50, 6, 2, angle] for n, angle in enumerate(angles)] + [[10, 10, 2, 5, 0.1]]
    ids = [0, 1] * 4
    path = tmp_path / f"made{end}"
    lines = write_objects(
        path, UTM, CLASSES, [objects(boxes[:3], UTM.affine, ids=ids[:3]), objects(boxes[3:], UTM.affine, ids=ids[3:])], {"A": "b"}
    )
    frame = geopandas.read_parquet(path) if end == ".parquet" else geopandas.read_file(path)
    assert lines == [f"objects: {path} (8; ship 4, storage tank 4)"] and read_tags(path) == {"A": "b"}
    assert frame["class"].tolist() == ["ship", "storage tank"] * 4 and frame["class_id"].tolist() == ids
    assert frame["score"].tolist() == [0.9] * 8
    np.testing.assert_allclose(frame["angle_deg"], [0, 30, -30, 90, 90, 0, np.rad2deg(3.0) - 180, np.rad2deg(0.1) + 90 - 180], atol=1e-3)
    np.testing.assert_allclose(frame["length_m"], [60] * 7 + [50], rtol=1e-3)
    np.testing.assert_allclose(frame["width_m"], 20, rtol=1e-3)
    np.testing.assert_allclose(frame.area, frame["length_m"] * frame["width_m"], rtol=2e-3)
    first = frame.geometry[0].centroid
    assert (first.x, first.y) == (574_680 + 1000, 5_622_440 - 500)


def test_directions_on_a_map_in_degrees_are_those_on_the_ground(tmp_path):
    grid = GeoBox((100, 100), Affine(2e-4, 0, 10, 0, -1e-4, 60), "EPSG:4326")  # a pixel is about 11 m each way at 60 N
    write_objects(tmp_path / "made.gpkg", grid, CLASSES, [objects([[50, 50, 20, 4, np.pi / 4]], grid.affine)], {})
    frame = geopandas.read_file(tmp_path / "made.gpkg")
    assert frame["angle_deg"][0] == pytest.approx(45, abs=0.2)
    in_metres = frame.to_crs(frame.estimate_utm_crs())
    ring = np.array(in_metres.geometry[0].exterior.coords)
    sides = np.linalg.norm(np.diff(ring, axis=0), axis=1)
    assert frame["length_m"][0] == pytest.approx(sides.max(), rel=1e-3) and frame["width_m"][0] == pytest.approx(sides.min(), rel=1e-3)


def test_counts_are_a_histogram_of_the_centres(tmp_path):
    random = np.random.default_rng(0)
    places = random.uniform(0, 1, (400, 2)) * [300, 200]
    boxes, ids = [[x, y, 4, 4, 0] for x, y in places], random.integers(0, 2, 400)
    counts = CellCounts.over((200, 300), 2, 310, 10)
    for part in (slice(0, 150), slice(150, 400)):
        counts.add(objects(boxes[part], UTM.affine, ids=ids[part]))
    valid = np.zeros((200, 300), bool)
    valid[:120, 40:] = True
    for top in range(0, 200, 37):
        for left in range(0, 300, 53):
            rows, columns = seen_cells(valid[top : top + 37, left : left + 53], top, left, counts.cell_px).T
            counts.seen[rows, columns] = True
    lines = counts.write(tmp_path / "counts.tif", UTM, CLASSES, {"A": "b"})
    assert lines == [f"counts: {tmp_path}/counts.tif (7 x 10 cells of 31 x 31 map pixels)"]
    with rasterio.open(tmp_path / "counts.tif") as file:
        pixels, tags = file.read(masked=True), file.tags()
        assert file.descriptions == CLASSES and file.transform == Affine(310, 0, 574_680, 0, -310, 5_622_440) and tags["A"] == "b"
    for number in range(2):
        x, y = places[ids == number].T
        expected = np.histogram2d(y, x, [np.arange(0, 218, 31), np.arange(0, 311, 31)])[0]
        np.testing.assert_array_equal(pixels[number].filled(0), expected)
    cells = np.zeros((7, 10), bool)
    for row, column in np.argwhere(valid):
        cells[row // 31, column // 31] = True
    np.testing.assert_array_equal(counts.seen, cells)


def test_cells_where_nothing_was_seen_have_no_count(tmp_path):
    counts = CellCounts.over((200, 300), 2, 1000, 10)
    counts.seen[0, 1] = True
    counts.write(tmp_path / "counts.tif", UTM, CLASSES, {})
    with rasterio.open(tmp_path / "counts.tif") as file:
        assert file.read(1, masked=True).tolist() == [[None, 0, None], [None, None, None]]


def test_too_many_cells_are_refused():
    with pytest.raises(RecipeError, match="write.boxes.counts_m 10 makes 20000 x 20000 cells of 2 classes; larger cells are needed here"):
        CellCounts.over((20_000, 20_000), 2, 10, 10)
