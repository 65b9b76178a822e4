import pytest
import torch

from skysense_cli.core.vocabulary import from_vocabulary, pack_rgb, to_vocabulary, unpack_rgb
from skysense_cli.errors import DataError

CODES = torch.tensor([[[0, 7, 7], [300, 0, 9]], [[9, 9, 9], [2, 2, 2]]])


def test_colours_are_packed_red_first_and_come_back():
    assert pack_rgb(torch.tensor([1, 2, 3], dtype=torch.uint8).view(1, 3, 1, 1)).item() == 65536 + 2 * 256 + 3
    torch.manual_seed(0)
    rgb = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    assert torch.equal(unpack_rgb(pack_rgb(rgb)), rgb)


def test_each_sample_counts_its_own_codes_in_ascending_order():
    ids, tables = to_vocabulary(CODES, 3)
    assert ids.tolist() == [[[0, 1, 1], [3, 0, 2]], [[2, 2, 2], [1, 1, 1]]]
    assert tables == [{0: 0, 1: 7, 2: 9, 3: 300}, {1: 2, 2: 9}]


def test_an_order_renames_all_but_the_background():
    ids, tables = to_vocabulary(CODES, 3, order=torch.tensor([3, 1, 2]))
    assert ids.tolist() == [[[0, 3, 3], [2, 0, 1]], [[1, 1, 1], [3, 3, 3]]]
    assert tables == [{0: 0, 3: 7, 1: 9, 2: 300}, {3: 2, 1: 9}]


def test_any_code_can_be_the_background():
    ids, tables = to_vocabulary(CODES, 3, background=9)
    assert ids.tolist() == [[[1, 2, 2], [3, 1, 0]], [[0, 0, 0], [1, 1, 1]]]
    assert tables[1] == {0: 9, 1: 2}


@pytest.mark.parametrize("background", [0, 9, 255])
def test_codes_come_back(background):
    ids, tables = to_vocabulary(CODES, 5, background=background, order=torch.tensor([5, 2, 4, 1, 3]))
    assert torch.equal(from_vocabulary(ids, tables), CODES)


def test_an_id_that_no_table_holds_is_background():
    _, tables = to_vocabulary(CODES, 3)
    assert from_vocabulary(torch.full((2, 1, 2), 3), tables, background=8).tolist() == [[[300, 300]], [[8, 8]]]


def test_too_many_codes_are_refused():
    with pytest.raises(DataError, match="sample 0 has 3 different labels, the vocabulary has 2; merge classes or enlarge it"):
        to_vocabulary(CODES, 2)


@pytest.mark.parametrize("order", [[1, 2], [1, 1, 2], [0, 1, 2]])
def test_an_order_that_is_no_permutation_is_refused(order):
    with pytest.raises(DataError, match=r"order holds \d numbers that are no permutation of 1..3"):
        to_vocabulary(CODES, 3, order=torch.tensor(order))
