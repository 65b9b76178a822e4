"""The page holds what the files hold: numbers where they belong, areas as they are on the ground, texts as texts."""

import hashlib
import re

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Geod

from skysense_cli.cli.main import main
from skysense_cli.engine import prototype_files
from skysense_cli.engine.viewer import layers
from skysense_cli.engine.viewer.page import HERE, write_page
from skysense_cli.errors import DataError, GridError
from skysense_cli.geo.cog import write_geotiff

GRIDS = {
    "utm": GeoBox((90, 120), Affine(10, 0, 400_000, 0, -10, 6_650_000), "EPSG:32633"),
    "degrees": GeoBox((90, 120), Affine(0.002, 0, 15, 0, -0.001, 60.05), "EPSG:4326"),
    "web mercator": GeoBox((90, 120), Affine(20, 0, 1_669_792, 0, -20, 8_400_000), "EPSG:3857"),
    "south up": GeoBox((90, 120), Affine(10, 0, 400_000, 0, 10, 6_640_000), "EPSG:32633"),
    "rotated": GeoBox((90, 120), Affine(8, 5, 400_000, 5, -8, 6_650_000), "EPSG:32633"),
    "southern": GeoBox((90, 120), Affine(10, 0, 300_000, 0, -10, 6_200_000), "EPSG:32721"),
    "across the antimeridian": GeoBox((90, 120), Affine(100, 0, 327_705, 0, -100, 6_660_205), "EPSG:32601"),
    "near the pole": GeoBox((90, 120), Affine(100, 0, 1_000_000, 0, -100, -1_000_000), "EPSG:3413"),
}
LEAFLET = {  # of leaflet 1.9.4 as its package holds them
    "leaflet.js": "db49d009c841f5ca34a888c96511ae936fd9f5533e90d8b2c4d57596f4e5641a",
    "leaflet.css": "a7837102824184820dfa198d1ebcd109ff6d0ff9a2672a074b9a1b4d147d04c6",
}


def make_page(tmp_path, maps, *places, max_px=2048):
    write_page(list(places), tmp_path / "page.html", max_px)
    return maps.read_page(tmp_path / "page.html")


def geodesic_hectares(maps, grid, first, last):
    """Of the columns first to last, all rows."""
    height, share = grid.shape[0], np.linspace(0, 1, 50)
    columns = np.concatenate([first + share * (last - first), np.full(50, last), last - share * (last - first), np.full(50, first)])
    rows = np.concatenate([np.zeros(50), share * height, np.full(50, height), (1 - share) * height])
    return abs(Geod(ellps="WGS84").polygon_area_perimeter(*maps.lonlat_of(grid, columns, rows))[0]) / 10_000


@pytest.mark.parametrize("name", GRIDS)
def test_every_class_lies_where_it_is_and_has_its_geodesic_area(tmp_path, maps, name):
    grid = GRIDS[name]
    maps.write_classes(tmp_path / "crops.tif", grid)
    page = make_page(tmp_path, maps, tmp_path / "crops.tif")
    for column, row, expected in ((1.5, 1.5, 255), (20, 50, 0), (38.5, 88, 0), (41.5, 88, 1), (60, 45, 1), (118.5, 2, 2), (118.5, 88, 2)):
        assert page.number_at("crops.tif", *maps.lonlat_of(grid, column, row)) == expected, (column, row)
    assert page.number_at("crops.tif", *maps.lonlat_of(grid, -60, 45)) in (None, 255)
    hectares = [entry["hectares"] for entry in page.layer("crops.tif")["classes"]]
    assert hectares[1:] == pytest.approx([geodesic_hectares(maps, grid, 40, 80), geodesic_hectares(maps, grid, 80, 120)], rel=1e-4)


def test_the_page_lists_names_colours_shares_and_where_the_map_comes_from(tmp_path, maps, folder):
    page = make_page(tmp_path, maps, folder)
    tracks = {track["title"]: track for track in page.data["tracks"]}
    assert list(tracks) == ["scene", "crops", "crops confidence"]  # from the bottom to the top
    assert [track["visible"] for track in tracks.values()] == [True, True, False]
    crops = page.layer("crops.tif")
    assert [(entry["name"], entry["color"]) for entry in crops["classes"]] == list(
        zip(maps.NAMES, ("#1e3cc8", "#14781e", "#dcb428"), strict=True)
    )
    assert sum(entry["share"] for entry in crops["classes"]) == pytest.approx(1, abs=1e-5)
    facts = dict(crops["facts"])
    assert facts["bundle SHA-256"] == "0123456789abcdef" and facts["scenes s2"] == "S2A_1 S2B_2" and crops["simulated"]
    confidence = page.layer("crops_confidence.tif")
    value = confidence["first"] + confidence["step"] * page.number_at("crops_confidence.tif", *maps.lonlat_of(maps.AT_60_NORTH, 60, 45.5))
    with rasterio.open(folder / "crops_confidence.tif") as dataset:
        assert value == pytest.approx(dataset.read(1)[45, 60] / 200)
    assert tracks["crops confidence"]["limits"] == [0, 1]


