"""Footprints cover an area once, in every hemisphere and zone."""

import numpy as np
import pytest
import shapely

from skysense_cli.errors import GridError
from skysense_cli.geo import footprints as module
from skysense_cli.geo.crs import transformer
from skysense_cli.geo.footprints import Footprint, footprints
from skysense_cli.geo.grid import WGS84, lonlat, utm_epsg


def test_the_footprint_of_every_modality_has_the_same_bounds():
    place = Footprint("EPSG:32631", 504320.5, 5621120.25, 640, 0, 0)
    assert place.bounds == (504320.5, 5620480.25, 504960.5, 5621120.25)
    for gsd, pixels in ((10, 64), (20, 32), (2.5, 256), (0.3125, 2048)):
        made = place.grid(gsd)
        assert made.shape == (pixels, pixels)
        assert tuple(made.boundingbox) == place.bounds


def test_a_gsd_that_does_not_divide_the_footprint_is_refused_with_the_nearest():
    with pytest.raises(GridError, match=r"640 m is not a whole number of 30 m pixels \(nearest gsd: 30\.4762 m\)"):
        Footprint("EPSG:32631", 0, 0, 640, 0, 0).grid(30)


def test_footprint_ids_tell_zone_and_corner():
    assert Footprint("EPSG:32631", 504320, 5621120, 640, 0, 0).id == "32631_504320_5621120"
    assert Footprint("EPSG:32733", 504320.5, 10.125, 640, 0, 0).id == "32733_504320.5_10.125"


def utm_box(left, bottom, right, top, epsg):
    return shapely.transform(
        shapely.box(left, bottom, right, top), lambda p: np.column_stack(transformer(f"EPSG:{epsg}", "EPSG:4326").transform(*p.T))
    )


def test_footprints_fill_an_area_from_its_corner_without_touching_neighbours():
    area = utm_box(574680, 5621800, 575320, 5622440, 32631)
    found = footprints(area, crs="utm", size_m=160, anchor="area")
    assert len(found) == 16
    assert (found[0].left, found[0].top, found[0].row, found[0].col) == (574680, 5622440, 0, 0)
    assert (found[-1].left, found[-1].top, found[-1].row, found[-1].col) == (575160, 5621960, 3, 3)


def test_footprints_lie_on_multiples_of_the_stride_in_both_hemispheres():
    for lat in (50.7, -33.2):
        found = footprints(shapely.box(20.0, lat, 20.02, lat + 0.02), crs="utm", size_m=640, stride_m=320)
        assert {f.crs for f in found} == {f"EPSG:{utm_epsg(20.01, lat)}"}
        assert all(f.left % 320 == 0 and f.top % 320 == 0 for f in found)
        assert all(f.left == f.col * 320 and f.top == -f.row * 320 for f in found)


def test_only_footprints_that_touch_the_area_are_made():
    area = shapely.Polygon([(4.0, 50.0), (4.2, 50.0), (4.0, 50.2)])
    found = footprints(area, crs="EPSG:32631", size_m=1000)
    shape = module._projected(area, "EPSG:32631")
    expected = 0
    left, bottom, right, top = (v / 1000 for v in shape.bounds)
    for x in range(int(left) - 1, int(right) + 2):
        for y in range(int(bottom) - 1, int(top) + 2):
            expected += shapely.box(x * 1000, y * 1000, x * 1000 + 1000, y * 1000 + 1000).intersection(shape).area > 1
    assert len(found) == expected


def test_an_area_over_two_zones_gets_each_place_once():
    found = footprints(shapely.box(5.9, 50.7, 6.1, 50.75), crs="utm", size_m=640)
    assert {f.crs for f in found} == {"EPSG:32631", "EPSG:32632"}
    assert len({f.id for f in found}) == len(found)
    for place in found:
        lon, lat = lonlat(place.bounds, place.crs)
        assert f"EPSG:{utm_epsg(lon, lat)}" == place.crs
    ground = sum(1 for _ in found) * 640**2
    true = WGS84.geometry_area_perimeter(shapely.box(5.9, 50.7, 6.1, 50.75))[0]
    assert 1 < ground / true < 1.25  # edges reach out; no second layer of footprints


def test_an_area_across_the_antimeridian_has_footprints_of_both_zones():
    area = shapely.MultiPolygon([shapely.box(179.95, -10, 180, -9.95), shapely.box(-180, -10, -179.95, -9.95)])
    found = footprints(area, crs="utm", size_m=640)
    assert {f.crs for f in found} == {"EPSG:32760", "EPSG:32701"}


def test_a_crs_in_degrees_or_out_of_scale_is_refused():
    area = shapely.box(4, 50, 4.01, 50.01)
    with pytest.raises(GridError, match=r"EPSG:3857: a metre of the map is 0\.64\d m on the ground.*EPSG:32631"):
        footprints(area, crs="EPSG:3857", size_m=640)
    with pytest.raises(GridError, match=r"EPSG:4326 is in degree; a projected CRS in metres is needed"):
        footprints(area, crs="EPSG:4326", size_m=640)
    with pytest.raises(GridError, match="US survey foot"):
        footprints(shapely.box(-75, 40, -74.99, 40.01), crs="EPSG:2263", size_m=640)
    assert footprints(shapely.box(4, 0, 4.01, 0.01), crs="EPSG:3857", size_m=640)


def test_words_that_are_no_crs_and_areas_without_ground_are_refused():
    with pytest.raises(GridError, match="'EPSG:99999999' is not a coordinate reference system"):
        footprints(shapely.box(0, 0, 1, 1), crs="EPSG:99999999", size_m=640)
    with pytest.raises(GridError, match="area is empty"):
        footprints(shapely.Polygon(), crs="utm", size_m=640)
    with pytest.raises(GridError, match="latitude 88"):
        footprints(shapely.box(0, 80, 1, 88), crs="utm", size_m=640)
    with pytest.raises(GridError, match="footprints of 1 m; at most"):
        footprints(shapely.box(0, 0, 5, 5), crs="utm", size_m=1)


def test_an_area_that_holds_too_many_footprints_is_refused_before_any_is_made():
    with pytest.raises(
        GridError, match=r"holds about 1,2\d\d,\d{3},\d{3} footprints of 640 m; at most 50,000,000 are possible: take a smaller"
    ):
        footprints(shapely.box(-180, -90, 180, 90), crs="utm", size_m=640)
