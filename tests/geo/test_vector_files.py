"""Polygons are read back by geopandas as they were given; files are whole, equal and as their formats ask."""

import json
import os
import sqlite3
import subprocess
import sys
import time

import geopandas
import numpy as np
import pyarrow.parquet
import pytest
import shapely

from skysense_cli.errors import GridError
from skysense_cli.geo import vector_files
from skysense_cli.geo.crs import transformed
from skysense_cli.geo.outlines import on_globe
from skysense_cli.geo.vector_files import VectorStream, read_tags

UTM = "EPSG:32631"
COLUMNS = {"class": "object", "score": "float64", "number": "int64"}
ENDS = (".gpkg", ".parquet", ".geojson")


def squares(count, left=574_680.0, top=5_622_440.0):
    x = left + 20.0 * np.arange(count)
    return shapely.box(x, top, x + 10, top + 5)


def values(count):
    names = np.array(["Zürich", "b", 'quote"d'], dtype=object)
    return {"class": names[np.arange(count) % 3], "score": np.arange(count) / 7, "number": np.arange(count)}


TAGS = {"SKYSENSE_BUNDLE": "abc", "place": 'Zürich "x" & <y>'}


def write(path, shapes, given, crs=UTM, lots=(None,)):
    with VectorStream(path, crs, COLUMNS, "objects", TAGS) as stream:
        cuts = [0, *[cut for cut in lots if cut is not None], len(shapes)]
        for start, stop in zip(cuts, cuts[1:]):
            stream.write(shapes[start:stop], {name: column[start:stop] for name, column in given.items()})
    return stream


def read(path):
    return geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)


@pytest.mark.parametrize("end", ENDS)
def test_what_was_written_is_read_back(tmp_path, end):
    path = tmp_path / f"made{end}"
    shapes, given = squares(7), values(7)
    stream = write(path, shapes, given)
    frame = read(path)
    assert os.listdir(tmp_path) == [path.name] and stream.count == 7 and stream.parts == 0
    assert list(frame.columns) == ["class", "score", "number", "geometry"]
    assert frame["class"].tolist() == given["class"].tolist() and frame["number"].tolist() == list(range(7))
    np.testing.assert_array_equal(frame["score"], given["score"])
    if end == ".geojson":
        assert frame.crs == "OGC:CRS84" or frame.crs == "EPSG:4326"
        frame = frame.to_crs(UTM)
    assert frame.crs == UTM
    apart = shapely.hausdorff_distance(frame.geometry.values, shapes)
    assert (apart <= (0.02 if end == ".geojson" else 0)).all()


@pytest.mark.parametrize("end", ENDS)
def test_equal_features_are_equal_bytes_however_they_come(tmp_path, end, monkeypatch):
    monkeypatch.setattr(vector_files, "LOT", 10)
    shapes, given = squares(35), values(35)
    made = []
    for number, lots in enumerate([(None,), (3, 4, 20), (10, 20, 30)]):
        write(tmp_path / f"{number}{end}", shapes, given, lots=lots)
        made.append((tmp_path / f"{number}{end}").read_bytes())
        if end == ".gpkg" and not number:
            time.sleep(1.1)  # GeoPackage holds the second of the last change
    assert made[0] == made[1] == made[2]
    frame = read(tmp_path / f"1{end}")
    assert frame["number"].tolist() == list(range(35))


@pytest.mark.parametrize("end", ENDS)
def test_tags_come_back(tmp_path, end):
    path = tmp_path / f"made{end}"
    write(path, squares(2), values(2))
    assert read_tags(path) == TAGS
    (tmp_path / f"other{end}").write_bytes(b"{}")
    with pytest.raises(GridError, match=f"other{end}: is no file of polygons that skysense wrote"):
        read_tags(tmp_path / f"other{end}")


@pytest.mark.parametrize("end", ENDS)
def test_no_feature_is_a_file_with_columns(tmp_path, end):
    path = tmp_path / f"none{end}"
    write(path, squares(0), values(0))
    frame = read(path)
    assert len(frame) == 0
    if end != ".geojson":
        assert list(frame.columns) == ["class", "score", "number", "geometry"] and frame.crs == UTM


def test_a_geopackage_is_sound_and_fixed_in_time(tmp_path):
    path = tmp_path / "made.gpkg"
    write(path, squares(3), values(3))
    with sqlite3.connect(path) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert base.execute("SELECT table_name, last_change, srs_id FROM gpkg_contents").fetchall() == [
            ("objects", "2000-01-01T00:00:00.000Z", 32631)
        ]
        assert base.execute("SELECT count(*) FROM rtree_objects_geom").fetchone() == (3,)  # found by place
    found = geopandas.read_file(path, bbox=(574_715, 5_622_440, 574_725, 5_622_442))
    assert found["number"].tolist() == [2]


