"""Which samples a step sees."""

from collections import Counter

import numpy as np
import torch

from skysense_cli.data.order import Key, StepSampler, once_loader, step_loader


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, key):
        return key


def take(sampler, count):
    return [keys for keys, _ in zip(sampler, range(count), strict=False)]


def test_each_epoch_sees_every_sample_once_in_another_order():
    sampler = StepSampler(10, 4, seed=0)
    rows = [key.row for keys in take(sampler, 10) for key in keys]
    for epoch in range(4):
        assert sorted(rows[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert rows[:10] != rows[10:20]


def test_order_is_a_function_of_seed_and_step():
    sampler, later = StepSampler(10, 4, seed=5), StepSampler(10, 4, seed=5)
    later.start = 7
    assert take(later, 3) == take(sampler, 10)[7:]
    assert take(StepSampler(10, 4, seed=6), 1) != take(sampler, 1)


def test_the_batches_of_all_ranks_are_the_batch_of_one_process():
    whole = take(StepSampler(10, 5, seed=1), 6)
    parts = [take(StepSampler(10, 5, seed=1, rank=rank, ranks=2), 6) for rank in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def test_a_batch_larger_than_the_data_set_repeats_samples():
    counts = Counter(key.row for key in StepSampler(3, 7, seed=0).keys(0))
    assert sorted(counts.values()) == [2, 2, 3]


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    loader = step_loader(Numbers(), StepSampler(5, 2, seed=0), list, workers=0)
    first = next(iter(loader))
    list(once_loader(Numbers(), 2, list))
    assert torch.equal(torch.rand(1), expected)
    assert first == [Key(0, 0, first[0].row), Key(0, 1, first[1].row)]


def test_every_item_is_given_once_over_the_ranks():
    parts = [list(once_loader(Numbers(), 2, list, rank=rank, ranks=2)) for rank in range(2)]
    assert parts == [[[0, 1], [4]], [[2, 3]]]
    assert np.array_equal([item for batch in once_loader(Numbers(), 2, list) for item in batch], range(5))
