"""Features beside a map, from the same pass: what they hold, where they lie, and that nothing else changes by them."""

import itertools
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from rio_cogeo.cogeo import cog_validate
from typer.testing import CliRunner

from skysense_cli.cli.main import app
from skysense_cli.cli.options import Options
from skysense_cli.cli.predict import run
from skysense_cli.core.encoders import Encoder
from skysense_cli.core.heads import Head
from skysense_cli.data.dataset import Input
from skysense_cli.engine.assemble import lift_scale, load_bundle, unit_m
from skysense_cli.engine.memory import Made, needs
from skysense_cli.engine.parts import Parts
from skysense_cli.engine.predict import steps_abreast
from skysense_cli.engine.predict_map import open_prediction
from skysense_cli.engine.ranks import World
from skysense_cli.engine.scene_cells import CellArea
from skysense_cli.errors import GridError, RecipeError
from skysense_cli.recipe.load import load_recipe

SHAPE = 75, 91  # neither whole units (4 px) nor whole cells (2 px)


def hole():
    empty = np.zeros(SHAPE, bool)
    empty[20:41, 30:60] = True  # larger than a tile, so some are not computed; cuts cells in halves
    empty[3, 5] = empty[6:8, 70:72] = True
    return empty


@pytest.fixture(scope="module")
def home(tmp_path_factory, scene_kit):
    """A bundle, a scene with a hole, and its class map and features with tiles of 4 units."""
    home = tmp_path_factory.mktemp("features")
    scene_kit.write_bundle(home / "bundle")
    scene_kit.write_scene(home / "20210401.tif", np.where(hole(), 0, scene_kit.numbers(*SHAPE)).astype(np.uint16))
    (home / "map.yaml").write_text(f"""
recipe: predict
version: 1
bundle: {home}/bundle
scene: {{s2: ['{home}/20210401.tif']}}
output: {home}/maps/map.tif
tiles: {{size_m: 160, overlap: 0.45, batch: 5}}
write: {{what: [class, features]}}
""")
    predict(home, home)
    return home


def predict(home, folder, *sets, **options):
    """The content of the files of a run of the recipe, but for its copy."""
    output = folder / "maps" / "map.tif"
    run(load_recipe(home / "map.yaml", "predict", (f"output={output}", *sets)), Options(device="cpu", **options))
    return {path.name: path.read_bytes() for path in sorted(output.parent.iterdir()) if path.name != "map.recipe.yaml"}


def kept(home):
    return {path.name: path.read_bytes() for path in sorted((home / "maps").iterdir()) if path.name != "map.recipe.yaml"}


def cells(path):
    with rasterio.open(path) as made:
        return made.read(), made.transform


@pytest.mark.parametrize(("tile", "overlap", "batch"), [(160, 0.45, 5), (120, 0.0, 1), (200, 0.3, 8), (4000, 0.25, 3)])
def test_features_of_a_scene_are_the_blend_of_those_of_its_tiles(home, scene_kit, tmp_path, tile, overlap, batch):
    predict(home, tmp_path, f"tiles={{size_m: {tile}, overlap: {overlap}, batch: {batch}}}")
    made, transform = cells(tmp_path / "maps" / "map_features.tif")
    pixels = np.where(hole(), 0, scene_kit.numbers(*SHAPE))
    loaded = load_bundle(home / "bundle")
    expected = scene_kit.whole_features(loaded, pixels, ~hole(), tile_units=tile // 40, overlap=overlap)
    assert made.shape == expected.shape == (16, 38, 46) and made.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(made), np.isnan(expected))
    np.testing.assert_allclose(made, expected, rtol=0, atol=2e-6)
    assert np.isnan(made[0, 11:19, 15:30]).all() and not np.isnan(made[0, 1, 2])  # three quarters of that cell are seen
    assert transform == Affine(20, 0, scene_kit.LEFT, 0, -20, scene_kit.TOP)


