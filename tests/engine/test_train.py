"""The loop: equal runs give equal files whatever interrupts them, losses fall, bad numbers stop it in time."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from skysense_cli.cli.options import Options, load
from skysense_cli.cli.pretrain import run as pretrain
from skysense_cli.core.objectives import Objective
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import assemble_finetuning, assemble_pretraining
from skysense_cli.engine.curves import GROWING, read_metrics
from skysense_cli.engine.loading import finetuning_loader, pretraining_loader
from skysense_cli.engine.train import train
from skysense_cli.errors import BundleError, TrainingError
from skysense_cli.files import sha256
from skysense_cli.recipe.schema.train import TrainSection


def tree(folder):
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def run(recipe, home, stop_at=None):
    """Train a pretraining recipe into `home`; with `stop_at`, as if interrupted while that step's batch is fetched."""
    assembly = assemble_pretraining(recipe)
    loader = pretraining_loader(recipe, assembly, "cpu")
    if stop_at is not None:
        dataset = loader.dataset
        fetch = type(dataset).__getitem__

        class Interrupted(type(dataset)):
            def __getitem__(self, key):
                if key.step == stop_at:
                    raise KeyboardInterrupt
                return fetch(self, key)

        dataset.__class__ = Interrupted
    return train(assembly.objective, loader, recipe.train, home, assembly.spec)


@pytest.fixture
def recipe(tmp_path, dataset, write_pretrain):
    return load(write_pretrain(tmp_path, dataset, steps=6, keep=2), "pretrain", Options())


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_an_interrupted_run_ends_with_the_same_files(recipe, tmp_path, stop_at, capsys):
    run(recipe, tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "interrupted", stop_at)
    saved = stop_at // 2 * 2
    assert f"interrupted at step {stop_at}; the same command goes on from step {saved}" in capsys.readouterr().err
    run(recipe, tmp_path / "interrupted")
    assert tree(tmp_path / "interrupted") == tree(tmp_path / "undisturbed")


def test_a_finished_run_is_left_as_it_is(recipe, tmp_path, capsys):
    run(recipe, tmp_path / "run")
    before = tree(tmp_path / "run")
    run(recipe, tmp_path / "run")
    assert tree(tmp_path / "run") == before
    assert "was already trained to step 6" in capsys.readouterr().out
    assert sorted(before) == sorted([
        "bundle/bundle.json", "bundle/manifest.json", "bundle/weights.safetensors", "curves.png", "metrics.jsonl",
        *(f"{bundle.CHECKPOINTS}/step_0000000{step}/{name}" for step in (4, 6)
          for name in ("bundle.json", "manifest.json", "weights.safetensors", "state/.metadata", "state/__0_0.distcp")),
    ])  # fmt: skip


def test_leftovers_of_a_kill_are_removed(recipe, tmp_path):
    run(recipe, tmp_path / "clean")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run", stop_at=3)
    (tmp_path / "run" / bundle.CHECKPOINTS / "step_00000004.tmp").mkdir()
    (tmp_path / "run" / bundle.CHECKPOINTS / "step_00000004").mkdir()
    (tmp_path / "run" / "metrics.jsonl.part.tmp").write_text("{")
    with (tmp_path / "run" / GROWING).open("a") as file:
        file.write('{"step": 4, "loss": 1}\n{"step": 5, "lo')
    run(recipe, tmp_path / "run")
    assert tree(tmp_path / "run") == tree(tmp_path / "clean")


def test_log_lines_between_checkpoints_survive_a_resume(tmp_path, dataset, write_pretrain):
    recipe = load(write_pretrain(tmp_path, dataset, steps=6, log_every=4, save_every=3), "pretrain", Options())
    run(recipe, tmp_path / "undisturbed")  # the line of step 4 is a mean over steps on both sides of a checkpoint
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "interrupted", stop_at=3)
    run(recipe, tmp_path / "interrupted")
    assert tree(tmp_path / "interrupted") == tree(tmp_path / "undisturbed")


