"""An output belongs to one recipe and one running command."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skysense_cli.cli.home import OutputError, claim
from skysense_cli.cli.options import Options
from skysense_cli.errors import DiskError
from skysense_cli.geo.opening import UnreadableError
from skysense_cli.recipe.load import bind_recipe, load_recipe
from skysense_cli.recipe.resolved import digest

PREDICT = {"recipe": "predict", "version": 1, "bundle": "b", "scene": {"s2": ["a.tif"]}, "output": "m.tif"}
MAP = {**PREDICT, "recipe": "map-prototypes"}


def recipe(tree=MAP, **changes):
    return bind_recipe({**tree, **changes})


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_is_marked_with_recipe_and_environment(tmp_path):
    with claim(tmp_path / "maps", recipe(), Options()) as home:
        assert home.path == tmp_path / "maps"
        assert home.digest == digest(recipe())
        assert not home.resumed
    assert files(tmp_path / "maps") == ["environment.json", "recipe.yaml"]
    assert load_recipe(tmp_path / "maps" / "recipe.yaml") == recipe().model_copy(update={"output": Path(".")})
    environment = json.loads((tmp_path / "maps" / "environment.json").read_text())
    assert {"python", "skysense", "packages", "seed"} == set(environment)
    assert {"torch", "numpy", "rasterio"} <= set(environment["packages"])


def test_the_same_recipe_comes_back_to_its_folder(tmp_path):
    with claim(tmp_path, recipe(), Options()) as home:
        (home.path / "part").write_text("kept")
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    with claim(tmp_path, recipe(output="another/name"), Options()) as home:
        assert home.resumed
        assert (home.path / "part").exists()
    assert set(before) == set(files(tmp_path))
    assert before["environment.json"] == (tmp_path / "environment.json").read_bytes()


def test_another_recipe_is_refused_by_the_keys_that_differ(tmp_path):
    with claim(tmp_path, recipe(), Options()):
        pass
    other = recipe(tiles={"batch": 3}, bundle="c")
    with pytest.raises(OutputError, match=r"made with another recipe \(bundle: b -> c; tiles.batch: 8 -> 3\); choose another --out"):
        with claim(tmp_path, other, Options()):
            pass
    assert load_recipe(tmp_path / "recipe.yaml") == recipe().model_copy(update={"output": Path(".")})


def test_overwrite_empties_what_another_recipe_left(tmp_path):
    with claim(tmp_path, recipe(), Options()) as home:
        (home.path / "old").mkdir()
        (home.path / "old" / "file").write_text("")
    with claim(tmp_path, recipe(bundle="c"), Options(overwrite=True)) as home:
        assert not home.resumed
    assert files(tmp_path) == ["environment.json", "recipe.yaml"]
    assert load_recipe(tmp_path / "recipe.yaml") == recipe(bundle="c").model_copy(update={"output": Path(".")})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_files_of_others_is_never_touched(tmp_path, overwrite):
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(OutputError, match=r"has no recipe.yaml, so it is not skysense's; choose another --out"):
        with claim(tmp_path, recipe(), Options(overwrite=overwrite)):
            pass
    assert files(tmp_path) == ["photo.jpg"]


def test_two_commands_cannot_write_to_one_folder(tmp_path):
    with claim(tmp_path, recipe(), Options()):
        with pytest.raises(OutputError, match="is being written by another skysense command"):
            with claim(tmp_path, recipe(), Options()):
                pass


def test_a_killed_command_leaves_no_lock(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from skysense_cli.cli.home import claim; from skysense_cli.cli.options import Options\n"
        "from skysense_cli.recipe.load import bind_recipe\n"
        f"with claim(Path({str(tmp_path)!r}), bind_recipe({MAP!r}), Options()):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match="is being written by another"):
        with claim(tmp_path, recipe(), Options()):
            pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with claim(tmp_path, recipe(), Options()) as home:
        assert home.resumed
    assert files(tmp_path) == ["environment.json", "recipe.yaml"]


def test_a_single_file_has_its_recipe_beside_it(tmp_path):
    output = tmp_path / "maps" / "crops.tif"
    with claim(output, recipe(PREDICT), Options()) as home:
        home.path.write_text("a map")
    with claim(output.with_name("water.tif"), recipe(PREDICT, bundle="c"), Options()) as home:
        home.path.write_text("another map")
    names = ["crops.environment.json", "crops.recipe.yaml", "crops.tif", "water.environment.json", "water.recipe.yaml", "water.tif"]
    assert files(tmp_path / "maps") == names
    with pytest.raises(OutputError, match="bundle: b -> d"):
        with claim(output, recipe(PREDICT, bundle="d"), Options()):
            pass
    with claim(output, recipe(PREDICT, bundle="d"), Options(overwrite=True)) as home:
        assert not home.path.exists()
    assert "water.tif" in files(tmp_path / "maps")


def test_a_map_that_is_not_ours_is_not_overwritten(tmp_path):
    (tmp_path / "crops.tif").write_text("theirs")
    with pytest.raises(OutputError, match=r"crops.tif exists and has no crops.recipe.yaml"):
        with claim(tmp_path / "crops.tif", recipe(PREDICT), Options(overwrite=True)):
            pass


def test_a_map_must_be_a_tif(tmp_path):
    with pytest.raises(OutputError, match=r"a map is a GeoTIFF; give a name that ends in .tif"):
        with claim(tmp_path / "maps", recipe(PREDICT), Options()):
            pass


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"output .*/file/maps: cannot be written \(Not a directory\)"):
        with claim(tmp_path / "file" / "maps", recipe(), Options()):
            pass


def test_environments_say_nothing_of_machine_and_time(tmp_path):
    with claim(tmp_path / "a", recipe(), Options()):
        pass
    text = (tmp_path / "a" / "environment.json").read_text()
    assert str(Path.home()) not in text
    assert str(tmp_path) not in text


def full(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(("tree", "name"), [(MAP, "new/maps"), (PREDICT, "new/maps/crops.tif")])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device", "x"), DiskError("x: cannot be written")])
def test_a_disk_that_takes_nothing_leaves_no_trace(tmp_path, tree, name, error):
    with pytest.raises(DiskError, match="^x: cannot be written"):
        with claim(tmp_path / name, recipe(tree), Options()):
            raise error
    assert files(tmp_path) == []


@pytest.mark.parametrize("error", [DiskError("full"), UnreadableError("damaged")])
def test_files_that_were_there_before_are_no_part_of_what_is_withdrawn(tmp_path, error):
    for name in ("crops.png", "crops.stac.json", "crops_class.tif"):
        (tmp_path / name).write_text("somebody's")
    with pytest.raises(type(error)), claim(tmp_path / "crops.tif", recipe(PREDICT), Options()):
        raise error
    assert files(tmp_path) == ["crops.png", "crops.stac.json", "crops_class.tif"]


@pytest.mark.parametrize(("tree", "name", "work"), [(MAP, "maps", "maps/part"), (PREDICT, "crops.tif", ".crops.tif.parts/r.npz")])
def test_a_disk_that_is_full_later_leaves_what_was_done(tmp_path, tree, name, work):
    with pytest.raises(DiskError, match=r"^x: cannot be written \(No space left on device\); free or choose another disk"):
        with claim(tmp_path / name, recipe(tree), Options()):
            (tmp_path / work).parent.mkdir(exist_ok=True)
            (tmp_path / work).write_text("done")
            full("x")
    with claim(tmp_path / name, recipe(tree), Options()) as home:
        assert home.resumed and (tmp_path / work).exists()


def test_what_another_run_began_is_left_to_it(tmp_path):
    with claim(tmp_path / "crops.tif", recipe(PREDICT), Options()):
        pass
    with pytest.raises(DiskError), claim(tmp_path / "crops.tif", recipe(PREDICT), Options()):
        full("x")
    assert files(tmp_path) == ["crops.environment.json", "crops.recipe.yaml"]


def test_a_bug_is_no_matter_of_the_disk(tmp_path):
    with pytest.raises(OSError, match="I/O error"), claim(tmp_path / "maps", recipe(), Options()):
        raise OSError(errno.EIO, "I/O error")
    assert files(tmp_path) == ["maps", "maps/environment.json", "maps/recipe.yaml"]
