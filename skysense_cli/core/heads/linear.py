"""One class per sample, from the mean of the fused feature."""

import torch.nn.functional as F
from torch import Tensor, nn

from skysense_cli.core.batch import IGNORE, Target
from skysense_cli.core.collective import mean_over_ranks
from skysense_cli.core.features import Features, FeatureSpec
from skysense_cli.core.heads import Head


class Linear(Head):
    """A linear layer over the mean of the cells that are seen; (B, K) scores."""

    output = "table"

    def __init__(self, spec: FeatureSpec, classes: int, /, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(spec.fused, classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Features) -> Tensor:
        seen = features.seen_any.sum(dim=(1, 2)).clamp(min=1).unsqueeze(1)  # cells that are not seen are zero
        return self.fc(self.dropout(features.fused.sum(dim=(2, 3)) / seen))

    def loss(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        """Mean cross entropy; samples of class 255 take no part."""
        if target.classes is None:
            raise ValueError("the linear head needs target.classes")
        per_sample = F.cross_entropy(raw.float(), target.classes, ignore_index=IGNORE, reduction="none")
        return {"cross_entropy": mean_over_ranks(per_sample, target.classes != IGNORE)}

    def predict(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        return raw


build = Linear
