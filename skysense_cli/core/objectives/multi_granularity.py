"""Multi-granularity contrast with cross-modal alignment and geo-context prototypes (SkySense, sec. 3.3-3.4)."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from skysense_cli.core import frames, losses
from skysense_cli.core.batch import Batch, Views
from skysense_cli.core.collective import rank
from skysense_cli.core.features import Features
from skysense_cli.core.model import SkySense
from skysense_cli.core.objectives import Objective
from skysense_cli.core.prototypes import GeoPrototypes
from skysense_cli.core.sinkhorn import weighted_means
from skysense_cli.core.teacher import Projector, Targets, follow, momentum_at, teacher_of
from skysense_cli.errors import RecipeError

FUSED = "fused"  # the stream beside those of the modalities
GRANULARITIES = ("pixel", "object", "image")
FIRST_TEMPERATURE, LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.07, 0.001, 0.5  # of the alignment; as ALBEF


@dataclass(frozen=True)
class Temperature:
    """Of the softmax over outputs; the teacher's is sharper."""

    student: float = 0.1
    teacher: float = 0.04


@dataclass(frozen=True)
class Projection:
    """Sizes of the MLP between a feature and its scores; 2048, 256, 65536 in DINO."""

    hidden: int = 256
    bottleneck: int = 64
    outputs: int = 256


