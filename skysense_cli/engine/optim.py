"""What the optimizer sees: parameter groups, layer decay, freezing, the learning rate of a step."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from skysense_cli.core.encoders import Encoder
from skysense_cli.errors import RecipeError
from skysense_cli.recipe.schema import TrainSection

# words in names of parameters that are not decayed although they have more than one axis
NOT_DECAYED = ("token", "pos_embed", "position", "ctpe", "date_embedding", "logit_scale", "temperature", "prototypes")
PROTOTYPES = "prototypes"  # what `freeze` calls the geo-context; it has no parameters, only an objective moves it
GEO_CONTEXT = "geo_context"


@dataclass(frozen=True)
class Place:
    """Where a parameter belongs. `label`: what freeze patterns match; `scale`: factor on the learning rate."""

    label: str
    scale: float = 1.0


def build(objective: nn.Module, plan: TrainSection) -> torch.optim.AdamW:
    """AdamW over the trainable parameters of `objective`; one group per (learning-rate scale, weight decay).

    Norms, biases, tokens and position tables are not decayed. Parameters below encoder unit i of n learn
    with layer_decay ** (n - i), those before the first unit with layer_decay ** (n + 1), as upstream.
    Raises RecipeError when a freeze pattern matches nothing or nothing is left to train.
    """
    places = parameter_places(objective, plan.layer_decay)
    freeze(objective, places, plan.freeze)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            decay = plan.weight_decay if is_decayed(name, parameter) else 0.0
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


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts on a parameter: matrices and kernels do, norms, biases, tokens and tables do not."""
    return parameter.ndim > 1 and not any(word in name for word in NOT_DECAYED)


def parameter_places(objective: nn.Module, layer_decay: float = 1.0) -> dict[str, Place]:
    """Parameter and buffer name -> Place.

    The label of what lies in an encoder's unit is `encoders.<m>.units.<i>.<rest>`, everything else keeps its
    name without a leading `model.` or `student.`; the geo-context is called `prototypes`.
    """
    places = {name: Place(_label(name)) for name, _ in (*objective.named_parameters(), *objective.named_buffers())}
    for prefix, encoder in _encoders(objective):
        units = list(encoder.units)
        owner = {id(tensor): index for index, unit in enumerate(units) for tensor in (*unit.parameters(), *unit.buffers())}
        for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
            full = f"{prefix}.{name}"
            index = owner.get(id(tensor))
            if index is not None:
                unit_name = next(rest for rest, inside in _named_tensors(units[index]) if inside is tensor)
                places[full] = Place(f"{_label(prefix)}.units.{index}.{unit_name}", layer_decay ** (len(units) - index))
            elif not _is_after_units(name):
                places[full] = Place(_label(full), layer_decay ** (len(units) + 1))
    return places


def freeze(objective: nn.Module, places: dict[str, Place], patterns: tuple[str, ...]) -> None:
    """Switch off the gradient of every parameter whose label matches a pattern.

    A pattern is a shell pattern on the label or a leading part of it; `units.0-11` means each number of the range.
    Raises RecipeError when a pattern matches nothing, or nothing is left to train.
    """
    labels = {place.label for place in places.values()}
    parameters = dict(objective.named_parameters())
    for pattern in patterns:
        wanted = list(_expanded(pattern))
        if not any(_matches(label, wanted) for label in labels) and pattern != PROTOTYPES:
            known = sorted({".".join(label.split(".")[:2]) for label in labels})
            raise RecipeError(f"train.freeze: {pattern!r} matches no parameter (known: {', '.join(known)})")
        for name, parameter in parameters.items():
            if _matches(places[name].label, wanted):
                parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise RecipeError("train.freeze: leaves no parameter to train")


def _encoders(objective: nn.Module) -> Iterator[tuple[str, Encoder]]:
    for name, module in objective.named_modules():
        if isinstance(module, Encoder):
            yield name, module


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _label(name: str) -> str:
    name = re.sub(r"^(model|student)\.", "", name)
    return re.sub(rf"^{GEO_CONTEXT}\b", PROTOTYPES, name)


def _is_after_units(name: str) -> bool:
    """Whether a parameter beside the units acts on their output (the norms of the taps) and not on their input."""
    return name.startswith(("norm", "ln", "final", "tap"))


def _expanded(pattern: str) -> Iterator[str]:
    match = re.search(r"(?<=\.)(\d+)-(\d+)(?=\.|$)", pattern)
    if not match:
        yield pattern
        return
    for number in range(int(match[1]), int(match[2]) + 1):
        yield from _expanded(pattern[: match.start()] + str(number) + pattern[match.end() :])


def _matches(label: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(label, pattern) or fnmatchcase(label, f"{pattern}.*") for pattern in patterns)
