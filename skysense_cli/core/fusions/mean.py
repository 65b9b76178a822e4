"""The mean over dates and modalities: a fusion without parameters and without dates."""

from torch import Tensor

from skysense_cli.core.fusions import Fusion


class Mean(Fusion):
    """The mean of the seen tokens; d' = d. For a single date it is that date's feature."""

    def __init__(self, width: int, /) -> None:
        super().__init__()
        self.dim = width

    def forward(self, tokens: Tensor, days: Tensor, seen: Tensor) -> Tensor:
        weights = seen.to(tokens.dtype)
        total = (tokens * weights.unsqueeze(-1)).sum(dim=1)
        return total / weights.sum(dim=1, keepdim=True).clamp(min=1)


build = Mean
