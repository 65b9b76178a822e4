"""Areas of interest."""

import json

import geopandas
import numpy as np
import pytest
import shapely

from skysense_cli.errors import GridError
from skysense_cli.geo.cog import write_geotiff
from skysense_cli.geo.grid import make_grid
from skysense_cli.geo.vectors import read_area

SQUARE = shapely.box(4.0, 50.0, 4.1, 50.1)


@pytest.mark.parametrize("name", ["a.geojson", "a.gpkg", "a.parquet", "a.fgb", "a.shp"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32631"])
def test_every_format_gives_the_same_area(tmp_path, name, crs):
    frame = geopandas.GeoDataFrame(geometry=[SQUARE, shapely.box(4.05, 50.05, 4.2, 50.2)], crs="EPSG:4326").to_crs(crs)
    path = tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_file(path)
    assert read_area(path).symmetric_difference(shapely.union_all([SQUARE, shapely.box(4.05, 50.05, 4.2, 50.2)])).area < 2e-5


def test_bounds_may_cross_the_antimeridian():
    assert read_area((4, 50, 5, 51)).bounds == (4, 50, 5, 51)
    area = read_area((179, -10, -179, -9))
    assert area.area == pytest.approx(2) and len(area.geoms) == 2
    with pytest.raises(GridError, match="longitude first"):
        read_area((4, 51, 5, 50))
    with pytest.raises(GridError, match="longitude first"):
        read_area((504320, 5620480, 504960, 5621120))


def test_a_projected_area_across_the_antimeridian_stays_small(tmp_path):
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(179.9, -10, 180.1, -9.9)], crs="EPSG:4326").to_crs("EPSG:32760")
    frame.to_file(tmp_path / "a.gpkg")
    area = read_area(tmp_path / "a.gpkg")
    assert area.area == pytest.approx(0.02, rel=0.01) and area.bounds[0] == -180 and area.bounds[2] == 180


def test_longitudes_beyond_180_are_turned_back(tmp_path):
    geopandas.GeoDataFrame(geometry=[shapely.box(179, 0, 181, 1)], crs="EPSG:4326").to_file(tmp_path / "a.geojson")
    area = read_area(tmp_path / "a.geojson")
    assert area.area == pytest.approx(2) and area.contains(shapely.Point(-179.5, 0.5))


def test_the_outline_of_a_raster_is_an_area(tmp_path):
    write_geotiff(tmp_path / "a.tif", np.zeros((1, 64, 64), np.uint8), make_grid(574680, 5622440, 10, 64, 64, "EPSG:32631"))
    assert read_area(tmp_path / "a.tif").bounds == pytest.approx((4.058458, 50.743094, 4.067658, 50.748932), abs=1e-5)


def refused(path, words):
    with pytest.raises(GridError, match=words) as caught:
        read_area(path)
    assert str(path) in str(caught.value)


def test_files_that_hold_no_area_are_refused_by_name(tmp_path):
    path = tmp_path / "a.geojson"
    refused(path, "no such file")
    refused(tmp_path / "a.txt", "no known kind of area file")
    path.write_text('<OGRVRTDataSource><OGRVRTLayer name="x"><SrcDataSource>/etc/passwd</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>')
    refused(path, "does not hold what its name says")
    path.write_text("{broken")
    refused(path, "cannot be read")
    path.write_text('{"type": "FeatureCollection", "features": []}')
    refused(path, "holds no geometry")
    feature = {"type": "Feature", "properties": {}, "geometry": shapely.box(504320, 5620480, 504960, 5621120).__geo_interface__}
    path.write_text(json.dumps(feature))
    refused(path, "which are no degrees; are its coordinates projected")
    geopandas.GeoDataFrame(geometry=[SQUARE]).to_parquet(tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "names no CRS")


def test_hostile_geojson_is_read_or_refused_by_name(badinput_dir, tmp_path):
    import subprocess
    import sys

    from skysense_cli.errors import SkySenseError

    subprocess.run([sys.executable, badinput_dir / "make_bad.py", tmp_path, "--only", "geojson"], check=True, capture_output=True)
    cases = json.loads((tmp_path / "cases.json").read_text())
    assert len(cases) > 30
    for case in cases:
        path = tmp_path / case["path"]
        try:
            area = read_area(path)
        except SkySenseError as error:
            assert case["want"] != "handle" and str(error).startswith(f"{path}: ") and "\n" not in str(error), case["id"]  # noqa: PT017
        else:
            assert case["want"] != "reject" or "outside" in case["id"], case["id"]  # that is another place, where no scene lies
            assert not area.is_empty and area.bounds[0] >= -180 and area.bounds[2] <= 180


def test_an_area_across_the_antimeridian_is_small_whether_it_was_cut_or_not(tmp_path):
    path = tmp_path / "a.geojson"
    ring = [[179, 0], [-179, 0], [-179, 1], [179, 1], [179, 0]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    area = read_area(path)
    assert area.area == pytest.approx(2) and area.bounds == (-180, 0, 180, 1)
    assert area.symmetric_difference(read_area((179.0, 0.0, -179.0, 1.0))).area == pytest.approx(0)
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[[-180, -60], [180, -60], [180, 60], [-180, 60], [-180, -60]]]}))
    assert read_area(path).area == pytest.approx(360 * 120)  # around the globe it is


def test_an_outline_is_mended_only_where_that_leaves_its_area(tmp_path):
    path = tmp_path / "a.geojson"
    touching = [[0, 0], [2, 0], [2, 1], [1, 1], [1.001, 1.001], [1, 1], [0, 1], [0, 0]]  # a spike
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [touching]}))
    assert read_area(path).area == pytest.approx(2)
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}))
    refused(path, r"has an outline that is not valid .Self-intersection.*mend it in a GIS")
    path.write_text(json.dumps({"type": "LineString", "coordinates": [[0, 0], [1, 1]]}))
    refused(path, "holds a LineString without an area; expected polygons")
