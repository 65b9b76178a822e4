"""Loaders of training batches: the samples of an assembly in the order and shape its recipe asks for."""

from __future__ import annotations

from torch.utils.data import DataLoader

from skysense_cli.core.batch import Batch, Views
from skysense_cli.core.collective import rank, ranks
from skysense_cli.core.model import SkySense
from skysense_cli.data.collate import collate, collate_pairs
from skysense_cli.data.dataset import LabelledDataset, PairDataset, SampleDataset
from skysense_cli.data.order import Key, StepSampler, step_loader
from skysense_cli.data.views import Cutter
from skysense_cli.engine.assemble import Assembly, strides, unit_m
from skysense_cli.recipe.schema.train import FinetuneRecipe, PretrainRecipe, TrainSection


def pretraining_loader(recipe: PretrainRecipe, assembly: Assembly, device: str) -> DataLoader:
    """Endless batches of two views."""
    data, plan = assembly.data, recipe.train
    reading = data.reading(assembly.spec.regions, plan.seed)
    dataset = PairDataset(data.folder, data.rows, reading, _cutter(assembly, turn=True), recipe.views)
    return step_loader(dataset, _sampler(dataset, plan), collate_pairs, workers=plan.workers, pin=device.startswith("cuda"))


def finetuning_loader(recipe: FinetuneRecipe, assembly: Assembly, device: str) -> DataLoader:
    """Endless batches of samples with their labels."""
    data, plan = assembly.data, recipe.train
    reading = data.reading(assembly.spec.regions, plan.seed)
    dataset = LabelledDataset(data.folder, data.rows, reading, _cutter(assembly, turn=recipe.data.augment))
    return step_loader(dataset, _sampler(dataset, plan), collate, workers=plan.workers, pin=device.startswith("cuda"))


def one_sample(loader: DataLoader) -> Batch | Views:
    """A batch of the first sample that has most modalities; what the plan measures."""
    dataset: SampleDataset = loader.dataset  # type: ignore[assignment]
    row = max(range(len(dataset)), key=lambda number: (len(dataset.modalities(number)), -number))
    return loader.collate_fn([dataset[Key(0, 0, row)]])


def _sampler(dataset: SampleDataset, plan: TrainSection) -> StepSampler:
    return StepSampler(len(dataset), plan.batch, plan.seed, rank=rank(), ranks=ranks())


def _cutter(assembly: Assembly, *, turn: bool) -> Cutter:
    model: SkySense = assembly.objective.export()["model"]  # type: ignore[assignment]
    return Cutter(assembly.data.crop_m, unit_m(assembly.data.inputs, strides(model)), turn)
