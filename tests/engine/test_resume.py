"""A map that was stopped goes on where it was, to the byte; many processes make the same map as one."""

import io
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio

from skysense_cli.cli.options import Options
from skysense_cli.cli.predict import run
from skysense_cli.engine import rank_process
from skysense_cli.engine.assemble import load_bundle
from skysense_cli.engine.canvas import canvases_of
from skysense_cli.engine.memory import Made, needs
from skysense_cli.engine.parts import OtherPartsError, Parts
from skysense_cli.engine.predict import steps_abreast
from skysense_cli.engine.predict_map import Prediction, open_prediction
from skysense_cli.engine.ranks import REFUSED, RankError, Share, shares
from skysense_cli.engine.tiling import make_plan, runs
from skysense_cli.recipe.load import load_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory, write_map_project):
    """A scene with a hole, a recipe whose strips end in the middle of steps, and its map."""
    folder = tmp_path_factory.mktemp("resume")
    empty = np.zeros((150, 130), bool)
    empty[40:90, 30:80] = True
    recipe = write_map_project(
        folder, empty.shape, empty=empty, tiles="{size_m: 160, overlap: 0.45, batch: 5}",
        write="{what: [class, probability, margin], dtype: float32}",
    )  # fmt: skip
    run(load_recipe(recipe, "predict", ()), Options(device="cpu"))
    return folder


@pytest.fixture(scope="module")
def little(place):
    """As much memory as strips in three pieces need."""
    prediction = opened(place)
    plan, channels = prediction.job.plan.in_blocks(3), prediction.job.scene.channels
    pixel_bytes = sum(len(kind.bands) * kind.itemsize for kind in prediction.product.maps)
    made = Made(3 * plan.unit_px**2, pixel_bytes * plan.unit_px**2)
    return f"{needs(plan, channels, made, steps_abreast('cpu')).total / 1000 + 0.001:.3f}KB"


def opened(place):
    recipe = load_recipe(place / "map.yaml", "predict", ())
    return open_prediction(recipe, load_bundle(Path(recipe.bundle), "cpu"))


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def again(place, tmp_path, *sets, **options):
    recipe = load_recipe(place / "map.yaml", "predict", (f"output={tmp_path}/maps/map.tif", *sets))
    run(recipe, Options(device="cpu", **options))
    return content(tmp_path / "maps")


@pytest.mark.parametrize(("count", "cut"), [(0, False), (1, False), (7, False), (10, True)])
def test_a_stopped_map_goes_on_and_is_the_same_to_the_byte(place, little, tmp_path, monkeypatch, stopping, count, cut):
    memory = little if cut else "1GB"
    with monkeypatch.context() as patched:
        done = stopping.after(count, patched)
        with pytest.raises(stopping.error):
            again(place, tmp_path, f"tiles.max_memory={memory}")
    assert len(done) == count
    visible = {path.name for path in (tmp_path / "maps").iterdir() if not path.name.startswith(".")}
    assert visible == {"map.recipe.yaml", "map.environment.json"}
    made = []
    put = Parts.put
    monkeypatch.setattr(Parts, "put", lambda self, name, arrays: (made.append(name), put(self, name, arrays)))
    assert again(place, tmp_path, f"tiles.max_memory={memory}").items() >= content_but_recipe(place).items()
    assert set(made).isdisjoint(done) or cut  # with pieces a row that has begun is made again as a whole
    assert {path.name for path in (tmp_path / "maps").iterdir()} == set(content(place / "maps"))


def content_but_recipe(place):
    """max_memory stands in the recipe, and nowhere else."""
    return {name: data for name, data in content(place / "maps").items() if name != "map.recipe.yaml"}


def test_what_strips_are_cut_into_does_not_show(place, little, tmp_path, capsys):
    made = again(place, tmp_path, f"tiles.max_memory={little}")
    assert "strips cut into 3 pieces" in capsys.readouterr().out
    assert made.items() >= content_but_recipe(place).items()