def test_the_class_map_is_what_it_is_without_features(home, tmp_path):
    alone = predict(home, tmp_path, "write.what=class")
    with rasterio.open(tmp_path / "maps" / "map.tif") as one, rasterio.open(home / "maps" / "map.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())
    assert alone["map.legend.json"] == kept(home)["map.legend.json"] and alone["map.png"] == kept(home)["map.png"]


def test_what_the_files_say_of_themselves(home, scene_kit):
    names = {"map.tif", "map.png", "map.legend.json", "map.stac.json", "map.environment.json", "map_features.tif", "map_features.png"}
    assert set(kept(home)) == names
    path = home / "maps" / "map_features.tif"
    with rasterio.open(path) as made, rasterio.open(home / "maps" / "map.tif") as plain:
        assert made.crs == scene_kit.CRS and np.isnan(made.nodata) and made.descriptions[:2] == ("fused 0", "fused 1")
        own, others = ({name: text for name, text in one.tags().items() if name.startswith("SKYSENSE")} for one in (made, plain))
        assert own == others | {"SKYSENSE_WHAT": "features"} and made.overviews(1) == []
    assert cog_validate(path, quiet=True)[0]
    item = pystac.Item.from_file(str(home / "maps" / "map.stac.json"))
    asset = item.assets["features"].extra_fields
    assert asset["proj:shape"] == [38, 46] and asset["proj:transform"][:6] == [20, 0, scene_kit.LEFT, 0, -20, scene_kit.TOP]
    assert item.properties["proj:shape"] == list(SHAPE) and "proj:shape" not in item.assets["class"].extra_fields
    assert len(asset["raster:bands"]) == 16 and asset["raster:bands"][0] == {"name": "fused 0", "data_type": "float32", "nodata": "nan"}


def test_features_are_those_that_embed_writes(home, scene_kit, tmp_path):
    """Two modalities, with the tiles that both commands take by themselves."""
    scene_kit.write_bundle(tmp_path / "bundle", radar=True)
    scene_kit.write_radar(tmp_path / "20210402.tif", 38, 46)
    scene = f"{{s2: ['{home}/20210401.tif'], s1: ['{tmp_path}/20210402.tif']}}"
    (tmp_path / "embed.yaml").write_text(
        f"recipe: embed\nversion: 1\nbundle: {tmp_path}/bundle\nscene: {scene}\noutput: {tmp_path}/embedded\ntiles: {{size_m: 320}}\n"
    )
    assert CliRunner().invoke(app, ["embed", str(tmp_path / "embed.yaml"), "--device", "cpu"]).exit_code == 0
    predict(home, tmp_path, f"bundle={tmp_path}/bundle", f"scene={scene}", "tiles={size_m: 320}")
    embedded, transform = cells(tmp_path / "embedded" / "embedding.tif")
    made, own = cells(tmp_path / "maps" / "map_features.tif")
    np.testing.assert_array_equal(made, embedded)
    assert own == transform


@pytest.mark.parametrize("first", ["features", "[features, class]"])
def test_features_alone_or_first_are_the_output_itself(home, tmp_path, monkeypatch, first):
    if first == "features":
        monkeypatch.setattr(Head, "__call__", lambda *_: pytest.fail("nothing asks for scores"))
    made = predict(home, tmp_path, f"write.what={first}")
    np.testing.assert_array_equal(cells(tmp_path / "maps" / "map.tif")[0], cells(home / "maps" / "map_features.tif")[0])
    assert ("map_class.tif" in made) == ("map.legend.json" in made) == (first != "features")


def test_the_encoder_sees_every_step_once(home, tmp_path, monkeypatch):
    recipe = load_recipe(home / "map.yaml", "predict", ())
    loaded = load_bundle(home / "bundle", "cpu")
    (encoder,) = loaded.model.encoders.values()
    assert isinstance(encoder, Encoder)
    counts = []
    encoder.register_forward_hook(lambda module, given, found: counts.append(len(given[0])))
    seen = []
    for number, what in enumerate((("class",), ("class", "features"), ("features",))):
        prediction = open_prediction(recipe.model_copy(update={"write": recipe.write.model_copy(update={"what": what})}), loaded)
        counts.clear()
        prediction.write(tmp_path / f"{number}.tif", "digest")
        seen.append(list(counts))
    assert seen[0] == seen[1] == seen[2] and sum(seen[0]) < prediction.job.plan.count


def test_flipped_tiles_give_their_features_back_flipped(home, scene_kit, tmp_path):
    """A tile that holds the scene, so each flip is the scene flipped."""
    pixels, seen = scene_kit.numbers(64, 80), np.ones((64, 80), bool)
    seen[:10, 60:] = False
    path = scene_kit.write_scene(tmp_path / "20210401.tif", np.where(seen, pixels, 0).astype(np.uint16))
    predict(home, tmp_path, f"scene.s2=['{path}']", "tiles={size_m: 800, flips: true}")
    loaded, mean = load_bundle(home / "bundle"), 0
    for axes in ((), (-1,), (-2,), (-2, -1)):
        whole = scene_kit.whole_features(
            loaded, np.flip(np.where(seen, pixels, 0), axes), np.flip(seen, axes), tile_units=20
        )  # fmt: skip
        mean = mean + np.flip(whole, axes) / 4
    np.testing.assert_allclose(cells(tmp_path / "maps" / "map_features.tif")[0], mean, rtol=0, atol=2e-6)


# areas


def ring(kit, *pixels):
    change = Transformer.from_crs(kit.CRS, 4326, always_xy=True)
    return [list(change.transform(kit.LEFT + column * 10, kit.TOP - row * 10)) for column, row in (*pixels, pixels[0])]


@pytest.mark.parametrize("gsd", [10, 20, 40 / 3, 40])
def test_an_area_has_the_features_of_the_whole_scene_in_the_cells_that_it_meets(home, scene_kit, tmp_path, gsd):
    corners = tuple((x + 0.1, y + 0.1) for x, y in ((13, 9), (77, 9), (77, 35), (33, 35), (33, 71), (13, 71)))  # an L, its edges in cells
    (tmp_path / "l.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring(scene_kit, *corners)]}))
    predict(home, tmp_path, f"area={tmp_path}/l.geojson", f"write.gsd={gsd}")
    whole, lattice = cells(home / "maps" / "map_features.tif")
    part, own = cells(tmp_path / "maps" / "map_features.tif")
    labels, grid = cells(tmp_path / "maps" / "map.tif")
    assert own.a == 20 and 0 <= grid.c - own.c < 20 - 1e-9 and 0 <= own.f - grid.f < 20 - 1e-9  # the cell that the map begins in
    column, row = ~lattice @ (own.c, own.f)
    assert (column, row) == (pytest.approx(round(column), abs=1e-9), pytest.approx(round(row), abs=1e-9))
    here = whole[:, round(row) : round(row) + part.shape[1], round(column) : round(column) + part.shape[2]]
    inside = pixels_inside(scene_kit, grid, labels.shape[1:], corners)
    met = np.zeros(part.shape[1:], bool)
    for i, j in zip(*np.nonzero(inside), strict=True):
        left, top = ~own @ (grid @ (j, i))
        right, bottom = ~own @ (grid @ (j + 1, i + 1))
        met[int(top + 1e-6) : int(np.ceil(bottom - 1e-6)), int(left + 1e-6) : int(np.ceil(right - 1e-6))] = True
    assert 0.4 < met.mean() < 0.7
    np.testing.assert_array_equal(part, np.where(met, here, np.nan))


def pixels_inside(kit, grid, shape, corners):
    """(H, W) bool of pixels whose centre lies in the L."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    x, y = grid.a * (columns + 0.5) + grid.c, grid.e * (rows + 0.5) + grid.f
    x, y = (x - kit.LEFT) / 10, (kit.TOP - y) / 10
    return (x > 13.1) & (y > 9.1) & (((x < 77.1) & (y < 35.1)) | ((x < 33.1) & (y < 71.1)))


@pytest.mark.parametrize(("cells_of", "pixels_of"), [(2, 4), (4, 2), (2, 3), (3, 3), (1, 5), (5, 1), (4, 6)])
def test_a_cell_belongs_to_an_area_when_it_shares_ground_with_a_pixel_of_it(cells_of, pixels_of):
    mask = np.random.default_rng(0).random((6 * pixels_of, 7 * pixels_of)) < 0.15

    class Area:
        def inside(self, rows, columns):
            return mask[rows, columns].copy()

    ends = mask.shape[0] - 1, mask.shape[1]

    def meets(cell, pixel):
        return Fraction(pixel, pixels_of) < Fraction(cell + 1, cells_of) and Fraction(pixel + 1, pixels_of) > Fraction(cell, cells_of)

    expected = np.zeros((6 * cells_of, 7 * cells_of), bool)
    for row, column in np.ndindex(expected.shape):
        spans = [[k for k in range(side) if meets(cell, k)] for cell, side in zip((row, column), ends, strict=True)]
        expected[row, column] = mask[: ends[0]][np.ix_(*spans)].any()
    area = CellArea(Area(), cells_of, pixels_of, ends)
    down = slice(0, 6 * cells_of), slice(1, cells_of + 1), slice(3, 3)
    for rows, columns in itertools.product(down, (slice(0, 7 * cells_of), slice(2, 3))):
        np.testing.assert_array_equal(area.inside(rows, columns), expected[rows, columns])


def test_whatever_modalities_meet_on_cells_a_unit_is_whole_cells():
    met = 0
    for gsds, strides, cell_m in itertools.product(
        itertools.product((0.5, 2.5, 10.0, 20.0), repeat=2), itertools.product((2, 4, 14, 32), repeat=2), (5.0, 10.0, 20.0, 40.0)
    ):
        names = ("a", "b")
        inputs = {name: Input("rgb", ("R",), gsd, (0.0,), (1.0,)) for name, gsd in zip(names, gsds, strict=True)}
        try:
            for name, stride in zip(names, strides, strict=True):
                lift_scale(name, stride, inputs[name].gsd_m, cell_m)
        except RecipeError:
            continue
        met += 1
        assert (Fraction(unit_m(inputs, dict(zip(names, strides, strict=True)))) / Fraction(cell_m)).denominator == 1
    assert met > 50


# pieces, ranks, resuming


def opened(home, *sets):
    return open_prediction(load_recipe(home / "map.yaml", "predict", sets), load_bundle(home / "bundle", "cpu"))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def in_pieces(home, folder, count):
    """A run whose strips are cut into pieces, whatever the memory."""
    prediction = opened(home)
    job = prediction.product.job
    cut = replace(prediction, product=replace(prediction.product, job=replace(job, plan=job.plan.in_blocks(count))))
    cut.write(folder / "map.tif", "digest")
    return contents(folder)


def test_what_strips_are_cut_into_does_not_show(home, tmp_path):
    whole, third, single = (in_pieces(home, tmp_path / str(count), count) for count in (1, 3, 100))
    assert whole == third == single
    np.testing.assert_array_equal(cells(tmp_path / "3" / "map_features.tif")[0], cells(home / "maps" / "map_features.tif")[0])


def test_shares_of_two_ranks_give_the_same_bytes(home, tmp_path):
    prediction, output = opened(home), tmp_path / "two" / "map.tif"
    Parts(output).begin(prediction.state("digest"))
    for rank in (1, 0):
        prediction.compute_share(Parts(output, rank), World(rank, 2))
    prediction.write(output, "digest")
    assert contents(output.parent) == in_pieces(home, tmp_path / "one", 1)


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(home, tmp_path):
    assert predict(home, tmp_path, ranks=2) == kept(home)


def test_a_stopped_run_goes_on_to_the_same_bytes(home, tmp_path, monkeypatch):
    class StopError(Exception):
        pass

    put, done = Parts.put, []

    def stopping(self, name, arrays):
        if len(done) == 4:
            raise StopError
        done.append(name)
        put(self, name, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "put", stopping)
        with pytest.raises(StopError):
            predict(home, tmp_path)
    again = []
    monkeypatch.setattr(Parts, "put", lambda self, name, arrays: (again.append(name), put(self, name, arrays)))
    assert predict(home, tmp_path) == kept(home)
    assert len(done) == 4 and again and set(again).isdisjoint(done)


def test_features_that_are_gone_are_made_again(home, tmp_path):
    made = predict(home, tmp_path)
    (tmp_path / "maps" / "map_features.tif").unlink()
    assert predict(home, tmp_path) == made


# the plan, and what is refused


def test_the_plan_counts_them(home):
    one, both = (dict(opened(home, f"write.what={what}").facts()) for what in ("class", "[class, features]"))
    assert both["maps"] == "class, features" and both["features"] == "38 x 46 cells of 20 m, 16 channels, float32"
    disk = [float(plan["disk"].split()[2]) for plan in (one, both)]
    assert disk[1] - disk[0] == pytest.approx(38 * 46 * 16 * 4 * 3.7 / 2**20, abs=0.11)


def test_what_they_hold_in_memory_counts(home):
    """A unit has 16 pixels with 3 scores and a byte, and 4 cells with 17 numbers blended and 16 written."""
    job = opened(home).job
    plan, alone, both = job.plan.in_blocks(100), Made(16 * 3, 16), Made(16 * 3 + 4 * 17, 16 + 4 * 16 * 4, 38 * 46 * 16 * 4)
    least = {made: needs(plan, job.scene.channels, made, steps_abreast("cpu")).total for made in (alone, both)}
    for made, what in ((alone, "class"), (both, "[class, features]")):
        sets = [(f"write.what={what}", f"tiles.max_memory={(least[made] + less) / 1000:.3f}KB") for less in (0, -1)]
        opened(home, *sets[0])
        with pytest.raises(GridError, match=r"tiles.max_memory: \d+ MiB are allowed, strips of one tile need"):
            opened(home, *sets[1])


def test_a_mosaic_of_them_is_refused(home):
    scenes = f"scenes={{a: {{s2: ['{home}/20210401.tif']}}, b: {{s2: ['{home}/20210401.tif']}}}}"
    with pytest.raises(RecipeError, match=r"write.what: names features, which are not put together over scenes; leave out"):
        load_recipe(home / "map.yaml", "predict", ("scene={}", scenes, "mosaic={rule: latest}"))
