"""Recipes come in checked; every mistake is one line with its place."""

import pytest

from skysense_cli.errors import RecipeError
from skysense_cli.recipe.load import bind_recipe, find_recipe, load_recipe, shipped_recipes
from skysense_cli.recipe.resolved import to_yaml

MODEL = """
cell_m: 10
width: 8
anchor: s2
encoders:
  s2: {kind: vit, channels: 10, dim: 8, depth: 1, heads: 1, patch: 1}
fusion: {kind: mean}
"""
PRETRAIN = """recipe: pretrain
version: 1
output: runs/tiny
data: {index: data/index, dates: {s2: 4}}
model: model.yaml
objective: {kind: multi_granularity}
train:
  steps: 10
  batch: 2
  lr: 1e-3
"""
PREDICT = """recipe: predict
version: 1
bundle: runs/crops/bundle
scene:
  s2: {path: scenes, pattern: "*.tif", cloud_mask: {kind: scl}}
  s1: ["a.tif", "b.tif"]
output: maps/crops.tif
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes `recipe.yaml` into the working directory, beside a model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.yaml").write_text(MODEL)

    def write(text: str) -> str:
        (tmp_path / "recipe.yaml").write_text(text)
        return "recipe.yaml"

    return write


def mistakes_of(name, **options):
    with pytest.raises(RecipeError) as error:
        load_recipe(name, **options)
    assert error.value.exit_code == 2
    return str(error.value).splitlines()


def test_a_recipe_becomes_its_model_with_defaults(write):
    recipe = load_recipe(write(PRETRAIN), "pretrain")
    assert recipe.train.lr == 0.001
    assert recipe.train.precision == "fp32"
    assert recipe.model.encoders["s2"].kind == "vit"
    assert recipe.model.encoders["s2"].options["depth"] == 1
    assert recipe.model.prototypes is None


BROKEN = {
    "unknown key": (("steps: 10", "stepps: 10"), "recipe.yaml:8:3: train.stepps: unknown 'stepps'; did you mean 'steps'?"),
    "missing key": (("  batch: 2\n", ""), "recipe.yaml:7:1: train.batch: is missing"),
    "wrong type": (("steps: 10", "steps: ten"), "recipe.yaml:8:10: train.steps: must be a whole number (found 'ten')"),
    "quoted number": (("lr: 1e-3", 'lr: "0.001"'), "recipe.yaml:10:7: train.lr: must be a number (found '0.001'; write it without quotes)"),
    "out of range": (("lr: 1e-3", "lr: -1"), "recipe.yaml:10:7: train.lr: must be greater than 0 (found -1)"),
    "not a number": (("lr: 1e-3", "lr: .nan"), "recipe.yaml:10:7: train.lr: must be a finite number (found nan)"),
    "yes is text": (
        ("lr: 1e-3", "lr: 1e-3\n  compile: yes"),
        "recipe.yaml:11:12: train.compile: must be true or false (found 'yes'; YAML 1.2 writes true)",
    ),
    "bad choice": (
        ("lr: 1e-3", "lr: 1e-3\n  precision: bf-16"),
        "recipe.yaml:11:14: train.precision: must be 'fp32' or 'bf16' (found 'bf-16'; did you mean 'bf16'?)",
    ),
    "bad kind": (
        ("kind: multi_granularity", "kind: multi-granularity"),
        "recipe.yaml:6:19: objective.kind: unknown kind 'multi-granularity'; did you mean 'multi_granularity'? (known: multi_granularity",
    ),
    "no kind": (("{kind: multi_granularity}", "{alpha: 1.0}"), "recipe.yaml:6:12: objective: needs a kind (known: multi_granularity"),
    "unknown option": (
        ("kind: multi_granularity}", "kind: multi_granularity, cluster: 8}"),
        "recipe.yaml:6:38: objective.cluster: unknown 'cluster'; did you mean 'clusters'? (known: ",
    ),
    "duplicate key": (("batch: 2", "steps: 2"), "recipe.yaml:9:3: train.steps: the key stands twice; first at line 8"),
    "missing model file": (("model.yaml", "modell.yaml"), "recipe.yaml:5:8: model: modell.yaml does not exist"),
    "modality mismatch": (("dates: {s2: 4}", "dates: {s3: 4}"), "recipe.yaml:4:39: data.dates.s3: 's3' is none of the encoders (s2)"),
    "wrong command": (("recipe: pretrain", "recipe: finetune"), "recipe.yaml:1:9: recipe: is for `skysense finetune`, not for"),
    "unknown command": (
        ("recipe: pretrain", "recipe: pre-train"),
        "recipe.yaml:1:9: recipe: unknown 'pre-train'; did you mean 'pretrain'?",
    ),
    "no command": (("recipe: pretrain\n", ""), "recipe.yaml:1:1: recipe: is missing; say which command the file is for"),
    "other version": (("version: 1", "version: 2"), "recipe.yaml:2:10: version: must be 1 (found 2)"),
    "not YAML": (("{index: data/index,", "{index: data/index"), "recipe.yaml:4:"),
    "alias": (("output: runs/tiny", "output: &a runs/tiny"), "recipe.yaml:3:9: anchors and aliases (&, *) are not allowed"),
    "tag": (("output: runs/tiny", "output: !!python/name:os.system x"), "recipe.yaml:3:9: tags are not allowed"),
    "two documents": (("version: 1", "version: 1\n---\na: 1"), "recipe.yaml:3:1: a recipe is one document"),
    "a list": ((PRETRAIN, "- a\n- b\n"), "recipe.yaml:1:1: is not a mapping of keys; a recipe begins with `recipe: pretrain`"),
    "empty": ((PRETRAIN, ""), "recipe.yaml:1:1: is not a mapping of keys"),
    "a list as key": (("output: runs/tiny", "[a, b]: runs/tiny"), "recipe.yaml:3:1: a key must be a word"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_recipe_gives_one_line_with_its_place(write, name):
    change, message = BROKEN[name]
    assert change[0] in PRETRAIN
    lines = mistakes_of(write(PRETRAIN.replace(*change)), kind="pretrain")
    assert len(lines) == 1 or name == "duplicate key", lines
    assert lines[0].startswith(message), lines[0]


def test_all_mistakes_of_a_file_come_at_once_in_its_order(write):
    text = PRETRAIN.replace("output:", "outptu:").replace("steps: 10", "steps: 0").replace("lr: 1e-3", "lr: high\n  clp: 1")
    assert [line.split(": ")[1] for line in mistakes_of(write(text))] == ["outptu", "train.steps", "train.lr", "train.clp"]


def test_a_mistake_in_the_included_model_stands_in_the_model_file(write, tmp_path):
    (tmp_path / "model.yaml").write_text(MODEL.replace("depth: 1", "deth: 1"))
    lines = mistakes_of(write(PRETRAIN))
    assert (
        "model.yaml:6:41: model.encoders.s2.deth: unknown 'deth'; did you mean 'depth'? (known: channels, dim, depth,"
        in lines[0] + lines[-1]
    )


def test_the_model_is_found_beside_the_recipe_not_the_working_directory(write, tmp_path, monkeypatch):
    write(PRETRAIN)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_recipe(tmp_path / "recipe.yaml").model.width == 8


def test_set_overrides_one_value(write):
    sets = ["train.steps=3", "model.encoders.s2.depth=2", "data.period={start: 2020-01-01, end: 2020-02-01}", "train.freeze=[a, b]"]
    recipe = load_recipe(write(PRETRAIN), sets=[*sets, "train.freeze.1=c"], output="elsewhere")
    assert recipe.train.steps == 3
    assert recipe.model.encoders["s2"].options["depth"] == 2
    assert str(recipe.data.period.end) == "2020-02-01"
    assert recipe.train.freeze == ("a", "c")
    assert str(recipe.output) == "elsewhere"


def test_set_makes_sections_that_the_file_leaves_out(write):
    assert load_recipe(write(PRETRAIN), sets=["views.blur=0.25"]).views.blur == 0.25


def test_set_may_name_another_model_file(write, tmp_path):
    (tmp_path / "wide.yaml").write_text(MODEL.replace("width: 8", "width: 16"))
    assert load_recipe(write(PRETRAIN), sets=["model=wide.yaml"]).model.width == 16


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.steps=x", "--set train.steps: train.steps: must be a whole number (found 'x')"),
        ("train.stps=1", "--set train.stps: train.stps: unknown 'stps'; did you mean 'steps'? (known: "),
        ("train.steps", "--set train.steps: write it as key.path=value, e.g. train.steps=10"),
        ("=3", "--set =3: write it as key.path=value"),
        ("output.x=3", "--set output.x: output is a single value, it has no key 'x'"),
        ("output.x.y=3", "--set output.x.y: output is a single value, it has no key 'x'"),
        ("train.steps=[1", "--set train.steps: is not YAML"),
        ("train.steps=*a", "--set train.steps:1:1: anchors and aliases"),
    ],
)
def test_a_wrong_set_is_located_as_an_option(write, assignment, message):
    assert mistakes_of(write(PRETRAIN), sets=[assignment])[0].startswith(message)


def test_a_position_outside_a_list_is_refused(write):
    assert mistakes_of(write(PRETRAIN), sets=["train.freeze=[a]", "train.freeze.1=b"]) == [
        "--set train.freeze.1: train.freeze is a list of 1; its positions are 0 to 0"
    ]


def test_inputs_must_exist_when_a_command_runs(write, tmp_path):
    name = write(PRETRAIN)
    load_recipe(name)
    assert mistakes_of(name, inputs=True) == ["recipe.yaml:4:15: data.index: data/index does not exist"]
    (tmp_path / "data" / "index").mkdir(parents=True)
    load_recipe(name, inputs=True)


def test_scenes_are_options_of_the_folder_source_or_paths(write):
    recipe = load_recipe(write(PREDICT))
    assert recipe.scene["s2"].source.kind == "folder"
    assert recipe.scene["s2"].source.options["pattern"] == "*.tif"
    assert recipe.scene["s2"].cloud_mask.kind == "scl"
    assert recipe.scene["s1"].source.options["path"] == ["a.tif", "b.tif"]
    assert recipe.scene["s1"].cloud_mask.kind == "none"


def test_a_scene_may_come_from_any_source(write, tmp_path):
    text = PREDICT.replace(
        '{path: scenes, pattern: "*.tif", cloud_mask: {kind: scl}}', "{source: {kind: safe, path: a.SAFE}, cloud_mask: {kind: scl}}"
    )
    recipe = load_recipe(write(text))
    assert recipe.scene["s2"].source.kind == "safe" and recipe.scene["s2"].source.options["path"] == "a.SAFE"
    assert recipe.scene["s2"].cloud_mask.kind == "scl"
    (tmp_path / "again.yaml").write_text(to_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    assert "unknown kind 'saf'; did you mean 'safe'?" in mistakes_of(write(text.replace("kind: safe", "kind: saf")))[0]


def test_a_recipe_predicts_one_scene_or_several(write):
    tree = {"recipe": "predict", "version": 1, "bundle": "b", "output": "m.tif"}
    several = {"scenes": {"a": {"s2": ["a.tif"]}, "b": {"s2": ["b.tif"]}}}
    assert list(bind_recipe({**tree, **several, "mosaic": {"rule": "latest", "scene_map": True}}).scenes) == ["a", "b"]
    for wrong, message in (
        ({}, "give either scene .* or scenes"),
        ({**several, "scene": {"s2": ["a.tif"]}}, "give either scene .* or scenes"),
        ({"scene": {"s2": ["a.tif"]}, "mosaic": {}}, "mosaic: is of several scenes"),
        ({**several, "mosaic": {"scene_map": True}}, "mosaic.scene_map: needs rule latest"),
        ({"scenes": {"a": {}}}, "scenes.a: holds no modality"),
        ({**several, "dates": {"s1": 2}}, "'s1' is none of the scene's modalities"),
    ):
        with pytest.raises(RecipeError, match=message):
            bind_recipe({**tree, **wrong})


def test_mistakes_in_a_scene_are_located(write):
    text = PREDICT.replace("pattern:", "patern:").replace('"b.tif"', "3").replace("kind: scl", "kind: slc")
    assert mistakes_of(write(text)) == [
        "recipe.yaml:5:22: scene.s2.patern: unknown 'patern'; did you mean 'pattern'? "
        + "(known: path, pattern, csv, bands, by_order, extra, scale, offset, nodata, units, date, cloud_mask, source)",
        "recipe.yaml:5:58: scene.s2.cloud_mask.kind: unknown kind 'slc'; did you mean 'scl'? (known: csmask, none, s2cloudless, scl)",
        "recipe.yaml:6:17: scene.s1[1]: must be text (found 3)",
    ]


def test_a_sensor_is_a_file_of_its_folder(write):
    text = """recipe: build-data
