"""`skysense demo`: a simulated landscape with known truth, and the whole chain on it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from skysense_cli import console
from skysense_cli.cli import build_data, finetune, map_prototypes, predict, pretrain
from skysense_cli.cli.options import DebugOption, DeviceOption, Kind, Options, OverwriteOption, load

PLACE = '"demo/'  # how the shipped recipes begin every path
OutFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the landscape, the recipes and all results go.")]


@dataclass(frozen=True)
class Step:
    """One command of the chain. sets: relative paths among the values stand below the output folder"""

    name: str
    recipe: str
    kind: Kind
    run: Callable[..., Any]
    sets: tuple[str, ...] = ()


STEPS = (
    Step("build-data", "build_data", "build-data", build_data.run),
    Step("pretrain", "pretrain", "pretrain", pretrain.run),
    Step("finetune", "finetune", "finetune", finetune.run),
    Step("finetune from random weights", "finetune_random", "finetune", finetune.run),
    Step("predict", "predict", "predict", predict.run),
    Step("predict from random weights", "predict", "predict", predict.run,
         ("bundle={out}/finetune_random/bundle", "output={out}/maps/land_cover_random.tif")),
    Step("map-prototypes", "map_prototypes", "map-prototypes", map_prototypes.run),
    # prototypes of an encoder that stays as it was drawn: the same run with a learning rate of nothing
    Step("pretrain nothing", "pretrain", "pretrain", pretrain.run,
         ("output={out}/untrained", "train.steps=30", "train.lr=1e-12", "train.warmup=0")),
    Step("map-prototypes untrained", "map_prototypes", "map-prototypes", map_prototypes.run,
         ("bundle={out}/untrained/bundle", "output={out}/maps/prototypes_untrained")),
)  # fmt: skip
OUTPUTS = {
    "catalog": "landscape/catalog.json", "truth": "landscape/truth/land_cover.tif", "samples": "data/index", "encoder": "pretrain/bundle",
    "land_cover_model": "finetune/bundle", "land_cover": "maps/land_cover.tif", "prototypes": "maps/prototypes/prototypes.tif",
    "report": "report.html",
}  # fmt: skip


def demo(
    out: OutFolder = Path("demo"),
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    debug: DebugOption = False,
) -> None:
    """Simulate a landscape with known truth and run the whole chain on it."""
    run(Options(out=out, overwrite=overwrite, device=device, debug=debug))


def run(options: Options) -> dict[str, Any]:
    """The demo below `options.out`, resumed where it was stopped; returns the content of report.json."""
    from skysense_cli.demo import report, simulate
    from skysense_cli.demo.page import write_page

    out = options.out or Path("demo")
    recipes = _write_recipes(out)
    clock = _Clock(out / "seconds.json")
    with clock.of("landscape"):
        console.say("SIMULATED landscape, about 4 x 4 km: fields, forest, water, a town; one year of satellite passes")
        simulate.simulate(out / "landscape")
    for step in STEPS:
        console.say(f"\n{step.name}")
        given = replace(options, out=None, sets=tuple(text.format(out=out.as_posix()) for text in step.sets))
        with clock.of(step.name):
            step.run(load(recipes / f"{step.recipe}.yaml", step.kind, given), given)
    with clock.of("report"):
        places = report.Places.below(out)
        findings = report.compare(places)
        goals = report.goals(findings.report)
        outputs = {name: path for name, path in OUTPUTS.items() if (out / path).exists() or name == "report"}
        found = {**findings.report, "seconds": clock.seconds, "outputs": outputs}
        write_page(out / "report.html", places, findings, goals, clock.seconds)
        report.write(out, found)
    _close(goals, out)
    return found


def _write_recipes(out: Path) -> Path:
    """Copies of the shipped recipes with `out` in their paths; returns their folder."""
    from skysense_cli.files import write_text
    from skysense_cli.recipe.load import find_recipe

    shipped = find_recipe("demo/build_data").parent
    filled = json.dumps(f"{out.as_posix()}/")[:-1]  # a quoted YAML text whatever the folder is called
    for file in sorted(shipped.glob("*.yaml")):
        write_text(out / "recipes" / file.name, file.read_text(encoding="utf-8").replace(PLACE, filled))
    return out / "recipes"


def _close(goals: list[Any], out: Path) -> None:
    """The closing table, and in plain words which goals were missed."""
    rows = [(goal.what, goal.wanted, f"{goal.value:.3f}", "yes" if goal.reached else "NO") for goal in goals]
    console.say()
    console.table("SIMULATED landscape: what the chain found against the truth", ["what", "goal", "found", "reached"], rows)
    missed = [goal.what for goal in goals if not goal.reached]
    console.say(f"\ngoals missed: {'; '.join(missed)}" if missed else "\nall goals reached")
    console.say(f"report: {out / 'report.html'}")


class _Clock:
    """Seconds of every step, added up over resumed runs; kept in a file of their own, since no other output may hold times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def of(self, name: str) -> "_Lap":
        return _Lap(self, name)


class _Lap:
    def __init__(self, clock: _Clock, name: str) -> None:
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *failure: object) -> None:
        from skysense_cli.files import write_text

        seconds = self.clock.seconds
        seconds[self.name] = round(seconds.get(self.name, 0) + time.monotonic() - self.start, 1)
        write_text(self.clock.path, json.dumps(seconds, indent=1) + "\n")
