"""Geo-context prototypes: Eq. 3 and 11-13 against hand-written ones, growth, and what a map needs."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as functional

from skysense_cli.core.prototypes import GeoPrototypes


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _seen(*shape):
    return torch.ones(*shape, dtype=torch.bool)


def _started(dim=4, count=3, regions=(5, 9)):
    bank = GeoPrototypes(dim, per_region=count)
    fused_mm = _numbers(len(regions), dim, 4, 4)
    bank.update(fused_mm, torch.tensor(regions), _seen(len(regions), 4, 4), momentum=1.0)
    return bank


def test_attention_agrees_with_the_double_loop():
    bank = _started()
    fused_mm, region = _numbers(3, 4, 2, 2, seed=2), torch.tensor([9, 5, 9])
    fused = bank.attend(fused_mm, region)
    assert torch.equal(fused[:, :4], fused_mm)
    for b, y, x in itertools.product(range(3), range(2), range(2)):
        f = fused_mm[b, :, y, x]
        p = bank.prototypes[1 if region[b] == 9 else 0]
        weights = [math.exp(float(f @ p[k]) / 2) for k in range(3)]  # sqrt(d) = 2
        expected = sum(weight * p[k] for k, weight in enumerate(weights)) / sum(weights)
        assert torch.allclose(fused[b, 4:, y, x], expected, atol=1e-5)


def test_unknown_regions_and_empty_cells_have_no_context():
    bank = _started()
    fused_mm = _numbers(3, 4, 2, 2)
    fused_mm[2, :, 0, 1] = 0
    fused = bank(fused_mm, torch.tensor([-1, 77, 5]))
    assert fused[:2, 4:].abs().max() == 0
    assert fused[2, 4:, 0, 1].abs().max() == 0
    assert fused[2, 4:, 0, 0].abs().max() > 0
    assert GeoPrototypes(4)(fused_mm, torch.tensor([5, 5, 5]))[:, 4:].abs().max() == 0


def _slow_update(prototypes, cells, momentum, epsilon=0.05):
    """Eq. 11-13 of one region, with the mean for the sum: `cells` a list of vectors."""
    n, k = len(cells), len(prototypes)
    s = [[math.exp(float(functional.cosine_similarity(cells[i], prototypes[j], dim=0)) / epsilon) for j in range(k)] for i in range(n)]
    for _ in range(3):
        for j in range(k):
            total = sum(s[i][j] for i in range(n))
            for i in range(n):
                s[i][j] /= total
        for i in range(n):
            total = sum(s[i])
            s[i] = [value / total for value in s[i]]
    moved = []
    for j in range(k):
        mean = sum(s[i][j] * cells[i] for i in range(n)) / sum(s[i][j] for i in range(n))
        moved.append(momentum * prototypes[j] + (1 - momentum) * mean)
    return torch.stack(moved)


def test_the_update_agrees_with_the_double_loop():
    bank = _started()
    before = bank.prototypes.clone()
    fused_mm, region = _numbers(4, 4, 3, 3, seed=4), torch.tensor([9, 5, 9, -1])
    seen = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(1)) > 0.3
    bank.update(fused_mm, region, seen, momentum=0.8)
    for slot, members in ((0, [1]), (1, [0, 2])):
        cells = [fused_mm[b, :, y, x] for b in members for y in range(3) for x in range(3) if seen[b, y, x]]
        assert torch.allclose(bank.prototypes[slot], _slow_update(before[slot], cells, 0.8), atol=1e-5)
        assert bank.used[slot].sum() == 16 + len(cells)


def test_the_printed_sum_is_an_option():
    bank, literal = _started(), _started()
    literal.literal_sum = True
    fused_mm, region = _numbers(1, 4, 6, 6, seed=4), torch.tensor([5])
    for each in (bank, literal):
        each.update(fused_mm, region, _seen(1, 6, 6), momentum=0.0)
    ratio = literal.prototypes[0].norm(dim=1) / bank.prototypes[0].norm(dim=1)
    assert torch.allclose(ratio, torch.full((3,), 12.0), rtol=0.3)  # 36 cells for 3 prototypes


def test_samples_in_another_order_give_the_same_prototypes():
    one, other = _started(), _started()
    fused_mm, region = _numbers(4, 4, 3, 3, seed=4), torch.tensor([9, 5, 9, 5])
    order = torch.tensor([2, 1, 3, 0])
    one.update(fused_mm, region, _seen(4, 3, 3), momentum=0.5)
    other.update(fused_mm[order], region[order], _seen(4, 3, 3), momentum=0.5)
    assert torch.allclose(one.prototypes, other.prototypes, atol=1e-6)


def test_regions_out_of_sight_do_not_move():
    bank = _started()
    before = bank.prototypes.clone()
    bank.update(_numbers(2, 4, 3, 3), torch.tensor([5, 9]), torch.stack([_seen(3, 3), ~_seen(3, 3)]), momentum=0.5)
    assert not torch.equal(bank.prototypes[0], before[0])
    assert torch.equal(bank.prototypes[1], before[1])
    bank.update(_numbers(2, 4, 3, 3), torch.tensor([-1, -1]), _seen(2, 3, 3), momentum=0.5)
    assert len(bank.slot_regions) == 2


def test_a_new_region_starts_from_its_own_seen_cells():
    bank = GeoPrototypes(2, per_region=6)
    fused_mm = torch.cat([torch.zeros(1, 1, 4, 4), torch.arange(1.0, 17).reshape(1, 1, 4, 4)], dim=1)
    seen = fused_mm[:, 1] > 4
    bank.update(fused_mm, torch.tensor([3]), seen, momentum=1.0)
    values = bank.prototypes[0, :, 1].tolist()
    assert bank.slot_regions.tolist() == [3]
    assert len(set(values)) == 6
    assert set(values) <= set(range(5, 17))


def test_few_cells_still_give_different_prototypes():
    bank = GeoPrototypes(3, per_region=10)
    seen = torch.zeros(1, 4, 4, dtype=torch.bool)
    seen[0, 0, :3] = True
    bank.update(_numbers(1, 3, 4, 4), torch.tensor([3]), seen, momentum=1.0)
    distances = torch.cdist(bank.prototypes[0], bank.prototypes[0]) + torch.eye(10)
    assert distances.min() > 1e-4


def test_a_seed_gives_the_same_start_and_another_seed_another():
    starts = []
    for seed in (0, 0, 1):
        bank = GeoPrototypes(3, per_region=4, seed=seed)
        bank.update(_numbers(2, 3, 8, 8), torch.tensor([3, 3]), _seen(2, 8, 8), momentum=1.0)
        starts.append(bank.prototypes[0])
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_the_nearest_prototype_is_found_through_noise_and_scale():
    bank = _started(dim=8, count=5)
    truth = torch.randint(5, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    features = bank.prototypes[torch.tensor([1, 0])[:, None, None], truth].permute(0, 3, 1, 2)  # (B, h, w, d) -> (B, d, h, w)
    noisy = features + 0.05 * _numbers(*features.shape)
    index, similarity = bank.nearest(noisy, torch.tensor([9, 5]))
    assert torch.equal(index, truth)
    assert similarity.min() > 0.95
    assert torch.equal(bank.nearest(noisy * 7, torch.tensor([9, 5]))[0], truth)


def test_nothing_is_nearest_in_an_empty_region_or_cell():
    bank = _started()
    fused_mm = _numbers(2, 4, 2, 2)
    fused_mm[1, :, 1, 1] = 0
    index, similarity = bank.nearest(fused_mm, torch.tensor([8, 5]))
    assert index[0].tolist() == [[-1, -1], [-1, -1]]
    assert index[1, 1, 1] == -1
    assert index.dtype == torch.int64
    assert similarity[0].abs().max() == similarity[1, 1, 1] == 0
    assert (GeoPrototypes(4).nearest(fused_mm, torch.tensor([8, 5]))[0] == -1).all()


def test_equal_prototypes_give_the_lowest_index():
    bank = _started()
    bank.prototypes[0] = bank.prototypes[0, 2]
    assert (bank.nearest(_numbers(1, 4, 3, 3), torch.tensor([5]))[0] == 0).all()


@pytest.mark.parametrize("assign", [False, True])
def test_any_number_of_regions_survives_the_state_dict(assign):
    bank = _started(regions=(5, 9, 2))
    for fresh in (GeoPrototypes(4, per_region=3), _started(regions=(1, 2, 3, 4))):
        fresh.load_state_dict(copy.deepcopy(bank.state_dict()), assign=assign)
        fused_mm, region = _numbers(1, 4, 2, 2), torch.tensor([2])
        assert torch.equal(fresh(fused_mm, region), bank(fused_mm, region))
        assert torch.equal(fresh.used, bank.used)


def test_it_loads_onto_the_meta_device_inside_another_module():
    bank = _started()
    with torch.device("meta"):
        outer = torch.nn.ModuleDict({"geo_context": GeoPrototypes(4, per_region=3)})
    outer.load_state_dict({f"geo_context.{name}": value for name, value in bank.state_dict().items()}, assign=True)
    assert torch.equal(outer["geo_context"].prototypes, bank.prototypes)
    assert outer["geo_context"].prototypes.device.type == "cpu"


def test_a_state_of_another_width_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch for prototypes"):
        GeoPrototypes(5, per_region=3).load_state_dict(_started().state_dict())


def test_balanced_updates_use_every_prototype_of_a_lopsided_world():
    """Two cells in three look alike; assigning each cell to its nearest prototype would leave prototypes dead."""
    generator = torch.Generator().manual_seed(0)
    kinds = functional.normalize(torch.randn(4, 16, generator=generator), dim=-1)
    bank = GeoPrototypes(16, per_region=12)
    for _ in range(30):
        kind = torch.where(torch.rand(2, 8, 8, generator=generator) < 0.64, 0, torch.randint(1, 4, (2, 8, 8), generator=generator))
        fused_mm = (kinds[kind] + 0.05 * torch.randn(2, 8, 8, 16, generator=generator)).permute(0, 3, 1, 2)
        bank.update(fused_mm, torch.tensor([1, 1]), _seen(2, 8, 8), momentum=0.8)
    assert (bank.used[0] > 0).all()
    best = (functional.normalize(bank.prototypes[0], dim=-1) @ kinds.T).amax(dim=0)
    assert best.min() > 0.8  # the rare kinds have a prototype of their own
    index, _ = bank.nearest(fused_mm, torch.tensor([1, 1]))
    for k in range(1, 4):
        assert not set(index[kind == k].tolist()) & set(index[kind == 0].tolist())


# what a prototype map must do, whatever it shows


def _features(bank, truth, noise=0.05, seed=0):
    """(B, d, h, w) features that are a region's prototypes and noise. truth: (B, h, w) numbers of the prototypes of region 5"""
    exact = bank.prototypes[0][truth].permute(0, 3, 1, 2)  # (B, h, w, d) -> (B, d, h, w)
    return exact + noise * _numbers(*exact.shape, seed=seed)


