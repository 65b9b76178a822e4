"""Patch embeddings for other bands: by name, scaled, from neighbours in wavelength."""

import pytest
import torch

from skysense_cli import sensors
from skysense_cli.data.dataset import Input
from skysense_cli.engine.bands import plan_bands
from skysense_cli.errors import BundleError

TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
WEIGHT = torch.randn(8, 10, 4, 4, generator=torch.Generator().manual_seed(0))


def seen(sensor, bands):
    mean, std = sensors.get(sensor).statistics(bands)
    return Input(sensor, tuple(bands), 10, mean, std)


def test_the_same_bands_need_no_plan():
    assert plan_bands(seen("sentinel2_l2a", TEN), seen("sentinel2_l2a", TEN), "a.pth") is None


def test_four_of_ten_bands_as_the_published_code_does():
    plan = plan_bands(seen("sentinel2_l2a", TEN), seen("sentinel2_l2a", ("B02", "B03", "B04", "B08")), "a.pth")
    assert torch.equal(plan.apply(WEIGHT), WEIGHT[:, [0, 1, 2, 6]] * 2.5)
    assert plan.text.endswith("B02 B03 B04 B08: B02 B03 B04 B08 by name, times 10/4")


def test_bands_in_another_order_are_put_in_order():
    plan = plan_bands(seen("sentinel2_l2a", TEN), seen("sentinel2_l2a", TEN[::-1]), "a.pth")
    assert torch.equal(plan.apply(WEIGHT), WEIGHT.flip(1))
    assert "times" not in plan.text


def test_near_infrared_beside_colours_is_the_mean_of_its_two_nearest():
    plan = plan_bands(seen("rgb", ("R", "G", "B")), seen("rgbnir", ("R", "G", "B", "N")), "a.pth")
    rgb = WEIGHT[:, :3]
    assert torch.equal(plan.apply(rgb), torch.cat([rgb, (rgb[:, :1] + rgb[:, 1:2]) / 2], dim=1))  # 660 and 550 nm are nearest to 840
    assert plan.text == "bands R G B -> R G B N: R G B by name; N is the mean of R and G"


def test_a_single_trained_band_is_the_only_neighbour():
    plan = plan_bands(seen("sentinel2_l2a", ("B08",)), seen("sentinel2_l2a", ("B04", "B08")), "a.pth")
    one = WEIGHT[:, :1]
    assert torch.equal(plan.apply(one), torch.cat([one, one], dim=1)) and "B04 is the mean of B08" in plan.text


def test_kept_and_new_bands_together():
    plan = plan_bands(seen("sentinel2_l2a", ("B02", "B03", "B04")), seen("sentinel2_l2a", ("B08", "B02")), "a.pth")
    three = WEIGHT[:, :3].double().float()
    assert torch.allclose(plan.apply(three), torch.stack([(three[:, 1] + three[:, 2]) / 2, three[:, 0] * 3], dim=1))


def test_half_precision_weights_come_out_in_single():
    plan = plan_bands(seen("sentinel2_l2a", TEN), seen("sentinel2_l2a", TEN[:5]), "a.pth")
    assert torch.equal(plan.apply(WEIGHT.half()), WEIGHT.half()[:, :5].float() * 2)


def test_radar_has_no_neighbours():
    with pytest.raises(BundleError, match="a.pth: was trained on R G B, and VV of sentinel1_grd has no wavelength to be derived from"):
        plan_bands(seen("rgb", ("R", "G", "B")), seen("sentinel1_grd", ("VV", "VH")), "a.pth")
    with pytest.raises(BundleError, match="a.pth: R cannot be derived from VV VH, which have no wavelength"):
        plan_bands(seen("sentinel1_grd", ("VV", "VH")), seen("rgb", ("R",)), "a.pth")
