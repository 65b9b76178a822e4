"""SkySense++'s label decoder: a word of the label vocabulary for each pixel of a prompted canvas."""

import torch.nn.functional as F
from torch import Tensor

from skysense_cli.core.batch import Target
from skysense_cli.core.features import FeatureSpec
from skysense_cli.core.heads.upernet import UPerNet
from skysense_cli.core.losses import masked_label


class InContext(UPerNet):
    """Scores of the words 0 (no label) to V, `words` = V + 1 of them, from what a prompted encoder makes.

    The first level of a prompted pyramid holds the features of the image and of the labels side by side. Parameter names
    are those of the released weights.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        words: int,
        /,
        *,
        width: int = 512,
        pool_scales: tuple[int, ...] = (1, 2, 3, 6),
        dropout: float = 0.1,
        rounded: bool = False,
    ) -> None:
        super().__init__(spec, words, width=width, pool_scales=pool_scales, dropout=dropout, rounded=rounded)

    def loss(self, raw: Tensor, target: Target) -> dict[str, Tensor]:
        """Cross entropy over the vocabulary on all pixels, visible ones too, labelled and unlabelled ones equally weighted.

        SkySense++, Methods, and the published configuration.
        """
        if target.raster is None:
            raise ValueError("the in_context head needs target.raster")
        scores = self.predict(raw, (target.raster.shape[-2], target.raster.shape[-1]))
        return {"masked_label": masked_label(scores, target.raster, target.raster >= 0, balance=True)}

    def predict(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, K, *size): bilinear in float32 with the corner pixels' centres on each other, as released."""
        return F.interpolate(raw.float(), size=size, mode="bilinear", align_corners=True)


build = InContext
