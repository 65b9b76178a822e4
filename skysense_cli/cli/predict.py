"""`skysense predict`: maps of whole scenes from a fine-tuned bundle."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skysense_cli import console
from skysense_cli.cli.given import is_bundle, recipe_of
from skysense_cli.cli.options import (
    ClusterOption,
    DebugOption,
    DeviceOption,
    DryRunOption,
    Options,
    OutOption,
    OverwriteOption,
    SetOption,
    check_cluster,
    choose_device,
    load,
)
from skysense_cli.errors import ItemsFailed, RecipeError, SkySenseError

if TYPE_CHECKING:
    from skysense_cli.engine.assemble import LoadedBundle
    from skysense_cli.recipe.schema.maps import PredictRecipe

TargetArgument = Annotated[str, typer.Argument(metavar="BUNDLE|RECIPE", help="A bundle folder, or a recipe file or name.")]
ScenesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SCENE]...", help="After a bundle: rasters, folders of dates or bands, SAFE, .npz, STAC; s2=PATH s1=PATH."),
]
WhatOption = Annotated[str | None, typer.Option(help="Kind of map, or several with commas: class, probability, confidence, features ...")]
GsdOption = Annotated[float | None, typer.Option(help="Pixel size of the map in metres; the bundle's by default.")]
OverlapOption = Annotated[float | None, typer.Option(help="Of tiles, 0 to below 0.5.")]
BatchOption = Annotated[int | None, typer.Option(help="Tiles per step of the model.")]
AreaOption = Annotated[str | None, typer.Option(metavar="FILE|L,B,R,T", help="Only this area: a vector file, or degrees of its sides.")]
MosaicOption = Annotated[str | None, typer.Option(metavar="feather|latest", help="Put all scenes into one map.")]
DateOption = Annotated[str | None, typer.Option(metavar="DATE", help="Of scenes that carry none, e.g. 2021-06-01.")]
BandsOption = Annotated[str | None, typer.Option(metavar="B02,B03,...|order", help="The bands of files that do not name them.")]
CloudsOption = Annotated[str, typer.Option(metavar="KIND", help="Leave clouds out: none, scl, ...")]
RanksOption = Annotated[int, typer.Option("--ranks", metavar="N", min=1, help="Share the rows out over N processes on this machine.")]
MemoryOption = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="SIZE", help="For pixels and scores of a process, e.g. 2GB; the same as tiles.max_memory."),
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Scenes at a time, each in a process of its own.")]


def run(recipe: "PredictRecipe", options: Options, *, workers: int = 1, cluster: str | None = None) -> None:
    """What the command does; `skysense demo` calls it too.   workers, cluster: for many scenes"""
    from skysense_cli.engine.scene_parts import parts_of

    parts = parts_of(recipe) if recipe.scenes is None else parts_of(recipe, _ending(recipe, options))
    if recipe.mosaic is not None:
        from skysense_cli.engine.scene_mosaic import files_beside
        from skysense_cli.geo.ours import refuse_strangers

        refuse_strangers(files_beside(recipe))
    if recipe.mosaic is None or options.dry_run:
        _predict_all(parts, options, workers, cluster)
        return
    from skysense_cli.engine.ranks import World

    if World.of_launcher().rank > 0:  # the first process puts them together
        _predict_all(parts, options, workers, cluster, quiet=True)
        return
    from skysense_cli.cli.home import claim
    from skysense_cli.engine.scene_mosaic import SceneMosaic, is_complete

    bundle = _bundle(str(recipe.bundle), choose_device(options.device))
    with claim(recipe.output, recipe, options) as home:
        if is_complete(recipe, bundle, home.path, home.digest):
            console.say(f"{home.path}: already complete")
            return
        _predict_all(parts, options, workers, cluster, quiet=True)
        for line in SceneMosaic.of(recipe, bundle, parts).write(home.path, home.digest):
            console.say(line)


def predict(
    target: TargetArgument,
    scenes: ScenesArgument = None,
    out: OutOption = None,
    what: WhatOption = None,
    gsd: GsdOption = None,
    area: AreaOption = None,
    mosaic: MosaicOption = None,
    overlap: OverlapOption = None,
    batch: BatchOption = None,
    date: DateOption = None,
    bands: BandsOption = None,
    clouds: CloudsOption = "none",
    set_: SetOption = None,
    ranks: RanksOption = 1,
    max_memory: MemoryOption = None,
    workers: WorkersOption = 1,
    cluster: ClusterOption = None,
    dry_run: DryRunOption = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = "auto",
    debug: DebugOption = False,
) -> None:
    """Map whole scenes with a fine-tuned bundle: `predict BUNDLE SCENE... --out DIR`, or `predict RECIPE`."""
    check_cluster(cluster)
    given = (
        ("--what", "write.what", _kinds(what)), ("--gsd", "write.gsd", gsd), ("--area", "area", None if area is None else _area(area)),
        ("--overlap", "tiles.overlap", overlap), ("--batch", "tiles.batch", batch), ("--max-memory", "tiles.max_memory", max_memory),
    )  # fmt: skip
    flags = tuple((name, key, value) for name, key, value in given if value is not None)
    options = Options(tuple(set_ or ()), out, dry_run, overwrite, device, debug, ranks, flags)
    if is_bundle(target):
        from skysense_cli.data.offered import Wishes

        wishes = Wishes(tuple(bands.split(",")) if bands else (), date, clouds)
        bundle = _bundle(target, choose_device(device))
        recipe = recipe_of(scenes or (), bundle, options, wishes, mosaic)
    else:
        _only_recipe(
            target, scenes, {"--date": date, "--bands": bands, "--mosaic": mosaic, "--clouds": clouds if clouds != "none" else None}
        )
        recipe = load(target, "predict", options)
    run(recipe, options, workers=workers, cluster=cluster)


def predict_one(recipe: "PredictRecipe", options: Options, *, alone: bool = True) -> list[str]:
    """The map of one scene; returns lines for the user.   alone: print the plan"""
    from skysense_cli.cli.home import claim
    from skysense_cli.engine.predict_map import open_prediction
    from skysense_cli.engine.ranks import World, device_of
    from skysense_cli.recipe.resolved import digest

    world = World.of_launcher()
    if world.count > 1 and options.ranks > 1:
        raise RecipeError(f"--ranks {options.ranks}: a launcher has started {world.count} processes already; leave it out")
    device = choose_device(options.device)
    prediction = open_prediction(recipe, _bundle(str(recipe.bundle), device_of(device, world.local) if world.count > 1 else device))
    if alone or options.dry_run:
        console.table("plan" if alone else f"plan of {recipe.output.stem}", ["what", "value"], prediction.facts())
    if options.dry_run:
        return []
    if world.rank > 0:
        prediction.join(recipe.output, digest(recipe), world)
        return []
    with claim(recipe.output, recipe, options) as home:
        return prediction.write(home.path, home.digest, overwrite=options.overwrite, ranks=options.ranks)


def _predict_all(
    recipes: dict[str, "PredictRecipe"], options: Options, workers: int, cluster: str | None, quiet: bool = False
) -> None:  # fmt: skip
    """The map of each scene; one that fails does not keep the others from theirs. Raises ItemsFailed when some did.

    quiet: the maps are parts of a mosaic, nothing is said of them
    """
    if len(recipes) == 1 and not quiet:
        for line in predict_one(next(iter(recipes.values())), options):
            console.say(line)
        return
    from skysense_cli.data import schedule
    from skysense_cli.geo.areas import OutsideError

    one = functools.partial(_named_one, options=options)
    failed: list[tuple[str, SkySenseError]] = []
    outside: list[SkySenseError] = []
    if options.dry_run:
        workers, cluster = 1, None  # plans are printed here
    found = schedule.run(
        one, recipes.items(), name=lambda item: item[0], total=len(recipes), workers=workers, address=cluster, what="scenes"
    )
    for (name, _), result in found:
        if isinstance(result, OutsideError):
            outside.append(result)
        elif isinstance(result, SkySenseError):
            failed.append((name, result))
        else:
            for line in result if not quiet else []:
                console.say(line)
    if len(failed) + len(outside) == len(recipes):
        raise failed[0][1] if failed else outside[0]
    if failed:
        names = ", ".join(name for name, _ in failed[:5]) + (", ..." if len(failed) > 5 else "")
        others = "the mosaic needs all; leave them out, or run the same command again" if quiet else "the maps of the others are complete"
        raise ItemsFailed(f"{len(failed)} of {len(recipes)} scenes failed ({names}), see above; {others}")


def _named_one(item: tuple[str, "PredictRecipe"], options: Options) -> list[str]:
    return predict_one(item[1], options, alone=False)


def _bundle(path: str, device: str) -> "LoadedBundle":
    """A bundle is read once for all scenes that a process maps."""
    manifest = Path(path) / "manifest.json"
    return _loaded(path, device, manifest.stat().st_mtime_ns if manifest.is_file() else 0)


@functools.lru_cache(maxsize=1)
def _loaded(path: str, device: str, stamp: int) -> "LoadedBundle":
    from skysense_cli.engine.assemble import load_bundle

    return load_bundle(path, device)


def _ending(recipe: "PredictRecipe", options: Options) -> str:
    """Of the files of several scenes. Raises RecipeError for objects that a mosaic is asked of."""
    if not _bundle(str(recipe.bundle), choose_device(options.device)).finds_objects:
        return ".tif"
    if recipe.mosaic is not None:
        raise RecipeError(f"mosaic: puts maps together, {recipe.bundle} finds objects; leave it out")
    return ".gpkg"


def _kinds(text: str | None) -> Any:
    """One kind of map, or several with commas."""
    return text.split(",") if text and "," in text else text


def _area(text: str) -> Any:
    """Four numbers in degrees, or a file."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    if len(numbers) != 4:
        raise RecipeError(f"--area {text}: has {len(numbers)} numbers, expected left,bottom,right,top in degrees (longitude first)")
    return numbers


def _only_recipe(target: str, scenes: list[str] | None, flags: dict[str, str | None]) -> None:
    """Raise RecipeError for what belongs to the form with a bundle only."""
    given = next((name for name, value in flags.items() if value is not None), None)
    if scenes:
        what = "is no folder with a bundle.json" if not Path(target).is_file() else "is a recipe, which names its scenes itself"
        raise RecipeError(f"{target}: {what}; write `skysense predict BUNDLE {json.dumps(scenes[0])[1:-1]} --out DIR`, or the recipe alone")
    if given:
        raise RecipeError(f"{given} goes with a bundle and scenes; in a recipe it is a key, see `skysense recipe schema predict`")
