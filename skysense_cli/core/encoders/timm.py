"""Any timm backbone that gives feature maps, as an encoder."""

from collections.abc import Sequence
from difflib import get_close_matches

from torch import Tensor, nn

from skysense_cli.core.encoders import Encoder
from skysense_cli.core.encoders._timm import load_timm
from skysense_cli.errors import RecipeError


class Timm(Encoder):
    """A backbone of timm by its name there, with random weights.

    name: e.g. `resnet18`, `convnext_tiny`, `swinv2_cr_tiny_224`
    levels: numbers of the maps that are kept, as timm counts them (all when None)
    size: (height, width) in px, for backbones that are built for one size; then no other size is accepted

    The whole backbone is one unit and keeps its own layout inside, so it cannot be prompted.
    """

    def __init__(self, *, channels: int, name: str, levels: tuple[int, ...] | None = None, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        timm = load_timm()
        if not timm.is_model(name):
            near = get_close_matches(name, timm.list_models(), n=3)
            raise RecipeError(f"timm: no backbone {name!r}; near it: {', '.join(near) or 'nothing'}")
        options = ({} if levels is None else {"out_indices": tuple(levels)}) | ({} if size is None else {"img_size": tuple(size)})
        self.backbone = timm.create_model(name, pretrained=False, features_only=True, in_chans=channels, **options)
        self.channels = channels
        self.tap_channels = tuple(self.backbone.feature_info.channels())
        self.tap_strides = tuple(self.backbone.feature_info.reduction())
        self.stride = self.tap_strides[-1]
        self.taps = (0,) * len(self.tap_channels)
        self.patch, self.dim = self.tap_strides[0], self.tap_channels[0]
        self.ends, self.end_channels = (1,), self.tap_channels[-1:]
        self.channels_last = str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC")

    @property
    def units(self) -> Sequence[nn.Module]:
        """The backbone."""
        return [self.backbone]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = self.backbone(pixels)
        return [level.permute(0, 3, 1, 2) for level in maps] if self.channels_last else list(maps)  # NHWC -> NCHW


build = Timm
