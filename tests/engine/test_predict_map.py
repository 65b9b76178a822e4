"""Scenes become maps: values, georeference, nodata, colours, tags, and every refusal, through the command itself."""

import json
import shutil

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_validate

from skysense_cli import sensors
from skysense_cli.cli.main import main
from skysense_cli.cli.options import Options
from skysense_cli.cli.predict import run
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import build_model
from skysense_cli.engine.spec import BundleSpec, ClassFact
from skysense_cli.errors import BundleError, DataError, GridError, RecipeError, SkySenseError
from skysense_cli.recipe.load import load_recipe
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.model import ModelSection

S2, S1 = sensors.get("sentinel2_l2a"), sensors.get("sentinel1_grd")
CRS, LEFT, TOP = "EPSG:32631", 574_680, 5_622_440
COLORS = {"field": (200, 180, 40), "wood": (20, 120, 30), "lake": (30, 60, 200)}
CLASSES = tuple(ClassFact(name=name, color=color) for name, color in COLORS.items())


def write_bundle(folder, dates=3, radar=False, head="fcn", size_m=160.0):
    """A bundle with random weights: patches of 4 px, cells of 20 m."""
    torch.manual_seed(0)
    encoders = {"s2": bind("core/encoders", "vit", {"channels": 10, "dim": 16, "depth": 1, "heads": 2, "patch": 4})}
    inputs = {"s2": Input(S2.name, S2.band_names, 10.0, S2.mean, S2.std)}
    if radar:
        encoders["s1"] = bind("core/encoders", "vit", {"channels": 2, "dim": 16, "depth": 1, "heads": 2, "patch": 2})
        inputs["s1"] = Input(S1.name, S1.band_names, 20.0, S1.mean, S1.std)
    section = ModelSection(
        cell_m=20.0, width=16, anchor="s2", encoders=encoders, fusion=bind("core/fusions", "temporal", {"depth": 1, "heads": 2, "dim": 16})
    )
    part = None if head is None else bind("core/heads", head, {"width": 8, "depth": 1} if head == "fcn" else {})
    spec = BundleSpec(
        stage="finetune" if head else "pretrain", model=section, inputs=inputs, dates=dict.fromkeys(inputs, dates), size_m=(size_m, size_m),
        classes=CLASSES if head else (), head=part,
    )  # fmt: skip
    model = build_model(section, inputs)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if part is not None:
        built = part.build(model.spec, len(CLASSES))
        for parameter in built.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        tensors |= {f"head.{name}": tensor for name, tensor in built.state_dict().items()}
    bundle.save(folder, spec.to_plain(), tensors)
    return folder


def write_scene(path, height, width, *, gsd=10.0, empty=None, seed=0, crs=CRS, left=LEFT, top=TOP, **tags):
    """A Sentinel-2 scene with a soft pattern; `empty` (H, W): pixels without data."""
    random = np.random.default_rng(seed)
    level = random.normal(0, 1, (10, height // 8 + 2, width // 8 + 2)).repeat(8, 1).repeat(8, 2)[:, :height, :width]
    pixels = np.clip(np.array(S2.mean)[:, None, None] + np.array(S2.std)[:, None, None] * 0.7 * level, 1, 60_000).astype(np.uint16)
    if empty is not None:
        pixels[:, empty] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = from_origin(left, top, gsd, gsd)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=10, dtype="uint16", crs=crs, transform=transform, nodata=0
    ) as out:
        out.write(pixels)
        out.descriptions = S2.band_names
        out.update_tags(**tags)
    return path


def write_recipe(tmp_path, scene, *, more="", tiles="{size_m: 160, overlap: 0.25, batch: 3}", write="{what: class}", name="map"):
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"""
recipe: predict
version: 1
bundle: {tmp_path}/bundle
scene: {scene}
output: {tmp_path}/maps/{name}.tif
tiles: {tiles}
write: {write}
{more}
""")
    return path


def predict(path, *sets, overwrite=False, dry_run=False):
    """Run the command; the open map's content."""
    options = Options(tuple(sets), dry_run=dry_run, overwrite=overwrite, device="cpu")
    recipe = load_recipe(path, "predict", options.sets)
    run(recipe, options)
    if dry_run:
        return None
    with rasterio.open(recipe.output) as made:
        colors = made.colormap(1) if made.colorinterp[0].name == "palette" else None
        return made.read(), made.profile, made.tags(), colors, made.descriptions