class MultiGranularity(Objective):
    """Student and teacher agree on cells, soft objects and whole views, and modalities on places (Eq. 5-10, 14).

    clusters: objects per date and view (N_C)      cells: drawn per date for the pixel loss; all of them do not fit
    momentum: of the teacher, from start to end along half a cosine      centering: see `teacher.Targets`
    alpha, beta: weights of contrast and alignment      prototype_momentum: m of Eq. 13; 0.999 at paper scale
    swap: the student also sees v and the teacher u; twice the cost of a step
    seed: of the drawn cells, together with the step and the sample's place in the global batch

    Streams are the modalities and `fused` (T = 1, F_fus with its context). Losses are named `pixel/<stream>`,
    `object/<stream>`, `image/<stream>` and `align`; each is a mean over what both views see, 0 when that is nothing.

    *Which date meets which.* The views of a sample may hold different dates, and different numbers of them. The n-th
    present date of u is paired with the teacher's date at the same rank: of n_u and n_v dates, k with
    floor((k + 1/2) n_v / n_u), both ascending. Views with the same dates are so paired one to one, others early with early
    and late with late. Days are not compared: they may be jittered. A date without a partner has no loss. For image and
    object contrast the pairs are the same.

    *Which cell meets which.* Frames say where u's cell centres lie in v (`frames.overlap`); a pair counts when both views
    see it. Paper silent: all of that; also the projectors (one per stream, shared by the granularities, with a centre
    for each), object assignment (made on the teacher's map, used for both), negatives of Eq. 10 (see `losses.align`).
    """

    step: Tensor

    def __init__(
        self,
        model: SkySense,
        /,
        *,
        clusters: int = 8,
        cells: int = 32,
        momentum: tuple[float, float] = (0.996, 1.0),
        temperature: Temperature = Temperature(),
        centering: Literal["mean", "sinkhorn"] = "sinkhorn",
        center_momentum: float = 0.9,
        alpha: float = 1.0,
        beta: float = 1.0,
        prototype_momentum: float = 0.99,
        projection: Projection = Projection(),
        align_dim: int = 128,
        swap: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.clusters, self.cells, self.momentum, self.temperature = clusters, cells, momentum, temperature
        self.alpha, self.beta, self.prototype_momentum, self.swap, self.seed = alpha, beta, prototype_momentum, swap, seed
        if FUSED in model.encoders:
            raise RecipeError(f"a modality cannot be named {FUSED!r}: that is the stream of all modalities together; rename it")
        widths = {name: model.parts(name)[1].width for name in model.encoders}
        self.model = model
        self.projectors = nn.ModuleDict(
            {
                stream: Projector(width, hidden=projection.hidden, bottleneck=projection.bottleneck, outputs=projection.outputs)
                for stream, width in (widths | {FUSED: model.spec.fused}).items()
            }
        )
        self.align = nn.ModuleDict({name: nn.Linear(width, align_dim) for name, width in widths.items()})
        self.align_temperature = nn.Parameter(torch.tensor([FIRST_TEMPERATURE]))  # (1,): a scalar cannot be sharded
        self.teacher = nn.ModuleDict({"model": teacher_of(model), "projectors": teacher_of(self.projectors)})
        self.teacher["model"].geo_context = model.geo_context  # the teacher reads the student's prototypes
        self.targets = nn.ModuleDict(
            {
                f"{granularity}/{stream}": Targets(
                    projection.outputs, centering=centering, temperature=temperature.teacher, momentum=center_momentum
                )
                for stream in self.projectors
                for granularity in GRANULARITIES
            }
        )
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def train(self, mode: bool = True) -> "MultiGranularity":
        """As usual, but the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Views) -> dict[str, Tensor]:
        """The named losses of one step; keeps what `after_step` needs."""
        pairs = [(batch.u, batch.v), (batch.v, batch.u)] if self.swap else [(batch.u, batch.v)]
        self.kept = []
        total: dict[str, Tensor] = {}
        for u, v in pairs:
            student = self.model(u)
            with torch.no_grad():
                teacher = self.teacher["model"](v)
            self.kept.append((student.fused_mm.detach(), u.region, student.seen_any))
            for name, value in self._pair(student, teacher, u, v).items():
                total[name] = total.get(name, 0) + value / len(pairs)
        return total

    def after_step(self, progress: float) -> None:
        """Teacher and centres follow; the prototypes move by the student's features (Eq. 11-13)."""
        momentum = momentum_at(progress, self.momentum)
        follow(self.teacher["model"], self.model, momentum)
        follow(self.teacher["projectors"], self.projectors, momentum)
        for target in self.targets.values():
            cast(Targets, target).after_step()
        with torch.no_grad():
            self.align_temperature.clamp_(LEAST_TEMPERATURE, MOST_TEMPERATURE)
        if isinstance(self.model.geo_context, GeoPrototypes) and self.kept:
            fused_mm, region, seen = (torch.cat(parts) for parts in zip(*self.kept, strict=True))
            self.model.geo_context.update(fused_mm, region, seen, momentum=self.prototype_momentum)
        self.kept = []
        self.step += 1

    def export(self) -> dict[str, nn.Module]:
        """The teacher, which holds the student's prototypes."""
        return {"model": self.teacher["model"]}

    def _pair(self, student: Features, teacher: Features, u: Batch, v: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for number, stream in enumerate(self.projectors):
            if stream == FUSED or (stream in student.modal and stream in teacher.modal):
                maps = self._matched(_stream(student, stream), _stream(teacher, stream), u.frame, v.frame)
                found |= self._contrast(stream, number, maps)
        found = {name: self.alpha * value for name, value in found.items()}
        names = [name for name in self.align if name in student.modal]
        if len(names) > 1:
            found["align"] = self.beta * self._alignment(student, names, u.place)
        return found

    def _matched(self, student: "_Maps", teacher: "_Maps", frame_u: Tensor, frame_v: Tensor) -> "_Matched":
        """The teacher's maps of the paired dates, as they are and read at the student's cells."""
        index, paired = paired_dates(student.present, teacher.present)
        theirs = _take(teacher.maps, index)
        their_seen = _take(teacher.seen, index) & paired[..., None, None]
        _, grid, inside = frames.overlap(frame_u, frame_v, (student.maps.shape[-2], student.maps.shape[-1]))
        return _Matched(
            student=student.maps,
            teacher=frames.sample(theirs, grid),
            common=student.seen & frames.sample_flags(their_seen, grid) & inside[:, None],
            student_image=losses.pool(student.maps, student.seen),
            teacher_image=losses.pool(theirs, their_seen),
            both=student.seen.flatten(2).any(dim=-1) & their_seen.flatten(2).any(dim=-1),
        )

    def _contrast(self, stream: str, number: int, maps: "_Matched") -> dict[str, Tensor]:
        """Eq. 6-8 of one stream: all vectors go through the projectors together, (B, T, cells + clusters + 1, d)."""
        mine, theirs = (m.flatten(3).transpose(2, 3) for m in (maps.student, maps.teacher))  # (B, T, d, h, w) -> (B, T, h*w, d)
        common = maps.common.flatten(2)
        drawn, drawn_flags = self._draw(common, number)
        slices = (-1, *mine.shape[2:])
        size = (maps.student.shape[-2], maps.student.shape[-1])
        assignment = losses.clusters(theirs.reshape(slices), common.flatten(0, 1), size, self.clusters)
        object_flags = (assignment.sum(dim=1) > 0).unflatten(0, common.shape[:2])

        def vectors(cells: Tensor, image: Tensor) -> Tensor:
            pixels = cells.gather(2, drawn[..., None].expand(-1, -1, -1, cells.shape[-1])).float()
            objects = weighted_means(cells.reshape(slices), assignment).unflatten(0, common.shape[:2])
            return torch.cat([pixels, objects, image[:, :, None]], dim=2)

        sizes = [drawn.shape[2], self.clusters, 1]
        said = self.projectors[stream](vectors(mine, maps.student_image)).split(sizes, dim=2)
        with torch.no_grad():
            heard = cast(nn.ModuleDict, self.teacher["projectors"])[stream](vectors(theirs, maps.teacher_image)).split(sizes, dim=2)
        flags = (drawn_flags, object_flags, maps.both[..., None])
        found = {}
        for granularity, student, teacher, counted in zip(GRANULARITIES, said, heard, flags, strict=True):
            name = f"{granularity}/{stream}"
            found[name] = losses.contrast(student, self.targets[name](teacher, counted), counted, self.temperature.student)
        return found

    def _draw(self, common: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Up to `cells` of the cells (B, T, N) that both views see: indices (B, T, K), and which of them are meant.

        A function of seed, step, stream and the sample's number in the global batch, so neither the number of ranks nor
        padding nor another modality changes it.
        """
        chance = torch.empty(common.shape)
        for b in range(len(common)):
            sample = rank() * len(common) + b
            key = ((self.seed * 1_000_003 + int(self.step)) * 10_007 + sample) * 101 + number
            chance[b] = torch.rand(common.shape[1:], generator=torch.Generator().manual_seed(key % 2**63))
        chance = chance.to(common.device).masked_fill(~common, -1)
        values, indices = chance.topk(min(self.cells, common.shape[2]), dim=2)
        return indices, values >= 0

    def _alignment(self, student: Features, names: list[str], place: Tensor) -> Tensor:
        """Eq. 10 on the average of each modality's features over the cells and dates that are seen."""
        vectors, have = [], []
        for name in names:
            maps, seen = student.modal[name], student.seen[name]
            pooled = losses.pool(maps.transpose(1, 2).flatten(2, 3), seen.flatten(1, 2))  # (B, d, T*h, w) -> (B, d)
            vectors.append(functional.normalize(self.align[name](pooled).float(), dim=-1))
            have.append(seen.flatten(1).any(dim=1))
        limit = self.align_temperature[0].clamp(LEAST_TEMPERATURE, MOST_TEMPERATURE)
        return losses.align(torch.stack(vectors, dim=1), torch.stack(have, dim=1), place, limit)


@dataclass(frozen=True, eq=False)
class _Maps:
    """One stream of one view: maps (B, T, d, h, w), seen (B, T, h, w), present (B, T)."""

    maps: Tensor
    seen: Tensor
    present: Tensor


@dataclass(frozen=True, eq=False)
class _Matched:
    """One stream of both views on the student's cells and dates.

    student, teacher: (B, T, d, h, w)      common: (B, T, h, w), cells that both see
    student_image, teacher_image: (B, T, d), of all that each sees      both: (B, T), each sees something
    """

    student: Tensor
    teacher: Tensor
    common: Tensor
    student_image: Tensor
    teacher_image: Tensor
    both: Tensor


def paired_dates(present_u: Tensor, present_v: Tensor) -> tuple[Tensor, Tensor]:
    """For each date of u the date of v at the same rank: index (B, T_u) and whether it has one (B, T_u).

    present_u (B, T_u), present_v (B, T_v) bool; see `MultiGranularity` for the rule.
    """
    count_u, count_v = present_u.sum(dim=1, keepdim=True), present_v.sum(dim=1, keepdim=True)
    order = present_u.cumsum(dim=1) - 1  # k of each present date
    wanted = ((2 * order + 1) * count_v) // (2 * count_u).clamp(min=1)
    present_first = torch.argsort((~present_v).int(), dim=1, stable=True)
    index = present_first.gather(1, wanted.clamp(0, present_v.shape[1] - 1))
    return index, present_u & (count_v > 0)


def _stream(features: Features, stream: str) -> _Maps:
    if stream == FUSED:
        fused = features.fused[:, None]
        return _Maps(fused, features.seen_any[:, None], torch.ones_like(fused[:, :, 0, 0, 0], dtype=torch.bool))
    return _Maps(features.modal[stream], features.seen[stream], features.present[stream])


def _take(dated: Tensor, index: Tensor) -> Tensor:
    """(B, T_v, ...) and (B, T_u) -> (B, T_u, ...)."""
    return dated[torch.arange(len(index), device=index.device)[:, None], index]


build = MultiGranularity
