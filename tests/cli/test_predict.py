"""`skysense predict BUNDLE SCENE...`: which words make which scenes, what the made recipe is worth, and what is said otherwise."""

import pytest
import rasterio

from skysense_cli.errors import SkySenseError
from skysense_cli.recipe.load import load_recipe


@pytest.fixture(scope="module")
def home(tmp_path_factory, scene_kit):
    """Bundles of one and of two modalities, and scenes for both."""
    home = tmp_path_factory.mktemp("words")
    scene_kit.write_bundle(home / "bundle")
    scene_kit.write_bundle(home / "fused", radar=True)
    for name in ("a_20210401", "b_20210413", "series/20210401", "series/20210501"):
        scene_kit.write_scene(home / f"{name}.tif", scene_kit.numbers(24, 32, seed=len(name)))
    scene_kit.write_radar(home / "s1_20210402.tif", 12, 16)
    scene_kit.write_scene(home / "plain.tif", scene_kit.numbers(24, 32), names=())
    return home


@pytest.fixture
def here(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def test_the_recipe_that_was_made_takes_everything_from_the_bundle_and_gives_the_same_bytes(here, scene_kit, tmp_path):
    found = scene_kit.command("bundle", "a_20210401.tif", "--out", tmp_path / "a", "--what", "class,confidence", "--overlap", 0.125)
    assert found.exit_code == 0, found.output
    recipe = load_recipe(tmp_path / "a" / "a_20210401.recipe.yaml")
    assert str(recipe.bundle) == "bundle" and recipe.tiles.size_m == 160 and recipe.tiles.overlap == 0.125
    assert recipe.write.kinds == ("class", "confidence") and recipe.scene["s2"].source.options["path"] == ["a_20210401.tif"]
    again = scene_kit.command(tmp_path / "a" / "a_20210401.recipe.yaml", "--out", tmp_path / "b" / "a_20210401.tif")
    assert again.exit_code == 0, again.output
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert files[0] == files[1] and "a_20210401_confidence.tif" in files[0]


@pytest.mark.parametrize(
    ("bundle", "words", "maps"),
    [
        ("bundle", ["a_20210401.tif", "b_20210413.tif"], {"a_20210401": "a_20210401", "b_20210413": "b_20210413"}),
        ("bundle", ["series"], {"series": "20210401 20210501"}),
        ("bundle", ["s2=series"], {"series": "20210401 20210501"}),
        ("fused", ["a_20210401.tif"], {"a_20210401": "a_20210401"}),
        ("fused", ["s1=s1_20210402.tif", "s2=series"], {"series": "20210401 20210501"}),
        (
            "fused",
            ["s2=a_20210401.tif", "s1=s1_20210402.tif", "s2=b_20210413.tif", "s1=s1_20210402.tif"],
            {"a_20210401": "a_20210401", "b_20210413": "b_20210413"},
        ),
    ],
)
def test_words_are_scenes(here, scene_kit, tmp_path, bundle, words, maps):
    found = scene_kit.command(bundle, *words, "--out", tmp_path)
    assert found.exit_code == 0, found.output
    seen = {}
    for path in tmp_path.glob("*.tif"):
        with rasterio.open(path) as file:
            seen[path.stem] = file.tags()["SKYSENSE_SCENES_S2"]
            assert ("SKYSENSE_SCENES_S1" in file.tags()) == any(word.startswith("s1=") for word in words)
    assert seen == maps


def test_one_scene_may_name_its_map(here, scene_kit, tmp_path):
    assert scene_kit.command("bundle", "a_20210401.tif", "--out", tmp_path / "x.tif").exit_code == 0
    assert (tmp_path / "x.tif").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bundle", "--out", "m"], "no scene is given; write e.g. `skysense predict bundle SCENE.tif --out maps`"),
        (["bundle", "a_20210401.tif"], "--out is missing: say in which folder the maps go"),
        (["bundle", "gone.tif", "--out", "m"], r"gone.tif: no such file or folder \(. holds a_20210401.tif"),
        (["series", "a_20210401.tif", "--out", "m"], "series: is a folder without bundle.json, so it is no bundle"),
        (["nothing", "a_20210401.tif", "--out", "m"], "nothing: is no folder with a bundle.json; write `skysense predict BUNDLE a_"),
        (["bundle", "hr=a_20210401.tif", "--out", "m"], "'hr' is no modality of this bundle .bundle sees s2 .sentinel2_l2a"),
        (["fused", "s2=series", "s1_20210402.tif", "--out", "m"], "say which modality it feeds, as the others do: s1=s1_20210402.tif"),
        (["fused", "s1=s1_20210402.tif", "--out", "m"], "the map needs s2, too: add s2=PATH"),
        (["fused", "s2=series", "s2=a_20210401.tif", "s1=s1_20210402.tif", "--out", "m"], "name all modalities of a scene before the next"),
        (["bundle", "a_20210401.tif", "series/../a_20210401.tif", "--out", "m"], "would both become a map called a_20210401"),
        (["bundle", "a_20210401.tif", "b_20210413.tif", "--out", "m.tif"], "several scenes give several maps, so --out is a folder"),
        (["bundle", "a_20210401.tif", "--out", "m", "--mosaic", "latest"], "--mosaic puts several scenes together, only one is given"),
        (["bundle", "a_20210401.tif", "b_20210413.tif", "--out", "m", "--mosaic", "mean"], "mosaic.rule: must be 'feather' or 'latest'"),
        (["bundle", "a_20210401.tif", "--out", "m", "--what", "clas"], "--what: write.what: must be .*'class'"),
        (["bundle", "a_20210401.tif", "--out", "m", "--area", "3,4"], "--area 3,4: has 2 numbers, expected left,bottom,right,top"),
        (["bundle", "a_20210401.tif", "--out", "m", "--area", "gone.geojson"], "--area: area: gone.geojson does not exist"),
        (["bundle", "a_20210401.tif", "--out", "m", "--cluster", "host"], "--cluster host: is no address of a Dask scheduler"),
        (["bundle", "a_20210401.tif", "--out", "m", "--set", "tiles.sise_m=3"], "tiles.sise_m: unknown 'sise_m'; did you mean 'size_m'"),
        (
            ["bundle", "plain.tif", "--out", "m"],
            "no band for B02, .*they carry no names.*--bands NAME,... or --bands order",
        ),
        (["predict/crops", "--date", "2021-01-01"], "--date goes with a bundle and scenes; in a recipe it is a key"),
    ],
)
def test_what_is_not_clear_is_said_in_one_line_and_nothing_is_written(here, scene_kit, words, message):
    found = scene_kit.command(*words)
    assert found.exit_code != 0 and isinstance(found.exception, SkySenseError), found.exception
    with pytest.raises(SkySenseError, match=message):
        raise found.exception
    assert len(str(found.exception).splitlines()) == 1
    assert not (here / "m").exists() and not (here / "m.tif").exists()


def test_bands_and_date_of_plain_files_are_said_by_options(here, scene_kit, tmp_path):
    found = scene_kit.command("bundle", "plain.tif", "--out", tmp_path, "--bands", "order", "--date", "2021-06-01")
    assert found.exit_code == 0 and "has no date" not in found.output, found.output
    assert '"datetime": "2021-06-01T00:00:00Z"' in (tmp_path / "plain.stac.json").read_text()


def test_a_run_folder_is_no_bundle_but_holds_one(here, scene_kit, tmp_path):
    scene_kit.write_bundle(tmp_path / "run" / "bundle")
    found = scene_kit.command(tmp_path / "run", "a_20210401.tif", "--out", "m")
    assert f"did you mean {tmp_path}/run/bundle?" in str(found.exception)


def test_a_dry_run_shows_the_plan_of_every_scene(here, scene_kit):
    found = scene_kit.command("bundle", "a_20210401.tif", "series", "--out", "m", "--dry-run")
    assert found.exit_code == 0, found.output
    assert "plan of a_20210401" in found.output and "a_20210401 (2021-04-01)" in found.output
    assert "20210401 (2021-04-01), 20210501 (2021-05-01)" in found.output and not (here / "m").exists()