@pytest.fixture
def home(tmp_path):
    write_bundle(tmp_path / "bundle")
    return tmp_path


def test_a_class_map_keeps_place_names_and_colours(home):
    scene = write_scene(home / "scenes" / "20210401.tif", 37, 53, ACQUISITION="2021-04-01")
    pixels, profile, tags, colors, _ = predict(write_recipe(home, f"{{s2: ['{scene}']}}"))
    assert pixels.shape == (1, 37, 53) and profile["dtype"] == "uint8" and profile["nodata"] == 255
    assert profile["crs"] == CRS and profile["transform"] == from_origin(LEFT, TOP, 10, 10)
    assert set(np.unique(pixels)) <= {0, 1, 2} and len(np.unique(pixels)) > 1
    assert colors[1] == (20, 120, 30, 255)
    assert json.loads(tags["CLASS_NAMES"]) == {"0": "field", "1": "wood", "2": "lake"}
    assert tags["SKYSENSE_SCENES_S2"] == "20210401" and tags["SKYSENSE_SCENE_GSD"] == "refuse"
    assert len(tags["SKYSENSE_BUNDLE_SHA256"]) == 64 and len(tags["SKYSENSE_RECIPE_SHA256"]) == 64 and tags["SKYSENSE_VERSION"]
    valid, errors, warnings = cog_validate(home / "maps" / "map.tif", strict=True, quiet=True)
    assert valid and not errors and not warnings
    legend = json.loads((home / "maps" / "map.legend.json").read_text())["classes"]
    assert sum(line["pixels"] for line in legend) == 37 * 53 and legend[2]["color"] == "#1e3cc8"
    names = {"map.tif", "map.png", "map.legend.json", "map.stac.json", "map.recipe.yaml", "map.environment.json"}
    assert {path.name for path in (home / "maps").iterdir()} == names


def test_the_map_equals_the_model_run_on_the_whole_scene(home):
    from skysense_cli.engine.assemble import load_bundle

    scene = write_scene(home / "20210401.tif", 32, 32)
    whole, *_ = predict(write_recipe(home, f"{{s2: {{path: '{home}', pattern: '(?P<date>\\d{{8}}).tif'}}}}", tiles="{size_m: 320}"))
    loaded = load_bundle(home / "bundle")
    with rasterio.open(scene) as file:
        pixels = file.read().astype(np.float32)
    normal = (pixels - np.array(S2.mean)[:, None, None]) / np.array(S2.std)[:, None, None]
    from skysense_cli.core.batch import Batch, SeriesBatch

    series = SeriesBatch(
        torch.from_numpy(normal.astype(np.float32))[None, None], torch.tensor([[90]]), torch.ones(1, 1, dtype=torch.bool),
        torch.ones(1, 1, 32, 32, dtype=torch.bool),
    )  # fmt: skip
    batch = Batch({"s2": series}, torch.tensor([-1]), torch.tensor([0]), torch.eye(3)[None, :2])
    expected = loaded.head.predict(loaded.head(loaded.model(batch)), (32, 32)).argmax(dim=1)
    np.testing.assert_array_equal(whole, expected.numpy())


def test_nodata_in_is_nodata_out_to_the_pixel(home):
    empty = np.zeros((61, 45), bool)
    empty[np.add.outer(np.arange(61), np.arange(45)) < 40] = True  # a wedge
    empty[50, 30] = empty[55:58, 40:45] = True  # holes
    scene = write_scene(home / "20210401.tif", 61, 45, empty=empty)
    pixels, *_ = predict(write_recipe(home, f"{{s2: ['{scene}']}}", tiles="{size_m: 120}"))
    np.testing.assert_array_equal(pixels[0] == 255, empty)


def test_two_runs_give_equal_bytes(home):
    scene = write_scene(home / "20210401.tif", 40, 40)
    recipe = write_recipe(home, f"{{s2: ['{scene}']}}")
    made = []
    for _ in range(2):
        shutil.rmtree(home / "maps", ignore_errors=True)
        predict(recipe)
        made.append({path.name: path.read_bytes() for path in sorted((home / "maps").iterdir())})
    assert made[0] == made[1]