def test_a_damaged_checkpoint_is_refused_by_name(recipe, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "run", stop_at=3)
    path = tmp_path / "run" / bundle.CHECKPOINTS / "step_00000002" / "state" / "__0_0.distcp"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(BundleError, match="__0_0.distcp: content differs"):
        run(recipe, tmp_path / "run")


def test_workers_change_nothing(tmp_path, dataset, write_pretrain):
    alone = load(write_pretrain(tmp_path, dataset), "pretrain", Options())
    helped = load(write_pretrain(tmp_path, dataset, workers=1), "pretrain", Options())
    run(alone, tmp_path / "alone")
    run(helped, tmp_path / "helped")
    assert tree(tmp_path / "helped") == tree(tmp_path / "alone")


def test_the_loss_falls_and_scores_rise(tmp_path, dataset, write_finetune):
    path = write_finetune(tmp_path, dataset, "model: model.yaml", evaluate=False, steps=40, lr=0.01)
    recipe = load(path, "finetune", Options())
    assembly = assemble_finetuning(recipe)
    train(assembly.objective, finetuning_loader(recipe, assembly, "cpu"), recipe.train, tmp_path / "run", assembly.spec)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert losses[-1] < 0.5 * losses[0]


def test_bf16_trains_too(tmp_path, dataset, write_pretrain):
    recipe = load(write_pretrain(tmp_path, dataset, precision="bf16", steps=2), "pretrain", Options())
    run(recipe, tmp_path / "run")
    assert bundle.read(tmp_path / "run" / "bundle").tensors["model.fusion.cls_token"].dtype == torch.float32


class Falling(Objective):
    """A loss that is not a number from the third step on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.seen = 0

    def forward(self, batch):
        self.seen += 1
        return {"good": self.weight.sum() * 0.1, "bad": self.weight.sum() * (float("nan") if self.seen > 2 else 1.0)}

    def export(self):
        return {"model": self}


class Endless:
    """Batches that nothing looks at."""

    class batch_sampler:
        start = 0

    def __iter__(self):
        while True:
            yield torch.zeros(1)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path, recipe):
    objective = Falling()
    spec = assemble_pretraining(recipe).spec
    plan = TrainSection(steps=5, batch=1, lr=0.1, save_every=1, log_every=1)
    with pytest.raises(TrainingError, match=r"not finite at step 3 \(good .*, bad nan\); no weight was changed"):
        train(objective, Endless(), plan, tmp_path / "run", spec)
    saved = bundle.read(tmp_path / "run" / bundle.CHECKPOINTS / "step_00000002").tensors["model.weight"]
    assert torch.equal(objective.weight.detach(), saved)
    assert [line["step"] for line in read_metrics(tmp_path / "run" / GROWING)] == [1, 2]


def test_metrics_hold_no_times(recipe, tmp_path):
    run(recipe, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert sorted(line) == ["gradient_norm", "loss", "losses", "lr", "step"]


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_nothing(tmp_path, dataset, write_pretrain):
    path = write_pretrain(tmp_path, dataset, steps=30, log_every=3, save_every=4)
    recipe = load(path, "pretrain", Options())
    pretrain(recipe, Options())
    (tmp_path / "pretrain").rename(tmp_path / "undisturbed")
    command = [sys.executable, "-m", "skysense_cli", "pretrain", str(path)]
    metrics = tmp_path / "pretrain" / GROWING
    for lines in (1, 4, 7):  # killed once so much was logged
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())})
        while process.poll() is None and len(read_metrics(metrics)) < lines:
            time.sleep(0.003)
        process.send_signal(signal.SIGKILL)
        process.wait()
    pretrain(recipe, Options())
    left = tree(tmp_path / "pretrain")
    left.pop(".lock", None)
    assert left == tree(tmp_path / "undisturbed")
