"""The linear, fcn and upernet heads on made-up features."""

import pytest
import torch

from skysense_cli.core.batch import Target
from skysense_cli.core.cells import mean_over_dates
from skysense_cli.core.features import Features, FeatureSpec
from skysense_cli.core.heads.fcn import Fcn
from skysense_cli.core.heads.linear import Linear
from skysense_cli.core.heads.upernet import UPerNet

SPEC = FeatureSpec(pyramid=(4, 8, 16), strides=(4, 8, 16), fused_mm=6, fused=12, cell_px=8)


def make_features(samples=2, cells=4, dates=2, finest=8):
    """Levels of 8, 4 and 2 positions, fused of `cells`."""
    pyramid = [torch.randn(samples, dates, c, finest // 2**k, finest // 2**k) for k, c in enumerate(SPEC.pyramid)]
    return Features(
        modal={},
        fused_mm=torch.randn(samples, 6, cells, cells),
        fused=torch.randn(samples, 12, cells, cells),
        pyramid=pyramid,
        present={"s2": torch.ones(samples, dates, dtype=torch.bool)},
        seen={"s2": torch.ones(samples, dates, cells, cells, dtype=torch.bool)},
        anchor="s2",
    )


def steps_until_learned(head, features, target):
    """First and last loss of 20 steps on one batch."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = head.loss(head(features), target)["cross_entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize("cells", [2, 4, 8, 16])
def test_upernet_labels_the_finest_of_its_inputs(cells):
    raw = UPerNet(SPEC, 5, width=8)(make_features(cells=cells))
    assert raw.shape == (2, 5, max(8, cells), max(8, cells))


def test_upernet_uses_the_fused_feature_and_every_level():
    features = make_features()
    head = UPerNet(SPEC, 5, width=8, dropout=0.0).eval()
    inputs = [*features.pyramid, features.fused]
    for tensor in inputs:
        tensor.requires_grad_()
    head(features).square().sum().backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in inputs)


def test_upernet_takes_one_sample_of_one_cell_in_training():
    raw = UPerNet(SPEC, 5, width=8).train()(make_features(samples=1, cells=1, finest=4))
    assert raw.shape == (1, 5, 4, 4)
    assert raw.isfinite().all()


def test_the_mean_over_dates_leaves_padding_out():
    level = torch.tensor([1.0, 3.0, 100.0]).view(1, 3, 1, 1, 1)
    assert mean_over_dates(level, torch.tensor([[True, True, False]])).item() == 2
    assert mean_over_dates(level, torch.tensor([[False] * 3])).item() == 0


def test_fcn_labels_cells():
    head = Fcn(SPEC, 5, width=8, depth=3)
    raw = head(make_features())
    assert raw.shape == (2, 5, 4, 4)
    assert head.predict(raw, (30, 20)).shape == (2, 5, 30, 20)
    assert len(head.convs) == 3


def test_fcn_without_blocks_is_a_linear_layer_per_cell():
    head = Fcn(SPEC, 5, depth=0).eval()
    features = make_features()
    expected = torch.einsum("kc,bchw->bkhw", head.conv_seg.weight[:, :, 0, 0], features.fused) + head.conv_seg.bias.view(-1, 1, 1)
    torch.testing.assert_close(head(features), expected)


def test_linear_scores_the_mean_of_seen_cells():
    head, features = Linear(SPEC, 5).eval(), make_features(samples=1)
    features.seen["s2"][:, :, 2:] = False
    features.fused[:, :, 2:] = 0  # as the model leaves cells that no date sees
    torch.testing.assert_close(head(features), head.fc(features.fused[:, :, :2].mean(dim=(2, 3))))
    features.seen["s2"][:] = False
    features.fused[:] = 0
    torch.testing.assert_close(head(features), head.fc.bias[None])


def test_linear_loss_ignores_255_and_an_unlabelled_batch_gives_zero():
    head, raw = Linear(SPEC, 5), torch.randn(3, 5, requires_grad=True)
    loss = head.loss(raw, Target(classes=torch.tensor([1, 255, 4])))["cross_entropy"]
    torch.testing.assert_close(loss, -(raw.log_softmax(1)[0, 1] + raw.log_softmax(1)[2, 4]) / 2)
    assert head.loss(raw, Target(classes=torch.full((3,), 255)))["cross_entropy"] == 0
    assert head.predict(raw, (1, 1)) is raw
    with pytest.raises(ValueError, match="needs target.classes"):
        head.loss(raw, Target(raster=torch.zeros(3, 4, 4, dtype=torch.int64)))


@pytest.mark.parametrize("kind", [UPerNet, Fcn, Linear])
def test_every_head_learns_one_batch(kind):
    torch.manual_seed(0)
    options = {} if kind is Linear else {"width": 16}
    head = kind(SPEC, 3, **options)
    target = Target(raster=torch.randint(0, 3, (2, 8, 8)), classes=torch.tensor([0, 2]))
    first, last = steps_until_learned(head, make_features(), target)
    assert last < 0.9 * first