def test_what_a_killed_run_left_behind_is_cleared_by_the_next(home):
    scene = write_scene(home / "20210401.tif", 40, 40)
    recipe = write_recipe(home, f"{{s2: ['{scene}']}}")
    predict(recipe)
    whole = {path.name: path.read_bytes() for path in (home / "maps").iterdir()}
    for name in ("map.tif", "map.png"):
        (home / "maps" / name).unlink()
    for name in ("map.tif.strips.tmp", "map.tif.tmp", "map.png.tmp", "map.legend.json.tmp"):
        (home / "maps" / name).write_bytes(b"half a file")
    predict(recipe)
    assert {path.name: path.read_bytes() for path in (home / "maps").iterdir()} == whole


@pytest.mark.parametrize("what", ["probability", "confidence"])
def test_probabilities_and_confidence_have_scales_and_names(home, what):
    empty = np.zeros((24, 24), bool)
    empty[3, 4] = True
    scene = write_scene(home / "20210401.tif", 24, 24, empty=empty)
    recipe = write_recipe(home, f"{{s2: ['{scene}']}}")
    classes, *_ = predict(recipe)
    small, profile, _, _, bands = predict(recipe, f"write.what={what}", f"output={home}/maps/small.tif")
    exact, other, *_ = predict(recipe, f"write.what={what}", "write.dtype=float32", f"output={home}/maps/exact.tif")
    assert profile["dtype"] == "uint8" and profile["nodata"] == 255 and other["dtype"] == "float32" and np.isnan(other["nodata"])
    assert bands == (("field", "wood", "lake") if what == "probability" else ("confidence",))
    np.testing.assert_allclose(np.where(small == 255, np.nan, small / 200), exact, atol=0.0026)
    np.testing.assert_array_equal(np.isnan(exact).all(axis=0), empty)
    if what == "probability":
        np.testing.assert_array_equal(exact.argmax(axis=0)[~empty], classes[0][~empty])
        np.testing.assert_allclose(exact.sum(axis=0)[~empty], 1, rtol=1e-5)
    with rasterio.open(home / "maps" / "small.tif") as made:
        assert made.scales[0] == pytest.approx(0.005)
    assert cog_validate(home / "maps" / "small.tif", strict=True, quiet=True)[0]


def test_a_map_with_other_pixels_lies_on_the_same_corner(home):
    scene = write_scene(home / "20210401.tif", 25, 30)
    pixels, profile, *_ = predict(write_recipe(home, f"{{s2: ['{scene}']}}"), "write.gsd=20")
    assert pixels.shape == (1, 13, 15)
    assert profile["transform"] == from_origin(LEFT, TOP, 20, 20)
    with pytest.raises(GridError, match=r"write.gsd 15 m does not fill the 40 m steps of this bundle \(nearest: 13.3333 m\)"):
        predict(write_recipe(home, f"{{s2: ['{scene}']}}", name="other"), "write.gsd=15")


# pixels of another size


def test_a_scene_with_other_pixels_is_refused_unless_the_recipe_says_how_to_take_it(home):
    scene = write_scene(home / "20210401.tif", 30, 40, gsd=25.0)
    recipe = write_recipe(home, f"{{s2: ['{scene}']}}")
    with pytest.raises(GridError, match=r"20210401.tif has 25 m pixels, the bundle was trained on 10 m ones. Say scene_gsd: resample"):
        predict(recipe)
    assert not (home / "maps").exists() or not list((home / "maps").glob("*.tif"))
    pixels, profile, tags, *_ = predict(recipe, "scene_gsd=as_is", f"output={home}/maps/as_is.tif")
    assert pixels.shape == (1, 30, 40) and profile["transform"] == from_origin(LEFT, TOP, 25, 25)
    assert tags["SKYSENSE_SCENE_GSD"] == "as_is" and tags["SKYSENSE_PIXEL_S2"] == "25 taken as 10 m"
    pixels, profile, tags, *_ = predict(recipe, "scene_gsd=resample", f"output={home}/maps/resampled.tif")
    assert pixels.shape == (1, 75, 100) and profile["transform"] == from_origin(LEFT, TOP, 10, 10)
    assert tags["SKYSENSE_SCENE_GSD"] == "resample" and (pixels != 255).all()


