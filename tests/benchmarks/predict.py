"""What whole-scene prediction costs over the least it can.   python tests/benchmarks/predict.py [--sizes 4096 8192] [--loop 4096] [--quick]

A simulated scene of ten bands, ten classes, tiles of 64 px that overlap by a quarter. For each size, in processes of
their own, one after the other, `--repeat` times:

    limit    forward on as many steps of tiles + the scene read once + one write of the same map (file of strips, COG driver)
    predict  `skysense predict` from opening the scene to the last file (map, legend, preview, STAC item)
    loop     a plain rasterio loop with accumulators of the whole scene, for the sizes of --loop

`cpu s` is what a process used, `wall s` what a clock saw (noisy beside other work), `peak MB` memory above that of the
imports and the model. Then labels are compared with a blend of the whole scene at once, for some sizes of tiles,
batches, pieces and ranks. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window

from skysense_cli import sensors
from skysense_cli.data.dataset import Input
from skysense_cli.engine import bundle
from skysense_cli.engine.assemble import LoadedBundle, build_model, load_bundle
from skysense_cli.engine.mosaic import Axis
from skysense_cli.engine.predict import compute
from skysense_cli.engine.predict_map import Prediction, open_prediction
from skysense_cli.engine.spec import BundleSpec, ClassFact
from skysense_cli.geo.cog import write_geotiff
from skysense_cli.recipe.load import bind_recipe, load_model
from skysense_cli.recipe.parts import bind
from skysense_cli.recipe.schema.maps import PredictRecipe

S2 = sensors.get("sentinel2_l2a")
CLASSES = 10
GOALS = {"one thread": 1.25, "two threads": 1.0, "peak MB": 600, "peak growth": 2.0}
KINDS = ("predict", "limit", "loop")


def write_bundle(folder: Path, model: str | None) -> None:
    """A bundle with random weights. model: a model recipe; None: nano with patches of 4 px instead of 2"""
    torch.manual_seed(0)
    section = load_model(model or Path(__file__).parents[2] / "recipes" / "models" / "nano.yaml")
    if model is None:
        vit = bind("core/encoders", "vit", {"channels": 10, "dim": 48, "depth": 2, "heads": 4, "patch": 4, "size": 8})
        section = section.model_copy(update={"encoders": {"s2": vit}, "cell_m": 20})
    inputs = {"s2": Input(S2.name, S2.band_names, 10.0, S2.mean, S2.std)}
    classes = tuple(ClassFact(name=f"class {n}", color=(n * 20, 255 - n * 20, 99)) for n in range(CLASSES))
    head = bind("core/heads", "fcn", {"width": 16, "depth": 1})
    spec = BundleSpec(stage="finetune", model=section, inputs=inputs, dates={"s2": 1}, size_m=(640.0, 640.0), classes=classes, head=head)
    built = build_model(section, inputs)
    task = head.build(built.spec, CLASSES)
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    parts = {"model": built, "head": task}
    bundle.save(folder, spec.to_plain(), {f"{n}.{key}": value for n, part in parts.items() for key, value in part.state_dict().items()})


def write_scene(path: Path, side: int) -> None:
    """Ten bands with a soft pattern and noise, tiles of 512 px as Sentinel-2 COGs have them."""
    random = np.random.default_rng(0)
    with rasterio.open(
        path, "w", driver="GTiff", height=side, width=side, count=10, dtype="uint16", crs="EPSG:32631", nodata=0, compress="deflate",
        zlevel=1, tiled=True, blockxsize=512, blockysize=512, transform=from_origin(500_000, 5_600_000, 10, 10), BIGTIFF="IF_SAFER",
    ) as out:  # fmt: skip
        out.descriptions = S2.band_names
        out.update_tags(ACQUISITION="2021-04-01")
        for row in range(0, side, 512):
            level = np.kron(random.normal(0, 1, (10, 32, -(-side // 16))), np.ones((16, 16)))[:, :512, :side]
            level += random.normal(0, 0.1, level.shape)
            mean, std = (np.array(one)[:, None, None] for one in (S2.mean, S2.std))
            band = np.clip(mean + 0.7 * std * level, 1, 60_000).astype(np.uint16)[:, : side - row]
            out.write(band, window=Window(0, row, side, band.shape[1]))


def recipe(home: Path, side: int, out: Path, **tiles: object) -> PredictRecipe:
    """Classes of the scene of this size."""
    tree = {"recipe": "predict", "version": 1, "bundle": str(home / "bundle"), "scene": {"s2": [str(home / f"{side}.tif")]}}
    given = {"size_m": 640, "overlap": 0.25, "batch": 8, **tiles}
    return bind_recipe({**tree, "output": str(out), "tiles": given})  # type: ignore[return-value]


# what is measured, each in a process of its own


def run_predict(home: Path, side: int, loaded: LoadedBundle) -> None:
    out = home / "maps" / f"{side}.tif"
    out.parent.mkdir(exist_ok=True)
    prediction = open_prediction(recipe(home, side, out), loaded)
    for path in out.parent.glob(f"{side}*"):
        path.unlink()
    prediction.write(out, "benchmark")


def run_limit(home: Path, side: int, loaded: LoadedBundle) -> None:
    """The map is that of `predict`, which must have run; reading it beforehand is not counted."""
    prediction = open_prediction(recipe(home, side, home / "maps" / f"{side}.tif"), loaded)
    plan, scene = prediction.job.plan, prediction.job.scene
    strip = scene.strip(0, plan.rows.size, 0, min(plan.columns.size * 8, scene.units[1]))
    tile = scene.tile(strip, 0, plan.columns.size)
    assert tile is not None and loaded.head is not None, "a scene without holes, a bundle with a head"
    batch = prediction.job.to_batch([tile] * plan.batch)
    with rasterio.open(home / "maps" / f"{side}.tif") as made:
        labels, colors = made.read(), made.colormap(1)
    yield_start()
    with torch.inference_mode():
        for _ in range(-(-plan.count // plan.batch)):
            loaded.head.predict(loaded.head(loaded.model(batch)), plan.tile_px)
    with rasterio.open(home / f"{side}.tif") as file:
        for row in range(0, side, 512):
            file.read(window=Window(0, row, side, min(512, side - row)))
    look = {"nodata": 255, "colors": {n: colors[n] for n in range(CLASSES)}, "names": loaded.classes, "overviews": "mode"}
    write_geotiff(home / "maps" / "limit.tif", labels, prediction.job.grid, **look)  # type: ignore[arg-type]


def run_loop(home: Path, side: int, loaded: LoadedBundle) -> None:
    """As it is usually written: windows one by one, sums and weights of the whole scene, then the winner."""
    prediction = open_prediction(recipe(home, side, home / "maps" / "loop.tif"), loaded)
    plan = prediction.job.plan
    assert loaded.head is not None, "a bundle with a head"
    sums, weights = np.zeros((CLASSES, side, side), np.float32), np.zeros((side, side), np.float32)
    position = np.minimum(np.arange(64) + 0.5, 64 - np.arange(64) - 0.5)
    ramp = np.minimum(position / 16, 1)
    weight = np.outer(ramp, ramp).astype(np.float32)
    places = [(top, left) for top in plan.rows.starts for left in plan.columns.starts]
    unit = plan.unit_px
    mean, std = (np.array(one, np.float32)[:, None, None] for one in (S2.mean, S2.std))
    template = prediction.job.to_batch([prediction.job.scene.tile(prediction.job.scene.strip(0, plan.rows.size), 0, plan.columns.size)] * 8)  # type: ignore[list-item]
    with rasterio.open(home / f"{side}.tif") as file, torch.inference_mode():
        for first in range(0, len(places), plan.batch):
            here = places[first : first + plan.batch]
            pixels = np.stack([(file.read(window=Window(left * unit, top * unit, 64, 64)) - mean) / std for top, left in here])
            for number, one in enumerate(pixels):
                template.series["s2"].pixels[number, 0] = torch.from_numpy(one)
            scores = loaded.head.predict(loaded.head(loaded.model(template)), plan.tile_px).numpy()
            for (top, left), score in zip(here, scores, strict=False):
                window = np.s_[top * unit : top * unit + 64, left * unit : left * unit + 64]
                sums[:, *window] += score * weight
                weights[window] += weight
    labels = (sums / weights).argmax(axis=0).astype(np.uint8)[None]
    write_geotiff(home / "maps" / "loop.tif", labels, prediction.job.grid, nodata=255, overviews="mode")


_started: list[tuple[float, float]] = []


def yield_start() -> None:
    """What was used before does not count."""
    _started.append((_cpu(), time.perf_counter()))


def measured(kind: str, home: Path, side: int) -> dict[str, float]:
    """Seconds and megabytes of this process."""
    loaded = load_bundle(home / "bundle", "cpu")
    before = _megabytes("VmRSS")
    yield_start()
    {"predict": run_predict, "limit": run_limit, "loop": run_loop}[kind](home, side, loaded)
    cpu, wall = _started[-1]
    return {"cpu s": _cpu() - cpu, "wall s": time.perf_counter() - wall, "peak MB": _megabytes("VmHWM") - before}


def _cpu() -> float:
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def _megabytes(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def in_process(kind: str, home: Path, side: int, threads: int) -> dict[str, float]:
    """The same, in a process of its own with so many threads of torch."""
    command = [sys.executable, __file__, "--run", kind, "--home", str(home), "--sizes", str(side)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    return json.loads(done.stdout.splitlines()[-1])


# labels


def whole_blend(prediction: Prediction) -> np.ndarray:
    """(H, W) labels of a blend in arrays of the whole scene: rows of tiles blended along x, then the rows along y."""
    plan, head, model = prediction.job.plan, prediction.job.bundle.head, prediction.job.bundle.model
    assert head is not None, "a bundle with a head"
    rows, columns = plan.rows.scaled(plan.unit_px), plan.columns.scaled(plan.unit_px)
    tiles = {}
    events = compute(
        lambda batch, size: list(head.predict(head(model(batch)), size).numpy()), prediction.job.to_batch, prediction.job.scene, plan,
        range(plan.tiles[0]),
    )  # fmt: skip
    for event in events:
        if hasattr(event, "column"):
            tiles[event.window.row, event.column] = event.result
    blend = np.zeros((CLASSES, rows.length, columns.length), np.float32)
    for row, top in enumerate(rows.starts):
        strip = np.zeros((CLASSES, rows.size, columns.length), np.float32)
        for column, left in enumerate(columns.starts):
            _mix(strip[:, :, left : left + columns.size], tiles[row, column], columns, column, axis=2)
        _mix(blend[:, top : top + rows.size], strip, rows, row, axis=1)
    return blend.argmax(axis=0)[: plan.shape[0], : plan.shape[1]]


def _mix(target: np.ndarray, new: np.ndarray, axis_of: Axis, number: int, axis: int) -> None:
    share = axis_of.shares()[number]
    share = share if axis == 2 else share[:, None]
    mixed = target + share * (new - target)
    fresh = np.arange(new.shape[axis]) >= axis_of.before(number)
    target[:] = np.where(fresh if axis == 2 else fresh[:, None], new, mixed)


def differing(home: Path, side: int) -> dict[str, int]:
    """Labels that differ from the whole blend, for some ways to cut and to share the same scene.

    With one thread of torch: how many work on one step changes its last bits, and predict gives each step one.
    """
    torch.set_num_threads(1)
    loaded, found = load_bundle(home / "bundle", "cpu"), {}
    for size_m, overlap, batch in ((640, 0.25, 8), (640, 0.45, 3), (400, 0.125, 5), (1280, 0.3, 1)):
        tiles = {"size_m": size_m, "overlap": overlap, "batch": batch}
        truth = whole_blend(open_prediction(recipe(home, side, home / "maps" / "x.tif", **tiles), loaded))
        for how, memory, ranks in (("whole strips", "1GB", 1), ("pieces", "96MB", 1), ("2 ranks", "1GB", 2)):
            if ranks > 1 and size_m != 640:
                continue
            out = home / "maps" / f"x{len(found)}.tif"
            prediction = open_prediction(recipe(home, side, out, max_memory=memory, **tiles), loaded)
            prediction.write(out, "benchmark", ranks=ranks)
            with rasterio.open(out) as made:
                different = int((made.read(1) != truth).sum())
            found[f"{size_m} m, overlap {overlap}, batch {batch}, {how} ({len(prediction.job.plan.blocks)})"] = different
    return found


def main(arguments: argparse.Namespace) -> dict[str, object]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_bundle(home / "bundle", arguments.model)
        report: dict[str, object] = {"model": arguments.model or "nano with patches of 4 px", "goals": GOALS}
        for side in arguments.sizes:
            write_scene(home / f"{side}.tif", side)
            for threads in arguments.threads:
                runs: dict[str, list[dict[str, float]]] = {}
                for _ in range(arguments.repeat):
                    for kind in KINDS if side in arguments.loop and threads == 1 else KINDS[:2]:
                        runs.setdefault(kind, []).append(in_process(kind, home, side, threads))
                figures: dict[str, object] = {
                    kind: {name: round(min(run[name] for run in several), 1) for name in several[0]} for kind, several in runs.items()
                }
                for unit in ("cpu s", "wall s"):
                    ratios = [made[unit] / least[unit] for made, least in zip(runs["predict"], runs["limit"], strict=True)]
                    figures[f"predict / limit, {unit}"] = round(float(np.median(ratios)), 3)
                report[f"{side} px, {threads} threads"] = figures
                print(json.dumps({f"{side} px, {threads} threads": figures}), flush=True)
        if arguments.labels:
            write_scene(home / f"{arguments.labels}.tif", arguments.labels)
            report["labels that differ"] = differing(home, arguments.labels)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--loop", type=int, nargs="*", default=[4096])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--labels", type=int, default=600, help="side of the scene whose labels are compared; 0: none")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--model", help="a model recipe with s2 alone")
    parser.add_argument("--quick", action="store_true", help="one small size, one thread")
    parser.add_argument("--run", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.sizes, given.loop, given.threads, given.labels = [256], [256], [1], 0
    print(json.dumps(measured(given.run, given.home, given.sizes[0]) if given.run else main(given)))
