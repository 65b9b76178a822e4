"""What the raster heads share."""

import pytest
import torch

from skysense_cli.core.batch import Target
from skysense_cli.core.heads._raster import BatchNorm, RasterHead


def test_the_loss_is_the_mean_over_labelled_pixels_at_their_own_size():
    raw = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[0, :5] = 255
    (loss,) = RasterHead().loss(raw, Target(raster=labels)).values()
    scores = torch.nn.functional.interpolate(raw, scale_factor=2, mode="bilinear")
    terms = []
    for b in range(2):
        for y in range(8):
            for x in range(8):
                if labels[b, y, x] != 255:
                    terms.append(-scores[b, :, y, x].log_softmax(0)[labels[b, y, x]])
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_ignored_pixels_have_no_gradient():
    raw = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 1, 2] = 255
    RasterHead().loss(raw, Target(raster=labels))["cross_entropy"].backward()
    assert (raw.grad[0, :, 1, 2] == 0).all()
    assert (raw.grad.abs().sum(dim=1) > 0).sum() == 15


def test_a_batch_without_labels_gives_zero_and_no_gradient():
    raw = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = RasterHead().loss(raw, Target(raster=torch.full((2, 8, 8), 255)))["cross_entropy"]
    loss.backward()
    assert loss == 0
    assert (raw.grad == 0).all()


def test_scores_come_at_the_asked_size_in_full_precision():
    scores = RasterHead().predict(torch.zeros(1, 3, 4, 4, dtype=torch.bfloat16), (7, 9))
    assert (scores.shape, scores.dtype) == ((1, 3, 7, 9), torch.float32)


def test_a_raster_head_asks_for_a_raster():
    with pytest.raises(ValueError, match="needs target.raster"):
        RasterHead().loss(torch.zeros(1, 3, 4, 4), Target(classes=torch.zeros(1, dtype=torch.int64)))


def test_batch_norm_takes_a_single_value_per_channel_in_training():
    norm = BatchNorm(3).train()
    x = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(x), x / (1 + 1e-5) ** 0.5)  # fresh running statistics: mean 0, variance 1
    assert norm.num_batches_tracked == 0
    many = torch.randn(2, 3, 4, 4)
    assert norm(many).mean(dim=(0, 2, 3)).abs().max() < 1e-6


def test_fully_balanced_every_class_of_the_batch_counts_the_same():
    raw = torch.randn(1, 3, 4, 4)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[0, 0, 0], labels[0, 3] = 2, 255  # 11 pixels of class 0, one of class 2, none of class 1
    head = RasterHead()
    head.balance = 1.0
    losses = torch.nn.functional.cross_entropy(raw, labels, ignore_index=255, reduction="none")
    expected = (losses[labels == 0].mean() + losses[labels == 2].mean()) / 2
    torch.testing.assert_close(head.loss(raw, Target(raster=labels))["cross_entropy"], expected)
