from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.core.cells import join_dates, seen_cells
from skysense_cli.core.encoders.swin_v2 import SwinV2
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.fusions.mean import Mean
from skysense_cli.core.fusions.temporal import Temporal
from skysense_cli.core.model import Lift, NoGeoContext, SkySense
from skysense_cli.errors import DataError, GridError

CHANNELS, WIDTH = {"hr": 3, "s2": 4, "s1": 2}, 12


def make_model(lifts=(2, 4, 8), fusion=None, geo_context=None):
    """hr at stride 8, s2 and s1 at stride 4; with the default lifts hr has 4 px a cell, s2 one, s1 half of one."""
    torch.manual_seed(0)
    encoders = {
        "hr": SwinV2(channels=3, dim=8, depths=(1, 1), heads=(2, 2), window=4),
        "s2": ViT(channels=4, dim=8, depth=2, heads=2),
        "s1": ViT(channels=2, dim=8, depth=1, heads=2),
    }
    scales = dict(zip(encoders, lifts, strict=True))
    made = {m: Lift(e.tap_channels[-1], WIDTH, scales[m]) for m, e in encoders.items()}
    model = SkySense(encoders, made, fusion or Temporal(WIDTH, depth=2, heads=2, dim=8), geo_context or NoGeoContext(), anchor="s2")
    return model.eval()


