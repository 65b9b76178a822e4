"""The completion against a slow version of its rule, and what it leaves out when nothing is missing."""

import itertools

import pytest
import torch

from skysense_cli.core.completion import Completion
from skysense_cli.errors import GridError, RecipeError

WIDTH, CODES, DIM, HIDDEN = 6, 11, 5, 4
NAMES = ("a", "b", "c")
EVERY_MIX = list(itertools.product([True, False], repeat=3))  # one sample for each subset of modalities


def _completion(names=NAMES, seed=0):
    torch.manual_seed(seed)
    return Completion(WIDTH, names, codes=CODES, dim=DIM, hidden=HIDDEN)


def _given(count, names=NAMES, size=(8, 4)):
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(count, WIDTH, *size, generator=generator) for name in names}


def _present(rows, names=NAMES):
    return {name: torch.tensor([bool(row[i]) for row in rows]) for i, name in enumerate(names)}


class Calls:
    """Counts which autoencoders were run, by the first layer of the encoder and the last of the decoder."""

    def __init__(self, completion):
        self.encoded, self.decoded = [], []
        for name, vae in completion.vaes.items():
            vae.conv1.register_forward_hook(lambda *_, name=name: self.encoded.append(name))
            vae.rec_conv.register_forward_hook(lambda *_, name=name: self.decoded.append(name))


