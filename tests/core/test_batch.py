"""What a prompt looks like at a modality's own resolution."""

import torch

from skysense_cli.core.batch import Prompt


def test_every_position_takes_the_label_below_its_centre():
    labels = torch.arange(64 * 32).view(1, 64, 32)
    prompt = Prompt(labels, torch.tensor([[[True, False], [False, True]]]))
    coarse, hidden = prompt.on((2, 1), (4, 4))
    assert coarse.equal(labels[:, 15::32, 15::32])  # as the published code samples 32 px
    assert hidden.long().tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]]
    same, _ = prompt.on((64, 32), (2, 2))
    assert same.equal(labels)


def test_odd_steps_take_the_middle_and_finer_positions_repeat():
    labels = torch.tensor([[[0, 1, 2, 3, 4, 5]]])
    prompt = Prompt(labels, labels > 2)
    assert prompt.on((1, 2), (1, 3))[0].tolist() == [[[1, 4]]]
    assert prompt.on((1, 12), (1, 6))[0].tolist() == [[[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]]]
    assert prompt.on((1, 4), (1, 2))[1].tolist() == [[[False, True]]]
