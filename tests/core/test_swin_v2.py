import copy
import math

import pytest
import torch
import torch.nn.functional as F

from skysense_cli.core.encoders._windows import WindowAttention, Windows, crossings, relative_tables
from skysense_cli.core.encoders.swin_v2 import PatchMerging, ShiftedWindows, SwinV2
from skysense_cli.errors import GridError, RecipeError


def tiny(**options):
    defaults = {"channels": 3, "dim": 8, "depths": (2, 2, 3, 1), "heads": (1, 2, 2, 4), "window": 4, "extra_norm_every": 3}
    return SwinV2(**{**defaults, **options})


def randomize(module):
    torch.manual_seed(3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def slow_window_attention(attention, grid, shift):
    """Position by position: pad, roll, and attend among those of the same window that come from the same border."""
    window, heads = attention.window, attention.heads
    _, height, width, dim = grid.shape
    tall, wide = math.ceil(height / window) * window, math.ceil(width / window) * window
    padded = torch.zeros(tall, wide, dim)
    padded[:height, :width] = grid[0]
    qkv_bias = torch.cat([attention.q_bias, torch.zeros(dim), attention.v_bias])
    q, k, v = (padded @ attention.qkv.weight.T + qkv_bias).split(dim, dim=-1)
    table = 16 * torch.sigmoid(attention.cpb_mlp(attention.relative_coords_table))[0]
    scale = attention.logit_scale.clamp(max=math.log(100)).exp().flatten()

    def place(y, x):  # where a position of the padded map lies after the roll: its window, its border, its offset inside
        rolled = ((y - shift) % tall, (x - shift) % wide)
        wrapped = (rolled[0] >= tall - shift, rolled[1] >= wide - shift)
        return (rolled[0] // window, rolled[1] // window), wrapped, (rolled[0] % window, rolled[1] % window)

    positions = [(y, x) for y in range(tall) for x in range(wide)]
    out = torch.zeros(tall, wide, dim)
    for y, x in positions:
        home, border, at = place(y, x)
        mates = [p for p in positions if place(*p)[0] == home]
        for head in range(heads):
            part = slice(head * dim // heads, (head + 1) * dim // heads)
            logits = []
            for mate in mates:
                _, other, there = place(*mate)
                cosine = F.normalize(q[y, x, part], dim=0) @ F.normalize(k[(*mate, part)], dim=0)
                bias = table[at[0] - there[0] + window - 1, at[1] - there[1] + window - 1, head]
                logits.append(cosine * scale[head] + bias - (100.0 if other != border else 0.0))
            weights = torch.stack(logits).softmax(0)
            out[y, x, part] = sum(weight * v[(*mate, part)] for weight, mate in zip(weights, mates, strict=True))
    return (out @ attention.proj.weight.T + attention.proj.bias)[None, :height, :width]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [(3, 3), (5, 7), (6, 3), (2, 2)])
def test_windows_equal_a_loop_over_positions(size, shift):
    attention = randomize(WindowAttention(6, 2, 3, 0))
    windows = ShiftedWindows(attention, shift=shift, pad_small_map=True)
    grid = torch.randn(1, *size, 6)
    with torch.no_grad():
        torch.testing.assert_close(windows(grid), slow_window_attention(attention, grid, shift), atol=1e-5, rtol=1e-5)


def test_only_windows_at_the_last_row_and_column_have_crossings():
    kinds = crossings(4, 1)
    assert (kinds[0] == 0).all()
    right = kinds[1].view(4, 4, 4, 4)
    assert right[0, 2, 3, 2] == 0
    assert right[0, 2, 0, 3] == right[0, 3, 0, 2] == -100
    assert torch.equal(kinds[2].view(4, 4, 4, 4).permute(1, 0, 3, 2), right)


def test_offsets_and_their_index_are_those_of_a_loop():
    offsets, index = relative_tables(3, 0)
    for query in range(9):
        for key in range(9):
            down, across = query // 3 - key // 3, query % 3 - key % 3
            expected = [math.copysign(math.log2(abs(d / 2 * 8) + 1) / 3, d) for d in (down, across)]
            assert offsets.view(-1, 2)[index[query, key]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("size", [(4, 6), (3, 5)])
def test_merging_stacks_squares_channel_by_channel(norm, size):
    dim = 3
    merge = randomize(PatchMerging(dim, norm))
    grid = torch.randn(2, *size, dim)
    expected = torch.zeros(2, math.ceil(size[0] / 2), math.ceil(size[1] / 2), 4 * dim)
    for y in range(size[0]):
        for x in range(size[1]):
            for c in range(dim):
                expected[:, y // 2, x // 2, c * 4 + y % 2 * 2 + x % 2] = grid[:, y, x, c]
    expected = merge.reduction(merge.norm(expected)) if norm == "pre" else merge.norm(merge.reduction(expected))
    torch.testing.assert_close(merge(grid), expected)


def test_sizes_that_no_patch_or_window_divides_are_rounded_up():
    encoder = tiny().eval()
    with torch.no_grad():
        maps = encoder(torch.rand(2, 3, 75, 50))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 19, 13), (2, 16, 10, 7), (2, 32, 5, 4), (2, 64, 3, 2)]


@pytest.mark.parametrize(
    ("side", "patch", "cells"),
    [(2048, 4, 64), (512, 4, 16), (256, 4, 8), (192, 4, 6), (64, 4, 2), (96, 2, 6)],  # design: where each modality meets the cells
)
def test_every_size_of_the_cell_table_is_accepted(side, patch, cells):
    encoder = SwinV2(channels=3, dim=4, depths=(1, 2, 1, 1), heads=(1, 1, 1, 1), patch=patch).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, side, side))[-1].shape[-2:] == (cells, cells)