def test_another_bundle_or_a_changed_scene_is_refused_by_name(place, tmp_path, monkeypatch, stopping):
    scene = tmp_path / "20210401.tif"
    scene.write_bytes((place / "20210401.tif").read_bytes())
    sets = (f"scene.s2=['{scene}']",)
    with monkeypatch.context() as patched:
        stopping.after(3, patched)
        with pytest.raises(stopping.error):
            again(place, tmp_path, *sets)
    os.utime(scene, (1_600_000_000, 1_600_000_000))
    with pytest.raises(OtherPartsError, match=r"map.tif: an earlier run .*scene: .*20210401.tif was .*, is .*--overwrite"):
        again(place, tmp_path, *sets)
    made = again(place, tmp_path, *sets, overwrite=True)
    with rasterio.open(tmp_path / "maps" / "map.tif") as one, rasterio.open(place / "maps" / "map.tif") as other:
        np.testing.assert_array_equal(one.read(), other.read())
    with rasterio.open(scene, "r+") as file:
        file.write(np.full((1, 4, 4), 3000, np.uint16), indexes=[1], window=((0, 4), (0, 4)))
    with pytest.raises(OtherPartsError, match=r"map.tif was made from something else .*SKYSENSE_SCENES_SHA256"):
        again(place, tmp_path, *sets)
    assert again(place, tmp_path, *sets, overwrite=True)["map.tif"] != made["map.tif"]


def test_a_finished_map_is_left_alone(place, tmp_path, capsys, monkeypatch):
    made = again(place, tmp_path)
    assert made == content(place / "maps")
    monkeypatch.setattr(Prediction, "compute", lambda *_: pytest.fail("nothing is to be done"))
    assert again(place, tmp_path) == made
    assert "map.tif: already complete" in capsys.readouterr().out


def test_a_file_that_is_gone_is_made_again(place, tmp_path):
    made = again(place, tmp_path)
    (tmp_path / "maps" / "map_margin.tif").unlink()
    assert again(place, tmp_path) == made


@pytest.mark.slow
def test_a_rank_that_dies_fails_the_command_and_its_map_goes_on(place, tmp_path, monkeypatch):
    """The first strip that arrives is the sign to kill a rank."""
    started = []
    popen = subprocess.Popen

    class Watched(popen):
        def __init__(self, command, **options):
            super().__init__(command, **options)
            if "skysense_cli.engine.rank_process" in command:
                started.append(self)

        def poll(self):
            if self is started[-1] and super().poll() is None and any((tmp_path / "maps" / ".map.tif.parts").glob("r*.npz")):
                os.kill(self.pid, signal.SIGKILL)
                self.wait()
            return super().poll()

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", Watched)
        # too many rows for a rank to end before it is looked at
        with pytest.raises(RankError, match=r"rank 1 of 2 was killed by signal 9; what is finished is kept, run the same command again"):
            again(place, tmp_path, "tiles.batch=1", "tiles.overlap=0.49", ranks=2)
    assert all(process.returncode is not None for process in started)
    kept = len(list((tmp_path / "maps" / ".map.tif.parts").glob("r*.npz")))
    assert kept > 0
    made = again(place, tmp_path, "tiles.batch=1", "tiles.overlap=0.49", ranks=2)
    other = tmp_path / "other"
    assert again(place, other, "tiles.batch=1", "tiles.overlap=0.49") == made


def test_what_a_rank_fails_with_goes_back_in_its_words(place, tmp_path, monkeypatch, capsys):
    """The scene, here the recipe, is changed after the command has looked at it."""
    recipe = load_recipe(place / "map.yaml", "predict", ())
    share = Share(recipe, "a digest", tmp_path / "map.tif", 1, os.getppid(), "cpu", (range(1),), 0)
    Parts(share.output).begin(opened(place).state("another"))
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(rank_process, "end_with", lambda parent: None)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(pickle.dumps(share))))
    capsys.readouterr()
    assert rank_process.main() == REFUSED
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["exit_code"] == 2
    assert "something changed while the command ran (recipe was another, is a digest)" in said["message"] and not said["disk"]
    Parts(share.output).begin(opened(place).state("a digest"), overwrite=True)
    sys.stdin.buffer.seek(0)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        assert rank_process.main() == REFUSED
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGINT, before)
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["exit_code"] == 3 and said["disk"] and said["message"].endswith(".npz: cannot be written (File too large)")


