"""The teacher of self-distillation: a slowly following copy, its targets, and the projector both use."""

import copy
import math
from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from skysense_cli.core.losses import teacher_mean
from skysense_cli.core.sinkhorn import sinkhorn


class Projector(nn.Module):
    """Features (..., width) to scores (..., outputs) in -1..1: an MLP, length 1, cosine with one direction per output.

    The DINO head with its last layer's lengths fixed to 1. Features are normalised first, since encoders need not end in
    a norm. Layers start without bias: a bias is a part that all vectors share, and scores that start almost equal are
    balanced to targets that are almost uniform, from which nothing is learned. Paper silent: all of it.
    """

    def __init__(self, width: int, *, hidden: int, bottleneck: int, outputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        self.directions = nn.Parameter(torch.randn(outputs, bottleneck) / bottleneck**0.5)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        inner = self.mlp(functional.layer_norm(features, features.shape[-1:]))
        return functional.linear(functional.normalize(inner, dim=-1), functional.normalize(self.directions, dim=-1))


class Targets(nn.Module):
    """The teacher's scores of one stream and granularity as probabilities that cannot collapse to one output.

    mean: softmax after a running mean of the scores (the centre) is taken off, as DINO does
    sinkhorn: the vectors of the global batch are balanced over the outputs, as later work does; needs no state and
        works from the first step, so it is the better choice for short runs
    """

    center: Tensor

    def __init__(self, outputs: int, *, centering: Literal["mean", "sinkhorn"], temperature: float, momentum: float) -> None:
        super().__init__()
        self.centering, self.temperature, self.momentum = centering, temperature, momentum
        self.register_buffer("center", torch.zeros(outputs))
        self.pending: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def forward(self, scores: Tensor, counted: Tensor) -> Tensor:
        """(..., K) scores and (...) bool -> (..., K) float32 probabilities; rows that do not count may hold anything finite.

        Every rank must call this in the same order.
        """
        flat, flags = scores.float().flatten(0, -2), counted.flatten()
        if self.centering == "sinkhorn":
            balanced = sinkhorn(flat[None], epsilon=self.temperature, seen=flags[None], gathered=True)
            return balanced[0].reshape(scores.shape)
        self.pending = teacher_mean(flat, flags)
        return torch.softmax((scores.float() - self.center) / self.temperature, dim=-1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the centre towards the mean of the last scores."""
        if self.pending is None:
            return
        mean, count = self.pending
        self.center.copy_(torch.where(count > 0, torch.lerp(mean, self.center, self.momentum), self.center))
        self.pending = None


def teacher_of(student: nn.Module) -> nn.Module:
    """A copy of `student` without gradients, in eval mode."""
    return copy.deepcopy(student).requires_grad_(False).eval()


def momentum_at(progress: float, ends: tuple[float, float]) -> float:
    """From `ends[0]` at progress 0 to `ends[1]` at 1 along half a cosine. Paper silent; as DINO."""
    return ends[1] - (ends[1] - ends[0]) * (math.cos(math.pi * min(max(progress, 0.0), 1.0)) + 1) / 2


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters: teacher = momentum * teacher + (1 - momentum) * student; buffers are copied.

    Parameters are matched by order, so both must be built and sharded alike; sharded ones are moved shard by shard.
    """
    old = [_local(parameter) for parameter in teacher.parameters()]
    new = [_local(parameter) for parameter in student.parameters()]
    if old:
        torch._foreach_lerp_(old, new, 1 - momentum)
    for mine, other in zip(teacher.buffers(), student.buffers(), strict=True):
        if mine is not other:
            mine.copy_(other)


def _local(parameter: Tensor) -> Tensor:
    """The part of a sharded parameter that lies on this rank; the parameter itself when it is whole."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter
