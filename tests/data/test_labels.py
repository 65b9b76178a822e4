from pathlib import Path

import numpy as np
import pytest
from pyproj import Transformer

from skysense_cli.data import labels
from skysense_cli.data.labels import HeldOutFields, LabelPlan, cut, read_classes
from skysense_cli.errors import DataError
from skysense_cli.geo.footprints import Footprint

WHOLE = Footprint("EPSG:32631", 500000, 5600000, 320, 0, 0)


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "classes.csv"
    path.write_text("code,name,color\n1110,wheat,#ff8000\n9120,grass,\n1200,maize,0 0 255\n")
    return path


def raster(tmp_path, geotiff, codes, **options) -> Path:
    return geotiff(tmp_path / "label.tif", np.asarray(codes, np.uint16), **options)


def test_ids_follow_the_order_of_the_table(table):
    classes = read_classes(table)
    assert classes.names == ("wheat", "grass", "maize")
    assert classes.ids(np.array([[9120, 1110], [7, 1200]])).tolist() == [[1, 0], [255, 2]]
    assert classes.colors[0].tolist() == [255, 128, 0] and classes.colors[2].tolist() == [0, 0, 255]
    assert classes.colors[1].any()  # a class without a colour gets one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\n1,a\n", "needs the columns code and name"),
        ("code,name\n1,a\n1,b\n", "line 3: code '1' is given twice"),
        ("code,name\nx,a\n", "line 2: code 'x' is no whole number"),
        ("code,name,color\n1,a,red\n", "line 2: color 'red' is neither"),
        ("code,name\n" + "".join(f"{k},c\n" for k in range(256)), "lists 256 classes"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=rf"t.csv.*{message}"):
        read_classes(tmp_path / "t.csv")
    with pytest.raises(DataError, match="nothing.csv: no such file"):
        read_classes(tmp_path / "nothing.csv")


def test_a_footprint_takes_the_pixels_of_the_raster_and_unlabelled_ones_are_ignored(tmp_path, geotiff, table):
    codes = np.zeros((64, 64))
    codes[:16], codes[16:20] = 1110, 1200
    plan = LabelPlan(
        raster(tmp_path, geotiff, codes), table, ignore=(0,), period=(np.datetime64("2019-03-01"), np.datetime64("2019-09-30"))
    )
    label = cut(plan, read_classes(table), WHOLE, 10)
    assert label.raster.shape == (32, 32) and label.raster.dtype == np.uint8
    assert np.unique(label.raster, return_counts=True)[1].tolist() == [512, 128, 384]
    assert label.held_out is None and label.names == ("wheat", "grass", "maize")
    assert label.period.tolist() == [np.datetime64("2019-03-01").item(), np.datetime64("2019-09-30").item()]


def test_a_footprint_without_labels_has_none(tmp_path, geotiff, table):
    plan = LabelPlan(raster(tmp_path, geotiff, np.zeros((64, 64)), nodata=0), table)
    assert cut(plan, read_classes(table), WHOLE, 10) is None
    away = Footprint("EPSG:32631", 600000, 5600000, 320, 0, 100)
    assert cut(plan, read_classes(table), away, 10) is None


def test_a_raster_of_other_pixels_is_taken_nearest(tmp_path, geotiff, table):
    codes = np.tile([[1110, 9120], [1200, 1110]], (12, 12))
    plan = LabelPlan(raster(tmp_path, geotiff, codes, gsd=15), table)
    label = cut(plan, read_classes(table), WHOLE, 10)
    slow = np.zeros((32, 32), int)
    for row in range(32):
        for col in range(32):
            slow[row, col] = codes[int((row + 0.5) * 10 / 15), int((col + 0.5) * 10 / 15)]
    assert (label.raster == read_classes(table).ids(slow)).all()


def test_the_checkerboard_is_one_board_for_all_footprints(tmp_path, geotiff, table):
    codes = np.full((64, 64), 1110)
    plan = LabelPlan(raster(tmp_path, geotiff, codes), table, checkerboard_px=8)
    rows, columns = np.mgrid[:64, :64]
    board = (rows // 8 + columns // 8) % 2 == 1
    for row, col in ((0, 0), (0, 1), (3, 2), (6, 6)):  # overlapping ones too
        place = Footprint("EPSG:32631", 500000 + col * 80, 5600000 - row * 80, 160, row, col)
        label = cut(plan, read_classes(table), place, 10)
        part = board[row * 8 : row * 8 + 16, col * 8 : col * 8 + 16]
        assert ((label.held_out == 0) == part).all()
        assert ((label.raster == 0) & (label.held_out == 0)).sum() == 0


def test_whole_fields_are_held_out_and_the_choice_rests_on_the_seed(tmp_path, geotiff, table):
    codes = np.zeros((64, 64))
    for row in range(0, 64, 8):
        for col in range(0, 64, 8):
            codes[row : row + 7, col : col + 7] = 1110 if (row + col) % 16 else 9120
    path = raster(tmp_path, geotiff, codes)
    field = Footprint("EPSG:32631", 500000, 5600000, 640, 0, 0)

    def held(seed: int) -> np.ndarray:
        plan = LabelPlan(path, table, ignore=(0,), fields=HeldOutFields((1110,), 0.25, seed))
        label = cut(plan, read_classes(table), field, 10)
        assert (label.raster[codes == 9120] == 1).all()
        return label.held_out != 255

    first = held(1)
    parts = [first[row : row + 7, col : col + 7] for row in range(0, 64, 8) for col in range(0, 64, 8) if (row + col) % 16]
    assert sum(part.all() for part in parts) == 8 and sum(part.any() for part in parts) == 8  # a quarter of 32, each whole
    assert (first == held(1)).all() and (first != held(2)).any()


def test_a_code_without_a_field_is_named(tmp_path, geotiff, table):
    plan = LabelPlan(raster(tmp_path, geotiff, np.full((32, 32), 1110)), table, fields=HeldOutFields((1200,), 0.5, 0))
    with pytest.raises(DataError, match="hold_out.fields: no pixel has the code 1200"):
        cut(plan, read_classes(table), WHOLE, 10)


def test_holding_out_needs_the_crs_of_the_samples(tmp_path, geotiff, table):
    x, y = Transformer.from_crs("EPSG:32631", "EPSG:32632").transform(500000, 5600000)
    path = raster(tmp_path, geotiff, np.full((128, 128), 1110), left=x - 500, top=y + 500, crs="EPSG:32632")
    plan, place = LabelPlan(path, table, checkerboard_px=8), Footprint("EPSG:32631", 500000, 5600000, 320, 0, 0)
    with pytest.raises(DataError, match="is in EPSG:32632, the samples are in EPSG:32631; hold_out needs"):
        cut(plan, read_classes(table), place, 10)


def test_codes_that_the_table_lacks_are_warned_about(tmp_path, geotiff, table, capsys):
    codes = np.full((32, 32), 1110)
    codes[0, 0], codes[1, 1], codes[2, 2] = 4242, 0, 65535
    plan = LabelPlan(raster(tmp_path, geotiff, codes, nodata=65535), table, ignore=(0,))
    labels.warn_of_unlisted(plan, read_classes(table))
    assert "codes 4242 are not in" in capsys.readouterr().err
