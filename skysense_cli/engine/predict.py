"""A whole scene through a model: windows of tiles in, finished pieces of the map out, read ahead of the model.

What every kind of output shares is `compute`: the results of tiles in order, and where a window ends. `predict_scene`
gives them to a `RasterMosaic` for each raster; a mosaic of another kind takes them the same way: the results of the tiles
of a window, then its end, then what is finished.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from skysense_cli import console
from skysense_cli.core.batch import Batch
from skysense_cli.data.sample import Sample, Series
from skysense_cli.engine.ahead import ahead
from skysense_cli.engine.mosaic import RasterMosaic
from skysense_cli.engine.tiling import Plan, Span, Window
from skysense_cli.engine.validity import finished_pixels, keep_asked
from skysense_cli.errors import BundleError
from skysense_cli.geo.kept import kept_open

Result = TypeVar("Result")
Given = TypeVar("Given")
Forward = Callable[[Batch, tuple[int, int]], Sequence[Tensor]]  # (batch, (h, w)) -> (B, K, h, w) scores for each raster
Compute = Callable[[Batch, tuple[int, int]], Sequence[Result]]  # (batch, (h, w)) -> one result per tile
ToBatch = Callable[[Sequence[Sample]], Batch]

STRIPS_AHEAD, STEPS_AHEAD = 1, 2  # read beside the one at work, made ready beside the one in the model


class Scene(Protocol):
    """What is predicted on; `data.scenes.SceneStack` is one. units: rows, columns of the extended scene."""

    @property
    def units(self) -> tuple[int, int]: ...

    def strip(self, top: int, height: int, left: int = 0, width: int | None = None) -> Mapping[str, Series]: ...

    def tile(self, strip: Mapping[str, Series], left: int, width: int) -> Sample | None: ...


@dataclass(frozen=True)
class TileDone(Generic[Result]):
    """A tile of a window. result: None for one without any valid pixel, or one that is not wanted"""

    window: Window
    column: int
    result: Result | None


@dataclass(frozen=True)
class WindowDone:
    """All tiles of a window were given. valid: (n, w) bool, of the scene's pixels `plan.reached(window)`"""

    window: Window
    valid: np.ndarray


@dataclass(frozen=True)
class Raster:
    """What the scores of tiles are blended into. plan: the scene's, in this raster's own pixels      channels: K of the scores

    told: one channel more, after the scores, is 1 where they are valid and 0 elsewhere; blended like them it stays so.
        Otherwise the pixels are those of the scene's plan, and valid where some date of some modality is.
    """

    plan: Plan
    channels: int
    told: bool = False


@dataclass(frozen=True)
class Finished:
    """A finished piece of a raster. name: of the strip      top, left: first row and column
    scores: (K, n, w) float32, the receiver's to change      valid: (n, w) bool"""

    name: str
    top: int
    left: int
    scores: np.ndarray
    valid: np.ndarray


def predict_scene(
    forward: Forward, to_batch: ToBatch, scene: Scene, plan: Plan, rasters: Sequence[Raster], rows: range | None = None, *, abreast: int = 1
) -> Iterator[tuple[Finished, ...]]:  # fmt: skip
    """The blended scores of a scene from top to bottom, each pixel at most once: the same ground of every raster at a time.

    forward: gives the scores of all rasters, in their order      rows: of tiles, whose finished pixels are asked for; None: all
    abreast: steps that go through `forward` at the same time, in threads; see `steps_abreast`
    No pixel is valid that a tile covers which is not wanted; where no tile is wanted nothing comes out. A tile without any
    valid pixel is not computed.
    Which rows are asked for, and how the plan cuts strips, changes no bit. Raises BundleError when a score is not finite.
    """
    rows = range(plan.tiles[0]) if rows is None else rows
    pieces = _finished(forward, to_batch, scene, plan, rasters, rows, abreast)
    yield from console.progress(pieces, "strips", len(plan.finishing(rows)))


def steps_abreast(device: str) -> int:
    """How many steps go through the model at the same time: on a CPU as many as torch has threads, each in one thread.

    Threads inside a step would be slower for small models, and how many there are would change the last bits.
    """
    return torch.get_num_threads() if device == "cpu" else 1


def _finished(
    forward: Forward, to_batch: ToBatch, scene: Scene, plan: Plan, rasters: Sequence[Raster], rows: range, abreast: int
) -> Iterator[tuple[Finished, ...]]:  # fmt: skip
    if not rows:
        return
    blends = [_Blend(raster) for raster in rasters]

    def finite(batch: Batch, size: tuple[int, int]) -> list[tuple[np.ndarray, ...]]:
        found = [scores.float().cpu() for scores in forward(batch, size)]
        if not all(bool(torch.isfinite(scores).all()) for scores in found):
            raise BundleError("the model gives scores that are not finite; see with which data it was trained")
        return list(zip(*(scores.numpy() for scores in found), strict=True))

    for event in compute(finite, to_batch, scene, plan, rows, abreast=abreast):
        window = event.window
        if isinstance(event, TileDone):
            for number, blend in enumerate(blends):
                blend.mosaic.add(window.row, window.block, None if event.result is None else event.result[number])
            continue
        pieces = tuple(blend.finish(window, event.valid) for blend in blends)
        if window.row in rows and all(piece.valid.size for piece in pieces):
            yield pieces