def test_pixels_a_little_off_are_taken_as_they_are(home):
    scene = write_scene(home / "20210401.tif", 30, 40, gsd=9.995)
    pixels, profile, *_ = predict(write_recipe(home, f"{{s2: ['{scene}']}}"))
    assert pixels.shape == (1, 30, 40) and profile["transform"] == from_origin(LEFT, TOP, 9.995, 9.995)


def test_a_scene_in_degrees_is_resampled_to_metres(home):
    scene = write_scene(home / "20210401.tif", 40, 60, gsd=0.0001, crs="EPSG:4326", left=4.0, top=50.7)
    recipe = write_recipe(home, f"{{s2: ['{scene}']}}")
    with pytest.raises(GridError, match="degree"):
        predict(recipe)
    pixels, profile, *_ = predict(recipe, "scene_gsd=resample")
    assert profile["crs"] == "EPSG:32631" and profile["transform"].a == 10
    assert abs(pixels.shape[1] - 45) < 3 and abs(pixels.shape[2] - 43) < 3


def test_a_scene_without_a_place_can_only_be_taken_as_it_is(home):
    scene = write_scene(home / "20210401.tif", 16, 16, crs=None)
    recipe = write_recipe(home, f"{{s2: ['{scene}']}}")
    with pytest.raises(GridError, match=r"no coordinate reference system \(CRS\); say scene_gsd: as_is"):
        predict(recipe)
    pixels, profile, *_ = predict(recipe, "scene_gsd=as_is")
    assert profile["crs"] is None and pixels.shape == (1, 16, 16)


# dates


def test_an_undated_image_is_mapped_with_a_warning_and_several_are_refused(home, capsys):
    first, second = (write_scene(home / name, 16, 16, seed=seed) for seed, name in enumerate(("a.tif", "b.tif")))
    predict(write_recipe(home, f"{{s2: ['{first}']}}"))
    assert "a has no date, the model sees it without one" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"scene.s2: 2 scenes have no date \(a, b\); give `pattern`"):
        predict(write_recipe(home, f"{{s2: ['{first}', '{second}']}}", name="two"))


def test_dates_come_from_tags_too(home, capsys):
    files = [write_scene(home / f"{n}.tif", 16, 16, seed=n, TIFFTAG_DATETIME=f"2021:0{n + 3}:01 10:50:00") for n in range(2)]
    _, _, tags, *_ = predict(write_recipe(home, f"{{s2: {[str(file) for file in files]}}}"))
    assert tags["SKYSENSE_SCENES_S2"] == "0 1" and "no date" not in capsys.readouterr().err


def write_clouds(path, classes):
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = from_origin(LEFT, TOP, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", height=classes.shape[0], width=classes.shape[1], count=1, dtype="uint8", crs=CRS, transform=transform
    ) as out:
        out.write(classes[None].astype(np.uint8))


CLOUDY = (
    "{{s2: {{path: '{home}/s2', pattern: '(?P<date>\\d{{8}}).tif', cloud_mask: {{kind: scl}}, "
    "extra: {{SCL: {{path: '{home}/scl', pattern: '(?P<date>\\d{{8}}).tif'}}}}}}}}"
)


def test_too_many_dates_are_chosen_down_to_the_clearest_of_each_season(home):
    for month in range(1, 10):
        write_scene(home / "s2" / f"20210{month}01.tif", 24, 24, seed=month)
        clear = month in (2, 5, 9)
        write_clouds(home / "scl" / f"20210{month}01.tif", np.where(np.arange(24)[:, None] < (2 if clear else 12), 9, 4).repeat(24, 1))
    recipe = write_recipe(home, CLOUDY.format(home=home))
    _, _, tags, *_ = predict(recipe)
    assert tags["SKYSENSE_SCENES_S2"] == "20210201 20210501 20210901"
    _, _, tags, *_ = predict(recipe, "dates.s2=1", f"output={home}/maps/one.tif")
    assert tags["SKYSENSE_SCENES_S2"] == "20210201"
    _, _, tags, *_ = predict(recipe, "period={start: 2021-03-01, end: 2021-04-30}", f"output={home}/maps/spring.tif")
    assert tags["SKYSENSE_SCENES_S2"] == "20210301 20210401"