def test_geoparquet_says_what_it_holds(tmp_path):
    path = tmp_path / "made.parquet"
    write(path, squares(3), values(3))
    geo = json.loads(pyarrow.parquet.read_metadata(path).metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["primary_column"] == "geometry"
    column = geo["columns"]["geometry"]
    assert (
        column["encoding"] == "WKB"
        and column["geometry_types"] == ["Polygon"]
        and column["crs"]["id"] == {"authority": "EPSG", "code": 32631}
    )
    assert column["bbox"] == [574_680, 5_622_440, 574_730, 5_622_445]


def test_geojson_is_rfc_7946(tmp_path):
    path = tmp_path / "made.geojson"
    ring = shapely.Polygon([(0, 0), (0, 900), (900, 900), (900, 0)], [[(300, 300), (600, 300), (600, 600), (300, 600)]])
    write(path, np.array([shapely.affinity.translate(ring, 500_000, 5_000_000)]), values(1))
    plain = json.loads(path.read_text())
    assert set(plain) == {"type", "features", "skysense"} and plain["type"] == "FeatureCollection"
    feature = plain["features"][0]
    assert feature["properties"] == {"class": "Zürich", "score": 0.0, "number": 0}
    outer, hole = (shapely.LinearRing(points) for points in feature["geometry"]["coordinates"])
    assert outer.is_ccw and not hole.is_ccw
    assert all(0 < lon < 6 and 40 < lat < 50 for lon, lat in outer.coords)


def test_what_crosses_the_antimeridian_is_cut_and_counted(tmp_path):
    path = tmp_path / "made.geojson"
    border, _ = transformed("EPSG:4326", "EPSG:32660", np.array([180.0]), np.array([58.61]))
    x = border[0] + np.array([-9000.0, -1500.0, 5000.0])
    stream = write(path, shapely.box(x, 6_500_000, x + 4000, 6_504_000), values(3), crs="EPSG:32660")
    frame = read(path)
    crossing = [shape.geom_type == "MultiPolygon" for shape in frame.geometry]
    assert stream.parts == sum(crossing) == 1
    assert (frame.bounds.minx >= -180).all() and (frame.bounds.maxx <= 180).all()
    for shape, many in zip(frame.geometry, crossing):
        parts = shapely.get_parts(shape)
        assert len(parts) == 1 + many and all(part.bounds[2] - part.bounds[0] < 1 for part in parts)
    area = frame.to_crs("EPSG:6933").area
    np.testing.assert_allclose(area, area.mean(), rtol=0.01)


def test_a_long_edge_stays_on_the_map_line():
    band = shapely.box(300_000, 6_600_000, 700_000, 6_601_000)
    placed = shapely.segmentize(on_globe(band, UTM), 0.002)  # what the straight edges in degrees really are
    assert shapely.hausdorff_distance(geopandas.GeoSeries([placed], crs="EPSG:4326").to_crs(UTM)[0], band) < 0.1
    corners = geopandas.GeoSeries([band], crs=UTM).to_crs("EPSG:4326").segmentize(0.002)
    assert shapely.hausdorff_distance(corners.to_crs(UTM)[0], band) > 1000


def test_a_polygon_around_a_pole_is_no_geojson(tmp_path):
    with pytest.raises(GridError, match="a polygon around a pole cannot be written in degrees; write GeoPackage or GeoParquet"):
        write(tmp_path / "made.geojson", np.array([shapely.box(-5000, -5000, 5000, 5000)]), values(1), crs="EPSG:3031")
    assert not os.listdir(tmp_path)
    beside = shapely.box(5000, -5000, 15_000, 5000)
    write(tmp_path / "made.geojson", np.array([beside]), values(1), crs="EPSG:3031")
    assert read(tmp_path / "made.geojson").to_crs("EPSG:3031").geometry[0].symmetric_difference(beside).area < 1e4


def test_a_map_without_a_crs_is_written_but_not_as_geojson(tmp_path):
    for end in (".gpkg", ".parquet"):
        write(tmp_path / f"made{end}", squares(2), values(2), crs="")
        assert len(read(tmp_path / f"made{end}")) == 2 and (end == ".gpkg" or read(tmp_path / f"made{end}").crs is None)
    with pytest.raises(GridError, match=r"made.geojson: GeoJSON is in degrees of the globe, and this map has no CRS"):
        VectorStream(tmp_path / "made.geojson", "", COLUMNS, "objects")


def test_other_names_are_refused(tmp_path):
    with pytest.raises(GridError, match=r"made.shp: polygons are written as .gpkg, .parquet, .geojson"):
        VectorStream(tmp_path / "made.shp", UTM, COLUMNS, "objects")


@pytest.mark.parametrize("end", ENDS)
def test_an_error_on_the_way_leaves_the_old_file(tmp_path, end):
    path = tmp_path / f"made{end}"
    write(path, squares(2), values(2))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), VectorStream(path, UTM, COLUMNS, "objects") as stream:
        stream.write(squares(3), values(3))
        raise KeyboardInterrupt
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_vector_files as own
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from skysense_cli.errors import DiskError
try:
    own.write(Path({path!r}), own.squares(5000), own.values(5000))
except DiskError as error:
    print(error)
"""


@pytest.mark.parametrize("end", ENDS)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, end):
    code = FULL.format(tests=os.path.dirname(__file__), path=str(tmp_path / f"made{end}"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert f"made{end}: cannot be written (" in done.stdout and "Traceback" not in done.stderr, done.stderr
    assert not os.listdir(tmp_path)
