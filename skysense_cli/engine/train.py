"""The one training loop, for every objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from skysense_cli import console
from skysense_cli.core.collective import rank, sum_ranks
from skysense_cli.core.objectives import Objective
from skysense_cli.engine import bundle, curves, distributed, optim
from skysense_cli.engine.spec import BundleSpec
from skysense_cli.errors import BundleError, TrainingError
from skysense_cli.files import TEMPORARY
from skysense_cli.recipe.schema.train import TrainSection

FINAL = "bundle"  # of the run folder: the weights at the end

Score = Callable[[Objective], dict[str, float]]


@dataclass(frozen=True)
class Validation:
    """`score` is asked every `every` steps and at the end; its numbers go to the log, `metric` is shown."""

    every: int
    score: Score
    metric: str


def train(
    objective: Objective, loader: DataLoader, plan: TrainSection, home: Path, spec: BundleSpec, *, device: str = "cpu",
    validation: Validation | None = None,
) -> Path:  # fmt: skip
    """Train to `plan.steps`, from the newest checkpoint in `home` if there is one; returns the final bundle's folder.

    objective: on any device, not yet spread over ranks      loader: from `data.order.step_loader`
    The same command after a kill at any moment ends with the same files. Raises TrainingError when a loss is not
    finite, before it changes a weight.
    """
    objective = distributed.shard(objective.to(device), plan)  # type: ignore[assignment]
    optimizer = optim.build(objective, plan)
    window, log = curves.Window(), curves.Log(home)
    step = first = resume(home, objective, optimizer, window, device)
    if distributed.is_first():
        _clean(home, plan.keep)
        log.rewind(step)
    objective.train()
    try:
        for batch in _batches(loader, step, plan.steps, spec.stage):
            torch.manual_seed(seed_of(plan.seed, step, rank()))  # dropout is a function of the step, whatever ran before
            rate = optim.set_learning_rate(optimizer, step, plan)

            # forward and backward
            with autocast(plan.precision, device):
                losses = objective(batch.to(device))
                total = torch.stack([loss.float() for loss in losses.values()]).sum()
            raise_if_not_finite(total, losses, step, home)
            total.backward()
            norm = clip(objective, plan.clip)
            raise_if_not_finite(norm, losses, step, home)

            # update
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            objective.after_step(progress=step / plan.steps)
            step += 1
            window.add({**losses, "": norm})

            # once in a while: log, evaluate, save
            if step % plan.log_every == 0 or step == plan.steps:
                _log(log, step, window, rate, plan)
            if validation is not None and (step % validation.every == 0 or step == plan.steps):
                scores = validation.score(objective)
                objective.train()
                _write(log, {"step": step, "scores": scores})
                console.say(f"step {step}/{plan.steps}  validation {validation.metric} {scores[validation.metric]:.3f}")
            if step % plan.save_every == 0 or step == plan.steps:
                save(home, objective, optimizer, window, spec, step)
                _prune(home, plan.keep)
    except KeyboardInterrupt:
        saved = bundle.checkpoints(home)[-1:]
        console.warn(f"interrupted at step {step}; the same command goes on from step {saved[0][0] if saved else 0}")
        raise
    if first == plan.steps:
        console.say(f"{home}: was already trained to step {plan.steps}")
    return finish(home, objective, spec, plan.steps, log)


def resume(home: Path, objective: Objective, optimizer: torch.optim.Optimizer, window: curves.Window, device: str) -> int:
    """Load the newest checkpoint of the run; returns its step, 0 when there is none.

    Raises BundleError when it is damaged or of another model.
    """
    saved = bundle.checkpoints(home)
    if not saved:
        return 0
    step, path = saved[-1]
    state = bundle.read_state(path)
    parts: dict[str, dict[str, Tensor]] = {"objective": {}, "optimizer": {}, "window": {}}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    try:
        distributed.load(objective, parts["objective"])
    except RuntimeError as error:  # torch names every key that differs
        raise BundleError(f"{path}: is of another model: {' '.join(str(error).split())}") from error
    own = dict(objective.named_parameters())
    for name, tensor in parts["optimizer"].items():
        parameter, _, slot = name.rpartition(".")
        if parameter not in own:
            raise BundleError(f"{path}: holds optimizer state of {parameter!r}, which is not trained")
        optimizer.state[own[parameter]][slot] = distributed.like(tensor, own[parameter])
    window.load({name.removeprefix("loss."): tensor for name, tensor in parts["window"].items()}, device)
    console.say(f"{home}: resumed at step {step}")
    return step


def save(home: Path, objective: Objective, optimizer: torch.optim.Optimizer, window: curves.Window, spec: BundleSpec, step: int) -> None:
    """Write the checkpoint of `step`: a bundle with everything that `resume` needs. Every rank must call it."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in objective.named_parameters()}
    state = {f"objective.{name}": tensor for name, tensor in objective.state_dict().items()}
    for parameter, slots in optimizer.state.items():
        state |= {f"optimizer.{names[parameter]}.{slot}": tensor for slot, tensor in slots.items()}
    state |= {f"window.loss.{name}": tensor for name, tensor in window.state().items()}
    state, weights = distributed.full(state), exported(objective)
    if distributed.is_first():
        facts = spec.model_copy(update={"step": step}).to_plain()
        bundle.save(bundle.checkpoint_path(home, step), facts, weights, state)
    distributed.barrier()