def _slow_decode(vae, logits):
    """One sample's map from logits (codes, h, w): each cell's entry as a plain sum over codes."""
    codes, h, w = logits.shape
    mixed = torch.zeros(1, DIM, h, w)
    for y, x in itertools.product(range(h), range(w)):
        powers = [torch.exp(9 * (logits[n, y, x] - logits[:, y, x].max())) for n in range(codes)]
        for n in range(codes):
            mixed[0, :, y, x] += powers[n] / sum(powers) * vae.codebook.weight[n]
    z = vae.activation(vae.conv2(mixed))
    z = torch.nn.functional.interpolate(z, scale_factor=2, mode="bilinear")
    z = z + vae.gamma_3 * vae.dec_block1(z)
    z = torch.nn.functional.interpolate(z, scale_factor=2, mode="bilinear")
    return vae.rec_conv(z + vae.gamma_4 * vae.dec_block2(z))[0]


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")])
@torch.no_grad()
def test_every_subset_agrees_with_one_sample_at_a_time(names):
    completion = _completion(names).eval()
    for parameter in completion.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # so that no gamma and no bias is too small to be seen
    rows = list(itertools.product([True, False], repeat=len(names)))
    given, present = _given(len(rows), names), _present(rows, names)
    found = completion(given, present)
    assert list(found.features) == list(names)
    for (b, row), name in itertools.product(enumerate(rows), names):
        expected = given[name][b]
        if not present[name][b]:
            logits = torch.zeros(CODES, 2, 1)
            for other, there in zip(names, row, strict=True):
                if there:
                    logits = logits + completion.vaes[other].encode(given[other][b : b + 1])[0]
            expected = _slow_decode(completion.vaes[name], logits)
        torch.testing.assert_close(found.features[name][b], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_training_and_evaluation_give_the_same_features():
    completion, given, present = _completion(), _given(8), _present(EVERY_MIX)
    with torch.enable_grad():
        trained = completion.train()(given, present).features
    for name, maps in completion.eval()(given, present).features.items():
        torch.testing.assert_close(maps, trained[name])


@torch.no_grad()
def test_what_an_absent_map_holds_does_not_matter():
    completion, given, present = _completion().eval(), _given(8), _present(EVERY_MIX)
    other = {name: torch.where(present[name][:, None, None, None], maps, 7.0) for name, maps in given.items()}
    first, second = completion(given, present).features, completion(other, present).features
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


def test_logits_have_a_quarter_of_the_cells_and_decoding_brings_them_back():
    vae = _completion().vaes["a"]
    assert vae.encode(torch.zeros(2, WIDTH, 16, 8)).shape == (2, CODES, 4, 2)
    assert vae(torch.zeros(2, WIDTH, 16, 8)).shape == (2, WIDTH, 16, 8)


def test_nothing_present_is_decoded_from_equal_shares_of_all_codes():
    completion = _completion().eval()
    vae = completion.vaes["b"]
    with torch.no_grad():
        found = completion(_given(2), _present([(0, 0, 0)] * 2))
        mean = vae.codebook.weight.mean(dim=0)
        vae.codebook.weight.copy_(mean.expand(CODES, -1))  # whatever is chosen is now the mean
        again = completion(_given(2), _present([(1, 0, 1)] * 2))
    torch.testing.assert_close(found.features["b"], again.features["b"])
    assert found.logits == {}
    assert sorted(found.decoded) == ["a", "b", "c"]


def test_shares_add_up_and_the_largest_logit_wins():
    logits = torch.zeros(1, CODES, 1, 1)
    logits[0, 3] = 1
    shares = _completion().vaes["a"].shares(logits)
    assert shares.sum().item() == pytest.approx(1)
    assert shares[0, 3].item() == pytest.approx(2.718281828**9 / (2.718281828**9 + CODES - 1))


@pytest.mark.parametrize("rows, encoded, decoded", [
    ([(1, 1, 1), (1, 1, 1)], "", ""),
    ([(1, 1, 0), (1, 1, 0)], "ab", "c"),
    ([(1, 0, 0), (1, 1, 0)], "ab", "bc"),
    ([(1, 0, 1), (0, 1, 1)], "abc", "ab"),
    ([(0, 0, 0), (0, 0, 0)], "", "abc"),
])  # fmt: skip
@pytest.mark.parametrize("mode", ["eval", "training without gradients"])
def test_only_what_is_missing_is_computed_outside_training(rows, encoded, decoded, mode):
    completion = _completion().train(mode != "eval")
    calls = Calls(completion)
    with torch.no_grad():
        found = completion(_given(2), _present(rows))
    assert "".join(calls.encoded) == "".join(found.logits) == encoded
    assert "".join(calls.decoded) == "".join(found.decoded) == decoded


def test_features_of_complete_samples_are_the_inputs_themselves():
    given = _given(2)
    with torch.no_grad():
        found = _completion().eval()(given, _present([(1, 1, 1)] * 2))
    assert all(found.features[name] is given[name] for name in NAMES)


@pytest.mark.parametrize("row", EVERY_MIX)
def test_training_gives_every_parameter_a_gradient_whatever_is_there(row):
    completion = _completion().train()
    calls = Calls(completion)
    found = completion(_given(2), _present([row] * 2))
    assert (calls.encoded, calls.decoded) == (list(NAMES), list(NAMES))
    sum(maps.sum() for maps in found.features.values()).backward()
    assert [name for name, parameter in completion.named_parameters() if parameter.grad is None] == []
    moved = {name for name, parameter in completion.named_parameters() if parameter.grad.abs().max() > 0}
    for name, there in zip(NAMES, row, strict=True):
        assert (f"vaes.{name}.rec_conv.weight" in moved) == (not there)
        assert (f"vaes.{name}.conv1.weight" in moved) == (there and not all(row))


def test_a_modality_that_is_not_given_is_absent():
    completion = _completion()
    given = _given(2)
    few = {name: given[name] for name in ("a", "c")}
    present = _present([(1, 0, 0), (1, 0, 1)])
    for mode in (True, False):
        completion.train(mode)
        found, expected = completion(few, {"a": present["a"], "c": present["c"]}), completion(given, present)
        assert list(found.features) == list(NAMES)
        assert all(torch.equal(found.features[name], expected.features[name]) for name in NAMES)
        assert not found.present["b"].any()
        assert found.given["b"].abs().max() == 0


def test_a_modality_without_an_autoencoder_is_refused():
    with pytest.raises(ValueError, match="given \\['z'\\], made for \\['a', 'b', 'c'\\]"):
        _completion()({"z": torch.zeros(1, WIDTH, 4, 4)}, {"z": torch.tensor([True])})


@pytest.mark.parametrize("size, fits", [((8, 6), "8 x 4 or 8 x 8"), ((3, 8), "4 x 8"), ((5, 9), "4 x 8 or 8 x 12")])
def test_cells_that_do_not_divide_are_named_with_what_fits(size, fits):
    given = _given(1) | {"b": torch.zeros(1, WIDTH, *size)}
    with pytest.raises(GridError) as error:
        _completion()(given, _present([(1, 1, 1)]))
    h, w = size
    assert str(error.value) == (
        f"completion: the feature map of 'b' has {h} x {w} cells, both must be multiples of 4; choose tiles or crops of {fits} cells"
    )


@pytest.mark.parametrize("option", ["codes", "dim", "hidden"])
def test_sizes_below_one_are_refused(option):
    with pytest.raises(RecipeError, match=f"^completion: {option} 0 must be 1 or more$"):
        Completion(WIDTH, NAMES, **{option: 0})


def test_the_names_and_sizes_of_the_released_weights():
    with torch.device("meta"):
        completion = Completion(2816, ("hr", "s2", "s1"))
    assert sum(parameter.numel() for parameter in completion.parameters()) == 102_083_328
    names = list(completion.state_dict())
    assert len(names) == 3 * 29
    assert [name for name in names if not name.startswith("vaes.")] == []
    assert completion.state_dict()["vaes.s1.codebook.weight"].shape == (8192, 256)
    assert completion.state_dict()["vaes.hr.dec_block2.2.weight"].shape == (256, 256, 3, 3)


def test_autocast_keeps_features_and_shares_in_float32():
    completion, given, present = _completion().eval(), _given(2), _present([(1, 0, 1), (0, 1, 1)])
    exact = completion(given, present)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = completion(given, present)
        assert completion.vaes["a"].shares(found.logits["a"]).dtype == torch.float32
    for name in NAMES:
        assert found.features[name].dtype == torch.float32
        there = present[name]
        assert torch.equal(found.features[name][there], given[name][there])
        torch.testing.assert_close(found.features[name], exact.features[name], atol=0.1, rtol=0.1)


def test_half_precision_weights_work_without_autocast():
    completion = _completion().bfloat16().eval()
    given = {name: maps.bfloat16() for name, maps in _given(2).items()}
    features = completion(given, _present([(1, 0, 1), (0, 1, 1)])).features
    assert {maps.dtype for maps in features.values()} == {torch.bfloat16}


def test_it_learns_to_fill_in_a_modality_that_follows_from_another():
    completion = _completion(("a", "b")).train()
    given = _given(4, ("a", "b"), (4, 4))
    given["a"] = given["a"].mean(dim=(2, 3), keepdim=True).expand(-1, -1, 4, 4) * 4
    given["b"] = given["a"].flip(1)
    optimiser = torch.optim.Adam(completion.parameters(), lr=0.02)
    present = _present([(1, 0)] * 4, ("a", "b"))
    errors = []
    for _ in range(60):
        error = (completion(given, present).decoded["b"] - given["b"]).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.3 * errors[0], errors