def test_a_pixel_is_nodata_where_every_date_is_cloudy(home):
    cloud = np.zeros((24, 24), bool)
    cloud[5:12, 7:20] = True
    for number, columns in enumerate((slice(0, 15), slice(10, 24))):
        write_scene(home / "s2" / f"2021040{number + 1}.tif", 24, 24, seed=number)
        here = np.zeros((24, 24), bool)
        here[:, columns] = True
        write_clouds(home / "scl" / f"2021040{number + 1}.tif", np.where(cloud & here, 9, 4))
    pixels, *_ = predict(write_recipe(home, CLOUDY.format(home=home)))
    both = cloud.copy()
    both[:, :10] = both[:, 15:] = False
    np.testing.assert_array_equal(pixels[0] == 255, both)


def test_clouds_grow_across_the_borders_of_strips(home):
    write_scene(home / "s2" / "20210401.tif", 64, 16)
    classes = np.full((64, 16), 4)
    classes[33, 8] = 9  # the second row of tiles begins at pixel 32
    write_clouds(home / "scl" / "20210401.tif", classes)
    scene = CLOUDY.format(home=home).replace("kind: scl", "kind: scl, grow_m: 50")
    pixels, *_ = predict(write_recipe(home, scene, tiles="{size_m: 320, overlap: 0}"))
    rows, columns = np.ogrid[:64, :16]
    np.testing.assert_array_equal(pixels[0] == 255, np.hypot(rows - 33, columns - 8) <= 5)


# several modalities


def write_radar(path, height, width, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).normal([[[-11]], [[-18]]], 2, (2, height, width)).astype(np.float32)
    transform = from_origin(LEFT, TOP, 20, 20)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=2, dtype="float32", crs=CRS, transform=transform, nodata=np.nan
    ) as out:
        out.write(pixels)
        out.descriptions = ("VV", "VH")
        out.update_tags(UNITS="dB sigma0")


def test_two_modalities_share_the_ground_and_fill_each_others_gaps(tmp_path):
    write_bundle(tmp_path / "bundle", radar=True)
    empty = np.zeros((40, 48), bool)
    empty[:20] = True
    write_scene(tmp_path / "s2" / "20210401.tif", 40, 48, empty=empty)
    write_radar(tmp_path / "s1" / "20210403.tif", 20, 24)
    pattern = "pattern: '(?P<date>\\d{8}).tif'"
    scene = f"{{s2: {{path: '{tmp_path}/s2', {pattern}}}, s1: {{path: '{tmp_path}/s1', {pattern}}}}}"
    pixels, *_ = predict(write_recipe(tmp_path, scene, tiles="{size_m: 160}"))
    assert (pixels != 255).all()
    write_radar(tmp_path / "s1" / "20210403.tif", 5, 24)
    pixels, *_ = predict(write_recipe(tmp_path, scene, name="less"))
    assert (pixels[0, 10:20] == 255).all() and (pixels[0, :10] != 255).all() and (pixels[0, 20:] != 255).all()
    pixels, *_ = predict(write_recipe(tmp_path, f"{{s2: {{path: '{tmp_path}/s2', {pattern}}}}}", name="alone"))
    np.testing.assert_array_equal(pixels[0] == 255, empty)


def test_a_scene_must_match_what_the_bundle_was_trained_on(home):
    scene = write_scene(home / "20210401.tif", 16, 16)
    with pytest.raises(RecipeError, match=r"scene has 'hr', but .*bundle was trained on s2"):
        predict(write_recipe(home, f"{{s2: ['{scene}'], hr: ['{scene}']}}"))
    with pytest.raises(RecipeError, match="predict: scene lacks 's2', the modality whose features the head"):
        predict(write_recipe(home, f"{{hr: ['{scene}']}}"))
    with pytest.raises(RecipeError, match="'s1' is none of the scene's modalities"):
        predict(write_recipe(home, f"{{s2: ['{scene}']}}"), "dates.s1=3")
    with pytest.raises(GridError, match="tiles.size_m is 30 m, the smallest tile of this bundle has 40 m"):
        predict(write_recipe(home, f"{{s2: ['{scene}']}}", tiles="{size_m: 30}"))


