import pytest
import torch
from torch import nn

from skysense_cli.core import transformer
from skysense_cli.core.transformer import DropPath, Layer, SelfAttention, attend


@pytest.mark.parametrize("rows_of_bias", [None, 1, 7])
def test_attention_in_slices_equals_attention_at_once(monkeypatch, rows_of_bias):
    query, key, value = torch.randn(3, 7, 2, 5, 4)
    bias = None if rows_of_bias is None else torch.randn(rows_of_bias, 2, 5, 5)
    whole = attend(query, key, value, bias, scale=0.3)
    monkeypatch.setattr(transformer, "MAX_ROWS", 3)
    torch.testing.assert_close(attend(query, key, value, bias, scale=0.3), whole)


def test_self_attention_equals_torchs_with_the_same_weights():
    ours, theirs = SelfAttention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_asking_for_one_position_equals_computing_all():
    layer = Layer(12, 3).eval()
    x, allowed = torch.randn(4, 6, 12), torch.tensor([[True] * 4 + [False] * 2] * 4)
    torch.testing.assert_close(layer(x, allowed, queries=1), layer(x, allowed)[:, :1])


def test_positions_that_are_not_allowed_change_nothing():
    layer = Layer(12, 3).eval()
    x = torch.randn(2, 6, 12)
    allowed = torch.tensor([[True] * 4 + [False] * 2] * 2)
    torch.testing.assert_close(layer(x, allowed)[:, :4], layer(x[:, :4]))


def test_drop_path_keeps_the_mean_and_whole_samples():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 3))
    assert sorted(out.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (out == out[:, :1]).all()
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert (drop.eval()(torch.ones(5, 3)) == 1).all()
