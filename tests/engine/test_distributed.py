"""Two gloo processes learn what one process learns; alone, nothing is communicated."""

import json

import pytest
import torch
import torch.multiprocessing

from skysense_cli.cli.options import Options, load
from skysense_cli.core.batch import Batch, Prompt, SeriesBatch, Target
from skysense_cli.core.collective import sum_ranks
from skysense_cli.core.completion import Completion
from skysense_cli.core.encoders.swin_v2 import SwinV2
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.heads.in_context import InContext
from skysense_cli.core.losses import agreement, reconstruction
from skysense_cli.core.model import Lift, NoGeoContext, SkySense
from skysense_cli.core.prompting import PromptedEncoder
from skysense_cli.engine import bundle, distributed
from skysense_cli.engine.assemble import assemble_pretraining
from skysense_cli.engine.loading import pretraining_loader
from skysense_cli.engine.train import train
from skysense_cli.recipe.schema.train import TrainSection


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


class Prompts(torch.nn.Module):
    """Two prompted encoders that should say a pixel of the label map."""

    def __init__(self):
        super().__init__()
        swin = SwinV2(channels=2, dim=8, depths=(1, 2), heads=(1, 2), window=2, patch=2)
        vit = ViT(channels=2, dim=8, depth=2, heads=2, patch=2, size=8, class_position=False)
        sizes = {"merge_after": {"a": 2, "b": 1}, "bridges": {"a": ((4, 2), (8, 2)), "b": ((0, 2),)}}
        self.towers = torch.nn.ModuleDict(
            {name: PromptedEncoder(tower, name, vocabulary=3, **sizes) for name, tower in (("a", swin), ("b", vit))}
        )

    def forward(self, pixels, labels, hidden):
        maps = [level for tower in self.towers.values() for level in tower(pixels, labels, hidden)]
        return sum((level - labels[:, :1, :1, None]).square().mean() for level in maps)


def learn_prompts(number, count, home, store):
    torch.set_num_threads(1)
    distributed.start("cpu", store, number, count)
    torch.manual_seed(0)
    pixels, labels, hidden = torch.randn(4, 2, 16, 16), torch.randint(0, 4, (4, 16, 16)), torch.rand(4, 8, 8) < 0.5
    plan = TrainSection(steps=1, batch=1, lr=0.1, checkpoint_activations=True)
    objective = distributed.shard(Prompts(), plan)
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05)
    own, found = slice(number, None, count), []
    for _ in range(4):
        optimizer.zero_grad()
        loss = objective(pixels[own], labels[own], hidden[own])
        loss.backward()
        optimizer.step()
        found.append(sum_ranks(loss.detach()).item() / count)
    state = distributed.full(objective.state_dict())
    distributed.load(objective, state)
    if distributed.is_first():
        torch.save({"losses": found, "state": state}, home)
    distributed.stop()


@pytest.mark.slow
def test_two_ranks_learn_from_prompts_what_one_process_learns(tmp_path):
    learn_prompts(0, 1, tmp_path / "one.pt", None)
    torch.multiprocessing.spawn(learn_prompts, (2, tmp_path / "two.pt", tmp_path / "store"), nprocs=2)
    one, two = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "two"))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert one["losses"][-1] < 0.9 * one["losses"][0]
    assert two["state"].keys() == one["state"].keys()
    for name, tensor in one["state"].items():
        torch.testing.assert_close(two["state"][name], tensor, atol=1e-4, rtol=1e-3)


class SemanticPretraining(torch.nn.Module):
    """A small SkySense++ with the losses of its second stage."""

    def __init__(self):
        super().__init__()
        towers = {m: ViT(channels=2, dim=8, depth=2, heads=2, patch=2, size=8, class_position=False) for m in ("hr", "s2")}
        towers = {m: PromptedEncoder(tower, m, vocabulary=3, merge_after={"hr": 1, "s2": 1}) for m, tower in towers.items()}
        lifts = {m: Lift(8, 12, 2) for m in towers}
        completion = Completion(12, tuple(towers), codes=6, dim=4, hidden=4)
        fusion = Temporal(12, depth=2, heads=2, dim=8, dates=False)
        self.model = SkySense(towers, lifts, fusion, NoGeoContext(), anchor="s2", completion=completion)
        self.head = InContext(self.model.spec, 4, width=8, pool_scales=(1, 2)).eval()  # batch norm sees one rank's samples only

    def forward(self, batch):
        features = self.model(batch)
        named = self.head.loss(self.head(features), batch.target)
        return sum(named.values()) + agreement(features.completed) + reconstruction(features.completed)


def prompted_batch(step, part):
    """Four samples; in step 1 the last two, which are the second rank's, lack hr."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 4, (4, 8, 8), generator=generator)
    series = {}
    for m in ("hr", "s2"):
        present = torch.ones(4, 1, dtype=torch.bool)
        if m == "hr" and step == 1:
            present[2:] = False
        pixels = torch.randn(4, 1, 2, 8, 8, generator=generator)
        valid = present[..., None, None].expand(-1, -1, 8, 8)
        series[m] = SeriesBatch(pixels[part], torch.full((4, 1), 3)[part], present[part], valid[part])
    prompt = Prompt(labels[part], (torch.rand(4, 4, 4, generator=generator) < 0.5)[part])
    count = len(prompt.labels)
    frame = torch.eye(2, 3).expand(count, 2, 3)
    return Batch(series, torch.zeros(count, dtype=torch.int64), torch.arange(4)[part], frame, Target(raster=labels[part]), prompt)


def learn_semantics(number, count, home, store):
    torch.set_num_threads(1)
    distributed.start("cpu", store, number, count)
    torch.manual_seed(0)
    objective = distributed.shard(SemanticPretraining(), TrainSection(steps=1, batch=1, lr=0.1))
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.05)
    part, found = slice(number * 4 // count, (number + 1) * 4 // count), []
    for step in range(4):
        optimizer.zero_grad()
        loss = objective(prompted_batch(step, part))
        loss.backward()
        optimizer.step()
        found.append(sum_ranks(loss.detach()).item() / count)
    if distributed.is_first():
        home.write_text(json.dumps(found))
    distributed.stop()


@pytest.mark.slow
def test_two_ranks_of_which_one_lacks_hr_for_a_step_learn_what_one_process_learns(tmp_path):
    learn_semantics(0, 1, tmp_path / "one.json", None)
    torch.multiprocessing.spawn(learn_semantics, (2, tmp_path / "two.json", tmp_path / "store"), nprocs=2)
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-5)
    assert len(set(one)) == 4


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
