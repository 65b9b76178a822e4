"""What the optimizer sees: parameter groups and the learning rate of a step."""

import math

import torch
from torch import Tensor, nn

from skysense_cli.engine.parameters import freeze, is_decayed, parameter_places
from skysense_cli.recipe.schema.train import TrainSection


def build(objective: nn.Module, plan: TrainSection) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `objective`; one group per (learning-rate scale, weight decay).

    `plan.groups` says by which rule parameters are scaled and decayed, see `engine/parameters.py`.
    Raises RecipeError when a freeze pattern matches nothing or nothing is left to train.
    """
    places = parameter_places(objective, plan.layer_decay, plan.groups)
    freeze(objective, places, plan.freeze)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            decay = plan.weight_decay if is_decayed(name, parameter, plan.groups) else 0.0
            groups.setdefault((places[name].scale, decay), []).append(parameter)
    # largest scale first: then group 0 carries the learning rate that is logged
    ordered = sorted(groups.items(), key=lambda entry: (-entry[0][0], -entry[0][1]))
    return torch.optim.AdamW(
        [{"params": params, "lr": plan.lr * scale, "weight_decay": decay, "scale": scale} for (scale, decay), params in ordered],
        betas=(0.9, 0.999),
    )


def learning_rate(step: int, plan: TrainSection) -> float:
    """The learning rate of update number `step` (from 0): linear warm-up, then a cosine that ends at `min_lr`."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(plan.steps - plan.warmup, 1)
    return plan.min_lr + (plan.lr - plan.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, plan: TrainSection) -> float:
    """Set the rate of every group for update number `step`; returns the unscaled one."""
    rate = learning_rate(step, plan)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    return rate