def test_a_map_smaller_than_the_window_is_refused_unless_padded():
    with pytest.raises(GridError, match="a map of 2 x 4 positions is smaller than the window 4; set pad_small_map: true"):
        tiny(pad_small_map=False)(torch.zeros(1, 3, 64, 128))


def test_one_side_as_large_as_the_window_stops_the_shift_unless_small_maps_are_padded():
    attention = randomize(WindowAttention(6, 2, 3, 0))
    grid = torch.randn(1, 3, 6, 6)
    plain = ShiftedWindows(attention, shift=0, pad_small_map=False)(grid)
    torch.testing.assert_close(ShiftedWindows(attention, shift=1, pad_small_map=False)(grid), plain)
    assert (ShiftedWindows(attention, shift=1, pad_small_map=True)(grid) - plain).abs().max() > 0.01


def test_extra_norms_count_the_blocks_of_their_own_stage():
    names = [name for name in tiny().state_dict() if ".norm3." in name]
    assert names == ["stages.2.blocks.2.norm3.weight", "stages.2.blocks.2.norm3.bias"]


def test_units_and_taps_follow_the_stages():
    encoder = tiny(levels=(1, 3))
    assert len(encoder.units) == 8 + 3
    assert [encoder.units[tap] for tap in encoder.taps] == [encoder.stages[1].blocks[-1], encoder.stages[3].blocks[-1]]
    assert (encoder.stride, encoder.tap_channels, encoder.tap_strides) == (32, (16, 64), (8, 32))


def test_tables_of_offsets_have_a_name_but_are_never_loaded():
    encoder, name = tiny(), "stages.0.blocks.0.attn.w_msa.relative_coords_table"
    stored = encoder.state_dict()
    assert name in stored and not [other for other in stored if "crossings" in other]
    assert stored[name.replace("coords_table", "position_index")].dtype == torch.int64
    wide = tiny(window=(8, 4, 2, 2))
    tables = {other: tensor.clone() for other, tensor in wide.state_dict().items() if "relative" in other}
    lacking = {other: tensor for other, tensor in stored.items() if "relative" not in other}
    for state in (stored, {**stored, name: torch.zeros(1)}, lacking):
        for assign in (False, True):
            assert wide.load_state_dict(state, assign=assign).missing_keys == []
            assert all(torch.equal(wide.state_dict()[other], tensor) for other, tensor in tables.items())


