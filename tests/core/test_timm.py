"""Backbones of timm as encoders."""

import pytest
import torch

from skysense_cli.core.encoders.timm import Timm
from skysense_cli.errors import RecipeError


@pytest.mark.parametrize(
    ("name", "options", "channels", "strides"),
    [
        ("resnet10t", {"levels": (1, 2, 3, 4)}, (64, 128, 256, 512), (4, 8, 16, 32)),
        ("swinv2_tiny_window8_256", {"size": (64, 96)}, (96, 192, 384, 768), (4, 8, 16, 32)),  # gives NHWC
    ],
)
def test_a_backbone_gives_the_maps_it_announces(name, options, channels, strides):
    encoder = Timm(channels=5, name=name, **options).eval()
    assert (encoder.tap_channels, encoder.tap_strides, encoder.stride, encoder.channels) == (channels, strides, 32, 5)
    with torch.no_grad():
        maps = encoder(torch.rand(1, 5, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]


def test_an_unknown_backbone_is_refused_with_names_near_it():
    with pytest.raises(RecipeError, match=r"no backbone 'resnet19'; near it: .*resnet1"):
        Timm(channels=3, name="resnet19")
