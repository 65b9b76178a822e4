"""What do the layers cost beside their matrix products, and beside timm?

    python tests/benchmarks/model.py [--quick]                      ratios of CPU seconds, one thread
    python tests/benchmarks/model.py --device cuda [--models base skysense_v1] [--quick]     a whole model on a card

Both sides of a ratio run in turns, round after round; a ratio is the median (and the least) of the rounds' ratios.
CPU seconds, so other programs disturb little. *Products*: only the layer's matrix products (qkv, scores, attention times values,
projection, both of the feed-forward), without biases, on tensors that exist already. The last line is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import throughput
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skysense_cli.core.batch import Batch, SeriesBatch
from skysense_cli.core.encoders._timm import load_timm
from skysense_cli.core.encoders._windows import WindowAttention
from skysense_cli.core.encoders.swin_v2 import Block, ShiftedWindows, SwinV2
from skysense_cli.core.encoders.vit import ViT
from skysense_cli.core.model import SkySense
from skysense_cli.core.transformer import Layer

Call = Callable[[], object]


@dataclass(frozen=True)
class Pair:
    """`ours` over `other`; `goal` is what the ratio should be."""

    name: str
    ours: Call
    other: Call
    goal: str


@dataclass(frozen=True)
class Scale:
    """Full sizes, or with --quick sizes that only prove that everything runs."""

    dim: int
    heads: int
    images: int
    tokens: int
    cells: int
    window_dim: int
    window_heads: int
    side: int
    rounds: int


FULL = Scale(dim=1024, heads=16, images=2, tokens=256, cells=32, window_dim=352, window_heads=8, side=64, rounds=15)
QUICK = Scale(dim=32, heads=2, images=1, tokens=16, cells=2, window_dim=16, window_heads=2, side=16, rounds=2)
STEPS = 31  # dates of a training sample, with the extra token one more


def seconds(call: Call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measured(pair: Pair, rounds: int) -> dict[str, object]:
    """The figures of one pair."""
    pair.ours(), pair.other()  # warm
    times = []
    for number in range(rounds):
        if number % 2:
            other = seconds(pair.other)
            times.append((seconds(pair.ours), other))
        else:
            times.append((seconds(pair.ours), seconds(pair.other)))
    ratios = [ours / max(other, 1e-9) for ours, other in times]
    return {
        "median": round(median(ratios), 3),
        "least": round(min(ratios), 3),
        "ms": [round(min(side) * 1e3, 1) for side in zip(*times, strict=True)],
        "goal": pair.goal,
    }


def products(rows: int, length: int, dim: int, heads: int, dtype: torch.dtype = torch.float32) -> Call:
    """The matrix products of a layer on (rows, length, dim)."""
    x, hidden = torch.randn(rows, length, dim, dtype=dtype), torch.randn(rows, length, 4 * dim, dtype=dtype)
    qkv, proj, up, down = (torch.randn(a, b, dtype=dtype) for a, b in ((3 * dim, dim), (dim, dim), (4 * dim, dim), (dim, 4 * dim)))
    query = torch.randn(rows * heads, length, dim // heads, dtype=dtype)
    key = torch.randn(rows * heads, dim // heads, length, dtype=dtype)
    weights = torch.randn(rows * heads, length, length, dtype=dtype)

    def run() -> None:
        F.linear(x, qkv)
        torch.matmul(query, key)
        torch.matmul(weights, query)
        F.linear(x, proj)
        F.linear(x, up)
        F.linear(hidden, down)

    return run


def layers(scale: Scale) -> list[Pair]:
    """ViT-L and fusion layers."""
    layer, half = Layer(scale.dim, scale.heads).eval(), Layer(scale.dim, scale.heads).eval().bfloat16()
    x, cells = torch.randn(scale.images, scale.tokens, scale.dim), torch.randn(scale.cells, 1 + STEPS, scale.dim)
    x16 = x.bfloat16()

    def autocast() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x)

    return [
        Pair("vit layer / products", lambda: layer(x), products(*x.shape, scale.heads), "<= 1.10"),
        Pair("fusion layer / products", lambda: layer(cells), products(*cells.shape, scale.heads), "<= 1.10"),
        Pair("full / last fusion layer", lambda: layer(cells), lambda: layer(cells, None, 1), ">= 3"),
        Pair("vit layer fp32 / bf16 weights", lambda: layer(x), lambda: half(x16), ">= 2.7"),
        Pair("vit layer fp32 / bf16 autocast", lambda: layer(x), autocast, ">= 2.7"),
        Pair("vit layer bf16 / bf16 products", lambda: half(x16), products(*x.shape, scale.heads, torch.bfloat16), "-"),
    ]


def blocks(scale: Scale) -> list[Pair]:
    """Blocks of Swin V2's first stage, plain and shifted."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2Block

    side, dim, heads = scale.side, scale.window_dim, scale.window_heads
    grid, window = torch.randn(1, side, side, dim), 8
    grid16 = grid.bfloat16()
    pairs = []
    for name, shift in (("plain", 0), ("shifted", window // 2)):

        def made(shift: int = shift) -> Block:
            attention = WindowAttention(dim, heads, window, 0)
            return Block(ShiftedWindows(attention, shift=shift, pad_small_map=True), dim, drop_path=0, extra_norm=False).eval()

        block, half = made(), made().bfloat16()
        theirs = SwinTransformerV2Block(dim, (side, side), heads, window_size=window, shift_size=shift).eval()
        exact, low = (products((side // window) ** 2, window**2, dim, heads, dtype) for dtype in (torch.float32, torch.bfloat16))
        pairs += [
            Pair(f"swin block {name} / products", lambda block=block: block(grid), exact, "<= 1.22"),
            Pair(f"swin block {name} / timm's", lambda block=block: block(grid), lambda theirs=theirs: theirs(grid), "<= 1.02"),
            Pair(f"swin block {name} fp32 / bf16", lambda block=block: block(grid), lambda half=half: half(grid16), ">= 2.7"),
            Pair(f"swin block {name} bf16 / bf16 products", lambda half=half: half(grid16), low, "-"),
        ]
    return pairs


def encoders(scale: Scale) -> list[Pair]:
    """Whole encoders, and timm's with the same sizes."""
    from timm.models.swin_transformer_v2 import SwinTransformerV2
    from timm.models.vision_transformer import VisionTransformer

    dim, heads, depth, size = (scale.dim // 2, scale.heads // 2, 6, 64) if scale is FULL else (scale.dim, scale.heads, 2, 16)
    ours = ViT(channels=10, dim=dim, depth=depth, heads=heads, size=size, taps=(depth - 1,)).eval()
    plain = {"num_classes": 0, "global_pool": "", "class_token": False, "final_norm": False}
    theirs = VisionTransformer(img_size=size, patch_size=4, in_chans=10, embed_dim=dim, depth=depth, num_heads=heads, **plain).eval()
    image, photo = torch.randn(2, 10, size, size), torch.randn(1, 3, 4 * scale.side, 4 * scale.side)
    width, parts = (96, (3, 6)) if scale is FULL else (16, (2, 4))
    swin = SwinV2(channels=3, dim=width, depths=(2, 2), heads=parts, levels=(1,)).eval()
    sizes = {"embed_dim": width, "depths": (2, 2), "num_heads": parts, "window_size": 8, "num_classes": 0, "global_pool": ""}
    their_swin = SwinTransformerV2(img_size=4 * scale.side, **sizes).eval()
    return [
        Pair("vit / timm's", lambda: ours(image), lambda: theirs.forward_features(image), "<= 1.02"),
        Pair("swin v2 / timm's", lambda: swin(photo), lambda: their_swin.forward_features(photo), "<= 1.02"),
    ]


def absent(quick: bool) -> dict[str, object]:
    """CPU ms by part of a batch whose s2 and s1 are zeros that are computed, and of one where they are skipped."""
    model, pixels = throughput.load("tiny" if quick else "small", size_m=(160, 160) if quick else (320, 320), dates={"s2": 2, "s1": 2})
    model.eval()
    batch = throughput.batch(model, pixels, 1, "cpu")
    nothing = {m: SeriesBatch(torch.zeros_like(s.pixels), s.days, s.present, s.valid) for m, s in batch.series.items() if m != model.anchor}
    only = {model.anchor: batch.series[model.anchor]}
    rest = (batch.region, batch.place, batch.frame)
    tables = [by_part(model, Batch(series, *rest), 1 if quick else 3) for series in ({**only, **nothing}, only)]
    return {"ms computed, ms skipped": {name: [tables[0][name], tables[1].get(name, 0.0)] for name in tables[0]}}


def by_part(model: SkySense, batch: Batch, rounds: int) -> dict[str, float]:
    """Part -> least CPU ms of the rounds."""
    parts: dict[str, nn.Module] = {f"{kind}.{m}": part for kind in ("encoders", "lifts") for m, part in getattr(model, kind).items()}
    parts |= {"fusion": model.fusion, "whole model": model}
    started, spent = {}, {}
    hooks = []
    for name, part in parts.items():

        def before(*_: object, name: str = name) -> None:
            started[name] = time.process_time()

        def after(*_: object, name: str = name) -> None:
            spent[name] = min(spent.get(name, float("inf")), time.process_time() - started[name])

        hooks += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
    for _ in range(rounds):
        model(batch)
    for hook in hooks:
        hook.remove()
    return {name: round(value * 1e3, 1) for name, value in spent.items()}


def ratios(quick: bool) -> dict[str, object]:
    """Everything that one CPU thread can say."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    load_timm()
    scale = QUICK if quick else FULL
    found: dict[str, object] = {"load": os.getloadavg()[0]}
    with torch.no_grad():
        for pair in (*layers(scale), *blocks(scale), *encoders(scale)):
            found[pair.name] = figures = measured(pair, scale.rounds)
            print(f"{pair.name}: {figures['median']} (least {figures['least']}, goal {figures['goal']}), ms {figures['ms']}", flush=True)
        found["absent modalities"] = absent(quick)
        print(found["absent modalities"], flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--device", help="cuda, or cpu with --quick: throughput of whole models instead of ratios")
    parser.add_argument("--models", nargs="+", default=["base", "skysense_v1"])
    given = parser.parse_args()
    if given.device:
        figures = {name: throughput.figures(name, given.device, quick=given.quick) for name in given.models}
    else:
        figures = ratios(given.quick)
    print(json.dumps(figures))
