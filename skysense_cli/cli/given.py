"""The words after a bundle on the command line: which scenes they are, and the recipes they stand for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skysense_cli.cli.options import Options
from skysense_cli.errors import RecipeError

if TYPE_CHECKING:
    from skysense_cli.data.offered import Wishes
    from skysense_cli.engine.assemble import LoadedBundle
    from skysense_cli.recipe.schema.maps import PredictRecipe

SPEC = "bundle.json"


@dataclass(frozen=True)
class Given:
    """A scene as it was named.   name: of its map      paths: modality -> path or address"""

    name: str
    paths: Mapping[str, str]


def is_bundle(target: str) -> bool:
    """Whether the first word names a bundle; a folder that is none but could be meant as one is refused here."""
    folder = Path(target)
    if not folder.is_dir():
        return False
    if (folder / SPEC).is_file():
        return True
    inside = folder / "bundle"
    hint = f"; did you mean {inside}?" if (inside / SPEC).is_file() else ""
    raise RecipeError(f"{target}: is a folder without {SPEC}, so it is no bundle{hint} (the first argument is a bundle or a recipe)")


def recipe_of(words: Sequence[str], bundle: "LoadedBundle", options: Options, wishes: "Wishes", mosaic: str | None) -> "PredictRecipe":
    """The recipe that the words after a bundle stand for: bands, pixel size, normalisation, tiles and classes are the bundle's.

    mosaic: rule by which several scenes become one map; None: one map each
    Raises RecipeError for words that could mean several things, DataError for scenes that are not there.
    """
    from skysense_cli.cli.home import RASTERS, VECTORS
    from skysense_cli.recipe.load import bind_recipe

    if options.out is None:
        raise RecipeError("--out is missing: say in which folder the maps go, e.g. --out maps")
    if bundle.finds_objects and mosaic:
        raise RecipeError(f"--mosaic puts maps together, {bundle.path} finds objects; leave it out")
    given = scenes_given(words, bundle)
    one = len(given) == 1
    if one and mosaic:
        raise RecipeError("--mosaic puts several scenes together, only one is given")
    single = one or mosaic is not None
    tree: dict[str, Any] = {
        "recipe": "predict",
        "version": 1,
        "bundle": str(bundle.path),
        "output": str(_output(options.out, given[0].name if one else "mosaic", single, VECTORS if bundle.finds_objects else RASTERS)),
        "tiles": {"size_m": min(bundle.spec.size_m)},
    }
    entries = [{name: _entry(path, bundle, name, wishes) for name, path in scene.paths.items()} for scene in given]
    if one:
        tree["scene"] = entries[0]
    else:
        tree["scenes"] = dict(zip((_key(scene.name) for scene in given), entries, strict=True))
    if mosaic:
        tree["mosaic"] = {"rule": mosaic}
    return bind_recipe(tree, "predict", options.sets, flags=options.flags, inputs=True)  # type: ignore[no-any-return]


def scenes_given(words: Sequence[str], bundle: "LoadedBundle") -> list[Given]:
    """The scenes: each plain path is one; `s2=PATH s1=PATH` is one of two modalities, and the next begins when one comes again."""
    from skysense_cli.geo.names import text_of

    known = list(bundle.inputs)
    if not words:
        raise RecipeError(f"no scene is given; write e.g. `skysense predict {bundle.path} SCENE.tif --out maps`")
    named = [_named(text_of(word), known, bundle) for word in words]
    if all(modality is None for modality, _ in named):
        found = [_plain(path, bundle) for _, path in named]
    elif any(modality is None for modality, _ in named):
        plain = next(path for modality, path in named if modality is None)
        free = [name for name in known if name not in {modality for modality, _ in named}] or known
        raise RecipeError(f"{plain}: say which modality it feeds, as the others do: {free[0]}={plain} ({_sees(bundle)})")
    else:
        found = _grouped([(str(modality), path) for modality, path in named], bundle)
    seen: dict[str, Given] = {}
    for scene in found:
        if _key(scene.name) in seen:
            first, second = (next(iter(one.paths.values())) for one in (seen[_key(scene.name)], scene))
            raise RecipeError(
                f"{first} and {second} would both become a map called {scene.name}; give them in two commands with another --out each"
            )
        seen[_key(scene.name)] = scene
    return found


def _named(word: str, known: Sequence[str], bundle: "LoadedBundle") -> tuple[str | None, str]:
    """(modality, path) of a word; a file whose own name has a `=` in it is a path."""
    from skysense_cli.geo.names import path_of

    match = re.fullmatch(r"([A-Za-z]\w*)=(.+)", word)
    if match is None or (match[1] not in known and path_of(word).exists()):
        return None, word
    if match[1] not in known:
        raise RecipeError(f"{word}: {match[1]!r} is no modality of this bundle ({_sees(bundle)})")
    return match[1], match[2]


def _plain(path: str, bundle: "LoadedBundle") -> Given:
    """A scene for the only modality or the anchor; a sample feeds all that it has."""
    from skysense_cli.data.offered import series_of, stem_of

    anchor = bundle.spec.model.anchor
    here = series_of(path, {name: one.sensor for name, one in bundle.inputs.items()})
    return Given(stem_of(path), dict.fromkeys(here or [anchor], path))


def _grouped(named: Sequence[tuple[str, str]], bundle: "LoadedBundle") -> list[Given]:
    from skysense_cli.data.offered import stem_of

    anchor, groups = bundle.spec.model.anchor, [dict[str, str]()]
    for modality, path in named:
        if modality in groups[-1]:
            groups.append({})
        groups[-1][modality] = path
    for group in groups:
        if set(group) != set(groups[0]):
            example = " ".join(f"{name}={place}" for place in "AB" for name in groups[0])
            raise RecipeError(
                f"the first scene has {', '.join(groups[0])}, another one {', '.join(group)}; name all modalities of a scene "
                f"before the next scene begins, e.g. {example}"
            )
        if anchor not in group:
            raise RecipeError(f"{next(iter(group))}={next(iter(group.values()))}: the map needs {anchor}, too: add {anchor}=PATH")
    return [Given(stem_of(group[anchor]), group) for group in groups]


def _sees(bundle: "LoadedBundle") -> str:
    return f"{bundle.path} sees {', '.join(f'{name} ({one.sensor})' for name, one in bundle.inputs.items())}"


def _entry(path: str, bundle: "LoadedBundle", name: str, wishes: "Wishes") -> dict[str, Any]:
    from skysense_cli.data.offered import entry_of

    return entry_of(path, bundle.inputs[name].sensor, name, wishes)


def _output(out: Path, name: str, single: bool, endings: Sequence[str]) -> Path:
    """A folder gets the map by the name of its scene; a name with one of the `endings` is the map of a single one."""
    from skysense_cli.cli.home import RASTERS, VECTORS
    from skysense_cli.geo.names import text_of

    if text_of(out) != str(out):
        raise RecipeError(f"--out {text_of(out)}: is no valid UTF-8, which recipes and GDAL need; choose another name")
    if out.suffix.lower() not in (*RASTERS, *VECTORS):
        return out / f"{name}{endings[0]}" if single else out
    if not single:
        raise RecipeError(f"--out {out}: several scenes give several maps, so --out is a folder (or add --mosaic to put them together)")
    return out


def _key(name: str) -> str:
    """A scene's name as a key of a recipe."""
    return re.sub(r"[^\w.-]", "_", name).lstrip(".-") or "scene"