def finish(home: Path, objective: Objective, spec: BundleSpec, step: int, log: curves.Log) -> Path:
    """Write the final bundle, the metrics and their curves; returns the bundle's folder."""
    weights = exported(objective)
    if distributed.is_first():
        bundle.save(home / FINAL, spec.model_copy(update={"step": step}).to_plain(), weights)
        log.finish()
        curves.draw(home)
    distributed.barrier()
    return home / FINAL


def exported(objective: Objective) -> dict[str, Tensor]:
    """The tensors that a bundle keeps, `model.*` and `head.*`, whole."""
    return distributed.full({f"{name}.{key}": t for name, part in objective.export().items() for key, t in part.state_dict().items()})


def autocast(precision: str, device: str) -> Any:
    """bf16: matrix products in bfloat16, weights and sums in float32."""
    return torch.autocast(device.partition(":")[0], torch.bfloat16) if precision == "bf16" else nullcontext()


def clip(objective: nn.Module, most: float) -> Tensor:
    """Scale the gradients to a norm of at most `most`; returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_([p for p in objective.parameters() if p.grad is not None], most)
    return distributed.full({"norm": norm})["norm"]


def raise_if_not_finite(value: Tensor, losses: dict[str, Tensor], step: int, home: Path) -> None:
    """TrainingError with the losses by name unless `value` is finite on every rank."""
    if bool(torch.isfinite(sum_ranks(value))):
        return
    found = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in losses.items())
    raise TrainingError(
        f"{home}: loss or gradient is not finite at step {step + 1} ({found}); no weight was changed. "
        "Lower train.lr, lengthen train.warmup, or use precision fp32; --overwrite starts again."
    )


def seed_of(seed: int, step: int, number: int) -> int:
    """A seed for one step of one rank."""
    return int(np.random.SeedSequence([seed, step, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _batches(loader: DataLoader, start: int, stop: int, description: str) -> Iterator[Any]:
    """The batches of steps `start` to `stop`."""
    if start >= stop:
        return
    loader.batch_sampler.start = start  # type: ignore[union-attr]
    batches = iter(loader)
    for _ in console.progress(range(start, stop), description):
        yield next(batches)


def _log(log: curves.Log, step: int, window: curves.Window, rate: float, plan: TrainSection) -> None:
    means = window.means()
    norm = means.pop("")
    total = sum(means.values())
    _write(log, {"step": step, "loss": total, "losses": means, "lr": rate, "gradient_norm": norm})
    tenth = max(plan.steps // 10, plan.log_every)
    if step // tenth > (step - plan.log_every) // tenth or step == plan.steps:
        console.say(f"step {step}/{plan.steps}  loss {total:.4f}  lr {rate:.2e}  gradient {norm:.2f}")


def _write(log: curves.Log, line: dict[str, Any]) -> None:
    if distributed.is_first():
        log.write(line)


def _prune(home: Path, keep: int) -> None:
    if distributed.is_first():
        bundle.prune(home, keep)


def _clean(home: Path, keep: int) -> None:
    """Remove what a kill may have left half written or not yet removed."""
    home.mkdir(parents=True, exist_ok=True)
    bundle.prune(home, keep)
    for name in (curves.GROWING, curves.CURVES):
        (home / f"{name}{TEMPORARY}").unlink(missing_ok=True)
