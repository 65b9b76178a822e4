"""Geo-context prototypes: what ground looks like in each region of the globe (SkySense, sec. 3.4)."""

from typing import Literal

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from skysense_cli.core.collective import gather_ranks, sum_ranks
from skysense_cli.core.sinkhorn import sinkhorn

NO_REGION = -1
LEAST_WEIGHT = 1e-6  # of a cell: a prototype that got less in a step stays where it is


class GeoPrototypes(nn.Module):
    """N_p prototypes for each region seen so far; a fused feature attends to those of its region.

    dim: channels d' of F_fus^mm
    regions, scheme: how `geo/regions.py` divides the globe; kept here because the numbers mean nothing without it
    per_region: N_p      epsilon, rounds: of Sinkhorn      seed: of the first prototypes of a region
    literal_sum: take Eq. 12 as printed, S^T F, a sum of about N_S / N_p features (see `update`)

    Buffers: prototypes (slots, N_p, d'), slot_regions (slots,), used (slots, N_p), how many cells each was given so far.
    Slots are added in `update` at the first sight of a region, so the buffers grow; `load_state_dict` takes any number
    of slots. Prototypes get no gradient.
    Paper silent: what "4096 regions" divides (here the globe, or its Web-Mercator squares), and the first prototypes.
    """

    widen = 2  # fused channels per fused_mm channel

    prototypes: Tensor
    slot_regions: Tensor
    used: Tensor

    def __init__(
        self,
        dim: int,
        /,
        *,
        regions: int = 4096,
        per_region: int = 100,
        scheme: Literal["equal_area", "mercator"] = "equal_area",
        epsilon: float = 0.05,
        rounds: int = 3,
        seed: int = 0,
        literal_sum: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.regions, self.per_region, self.scheme = dim, regions, per_region, scheme
        self.epsilon, self.rounds, self.seed, self.literal_sum = epsilon, rounds, seed, literal_sum
        self.register_buffer("prototypes", torch.zeros(0, per_region, dim))
        self.register_buffer("slot_regions", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("used", torch.zeros(0, per_region, dtype=torch.int64))

    def forward(self, fused_mm: Tensor, region: Tensor) -> Tensor:
        """F_fus (B, 2 d', h, w); the same as `attend`."""
        return self.attend(fused_mm, region)

    def attend(self, fused_mm: Tensor, region: Tensor) -> Tensor:
        """Each feature beside what its region's prototypes make of it: (B, d', h, w) -> (B, 2 d', h, w). Eq. 3.

        softmax(F P_r^T / sqrt(d')) P_r with raw F and P. region: (B,) int64; the context is zero for a region without
        prototypes (-1 among them) and for a cell without a feature (all zeros).
        """
        slot, known = self._slots(region)
        if not len(self.slot_regions):
            return torch.cat([fused_mm, torch.zeros_like(fused_mm)], dim=1)
        bank = self.prototypes[slot].to(fused_mm.dtype)  # (B, N_p, d')
        cells = fused_mm.flatten(2).transpose(1, 2)  # (B, d', h, w) -> (B, h*w, d')
        weights = torch.softmax((cells @ bank.transpose(1, 2)).float() / self.dim**0.5, dim=-1)
        context = (weights.to(bank.dtype) @ bank).transpose(1, 2).reshape(fused_mm.shape)
        here = known[:, None, None, None] & (fused_mm != 0).any(dim=1, keepdim=True)
        return torch.cat([fused_mm, torch.where(here, context, 0).to(fused_mm.dtype)], dim=1)

    def nearest(self, fused_mm: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """The prototype of its region that each cell is most like: index (B, h, w) int64 and cosine (B, h, w) float32.

        (SkySense Fig. 5.) Ties go to the lowest index. A region without prototypes and a cell without a feature give
        index -1 and similarity 0.
        """
        slot, known = self._slots(region)
        here = known[:, None, None] & (fused_mm != 0).any(dim=1)
        if not len(self.slot_regions):
            return torch.full(here.shape, -1, device=fused_mm.device), torch.zeros(here.shape, device=fused_mm.device)
        cells = functional.normalize(fused_mm.double().flatten(2).transpose(1, 2), dim=-1)
        bank = functional.normalize(self.prototypes[slot].double(), dim=-1)
        similarity = (cells @ bank.transpose(1, 2)).unflatten(1, here.shape[1:])  # (B, h*w, N_p) -> (B, h, w, N_p)
        best = similarity.argmax(dim=-1)
        value = similarity.gather(-1, best[..., None])[..., 0]
        return torch.where(here, best, -1), torch.where(here, value, 0).float()

    @torch.no_grad()
    def update(self, fused_mm: Tensor, region: Tensor, seen: Tensor, *, momentum: float) -> None:
        """Move the prototypes of the batch's regions towards the features assigned to them. Eq. 11-13.

        fused_mm: (B, d', h, w), need not be normalised      region: (B,) int64, -1 takes no part
        seen: (B, h, w) bool; other cells take no part       momentum: m of Eq. 13
        All cells of a region in the global batch are balanced together, and each region moves once.
        Paper silent: scale of Eq. 12; we take the weighted *mean*, so that Eq. 13 averages like with like
        (`literal_sum` for the sum). Prototypes of a new region start from its own cells.
        Every process must call this in the same step, with or without samples: sums are gathered.
        """
        cells = fused_mm.detach().float().flatten(2).transpose(1, 2)  # (B, d', h, w) -> (B, h*w, d')
        flags = seen.flatten(1) & (region >= 0)[:, None]
        here = gather_ranks(region[flags.any(dim=1)]).unique(sorted=True)  # ascending, the same on every rank
        if not len(here):
            return
        self._start_new(here, cells, region, flags)
        slot, _ = self._slots(here)
        groups = (here[:, None] == region[None, :]).float()  # (G, B)
        with torch.autocast(cells.device.type, enabled=False):
            own = groups.argmax(dim=0)  # (B,); a sample without a region has no seen cell
            bank = functional.normalize(self.prototypes[slot], dim=-1)
            similarity = functional.normalize(cells, dim=-1) @ bank[own].transpose(1, 2)  # Eq. 11
            share = sinkhorn(similarity, epsilon=self.epsilon, rounds=self.rounds, seen=flags, groups=groups, gathered=True)
            sums = sum_ranks(torch.einsum("gb,bkd->gkd", groups, share.transpose(1, 2) @ cells))  # Eq. 12
            weight = sum_ranks(groups @ share.sum(dim=1))
            given = functional.one_hot(share.argmax(dim=-1), self.per_region) * flags[..., None]
            count = sum_ranks(groups.double() @ given.sum(dim=1).double())
        target = sums if self.literal_sum else sums / weight.clamp(min=LEAST_WEIGHT)[..., None]
        moved = torch.lerp(target, self.prototypes[slot], momentum)  # Eq. 13
        self.prototypes[slot] = torch.where(weight[..., None] > LEAST_WEIGHT, moved, self.prototypes[slot])
        self.used[slot] += count.long()

    def resize(self, slots: int) -> None:
        """Room for `slots` regions: kept slots keep their content, new ones hold zeros and no region."""
        for name, fill in (("prototypes", 0), ("slot_regions", NO_REGION), ("used", 0)):
            old = getattr(self, name)
            new = torch.full((slots, *old.shape[1:]), fill, dtype=old.dtype, device=old.device)
            kept = min(slots, len(old))
            new[:kept] = old[:kept]
            setattr(self, name, new)

    def _slots(self, region: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) regions -> slot (B,) and known (B,) bool; slot 0 where not known."""
        match = (region[:, None] == self.slot_regions[None, :]) & (region >= 0)[:, None]  # (B, slots)
        known = match.any(dim=1)
        return (match.int().argmax(dim=1) if match.shape[1] else torch.zeros_like(region)), known

    def _start_new(self, here: Tensor, cells: Tensor, region: Tensor, flags: Tensor) -> None:
        """Slots for those of the regions `here` that have none, filled from the cells of the global batch.

        Each sample offers N_p of its seen cells, spread evenly; of all offers for a region N_p are drawn by a generator
        seeded by the region. Too few cells are repeated with a little noise, since equal prototypes would stay equal.
        """
        _, known = self._slots(here)
        if known.all():
            return
        offers, owners = gather_ranks(self._offers(cells, flags)), gather_ranks(region)
        for number in here[~known].tolist():
            offered = offers[owners == number].flatten(0, 1)  # (samples, N_p, d') -> (samples*N_p, d')
            offered = offered[(offered != 0).any(dim=-1)]
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            order = torch.randperm(max(len(offered), 1), generator=generator)
            pick = order.repeat(-(-self.per_region // len(order)))[: self.per_region].to(cells.device)
            first = offered[pick] if len(offered) else cells.new_zeros(self.per_region, self.dim)
            noise = torch.randn(first.shape, generator=generator).to(first) * 0.01 * first.std()
            repeats = torch.arange(self.per_region, device=first.device)[:, None] >= len(order)
            self.resize(len(self.slot_regions) + 1)
            self.slot_regions[-1] = number
            self.prototypes[-1] = torch.where(repeats, first + noise, first)

    def _offers(self, cells: Tensor, flags: Tensor) -> Tensor:
        """(B, N_p, d'): seen cells of each sample at even distances; zeros for a sample that sees none."""
        count = flags.sum(dim=1, keepdim=True)  # (B, 1)
        steps = torch.arange(self.per_region, device=cells.device)[None, :]
        spread = torch.where(count >= self.per_region, steps * count // self.per_region, steps)  # (B, N_p), all different
        seen_first = torch.argsort((~flags).int(), dim=1, stable=True)
        chosen = seen_first.gather(1, spread.clamp(max=cells.shape[1] - 1))
        offered = cells.gather(1, chosen[..., None].expand(-1, -1, cells.shape[2]))
        return torch.where((steps < count)[..., None], offered, 0)

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        """Make room for as many regions as the state holds, then load as usual (also on `meta`, with assign=True)."""
        incoming = state_dict.get(prefix + "slot_regions")
        if incoming is not None and len(incoming) != len(self.slot_regions):
            self.resize(len(incoming))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


build = GeoPrototypes
