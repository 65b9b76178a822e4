"""Objectives: what a training step minimises, with its state (teacher, projectors). One kind per file.

To add one, write `core/objectives/<kind>.py` with an `Objective` and `build = <TheClass>`; its
positional-only arguments are given by `engine/assemble.py` (the model, and the head if there is one).
"""

from torch import Tensor, nn


class Objective(nn.Module):
    """The loop calls `forward`, backward, the optimizer, then `after_step`; at the end `export`."""

    def forward(self, batch) -> dict[str, Tensor]:
        """Named losses, already weighted; their sum is minimised."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Updates without gradient (progress in 0..1), from what `forward` kept; nothing by default."""

    def export(self) -> dict[str, nn.Module]:
        """What the bundle keeps, by name: `model`, and `head` if there is one."""
        raise NotImplementedError