def make_series(channels, dates, side, samples=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return SeriesBatch(
        pixels=torch.randn(samples, dates, channels, side, side, generator=generator),
        days=torch.randint(0, 365, (samples, dates), generator=generator),
        present=torch.ones(samples, dates, dtype=torch.bool),
        valid=torch.ones(samples, dates, side, side, dtype=torch.bool),
    )


def make_batch(samples=2, seed=0, **dates):
    """8 x 8 cells: hr 32 px, s2 8 px, s1 4 px."""
    sides = {"hr": 32, "s2": 8, "s1": 4}
    series = {m: make_series(CHANNELS[m], count, sides[m], samples, seed) for m, count in (dates or {"hr": 1, "s2": 3, "s1": 2}).items()}
    frame = torch.eye(2, 3).expand(samples, 2, 3)
    return Batch(series=series, region=torch.zeros(samples, dtype=torch.int64), place=torch.arange(samples), frame=frame)


def without(batch, modality):
    """The batch with every date of `modality` marked as not present."""
    series = batch.series[modality]
    empty = replace(series, present=torch.zeros_like(series.present), valid=torch.zeros_like(series.valid))
    return replace(batch, series={**batch.series, modality: empty})


def same(a, b, atol=0.0):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def test_every_stage_has_the_size_it_announces():
    model, batch = make_model(), make_batch()
    features = model(batch)
    assert {m: tuple(f.shape) for m, f in features.modal.items()} == {
        "hr": (2, 1, WIDTH, 8, 8),
        "s2": (2, 3, WIDTH, 8, 8),
        "s1": (2, 2, WIDTH, 8, 8),
    }
    assert [tuple(level.shape) for level in features.pyramid] == [(2, 3, 8, 2, 2)] * 2
    assert features.fused.shape == features.fused_mm.shape == (2, 8, 8, 8)
    assert {m: tuple(s.shape) for m, s in features.seen.items()} == {"hr": (2, 1, 8, 8), "s2": (2, 3, 8, 8), "s1": (2, 2, 8, 8)}
    assert model.spec.pyramid == (8, 8)
    assert (model.spec.strides, model.spec.fused_mm, model.spec.fused, model.spec.cell_px) == ((4, 4), 8, 8, 1.0)


@pytest.mark.parametrize("absent", ["hr", "s2", "s1"])  # s2 is the anchor
def test_a_missing_modality_equals_one_that_is_never_present(absent):
    model, batch = make_model(), make_batch()
    never = model(without(batch, absent))
    missing = model(replace(batch, series={m: s for m, s in batch.series.items() if m != absent}))
    same(never.fused, missing.fused)
    assert not missing.present[absent].any()
    assert not missing.seen[absent].any()
    for features in (never, missing):
        assert all((level == 0).all() for level in (features.pyramid if absent == "s2" else [features.modal[absent]]))
    assert [p.shape[2:] for p in never.pyramid] == [p.shape[2:] for p in missing.pyramid]


def test_an_absent_modality_equals_a_model_without_it():
    model, batch = make_model(), make_batch()
    smaller = SkySense(
        {m: model.encoders[m] for m in ("s2", "s1")},
        {m: model.lifts[m] for m in ("s2", "s1")},
        model.fusion,
        model.geo_context,
        anchor="s2",
    )
    same(smaller(batch).fused, model(without(batch, "hr")).fused, atol=1e-6)


def test_a_padded_date_changes_nothing():
    model, batch = make_model(), make_batch()
    series = batch.series["s2"]
    padding = make_series(4, 2, 8, seed=9)
    longer = SeriesBatch(
        pixels=torch.cat([series.pixels, padding.pixels], dim=1),
        days=torch.cat([series.days, torch.full_like(padding.days, -1)], dim=1),
        present=torch.cat([series.present, torch.zeros_like(padding.present)], dim=1),
        valid=torch.cat([series.valid, padding.valid], dim=1),
    )
    padded = model(replace(batch, series={**batch.series, "s2": longer}))
    plain = model(batch)
    same(padded.fused, plain.fused, atol=1e-6)
    same(padded.modal["s2"][:, :3], plain.modal["s2"], atol=1e-6)
    same(padded.pyramid[0][:, :3], plain.pyramid[0], atol=1e-6)
    assert (padded.modal["s2"][:, 3:] == 0).all()


def test_a_sample_is_the_same_alone_and_beside_a_longer_one():
    model, batch = make_model(), make_batch()
    series = batch.series["s2"]
    present = torch.tensor([[True, True, False], [True, True, True]])
    together = model(replace(batch, series={"s2": replace(series, present=present)}))
    alone = {"s2": SeriesBatch(series.pixels[:1, :2], series.days[:1, :2], series.present[:1, :2], series.valid[:1, :2])}
    first = model(Batch(alone, batch.region[:1], batch.place[:1], batch.frame[:1]))
    same(together.fused[:1], first.fused, atol=1e-6)


def test_only_dates_that_are_present_run_through_an_encoder():
    model, batch = make_model(), make_batch()
    rows = {m: [] for m in model.encoders}
    for m, encoder in model.encoders.items():
        encoder.register_forward_pre_hook(lambda _, given, m=m: rows[m].append(len(given[0])))
    series = batch.series["s2"]
    present = torch.tensor([[True, False, False], [True, True, False]])
    model(without(replace(batch, series={**batch.series, "s2": replace(series, present=present)}), "hr"))
    assert rows == {"hr": [], "s2": [3], "s1": [4]}


def test_clouded_cells_do_not_reach_the_fused_feature_and_unseen_cells_are_zero():
    model, batch = make_model(fusion=Mean(WIDTH)), make_batch(s2=2)
    series = batch.series["s2"]
    valid = series.valid.clone()
    valid[0, 0, 2, 3] = False
    valid[1, :, 5, 6] = False
    features = model(replace(batch, series={"s2": replace(series, valid=valid)}))
    same(features.fused[0, :, 2, 3], features.modal["s2"][0, 1, :, 2, 3], atol=1e-6)
    assert features.seen["s2"][0, :, 2, 3].tolist() == [False, True]
    assert (features.fused[1, :, 5, 6] == 0).all()
    assert features.seen_any.sum() == 127


def test_unseen_cells_stay_zero_whatever_the_geo_context_adds():
    class Ones(torch.nn.Module):
        widen = 2

        def forward(self, fused_mm, region):
            return torch.ones(len(fused_mm), 16, *fused_mm.shape[2:])

    model, batch = make_model(geo_context=Ones()), make_batch(s2=1)
    valid = batch.series["s2"].valid.clone()
    valid[0, 0, 1, 1] = False
    features = model(replace(batch, series={"s2": replace(batch.series["s2"], valid=valid)}))
    assert model.spec.fused == 16
    assert features.fused[0, :, 1, 1].sum() == 0
    assert features.fused.sum() == 16 * 127


@pytest.mark.parametrize(("pixels", "cells"), [((8, 12), (4, 3)), ((4, 4), (8, 4)), ((5, 5), (5, 5)), ((8, 4), (6, 3))])
def test_seen_cells_equal_a_loop_over_areas(pixels, cells):
    torch.manual_seed(1)
    valid, present = torch.rand(2, 3, *pixels) < 0.3, torch.tensor([[True, True, False], [True, False, True]])
    expected = torch.zeros(2, 3, *cells, dtype=torch.bool)
    step = (pixels[0] / cells[0], pixels[1] / cells[1])

    def overlap(low, high, pixel):
        return max(0.0, min(high, pixel + 1) - max(low, pixel))

    for y in range(cells[0]):
        for x in range(cells[1]):
            area = torch.zeros(2, 3)
            for row in range(pixels[0]):
                for column in range(pixels[1]):
                    share = overlap(y * step[0], (y + 1) * step[0], row) * overlap(x * step[1], (x + 1) * step[1], column)
                    area += share * valid[:, :, row, column]
            expected[:, :, y, x] = (area / (step[0] * step[1]) >= 0.25 - 1e-6) & present
    assert torch.equal(seen_cells(valid, present, *cells), expected)


def test_a_quarter_of_a_cell_is_enough():
    valid = torch.zeros(1, 1, 2, 4, dtype=torch.bool)
    valid[0, 0, 0, 0] = True
    assert seen_cells(valid, torch.ones(1, 1, dtype=torch.bool), 1, 2).flatten().tolist() == [True, False]


def test_tokens_are_joined_cell_by_cell_in_the_order_of_the_modalities():
    modal = [torch.randn(2, 1, 3, 2, 4), torch.randn(2, 2, 3, 2, 4)]
    days, seen = [torch.tensor([[1], [2]]), torch.tensor([[3, 4], [5, 6]])], [torch.rand(2, t, 2, 4) > 0.5 for t in (1, 2)]
    tokens, dated, shown = join_dates(modal, days, seen)
    assert tokens.shape == (16, 3, 3)
    for b in range(2):
        for y in range(2):
            for x in range(4):
                row = b * 8 + y * 4 + x
                assert torch.equal(tokens[row], torch.cat([m[b, :, :, y, x] for m in modal]))
                assert dated[row].tolist() == torch.cat([d[b] for d in days]).tolist()
                assert shown[row].tolist() == torch.cat([s[b, :, y, x] for s in seen]).tolist()


def test_lift_shuffles_channels_into_the_squares_of_a_finer_grid():
    lift = Lift(3, 2, 2)
    x = torch.randn(1, 3, 2, 2)
    wide, out = lift.decoder[0](x), lift(x)
    for c in range(2):
        for y in range(4):
            for k in range(4):
                assert out[0, c, y, k] == wide[0, c * 4 + y % 2 * 2 + k % 2, y // 2, k // 2]


def test_lift_is_nothing_where_channels_and_grid_fit():
    x = torch.randn(1, 3, 2, 2)
    assert Lift(3, 3, 1)(x) is x
    assert list(Lift(3, 3, 1).parameters()) == []
    assert len(list(Lift(3, 4, 1).parameters())) == 2


def test_the_published_lift_has_its_published_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in Lift(1024, 2816, 4).parameters()) == 46_182_400


@pytest.mark.parametrize(
    ("lifts", "sides", "cells"),
    [
        ((1, 4, 4), (512, 64, 64), 64),  # stride 8 here: as the paper's 2048 px at stride 32
        ((1, 4, 4), (128, 16, 16), 16),
        ((2, 1, 1), (64, 64, 64), 16),
        ((8, 4, 8), (16, 16, 8), 16),
        ((1, 4, 8), (512, 64, 32), 64),
    ],
)
def test_the_cells_of_all_modalities_agree(lifts, sides, cells):
    model = make_model(lifts=lifts, fusion=Mean(WIDTH))
    series = {m: make_series(c, 1, side, samples=1) for (m, c), side in zip(CHANNELS.items(), sides, strict=True)}
    batch = Batch(series, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), torch.eye(2, 3)[None])
    assert model.cells(batch) == (cells, cells)
    with torch.no_grad():
        assert model(batch).fused.shape == (1, WIDTH, cells, cells)