class _Blend:
    """A raster while it is blended."""

    def __init__(self, raster: Raster) -> None:
        plan, self.raster = raster.plan, raster
        scaled = plan.rows.scaled(plan.unit_px), plan.columns.scaled(plan.unit_px)
        self.mosaic = RasterMosaic(raster.channels + raster.told, *scaled, plan.blocks)

    def finish(self, window: Window, valid: np.ndarray) -> Finished:
        """The pixels that end with a window. valid: of the scene's plan"""
        plan = self.raster.plan
        (down, across), (above, beside) = plan.reached(window), plan.before(window)
        scores = self.mosaic.finish(window.row, window.block)[:, : down.stop - down.start, : across.stop - across.start]
        if self.raster.told:
            scores, valid = scores[:-1], scores[-1] > 0.5
            keep_asked(valid, plan, window)
        top, left = down.start + above - plan.origin[0], across.start + beside - plan.origin[1]
        return Finished(window.name, top, left, scores[:, above:, beside:], valid[above:, beside:])


def compute(
    forward: Compute[Result], to_batch: ToBatch, scene: Scene, plan: Plan, rows: range, *, abreast: int = 1
) -> Iterator[TileDone[Result] | WindowDone]:  # fmt: skip
    """The results of the tiles of some rows, and of the rows above that reach into them, in order; each window ends with its end.

    Tiles go through `forward` in steps that depend on the plan alone (`tiling.Span`). Reading, cutting and normalising
    are ahead of it in threads of their own.
    """
    span = Span.of(plan, rows)
    steps = ahead(_steps(to_batch, scene, plan, span), STEPS_AHEAD)

    def run(step: _Step) -> tuple[_Step, Iterator[Result]]:
        with torch.inference_mode():
            return step, iter(forward(step.batch, plan.tile_px) if step.batch is not None else ())

    with closing(steps):
        for step, results in _in_threads(run, steps, abreast):
            for event in step.events:
                done = (
                    TileDone(event.window, event.column, next(results) if event.computed else None) if isinstance(event, _Tile) else event
                )
                if done.window.row in span.rows:
                    yield done


@dataclass(frozen=True)
class _Tile:
    window: Window
    column: int
    computed: bool


@dataclass(frozen=True)
class _Step:
    """Tiles that go through the model together, and the ends of windows between them."""

    events: list[_Tile | WindowDone]
    batch: Batch | None


def _in_threads(run: Callable[[_Step], Given], steps: Iterator[_Step], count: int) -> Iterator[Given]:
    """`run` of each step, in order; with several at a time torch uses one thread for each."""
    if count == 1:
        yield from map(run, steps)
        return
    threads, waiting = torch.get_num_threads(), deque[Future[Given]]()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count, "skysense-step") as pool:
            try:
                for step in steps:
                    waiting.append(pool.submit(run, step))
                    if len(waiting) > count:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        torch.set_num_threads(threads)


def _steps(to_batch: ToBatch, scene: Scene, plan: Plan, span: Span) -> Iterator[_Step]:
    """A step for every `plan.batch` numbers of tiles, whether or not all of them are computed."""
    events: list[_Tile | WindowDone] = []
    samples: list[Sample] = []
    group = -1
    for window, strip, valid in ahead(_windows(scene, plan, span), STRIPS_AHEAD):
        for column in window.columns:
            number = window.row * plan.tiles[1] + column
            if not span.first <= number < span.last:
                continue
            if number // plan.batch != group and events:
                yield _Step(events, to_batch(samples) if samples else None)
                events, samples = [], []
            group = number // plan.batch
            wanted = plan.wants(window.row, column)
            sample = scene.tile(strip, plan.columns.starts[column] - window.left, plan.columns.size) if wanted else None
            events.append(_Tile(window, column, sample is not None))
            if sample is not None:
                samples.append(sample)
        events.append(WindowDone(window, valid))
        del strip, valid  # not kept while the next one is waited for
    if events:
        yield _Step(events, to_batch(samples) if samples else None)


def _windows(scene: Scene, plan: Plan, span: Span) -> Iterator[tuple[Window, Mapping[str, Series], np.ndarray]]:
    with kept_open(plan.cache):
        yield from _read(scene, plan, span)


def _read(scene: Scene, plan: Plan, span: Span) -> Iterator[tuple[Window, Mapping[str, Series], np.ndarray]]:
    for window in span.windows(plan):
        strip = scene.strip(plan.rows.starts[window.row], plan.rows.size, window.left, window.width)
        yield window, strip, finished_pixels(strip, plan, window)
