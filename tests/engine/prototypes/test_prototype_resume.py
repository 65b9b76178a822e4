"""A prototype map that was stopped goes on where it was: the same bytes, and nothing is made twice."""

import numpy as np
import pytest

from skysense_cli.cli.map_prototypes import run
from skysense_cli.cli.options import Options
from skysense_cli.engine import prototype_samples
from skysense_cli.engine.parts import OtherPartsError, Parts
from skysense_cli.recipe.load import load_recipe

KINDS = ("scene", "scenes", "samples")


class StopError(Exception):
    """Stands for a kill: nothing is tidied up."""


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


def count_puts(monkeypatch, most=None):
    """The names of the portions that are kept from now on; the one after `most` stops the run."""
    put, names = Parts.put, []

    def counting(self, name, arrays):
        if most is not None and len(names) == most:
            raise StopError
        put(self, name, arrays)
        names.append(name)

    monkeypatch.setattr(Parts, "put", counting)
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_that_was_stopped_goes_on_to_the_same_bytes(world, tmp_path, given, monkeypatch, kind):
    with monkeypatch.context() as watched:
        all_names = count_puts(watched)
        whole = content(world.map_prototypes(tmp_path, given[kind], name="whole"))
    assert len(set(all_names)) == len(all_names) >= 3 and not any(".parts" in name for name in whole)
    for stop in (0, 1, len(all_names) - 1):
        name = f"stopped{stop}"
        with monkeypatch.context() as watched:
            count_puts(watched, stop)
            with pytest.raises(StopError):
                world.map_prototypes(tmp_path, given[kind], name=name)
        assert not (tmp_path / name / "prototypes.tif").exists()
        with monkeypatch.context() as watched:
            made = count_puts(watched)
            found = content(world.map_prototypes(tmp_path, given[kind], name=name))
        assert made == all_names[stop:], "what was kept is not made again"
        same = {file: data for file, data in found.items() if file != "recipe.yaml" and not file.endswith(".tif")}
        assert same == {file: data for file, data in whole.items() if file in same} and found.keys() == whole.keys()
        for one, other in zip(world.open_all(tmp_path / name), world.open_all(tmp_path / "whole"), strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_was_kept_of_another_scene_is_refused_by_name_unless_it_may_be_replaced(world, tmp_path, given, monkeypatch):
    with monkeypatch.context() as watched:
        count_puts(watched, 1)
        with pytest.raises(StopError):
            world.map_prototypes(tmp_path, given["scene"])
    world.write_scene(tmp_path / "20210401_a.tif", 70, 90, pixels=world.landscape(70, 90, seed=5))
    with pytest.raises(OtherPartsError, match=r"scene 1: .*20210401_a.tif was .*give --overwrite"):
        world.map_prototypes(tmp_path, given["scene"])
    recipe = load_recipe(tmp_path / "prototypes.yaml", "map-prototypes", inputs=True)
    run(recipe, Options(device="cpu", overwrite=True))
    anew = world.map_prototypes(tmp_path, given["scene"], name="anew")
    for one, other in zip(world.open_all(tmp_path / "prototypes"), world.open_all(anew), strict=True):
        np.testing.assert_array_equal(one, other)
