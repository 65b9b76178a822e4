"""From a recipe file to its checked, frozen model; every mistake at once, each with its place.

Order: read, include `model`, apply `--set`, validate. Paths in a recipe are relative to the working
directory, except the included `model`, which is relative to the recipe.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from skysense_cli.errors import RecipeError
from skysense_cli.recipe.mistakes import describe, nearest
from skysense_cli.recipe.schema import RECIPES
from skysense_cli.recipe.schema.model import ModelSection
from skysense_cli.recipe.schema.section import Input
from skysense_cli.recipe.text import Path_, Place, Text, parse, read, show, simple

SHIPPED = (Path(__file__).parents[1] / "_recipes", Path(__file__).parents[2] / "recipes")  # in a wheel, in a checkout


Flag = tuple[str, str, Any]  # an option of the command line as it is shown, e.g. --what; the key it sets; the value


def load_recipe(
    path: str | Path, kind: str | None = None, sets: Sequence[str] = (), *, flags: Sequence[Flag] = (), output: Path | None = None,
    inputs: bool = False,
) -> Any:  # fmt: skip
    """The model of `schema.RECIPES` that the file holds.

    path: a file, or the name of a shipped recipe such as `demo/pretrain`
    kind: what it must be, e.g. "pretrain"; None = whatever its key `recipe` says
    flags: values that options of the command line set; `sets` come after them
    sets: `key.path=value` texts, the value in YAML      output: takes the place of `output`
    inputs: also require that the files it names exist
    Raises RecipeError with one line per mistake.
    """
    file = find_recipe(path)
    text = read(file, str(file))
    _stop(text.mistakes)
    if not isinstance(text.tree, dict):
        raise RecipeError(f"{file}:1:1: is not a mapping of keys; a recipe begins with `recipe: {kind or 'pretrain'}`")
    _include_model(text, text.tree.get("model"), file.parent)
    _change(text, flags, sets)
    if output is not None:
        _assign(text, ("output",), str(output), Place("--out"))
    recipe = _check(text, _model_for(text, file, kind), file)
    if inputs:
        _require_inputs(recipe, text, file)
    return recipe


def load_model(path: str | Path) -> ModelSection:
    """The model section in a file of its own, as `recipes/models/*.yaml`. Raises RecipeError."""
    file = find_recipe(path)
    text = read(file, str(file))
    _stop(text.mistakes)
    return _check(text, ModelSection, file)


def bind_recipe(
    tree: dict[str, Any], shown: str = "recipe", sets: Sequence[str] = (), *, flags: Sequence[Flag] = (), inputs: bool = False
) -> Any:
    """The checked recipe of plain data in memory, with `flags` and `sets` applied as by `load_recipe`. Raises RecipeError.

    shown: stands in messages where a file would      inputs: also require that the files it names exist
    """
    text = Text(simple(tree), values={(): Place(shown)})
    _change(text, flags, sets)
    recipe = _check(text, _model_for(text, Path(shown), None), Path(shown))
    if inputs:
        _require_inputs(recipe, text, Path(shown))
    return recipe


def find_recipe(name: str | Path) -> Path:
    """The file called `name`, else the shipped recipe of that name (with or without .yaml). Raises RecipeError."""
    if Path(name).is_file():
        return Path(name)
    for folder in SHIPPED:
        for candidate in (folder / name, folder / f"{name}.yaml"):
            if candidate.is_file() and not Path(name).is_absolute():
                return candidate
    if Path(name).is_dir():
        raise RecipeError(f"{name}: is a folder, not a recipe file")
    known = shipped_recipes()
    hint = nearest(str(name).removesuffix(".yaml"), known)
    raise RecipeError(f"{name}: no such file, and no shipped recipe has that name{f'; did you mean {hint}?' if hint else ''}")


def shipped_recipes() -> list[str]:
    """Names of the shipped recipes and models, e.g. `build_data/sentinel`, sorted."""
    for folder in SHIPPED:
        if folder.is_dir():
            return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
    return []


def purpose(path: str | Path) -> str:
    """The command that a file is for, "model" for a model section that recipes include, "" if neither; reads no more of it."""
    text = find_recipe(path).read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^recipe:\s*([\w-]+)", text, re.MULTILINE)
    return found[1] if found else "model" if re.search(r"^encoders:", text, re.MULTILINE) else ""


def _stop(mistakes: Sequence[str]) -> None:
    if mistakes:
        raise RecipeError("\n".join(dict.fromkeys(mistakes)))


def _model_for(text: Text, file: Path, kind: str | None) -> type[BaseModel]:
    found = text.tree.get("recipe") if isinstance(text.tree, dict) else None
    known = ", ".join(RECIPES)
    if found is None:
        raise RecipeError(f"{file}:1:1: recipe: is missing; say which command the file is for (known: {known})")
    where = text.values.get(("recipe",), file)
    if not isinstance(found, str) or found not in RECIPES:
        hint = nearest(str(found), RECIPES)
        raise RecipeError(f"{where}: recipe: unknown {found!r}{f'; did you mean {hint!r}?' if hint else ''} (known: {known})")
    if kind is not None and found != kind:
        raise RecipeError(f"{where}: recipe: is for `skysense {found}`, not for `skysense {kind}`")
    return RECIPES[found]


def _include_model(text: Text, value: Any, base: Path) -> None:
    """Put the content of the file that `model` names in its place."""
    if not isinstance(value, str):
        return
    file = base / value
    where = text.values[("model",)]
    if not file.is_file():
        raise RecipeError(f"{where}: model: {file} does not exist")
    included = read(file, str(file))
    _stop(included.mistakes)
    if not isinstance(included.tree, dict):
        raise RecipeError(f"{where}: model: {file} is not a mapping of keys")
    text.tree["model"] = included.tree
    text.keys |= {("model", *path): place for path, place in included.keys.items()}
    text.values |= {("model", *path): place for path, place in included.values.items()}


def _change(text: Text, flags: Sequence[Flag], sets: Sequence[str]) -> None:
    for shown, key, value in flags:
        _assign(text, tuple(key.split(".")), value, Place(shown))
    for assignment in sets:
        _apply(text, assignment)


def _apply(text: Text, assignment: str) -> None:
    """Apply one `key.path=value`."""
    name, separator, value = assignment.partition("=")
    name = name.strip()
    if not separator or not re.fullmatch(r"[A-Za-z_][\w-]*(\.[\w-]+)*", name):
        raise RecipeError(f"--set {assignment}: write it as key.path=value, e.g. train.steps=10")
    place = Place(f"--set {name}")
    parsed = parse(value, str(place), place)
    _stop(parsed.mistakes)
    path = tuple(int(key) if key.isdigit() else key for key in name.split("."))
    _assign(text, path, parsed.tree, place)
    if path == ("model",):
        _include_model(text, parsed.tree, Path())


def _assign(text: Text, path: Path_, value: Any, place: Place) -> None:
    """Set the value at `path`; mappings on the way are made, list positions must exist."""
    node = text.tree
    for depth, key in enumerate(path[:-1]):
        if isinstance(node, dict) and node.get(key) is None:  # type: ignore[arg-type]
            node[key] = {}  # type: ignore[index]
        node = _child(node, key, path[: depth + 1], place)
    if isinstance(node, list):
        _child(node, path[-1], path, place)
    elif not isinstance(node, dict):
        raise RecipeError(f"{place}: {show(path[:-1])} is a single value, it has no key {path[-1]!r}")
    node[path[-1]] = value  # type: ignore[index]
    below = {known for known in text.values if known[: len(path)] == path}
    for known in below:
        text.values.pop(known, None)
        text.keys.pop(known, None)
    for depth in range(len(path)):
        text.values.setdefault(path[: depth + 1], place)
        text.keys.setdefault(path[: depth + 1], place)


def _child(node: Any, key: str | int, path: Path_, place: Place) -> Any:
    if isinstance(node, list):
        if not isinstance(key, int) or key >= len(node):
            raise RecipeError(f"{place}: {show(path[:-1])} is a list of {len(node)}; its positions are 0 to {len(node) - 1}")
        return node[key]
    if isinstance(node, dict):
        return node[key]  # type: ignore[index]
    raise RecipeError(f"{place}: {show(path[:-1])} is a single value, it has no key {key!r}")


def _check(text: Text, model: type[BaseModel], file: Path) -> Any:
    try:
        return model.model_validate_json(json.dumps(text.tree), strict=True)
    except ValidationError as error:
        _stop(text.mistakes + describe(error, text, model, str(file)))
        raise


def _require_inputs(recipe: BaseModel, text: Text, file: Path) -> None:
    missing = [
        f"{place_of(text, path, file)}: {show(path)}: {value} does not exist" for path, value in _inputs(recipe) if not value.exists()
    ]
    _stop(missing)


def place_of(text: Text, path: Path_, file: Path) -> Place:
    """Where the value at `path` stands; of a default, where the section around it does."""
    for length in range(len(path), 0, -1):
        if path[:length] in text.values:
            return text.values[path[:length]]
    return Place(str(file), 1, 1)


def _inputs(section: BaseModel, path: Path_ = ()) -> Iterator[tuple[Path_, Path]]:
    """The paths that the recipe reads, with their keys."""
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _inputs(value, (*path, name))
        elif any(isinstance(mark, Input) for mark in info.metadata):
            paths = [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, Path)]
            yield from (((*path, name), _without_owner(item)) for item in paths)


def _without_owner(path: Path) -> Path:
    """The file in `s2=FILE`, which says whose weights a file holds."""
    match = re.fullmatch(r"[a-z][a-z0-9_]*=(.+)", str(path))
    return Path(match[1]) if match and not path.exists() else path