def test_ground_that_is_not_square_keeps_its_shape():
    model, batch = make_model(), make_batch()
    series = {m: replace(s, pixels=s.pixels[..., : s.pixels.shape[-1] // 2], valid=s.valid[..., : s.valid.shape[-1] // 2])
              for m, s in batch.series.items() if m != "s1"}  # fmt: skip
    assert model(replace(batch, series=series)).fused.shape == (2, 8, 8, 4)


def test_images_that_do_not_fit_the_cells_are_refused_by_name():
    model, batch = make_model(), make_batch()
    with pytest.raises(GridError, match="s2: 6 x 8 px is not a whole number of the encoder's 4 px steps"):
        model(replace(batch, series={"s2": replace(batch.series["s2"], pixels=torch.zeros(2, 3, 4, 6, 8))}))
    with pytest.raises(GridError, match="cells are hr 8 x 8, s2 16 x 16"):
        model(replace(batch, series={"hr": batch.series["hr"], "s2": make_series(4, 1, 16)}))
    with pytest.raises(DataError, match="the batch holds lidar, the model reads hr, s2, s1"):
        model(replace(batch, series={"lidar": batch.series["s2"]}))


def test_gradients_reach_every_part_that_took_part():
    model = make_model().train()
    features = model(make_batch())
    (features.fused.square().mean() + sum(level.square().mean() for level in features.pyramid)).backward()
    missing = {name for name, p in model.named_parameters() if p.grad is None}
    assert {name.split(".")[-1] for name in missing if name.startswith("encoders.s")} == {"cls_token"}
    # the anchor's pyramid alone is read; of the others the last map
    assert {name for name in missing if name.startswith("encoders.hr")} == {"encoders.hr.norm0.weight", "encoders.hr.norm0.bias"}
    assert not [name for name in missing if not name.startswith("encoders")]


def test_a_batch_in_which_nothing_is_present_gives_zeros():
    batch = make_batch()
    for m in CHANNELS:
        batch = without(batch, m)
    features = make_model()(batch)
    assert (features.fused == 0).all()
    assert not features.seen_any.any()


def _gradients(model, batch):
    features = model(batch)
    (features.fused.square().sum() + 0.1 * features.pyramid[0].square().sum()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def _two_batches():
    """The second lacks hr."""
    first, second = make_batch(seed=1), make_batch(seed=2)
    return first, replace(second, series={m: s for m, s in second.series.items() if m != "hr"})


def _one_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    gradients = _gradients(make_model(), _two_batches()[rank])
    torch.save(gradients, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_a_rank_without_a_modality_has_zero_gradients_where_another_rank_computes(tmp_path):
    multiprocessing.spawn(_one_rank, args=(str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    assert [name for name in found[0] if (found[0][name] is None) != (found[1][name] is None)] == []
    alone = [_gradients(make_model(), batch) for batch in _two_batches()]
    for rank in range(2):
        for name, gradient in found[rank].items():
            if gradient is not None:
                expected = alone[rank][name]
                same(gradient, torch.zeros_like(gradient) if expected is None else expected, atol=1e-6)
