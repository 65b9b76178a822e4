"""A prototype map that was stopped goes on where it was: the same bytes, and nothing is made twice."""

import numpy as np
import pytest

from skysense_cli.cli.map_prototypes import run
from skysense_cli.cli.options import Options
from skysense_cli.engine import prototype_samples
from skysense_cli.engine.parts import OtherPartsError
from skysense_cli.recipe.load import load_recipe

KINDS = ("scene", "scenes", "samples")


@pytest.fixture
def given(world, tmp_path, monkeypatch):
    """Kind -> the line of a recipe; the bundle lies beside."""
    monkeypatch.setattr(prototype_samples, "PORTION", 2)
    world.write_bundle(tmp_path / "bundle", [world.here()])
    hole = np.zeros((70, 90), bool)
    hole[10:40, 20:60] = True
    scene = world.write_scene(tmp_path / "20210401_a.tif", 70, 90, empty=hole)
    other = world.write_scene(tmp_path / "20210401_b.tif", 60, 50, left=world.LEFT + 600, top=world.TOP - 200)
    places = [(world.LEFT + 100 * k, world.TOP - 40 * (k % 3)) for k in range(11)]
    return {
        "scene": f"scene: {{s2: ['{scene}']}}",
        "scenes": f"scenes: [{{s2: ['{scene}']}}, {{s2: ['{other}']}}]",
        "samples": f"data: {{index: {world.write_samples(tmp_path / 'data', places)}, dates: {{s2: 2}}, batch: 3}}",
    }


def content(folder):
    """Name -> bytes of all files, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_that_was_stopped_goes_on_to_the_same_bytes(world, tmp_path, given, monkeypatch, stopping, kind):
    with monkeypatch.context() as watched:
        all_names = stopping.after(None, watched)
        whole = content(world.map_prototypes(tmp_path, given[kind], name="whole"))
    assert len(set(all_names)) == len(all_names) >= 3 and not any(".parts" in name for name in whole)
    for stop in (0, 1, len(all_names) - 1):
        name = f"stopped{stop}"
        with monkeypatch.context() as watched:
            stopping.after(stop, watched)
            with pytest.raises(stopping.error):
                world.map_prototypes(tmp_path, given[kind], name=name)
        assert not (tmp_path / name / "prototypes.tif").exists()
        with monkeypatch.context() as watched:
            made = stopping.after(None, watched)
            found = content(world.map_prototypes(tmp_path, given[kind], name=name))
        assert made == all_names[stop:], "what was kept is not made again"
        assert found == whole


def test_what_was_kept_of_another_scene_is_refused_by_name_unless_it_may_be_replaced(world, tmp_path, given, monkeypatch, stopping):
    with monkeypatch.context() as watched:
        stopping.after(1, watched)
        with pytest.raises(stopping.error):
            world.map_prototypes(tmp_path, given["scene"])
    world.write_scene(tmp_path / "20210401_a.tif", 70, 90, pixels=world.landscape(70, 90, seed=5))
    with pytest.raises(OtherPartsError, match=r"scene 1: .*20210401_a.tif was .*give --overwrite"):
        world.map_prototypes(tmp_path, given["scene"])
    recipe = load_recipe(tmp_path / "prototypes.yaml", "map-prototypes", inputs=True)
    run(recipe, Options(device="cpu", overwrite=True))
    anew = world.map_prototypes(tmp_path, given["scene"], name="anew")
    for one, other in zip(world.open_all(tmp_path / "prototypes"), world.open_all(anew), strict=True):
        np.testing.assert_array_equal(one, other)