version: 1
output: data
area: [4.0, 50.0, 4.1, 50.1]
period: {start: 2020-01-01, end: 2020-12-31}
modalities:
  s2: {sensor: sentinel2_l2b, gsd: 10, source: {kind: folder, path: scenes}}
coregister: {reference: s3}
"""
    found = mistakes_of(write(text))
    known = "(known: rgb, rgbnir, sentinel1_grd, sentinel1_rtc, sentinel2_l1c, sentinel2_l2a)"
    assert found == [f"recipe.yaml:7:16: modalities.s2.sensor: unknown sensor 'sentinel2_l2b'; did you mean 'sentinel2_l2a'? {known}"]
    assert mistakes_of(write(text.replace("l2b", "l2a"))) == ["recipe.yaml:8:25: coregister.reference: 's3' is none of the modalities (s2)"]


def test_numbers_read_as_yaml_1_2(write):
    recipe = load_recipe(write(PRETRAIN.replace("steps: 10", "steps: 010").replace("output: runs/tiny", "output: no")))
    assert recipe.train.steps == 10
    assert str(recipe.output) == "no"


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    assert mistakes_of(tmp_path)[0] == f"{tmp_path}: is a folder, not a recipe file"
    assert mistakes_of(tmp_path / "nope.yaml")[0].startswith(f"{tmp_path}/nope.yaml: no such file, and no shipped recipe has that name")
    (tmp_path / "latin.yaml").write_bytes(b"recipe: pretrain\nversion: \xe9\n")
    assert mistakes_of(tmp_path / "latin.yaml")[0] == f"{tmp_path}/latin.yaml:2:1: is not UTF-8 text"
    (tmp_path / "big.yaml").write_bytes(b"a" * 1_000_001)
    assert mistakes_of(tmp_path / "big.yaml")[0] == f"{tmp_path}/big.yaml: has 1000001 bytes, a recipe has at most 1000000"
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 100 + "]" * 100)
    assert "is nested deeper than 32 levels" in mistakes_of(tmp_path / "deep.yaml")[0]


def test_a_shipped_recipe_is_found_by_its_name():
    name = shipped_recipes()[0]
    assert find_recipe(name) == find_recipe(f"{name}.yaml")
    assert f"did you mean {name}?" in mistakes_of(f"{name[:-1]}")[0]


def test_a_recipe_in_memory_is_checked_the_same_way():
    tree = {"recipe": "predict", "version": 1, "bundle": "b", "scene": {"s2": ["a.tif"]}, "output": "m.tif"}
    assert bind_recipe(tree).tiles.size_m == 640
    with pytest.raises(RecipeError, match="recipe: tiles: must be a mapping"):
        bind_recipe({**tree, "tiles": 3})