def test_features_that_are_prototypes_and_noise_give_the_exact_map():
    bank = _started(dim=16, count=12)
    truth = torch.randint(12, (2, 20, 20), generator=torch.Generator().manual_seed(0))
    assert torch.equal(bank.nearest(_features(bank, truth), torch.tensor([5, 5]))[0], truth)


def test_permuting_the_prototypes_permutes_the_map_and_keeps_the_similarity():
    bank, other = _started(dim=8, count=6), _started(dim=8, count=6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other.prototypes[0] = bank.prototypes[0][order]
    features, region = _numbers(2, 8, 9, 9, seed=3), torch.tensor([5, 5])
    index, similarity = bank.nearest(features, region)
    permuted, same = other.nearest(features, region)
    assert torch.equal(order[permuted], index)
    assert torch.equal(same, similarity)


def test_scaling_the_features_or_the_prototypes_leaves_the_map_as_it_is():
    bank = _started(dim=8, count=6)
    features, region = _numbers(2, 8, 9, 9, seed=3), torch.tensor([5, 9])
    index, similarity = bank.nearest(features, region)
    for scale in (1e-3, 0.3, 50.0):
        scaled, same = bank.nearest(features * scale, region)
        assert torch.equal(scaled, index)
        assert torch.allclose(same, similarity, atol=1e-6)
    bank.prototypes *= torch.rand(2, 6, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    assert torch.equal(bank.nearest(features, region)[0], index)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turning_the_tile_turns_the_map_when_the_encoder_sees_single_pixels(quarters):
    torch.manual_seed(0)
    encoder = torch.nn.Conv2d(4, 8, kernel_size=1)
    bank, pixels, region = _started(dim=8, count=6), _numbers(1, 4, 7, 11), torch.tensor([9])
    with torch.no_grad():
        index, _ = bank.nearest(encoder(pixels), region)
        turned, _ = bank.nearest(encoder(torch.rot90(pixels, quarters, (2, 3))), region)
    assert torch.equal(turned, torch.rot90(index, quarters, (1, 2)))


class _Greedy(GeoPrototypes):
    """Every cell goes to its nearest prototype: Eq. 11-13 without Sinkhorn."""

    def update(self, fused_mm, region, seen, *, momentum):
        cells = fused_mm.flatten(2).transpose(1, 2).flatten(0, 1)
        index = self.nearest(fused_mm, region)[0].flatten()
        for number in range(self.per_region):
            if (index == number).any():
                self.prototypes[0, number].mul_(momentum).add_((1 - momentum) * cells[index == number].mean(dim=0))
        self.used[0] += torch.bincount(index, minlength=self.per_region)


def _learned(kind, steps=40):
    """(prototypes after some steps, the last map, its textures): three textures, the first prototypes all of the first one."""
    generator = torch.Generator().manual_seed(0)
    textures = functional.normalize(torch.randn(3, 16, generator=generator), dim=-1)
    bank, region = kind(16, per_region=3), torch.tensor([1, 1])

    def features(texture):
        return (textures[texture] + 0.05 * torch.randn(*texture.shape, 16, generator=generator)).permute(0, 3, 1, 2)

    GeoPrototypes.update(bank, features(torch.zeros(2, 8, 8, dtype=torch.int64)), region, _seen(2, 8, 8), momentum=1.0)
    bank.used.zero_()
    for _ in range(steps):
        texture = torch.randint(3, (2, 8, 8), generator=generator)
        bank.update(features(texture), region, _seen(2, 8, 8), momentum=0.8)
    return bank, bank.nearest(features(texture), region)[0], texture


def test_balanced_steps_tell_three_textures_apart_where_greedy_ones_collapse():
    from sklearn.metrics import adjusted_rand_score

    bank, index, texture = _learned(GeoPrototypes)
    assert adjusted_rand_score(texture.flatten(), index.flatten()) > 0.9
    assert len(index.unique()) == 3
    assert (bank.used[0] > 0).all()
    _, index, texture = _learned(_Greedy)
    assert adjusted_rand_score(texture.flatten(), index.flatten()) < 0.7