def test_texts_of_files_end_no_element_and_run_nothing(tmp_path, maps, folder):
    text = make_page(tmp_path, maps, folder).text
    assert "<img src=x" not in text and "window.pwned" in text
    assert text.count("</script>") == 3 and text.count("<script") == 3
    assert re.findall(r'(?:src|href)="(?!data:,|#)[^"]*"', text.split('id="data"')[0]) == []


def test_a_large_map_is_reduced_by_majority_and_says_so(tmp_path, maps):
    rng = np.random.default_rng(0)
    grid = GeoBox((200, 300), Affine(0.0004, 0, 15, 0, -0.0002, 60.05), "EPSG:4326")  # square on the web map
    numbers = rng.choice(np.array([0, 2], np.uint8), grid.shape)
    maps.write_classes(tmp_path / "crops.tif", grid, numbers)
    page = make_page(tmp_path, maps, tmp_path / "crops.tif", max_px=64)
    layer = page.layer("crops.tif")
    assert max(layer["width"], layer["height"]) <= 64
    assert layer["notes"][0].startswith("Reduced: a pixel shown is the commonest class of 5 x 5 pixels")
    assert [entry["code"] for entry in layer["classes"]] == [0, 2]  # no class between them was made up
    right = 0
    for i, j in np.ndindex(40, 60):
        found = page.number_at("crops.tif", *maps.lonlat_of(grid, 5 * j + 2.5, 5 * i + 2.5))
        right += found == int((numbers[5 * i : 5 * i + 5, 5 * j : 5 * j + 5] == 2).sum() > 12)
    assert right >= 0.97 * 40 * 60  # the pixels of the web map are not quite those of the file
    total = sum(entry["hectares"] for entry in layer["classes"])
    assert total == pytest.approx(geodesic_hectares(maps, grid, 0, 300), rel=1e-4)


def test_series_are_found_by_the_dates_in_names_and_tags(tmp_path, maps):
    for name in ("crops_2019.tif", "crops_2020.tif", "crops_2021.tif", "other_2019.tif"):
        maps.write_classes(tmp_path / name)
    maps.write_scene(tmp_path / "S2A_20210401T105031_x.tif")
    maps.write_scene(tmp_path / "S2A_20210406T105031_x.tif")
    maps.write_confidence(tmp_path / "a.tif")
    tracks = make_page(tmp_path, maps, tmp_path).data["tracks"]
    found = {track["title"]: [layer["date"] for layer in track["layers"]] for track in tracks}
    assert found == {
        "S2A x": ["2021-04-01", "2021-04-06"], "crops": ["2019", "2020", "2021"], "other 2019": ["2019"], "a": [""],
    }  # fmt: skip


def test_prototypes_get_the_colours_of_their_regions(tmp_path, maps):
    grid, per_region = maps.AT_60_NORTH, 4
    index = np.broadcast_to((np.arange(120) // 30).astype(np.uint16), grid.shape).copy()
    region = np.where(np.arange(90)[:, None] < 45, 7, 9).astype(np.int32) * np.ones((1, 120), np.int32)
    palette = {number: (number, number, number) for number in range(per_region)}
    tags = {"SKYSENSE_SEAM_RULE": "x"}
    write_geotiff(tmp_path / "prototypes.tif", index[None], grid, nodata=65535, colors=palette, band_names=["prototype"], tags=tags)
    write_geotiff(tmp_path / "prototypes_region.tif", region[None], grid, nodata=-1, band_names=["region"], tags=tags)
    lines = [{"region": r, "prototype": p, "color": f"#{r:02x}{p:02x}00"} for r in (7, 9) for p in range(4)]
    (tmp_path / "legend.json").write_text(re.sub("'", '"', str({"per_region": per_region, "prototypes": lines})))
    page = make_page(tmp_path, maps, tmp_path)
    assert [layer["name"] for track in page.data["tracks"] for layer in track["layers"]] == ["prototypes.tif"]
    classes = page.layer("prototypes.tif")["classes"]
    assert [(entry["name"], entry["color"]) for entry in classes] == [(f"{r}: {p}", f"#{r:02x}{p:02x}00") for r in (7, 9) for p in range(4)]
    for column, row, expected in ((10, 10, "7: 0"), (110, 10, "7: 3"), (10, 80, "9: 0"), (45, 80, "9: 1")):
        assert classes[page.number_at("prototypes.tif", *maps.lonlat_of(grid, column, row))]["name"] == expected
    (tmp_path / "north").mkdir()
    for name in ("prototypes.tif", "prototypes_region.tif"):
        (tmp_path / name).rename(tmp_path / "north" / name)
    write_geotiff(tmp_path / "prototypes.tif", index[None], grid, nodata=65535, colors=palette, band_names=["prototype"])
    page = make_page(tmp_path, maps, tmp_path)  # maps of several places share the legend above them
    assert [track["title"] for track in page.data["tracks"]] == ["north/prototypes", f"{tmp_path.name}/prototypes"]
    assert page.data["tracks"][0]["layers"][0]["classes"] == classes
    assert (layers.INDEX, layers.REGION) == (prototype_files.INDEX, prototype_files.REGION)


def test_rasters_of_others_are_told_apart(tmp_path, maps):
    grid = maps.AT_60_NORTH
    codes = np.where(maps.class_numbers() == 2, 9120, 1110).astype(np.uint16)
    write_geotiff(tmp_path / "codes.tif", codes[None], grid)
    heights = (np.arange(120, dtype=np.float32) + np.zeros((90, 1), np.float32)) - 30
    heights[:5] = np.nan
    write_geotiff(tmp_path / "heights.tif", heights[None], grid, band_names=["metres"])
    write_geotiff(tmp_path / "signed.tif", np.arange(90 * 120, dtype=np.int32).reshape(1, 90, 120) - 500, grid)
    page = make_page(tmp_path, maps, tmp_path)
    kinds = {track["layers"][0]["name"]: (track["kind"], track["what"]) for track in page.data["tracks"]}
    assert kinds == {"codes.tif": ("class", "class"), "heights.tif": ("value", "metres"), "signed.tif": ("value", "value")}
    assert [entry["name"] for entry in page.layer("codes.tif")["classes"]] == ["class 1110", "class 9120"]
    layer, place = page.layer("heights.tif"), maps.lonlat_of(grid, 100.5, 45.5)
    assert layer["first"] + layer["step"] * page.number_at("heights.tif", *place) == pytest.approx(70, abs=0.01)
    assert page.number_at("heights.tif", *maps.lonlat_of(grid, 60, 2)) == 65535
    layer = page.layer("signed.tif")
    assert layer["step"] == 1 and layer["first"] + page.number_at("signed.tif", *place) == 45 * 120 + 100 - 500


def test_what_cannot_be_shown_is_refused_by_name(tmp_path, maps):
    with pytest.raises(DataError, match="nothing: no such file or folder"):
        write_page([tmp_path / "nothing"], tmp_path / "page.html", 512)
    with pytest.raises(DataError, match="holds no raster"):
        write_page([tmp_path], tmp_path / "page.html", 512)
    write_geotiff(tmp_path / "nowhere.tif", np.zeros((1, 8, 8), np.uint8), GeoBox((8, 8), Affine.identity(), None))
    with pytest.raises(GridError, match=r"nowhere\.tif: is not georeferenced"):
        write_page([tmp_path], tmp_path / "page.html", 512)
    polar = GeoBox((20, 20), Affine(1000, 0, -10_000, 0, -1000, 10_000), "EPSG:3413")
    maps.write_classes(tmp_path / "pole.tif", polar)
    with pytest.raises(GridError, match=r"pole\.tif: lies around a pole"):
        write_page([tmp_path / "pole.tif"], tmp_path / "page.html", 512)
    (tmp_path / "damaged.tif").write_bytes(b"II*\0" + bytes(40))
    with pytest.raises(GridError, match=r"damaged\.tif"):
        write_page([tmp_path / "damaged.tif"], tmp_path / "page.html", 512)
    assert not (tmp_path / "page.html").exists()


def test_a_raster_too_large_for_a_page_is_refused_at_once(tmp_path, maps, monkeypatch):
    monkeypatch.setattr("skysense_cli.engine.viewer.reading.MOST_COUNTED_PX", 1000)
    with pytest.raises(GridError, match=r"crops\.tif: has 10,800 pixels, a page is made of at most 1,000; show it with --serve"):
        write_page([maps.write_classes(tmp_path / "crops.tif")], tmp_path / "page.html", 512)


def test_equal_files_give_equal_pages(tmp_path, maps, folder):
    first, again = (make_page(tmp_path, maps, folder).text for _ in range(2))
    assert first == again


def test_leaflet_is_as_published_and_its_licence_lies_beside_it():
    for name, digest in LEAFLET.items():
        assert hashlib.sha256((HERE / "leaflet" / name).read_bytes()).hexdigest() == digest, name
    assert "Redistribution and use in source and binary forms" in (HERE / "leaflet" / "LICENSE.txt").read_text()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "give either --out PAGE"),
        (["--out", "page.html", "--serve"], 2, "give either --out PAGE"),
        (["--out", "page.html", "--port", "80"], 2, "--port goes with --serve"),
        (["--out", "page.html"], 0, "page: page.html (3 layers"),
    ],
)
def test_the_command_says_what_it_did_or_why_not(tmp_path, folder, monkeypatch, capsys, options, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["skysense", "view", str(folder), *options])
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code or 0) == code
    said = capsys.readouterr()
    assert message in (said.out if code == 0 else said.err)
