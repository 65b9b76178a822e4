"""Samples a second of a whole model, forward and training step, in bfloat16, beside the card's rate of matrix products."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.core.model import SkySense
from skysense_cli.engine import sizes
from skysense_cli.engine.assemble import build_model
from skysense_cli.engine.distributed import shard
from skysense_cli.engine.released import known_input
from skysense_cli.recipe.load import load_model
from skysense_cli.recipe.schema.train import TrainSection

Pixels = dict[str, tuple[int, int, int]]


def load(name: str, *, size_m: tuple[float, float], dates: dict[str, int] | None = None) -> tuple[SkySense, Pixels]:
    """The shipped model `name` with fresh weights, and (dates, height, width) by modality of what it sees of such a ground."""
    section = load_model(f"models/{name}")
    pixels = sizes.measure(section, size_m=size_m, dates=dates).pixels
    inputs = {}
    for m, part in section.encoders.items():
        inputs[m] = replace(known_input(m, part.options["channels"], name), gsd_m=size_m[0] / pixels[m][1])
    torch.manual_seed(0)
    return build_model(section, inputs), pixels


def batch(model: SkySense, pixels: Pixels, samples: int, device: str) -> Batch:
    """Noise without gaps."""
    series = {}
    for m, (count, height, width) in pixels.items():
        days = torch.arange(count, device=device).expand(samples, -1)
        here = torch.ones(samples, count, dtype=torch.bool, device=device)
        image = torch.randn(samples, count, model.parts(m)[0].channels, height, width, device=device)
        series[m] = SeriesBatch(image, days, here, here[..., None, None].expand(-1, -1, height, width))
    region = torch.zeros(samples, dtype=torch.int64, device=device)
    return Batch(series, region, torch.arange(samples, device=device), torch.eye(2, 3, device=device).expand(samples, -1, -1))


def figures(name: str, device: str, *, quick: bool, samples: int = 1) -> dict[str, object]:
    """Wall time with synchronisation. Model FLOP/s count two per multiplication, forward once, backward twice; what
    checkpointing computes again is not counted. Units are checkpointed in training, as a large model needs it."""
    section = load_model(f"models/{name}")
    geometry = {
        "size_m": (160.0, 160.0) if quick else sizes.SERIES_M,
        "dates": {m: 2 for m in section.encoders if quick and m != section.anchor},
    }
    work = sizes.measure(section, **geometry).total.flops
    model, pixels = load(name, **geometry)
    model.to(device)
    given = batch(model, pixels, samples, device)
    peak = product_rate(device, 256 if quick else 8192)
    rounds = 1 if quick else 5

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            model(given)

    model.eval()
    found = {"samples": samples, "GFLOP a sample, forward": round(work / 1e9, 2), "products TFLOP/s": round(peak / 1e12, 3)}
    found["forward"] = rates(forward, device, rounds, samples, work, peak)

    plan = TrainSection(steps=1, batch=samples, lr=1e-5, checkpoint_activations=True)
    trained = shard(nn.ModuleList([model]), plan).train()
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-5, fused=device.startswith("cuda"))

    def step() -> None:
        with torch.autocast(device, torch.bfloat16):
            loss = model(given).fused.float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    found["training step"] = rates(step, device, rounds, samples, 3 * work, peak)
    return found


def rates(call: Callable[[], None], device: str, rounds: int, samples: int, work: int, peak: float) -> dict[str, float]:
    """Samples a second, memory in GiB, and model FLOP/s over the rate of matrix products."""
    on_card = device.startswith("cuda")
    call()  # warm
    if on_card:
        torch.cuda.reset_peak_memory_stats()
    spent = min(wall(call, on_card) for _ in range(rounds))
    memory = torch.cuda.max_memory_allocated() / 2**30 if on_card else 0.0
    return {
        "samples/s": round(samples / spent, 3),
        "memory GiB": round(memory, 1),
        "model FLOP/s / products": round(work * samples / spent / peak, 3),
    }


def product_rate(device: str, side: int) -> float:
    """FLOP/s of a square bfloat16 product, the best of ten."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    return 2 * side**3 / min(wall(lambda: a @ b, device.startswith("cuda")) for _ in range(10))


def wall(call: Callable[[], object], on_card: bool) -> float:
    """Seconds, the card idle before and after."""
    if on_card:
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if on_card:
        torch.cuda.synchronize()
    return time.perf_counter() - start