def test_processes_of_a_launcher_share_the_rows(place, tmp_path):
    """As torchrun starts them: the same command in each, ranks in the environment. The second one starts first."""
    command = [
        sys.executable,
        "-m",
        "skysense_cli",
        "predict",
        str(place / "map.yaml"),
        "--device",
        "cpu",
        "--out",
        f"{tmp_path}/maps/map.tif",
    ]
    running = []
    for rank in (1, 0):
        environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for process in running:
        said = process.communicate(timeout=300)[1].decode()
        assert process.returncode == 0, said
    assert content(tmp_path / "maps") == content(place / "maps")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code", "ranks"), [("SIGINT", 130, 2), ("SIGTERM", 143, 1)])
def test_a_signal_ends_the_command_with_its_code_and_the_map_goes_on(place, tmp_path, name, code, ranks):
    out = tmp_path / "maps" / "map.tif"
    command = [sys.executable, "-m", "skysense_cli", "predict", str(place / "map.yaml"), "--device", "cpu", "--out", str(out)]
    command += ["--ranks", str(ranks), "--set", "tiles.batch=1", "--set", "tiles.overlap=0.49"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("strips: "):
            process.send_signal(getattr(signal, name))
            break
    rest = process.stderr.read()
    assert process.wait(60) == code
    assert "Traceback" not in "".join(said) + rest
    visible = {path.name for path in out.parent.iterdir() if not path.name.startswith(".")}
    assert visible == {"map.recipe.yaml", "map.environment.json"}
    kept = Parts(out).finished()
    assert kept
    made = again(place, tmp_path, "tiles.batch=1", "tiles.overlap=0.49")
    assert json.loads(made["map.stac.json"])["id"] == "map"


@pytest.mark.slow
def test_a_map_that_was_killed_twice_is_the_same_to_the_byte(place, tmp_path):
    """First while strips are made, then while they are put into files."""
    out = tmp_path / "maps" / "map.tif"
    command = [sys.executable, "-m", "skysense_cli", "predict", str(place / "map.yaml"), "--device", "cpu", "--out", str(out)]
    for sign in ("strips: ", "strips into files: "):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert any(line.startswith(sign) for line in process.stderr)
            process.kill()
        visible = {path.name for path in out.parent.iterdir() if not path.name.startswith(".") and not path.name.endswith(".tmp")}
        assert visible == {"map.recipe.yaml", "map.environment.json"}
    assert again(place, tmp_path) == content(place / "maps")


def test_rows_are_shared_out_evenly_by_what_is_wanted():
    plan = make_plan((100, 40), size=4, overlap=0.25, batch=2, unit_px=1, shape=(100, 40))
    rows = list(range(plan.tiles[0]))
    for count in (1, 2, 3, 7, 100):
        found = shares(plan, rows, count)
        assert [row for share in found for row in share] == rows
        assert max(map(len, found)) - min(map(len, found)) <= 1
    assert shares(plan, [], 3) == []
    assert runs({1, 2, 3, 7, 9, 8, 30}) == [range(1, 4), range(7, 10), range(30, 31)]


def test_threads_of_the_model_change_no_bit_and_are_given_back(place, tmp_path):
    import torch

    prediction = opened(place)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            product = prediction.product
            strips = product.pieces(canvases_of(product.job, product.maps), range(2, 6))
            found.append(np.concatenate([strip.scores.reshape(3, -1) for (strip,) in strips], axis=1))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    assert not any(thread.name.startswith("skysense") for thread in threading.enumerate())
