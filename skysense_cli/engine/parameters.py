"""Where each parameter belongs: the name that recipes freeze it by, its share of the learning rate, its weight decay."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from torch import Tensor, nn

from skysense_cli.core.encoders import Encoder
from skysense_cli.core.fusions import Fusion
from skysense_cli.core.prompting import PromptedEncoder
from skysense_cli.errors import RecipeError

Rule = Literal["corrected", "published"]

# words in names of parameters that are not decayed although they have more than one axis
NOT_DECAYED = (
    "token",
    "pos_embed",
    "position",
    "ctpe",
    "date_embedding",
    "logit_scale",
    "temperature",
    "prototypes",
    "vocabulary",
    "gamma_",
)
PUBLISHED_NOT_DECAYED = ("absolute_pos_embed", "relative_position_bias_table", "norm", "bias")  # in encoders and the fusion
PUBLISHED_HEADS_NOT_DECAYED = (".bn.", "bias")
PROTOTYPES = "prototypes"  # what `freeze` calls the geo-context; it has no parameters, only an objective moves it
GEO_CONTEXT = "geo_context"
BEFORE = ("mask_token", "cls_token")  # beside the layers, but read by the first of them
AFTER = ("norm", "ln", "final", "tap")  # beside the layers, but on their output


@dataclass(frozen=True)
class Place:
    """Where a parameter belongs. `label`: what freeze patterns match; `scale`: factor on the learning rate."""

    label: str
    scale: float = 1.0


def parameter_places(objective: nn.Module, layer_decay: float = 1.0, rule: Rule = "corrected") -> dict[str, Place]:
    """Parameter and buffer name -> Place.

    The label of what lies in an encoder's layer i is `encoders.<m>.units.<i>.<rest>`, everything else keeps its
    name without a leading `model.` or `student.`; the geo-context is called `prototypes`.
    Layer i of n learns with layer_decay ** (n - i), what comes before the first with layer_decay ** (n + 1).
    A step between stages belongs to the layer that follows it; `published` counts it to the last layer of its stage, and
    also scales the layers of the fusion.
    """
    places = {name: Place(_label(name)) for name, _ in (*objective.named_parameters(), *objective.named_buffers())}
    for prefix, module in objective.named_modules():
        if isinstance(module, Encoder):
            places |= _encoder_places(prefix, module, layer_decay, rule)
        elif isinstance(module, PromptedEncoder):
            scale = layer_decay ** (module.encoder.layer_numbers[-1] + 2)
            places |= {name: Place(_label(name), scale) for name in (f"{prefix}.{leaf}" for leaf in BEFORE) if name in places}
        elif isinstance(module, Fusion) and rule == "published":
            places |= _fusion_places(prefix, module, layer_decay)
    return places


def is_decayed(name: str, parameter: Tensor, rule: Rule = "corrected") -> bool:
    """Whether weight decay acts on a parameter.

    corrected: matrices and kernels are decayed, norms, biases, tokens and tables are not
    published: by words in the name, so that the norms of transformer layers, called `ln1` and `ln2`, tokens and tables are
    """
    if rule == "corrected":
        return parameter.ndim > 1 and not any(word in name for word in NOT_DECAYED)
    inside = re.search(r"\b(encoders|fusion)\.", name) is not None
    return not any(word in name for word in (PUBLISHED_NOT_DECAYED if inside else PUBLISHED_HEADS_NOT_DECAYED))


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


def _encoder_places(prefix: str, encoder: Encoder, layer_decay: float, rule: Rule) -> dict[str, Place]:
    units, numbers = list(encoder.units), list(encoder.layer_numbers)
    count = numbers[-1] + 1
    if rule == "published":
        numbers = [_published_number(index, numbers, encoder.ends) for index in range(len(units))]
    owner = {id(tensor): index for index, unit in enumerate(units) for tensor in (*unit.parameters(), *unit.buffers())}
    places = {}
    for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        full = f"{prefix}.{name}"
        index = owner.get(id(tensor))
        if index is not None:
            inside = next(rest for rest, found in _named_tensors(units[index]) if found is tensor)
            label = f"{_label(prefix + '.').rstrip('.')}.units.{numbers[index]}.{inside}"
            places[full] = Place(label, layer_decay ** (count - numbers[index]))
        elif not name.startswith(AFTER):
            places[full] = Place(_label(full), layer_decay ** (count + 1))
    return places


def _fusion_places(prefix: str, fusion: Fusion, layer_decay: float) -> dict[str, Place]:
    names = [name for name, _ in fusion.named_parameters()]
    layers = [re.match(r"layers\.(\d+)\.", name) for name in names]
    count = max((int(match[1]) + 1 for match in layers if match), default=0)
    places = {}
    for name, match in zip(names, layers, strict=True):
        full = f"{prefix}.{name}"
        if match or name in BEFORE:
            places[full] = Place(_label(full), layer_decay ** (count - int(match[1]) if match else count + 1))
    return places


def _published_number(index: int, numbers: list[int], ends: tuple[int, ...]) -> int:
    """The layer that a unit counts to: its own, or for a step between stages the last of the stage it leads to."""
    between = index + 1 < len(numbers) and numbers[index] == numbers[index + 1]
    return numbers[next(end for end in ends if end > index) - 1] if between else numbers[index]


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _label(name: str) -> str:
    name = re.sub(r"^(model|student)\.", "", name)
    name = re.sub(r"^(encoders\.\w+)\.encoder\.", r"\1.", name)  # what a prompted encoder wraps
    return re.sub(rf"^{GEO_CONTEXT}\b", PROTOTYPES, name)


def _expanded(pattern: str) -> Iterator[str]:
    match = re.search(r"(?<=\.)(\d+)-(\d+)(?=\.|$)", pattern)
    if not match:
        yield pattern
        return
    for number in range(int(match[1]), int(match[2]) + 1):
        yield from _expanded(pattern[: match.start()] + str(number) + pattern[match.end() :])


def _matches(label: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(label, pattern) or fnmatchcase(label, f"{pattern}.*") for pattern in patterns)
