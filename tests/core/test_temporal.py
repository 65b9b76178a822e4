import pytest
import torch

from skysense_cli.core.fusions import temporal
from skysense_cli.core.fusions.mean import Mean
from skysense_cli.core.fusions.temporal import Temporal, seasons
from skysense_cli.errors import RecipeError


@pytest.fixture
def fusion():
    torch.manual_seed(0)
    module = Temporal(6, depth=3, heads=2, dim=8).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module


def slow(fusion, tokens, days, seen):
    """Row by row: only seen tokens, all positions computed in every layer."""
    rows = []
    for row in range(len(tokens)):
        if not seen[row].any():
            rows.append(torch.zeros(fusion.dim))
            continue
        sequence = [fusion.cls_token[0, 0]]
        for token, day, shown in zip(tokens[row], days[row].tolist(), seen[row], strict=True):
            if shown:
                dated = token + fusion.date_embedding[day] if day >= 0 else token
                sequence.append(fusion.porj_linear(dated))
        x = torch.stack(sequence)[None]
        for layer in fusion.layers:
            x = layer(x)
        rows.append(x[0, 0])
    return torch.stack(rows)


def test_the_output_equals_computing_everything_row_by_row(fusion):
    tokens, days = torch.randn(9, 5, 6), torch.randint(-1, 365, (9, 5))
    seen = torch.rand(9, 5) > 0.4
    seen[2], seen[3] = False, True
    torch.testing.assert_close(fusion(tokens, days, seen), slow(fusion, tokens, days, seen), atol=1e-6, rtol=1e-5)


def test_many_rows_without_gradient_are_fused_in_slices(fusion, monkeypatch):
    tokens, days, seen = torch.randn(9, 5, 6), torch.randint(-1, 365, (9, 5)), torch.rand(9, 5) > 0.4
    whole = fusion(tokens, days, seen)
    monkeypatch.setattr(temporal, "MAX_TOKENS", 13)  # two rows of six tokens
    lengths = []
    fusion.layers[0].register_forward_pre_hook(lambda _, given: lengths.append(len(given[0])))
    with torch.no_grad():
        torch.testing.assert_close(fusion(tokens, days, seen), whole, atol=1e-6, rtol=1e-5)
    assert len(lengths) == 5
    assert max(lengths) <= 2


def test_the_date_table_is_read_at_the_day_of_year(fusion):
    token = torch.randn(1, 1, 6)
    seen = torch.ones(1, 1, dtype=torch.bool)
    for day in (0, 181, 364):
        dated = fusion(token, torch.tensor([[day]]), seen)
        added = fusion(token + fusion.date_embedding[day], torch.tensor([[-1]]), seen)
        torch.testing.assert_close(dated, added)
    assert fusion.date_embedding.shape == (365, 6)


def test_what_is_not_seen_is_never_read(fusion):
    tokens, days = torch.randn(3, 4, 6), torch.randint(0, 365, (3, 4))
    seen = torch.tensor([[True, False, True, False], [False] * 4, [True, True, True, False]])
    spoiled = torch.where(seen.unsqueeze(2), tokens, torch.nan)
    assert torch.equal(fusion(spoiled, days, seen), fusion(tokens, days, seen))


def test_padding_at_the_end_changes_nothing(fusion):
    tokens, days, seen = torch.randn(4, 3, 6), torch.randint(0, 365, (4, 3)), torch.rand(4, 3) > 0.3
    more = [torch.cat([x, fill], dim=1) for x, fill in ((tokens, torch.randn(4, 2, 6)), (days, torch.full((4, 2), -1)))]
    padded = fusion(*more, torch.cat([seen, torch.zeros(4, 2, dtype=torch.bool)], dim=1))
    assert (padded - fusion(tokens, days, seen)).abs().max() <= 1e-6


def test_a_row_without_seen_tokens_is_zero_and_the_layers_still_run(fusion):
    tokens, seen = torch.randn(2, 3, 6), torch.zeros(2, 3, dtype=torch.bool)
    out = fusion(tokens, torch.zeros(2, 3, dtype=torch.int64), seen)
    assert torch.equal(out, torch.zeros(2, 8))
    out.sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in fusion.layers.parameters())


def test_the_order_of_the_dates_does_not_matter(fusion):
    tokens, days, seen = torch.randn(2, 4, 6), torch.randint(0, 365, (2, 4)), torch.ones(2, 4, dtype=torch.bool)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(fusion(tokens[:, order], days[:, order], seen), fusion(tokens, days, seen))


def test_gradients_reach_every_parameter_and_only_the_days_used(fusion):
    tokens, days = torch.randn(2, 2, 6), torch.tensor([[3, 7], [3, -1]])
    fusion(tokens, days, torch.ones(2, 2, dtype=torch.bool)).square().sum().backward()
    assert all(p.grad is not None for p in fusion.parameters())
    assert fusion.date_embedding.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [3, 7]


def test_the_published_size_has_its_published_number_of_parameters():
    with torch.device("meta"):
        fusion = Temporal(2816, depth=24, heads=16, dim=1024)
    assert sum(p.numel() for name, p in fusion.named_parameters() if name != "date_embedding") == 305_195_008


def test_norms_divide_by_what_the_released_weights_were_trained_with(fusion):
    assert {m.eps for m in fusion.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(RecipeError, match="dim 8 must be a multiple of heads 3"):
        Temporal(6, depth=1, heads=3, dim=8)


def test_the_mean_is_over_seen_tokens_only():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [50.0, 50.0]], [[7.0, 7.0]] * 3])
    seen = torch.tensor([[True, True, False], [False] * 3])
    assert Mean(2)(tokens, torch.zeros(2, 3), seen).tolist() == [[2.0, 4.0], [0.0, 0.0]]


def test_the_date_table_starts_as_a_closed_smooth_year():
    table = seasons(48)
    steps = (table - table.roll(1, dims=0)).norm(dim=1)
    assert table.shape == (365, 48)
    assert torch.allclose(steps, steps.mean().expand(365), rtol=1e-4)  # the step from December to January is like any other
    assert abs(float(table.std()) - 0.3) < 0.01