def test_the_kept_bias_follows_every_change_of_the_weights():
    encoder, other = tiny().eval(), randomize(tiny()).eval()
    pixels = torch.rand(1, 3, 64, 64)

    def fresh():
        return copy.deepcopy(encoder)(pixels)[-1]

    with torch.no_grad():
        first = encoder(pixels)[-1]
        assert torch.equal(encoder(pixels)[-1], first)
        torch._foreach_lerp_(list(encoder.parameters()), list(other.parameters()), 0.5)  # how a teacher moves
        moved = encoder(pixels)[-1]
        assert (moved - first).abs().max() > 1e-3
        assert torch.equal(moved, fresh())
        encoder.load_state_dict(other.state_dict())
        assert torch.equal(encoder(pixels)[-1], other(pixels)[-1])
        encoder.double()
        assert encoder(pixels.double())[-1].dtype == torch.float64
    encoder.float()
    with torch.inference_mode():
        encoder(pixels)
    for _ in range(2):  # with gradient nothing is kept: two backward passes work
        encoder(pixels)[-1].sum().backward()


def test_weights_made_in_inference_mode_are_used_as_they_are():
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        encoder = tiny().eval()
        first = encoder(pixels)[-1]
        encoder.stages[0].blocks[0].attn.w_msa.cpb_mlp[2].weight.mul_(-30)
        assert (encoder(pixels)[-1] - first).abs().max() > 1e-6


def test_gradients_reach_every_parameter():
    encoder = tiny(absolute_position=64, drop_path=0.0).train()
    sum(m.square().mean() for m in encoder(torch.rand(2, 3, 64, 32))).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_a_dropped_branch_still_adds_the_bias_of_its_norm():
    block = tiny().stages[0].blocks[0].train()
    block.drop_path.rate = 1 - 1e-12
    torch.nn.init.constant_(block.norm1.bias, 2.0)
    torch.nn.init.constant_(block.norm2.bias, 3.0)
    grid = torch.randn(1, 4, 4, 8)
    torch.testing.assert_close(block(grid), grid + 5)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(2, 4, 4), (1, 12, 8), (3, 4, 12)])
def test_windows_are_those_of_a_rolled_map_sorted_by_kind(size, shift):
    grid = torch.randn(*size, 3)
    windows = Windows(size, 4, shift)
    rolled = grid.roll((-shift, -shift), dims=(1, 2))
    rows, columns = size[1] // 4, size[2] // 4
    kinds = [[], [], [], []]  # inside, right, low, low right; all of one kind where nothing is rolled
    for number in range(size[0]):
        for row in range(rows):
            for column in range(columns):
                kind = (row == rows - 1) * 2 + (column == columns - 1) if shift else 0
                kinds[kind].append(rolled[number, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].flatten(0, 1))
    assert windows.cut(grid).equal(torch.stack([window for kind in kinds for window in kind]))
    assert windows.join(windows.cut(grid)).equal(grid)


def test_bfloat16_autocast_stays_near_full_precision():
    encoder = randomize(tiny()).eval()
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        full = encoder(pixels)[-1]
        with torch.autocast("cpu", torch.bfloat16):
            half = encoder(pixels)[-1]
    assert (half.float() - full).norm() / full.norm() < 0.1


def test_the_published_size_has_its_published_number_of_parameters():
    with torch.device("meta"):
        encoder = SwinV2(channels=3, dim=352, depths=(2, 2, 18, 2), heads=(8, 16, 32, 64), extra_norm_every=6)
    assert sum(p.numel() for p in encoder.parameters()) == 655_079_632


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": (1, 2, 3)}, r"heads \[1, 2, 3\] must have one entry per stage"),
        ({"heads": (1, 2, 3, 4)}, "stage 2 has 32 channels, not a multiple of its 3 heads"),
        ({"window": 1}, "must be 2 or more"),
        ({"levels": (2, 1)}, "must be ascending stage numbers in 0..3"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        tiny(**options)
