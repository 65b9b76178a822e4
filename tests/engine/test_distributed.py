"""Two gloo processes learn what one process learns; alone, nothing is communicated."""

import json

import pytest
import torch
import torch.multiprocessing

from skysense_cli.cli.options import Options, load
from skysense_cli.engine import bundle, distributed
from skysense_cli.engine.assemble import assemble_pretraining
from skysense_cli.engine.loading import pretraining_loader
from skysense_cli.engine.train import train
from skysense_cli.recipe.schema import TrainSection


def work(number, count, path, home, store):
    torch.set_num_threads(1)
    device = distributed.start("cpu", store, number, count)
    recipe = load(path, "pretrain", Options())
    assembly = assemble_pretraining(recipe)
    train(assembly.objective, pretraining_loader(recipe, assembly, device), recipe.train, home, assembly.spec, device=device)
    distributed.stop()


def losses(home):
    return [json.loads(line)["loss"] for line in (home / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_ranks_learn_and_resume_what_one_process_learns(tmp_path, dataset, write_pretrain):
    path = write_pretrain(tmp_path, dataset, batch=4, steps=4, keep=2)
    work(0, 1, path, tmp_path / "one", tmp_path / "unused")
    torch.multiprocessing.spawn(work, (2, path, tmp_path / "two", tmp_path / "store"), nprocs=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert bundle.read(tmp_path / "two" / "bundle").tensors.keys() == bundle.read(tmp_path / "one" / "bundle").tensors.keys()

    (tmp_path / "two" / bundle.CHECKPOINTS / "step_00000004" / "manifest.json").unlink()  # as if killed while it was written
    torch.multiprocessing.spawn(work, (2, path, tmp_path / "two", tmp_path / "store2"), nprocs=2)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_alone_every_helper_gives_back_its_input():
    tensors = {"a": torch.ones(2)}
    assert torch.equal(distributed.full(tensors)["a"], tensors["a"])
    assert distributed.is_first() and distributed.start("cpu") == "cpu"
    distributed.barrier()
    distributed.stop()


@pytest.mark.parametrize("option", ["checkpoint_activations"])
def test_recomputing_activations_changes_nothing(tmp_path, dataset, write_pretrain, option):
    for name, value in (("plain", "false"), ("recomputed", "true")):
        recipe = load(write_pretrain(tmp_path, dataset, **{option: value}), "pretrain", Options())
        assembly = assemble_pretraining(recipe)
        train(assembly.objective, pretraining_loader(recipe, assembly, "cpu"), recipe.train, tmp_path / name, assembly.spec)
    assert losses(tmp_path / "recomputed") == losses(tmp_path / "plain")


def test_sharding_in_one_process_keeps_the_names(dataset, tmp_path, write_pretrain):
    objective = assemble_pretraining(load(write_pretrain(tmp_path, dataset), "pretrain", Options())).objective
    names = list(objective.state_dict())
    plan = TrainSection(steps=1, batch=1, lr=0.1, checkpoint_activations=True, compile=True)
    assert list(distributed.shard(objective, plan).state_dict()) == names