@pytest.mark.parametrize(
    ("head", "message"),
    [(None, "has no head"), ("linear", "its head gives a table, only heads that draw maps or find objects predict scenes")],
)
def test_a_bundle_that_draws_no_map_is_refused(tmp_path, head, message):
    write_bundle(tmp_path / "bundle", head=head)
    scene = write_scene(tmp_path / "20210401.tif", 16, 16)
    with pytest.raises(BundleError, match=message):
        predict(write_recipe(tmp_path, f"{{s2: ['{scene}']}}"))


def test_a_dry_run_prints_the_plan_and_writes_nothing(home, capsys):
    scene = write_scene(home / "20210401.tif", 100, 130)
    predict(write_recipe(home, f"{{s2: ['{scene}']}}"), dry_run=True)
    out = capsys.readouterr().out
    assert "100 x 130 px of 10 m" in out and "1 dates x 10 bands x 16 x 16 px -> 8 x 8 cells" in out
    assert "8 rows x 11 columns, 3 a step" in out and "MiB" in out
    assert not (home / "maps").exists()


def test_another_recipes_map_is_not_overwritten_unasked(home):
    scene = write_scene(home / "20210401.tif", 16, 16)
    recipe = write_recipe(home, f"{{s2: ['{scene}']}}")
    predict(recipe)
    with pytest.raises(SkySenseError, match=r"made with another recipe \(write.what: class -> confidence"):
        predict(recipe, "write.what=confidence")
    assert predict(recipe, "write.what=confidence", overwrite=True)[1]["count"] == 1


def test_the_command_line_says_in_one_line_what_is_wrong(home, monkeypatch, capsys):
    scene = write_scene(home / "20210401.tif", 16, 16, gsd=30.0, ACQUISITION="2021-04-01")
    recipe = write_recipe(home, f"{{s2: ['{scene}']}}")
    monkeypatch.setattr("sys.argv", ["skysense", "predict", str(recipe), "--device", "cpu"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 3
    assert len(said) == 1 and said[0].startswith("error: scene.s2: ") and "scene_gsd: resample" in said[0]
    monkeypatch.setattr("sys.argv", ["skysense", "predict", str(recipe), "--device", "cpu", "--set", "scene_gsd=as_is"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert f"map: {home}/maps/map.tif (class, 100.0% of the pixels have data)" in capsys.readouterr().out


def test_a_simulated_scene_marks_its_map(home):
    scene = write_scene(home / "20210401.tif", 16, 16, SIMULATED="yes, a demo landscape")
    _, _, tags, *_ = predict(write_recipe(home, f"{{s2: ['{scene}']}}"))
    assert tags["SIMULATED"] == "yes, a demo landscape"


# the real scene


def test_a_real_scene_of_100_m_pixels_is_refused_and_maps_as_it_is_with_its_holes(tmp_path, shared_data):
    scene = shared_data("scene_29RKH/S2A_29RKH_20200219_10band_100m.tif")
    write_bundle(tmp_path / "bundle", size_m=1280.0)
    recipe = write_recipe(tmp_path, f"{{s2: ['{scene}']}}", tiles="{size_m: 1280, overlap: 0.125, batch: 4}")
    with pytest.raises(GridError, match="has 100 m pixels, the bundle was trained on 10 m ones"):
        predict(recipe)
    empty = np.zeros((1098, 1098), bool)
    empty[np.add.outer(np.arange(1098), 2 * np.arange(1098)) < 900] = True
    empty[500:503, 640:650] = empty[777, 123] = empty[1097, 1097] = True
    with rasterio.open(scene) as file:
        profile, pixels, bands = file.profile, file.read(), file.descriptions
        truth = (pixels == 0).all(axis=0) | empty
    pixels[:, empty] = 0
    with rasterio.open(tmp_path / "holes.tif", "w", **profile) as out:
        out.write(pixels)
        out.descriptions = bands
        out.update_tags(ACQUISITION="2020-02-19")
    made, written, tags, *_ = predict(recipe, f"scene.s2=['{tmp_path}/holes.tif']", "scene_gsd=as_is")
    np.testing.assert_array_equal(made[0] == 255, truth)
    assert written["transform"] == profile["transform"] and written["crs"] == profile["crs"]
    assert tags["SKYSENSE_PIXEL_S2"] == "100 taken as 10 m"
    assert cog_validate(tmp_path / "maps" / "map.tif", strict=True, quiet=True)[0]
    with rasterio.open(tmp_path / "maps" / "map.tif") as file:
        assert file.overviews(1)
