"""A checked recipe as text again: complete, with every default, so that it can be read and run later."""

import hashlib
import io
import json
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from skysense_cli.recipe.text import Path_, parse, show, simple

HOW: tuple[Path_, ...] = (("output",), ("workers",), ("train", "workers"), ("tiles", "max_memory"))  # where and how fast, not what


def to_yaml(recipe: BaseModel) -> str:
    """`recipe` as YAML; loading it gives an equal recipe, and equal recipes give equal text."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # innermost collections on one line
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    yaml.allow_unicode = True
    stream = io.StringIO()
    yaml.dump(plain(recipe), stream)
    return stream.getvalue()


def plain(recipe: BaseModel) -> dict[str, Any]:
    """`recipe` as dicts, lists and scalars in the order of the schema."""
    return simple(recipe.model_dump())


def digest(recipe: BaseModel) -> str:
    """Hexadecimal SHA-256 of what the recipe asks for; where it writes and with how many workers does not count."""
    tree = plain(recipe)
    for *parents, name in HOW:
        section: Any = tree
        for key in parents:
            section = section.get(key, {})
        section.pop(name, None)
    return hashlib.sha256(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(text: str, recipe: BaseModel) -> list[str]:
    """What differs between a resolved recipe's text and `recipe`, one `key: old -> new` each; `HOW` does not count."""
    old, new = _flat(parse(text, "recipe.yaml").tree), _flat(plain(recipe))
    keys = [key for key in (*old, *(key for key in new if key not in old)) if key not in HOW]
    missing = "nothing"
    return [f"{show(key)}: {old.get(key, missing)} -> {new.get(key, missing)}" for key in keys if not _same(old, new, key)]


def _same(old: dict[Path_, Any], new: dict[Path_, Any], key: Path_) -> bool:
    a, b = old.get(key, _Absent), new.get(key, _Absent)
    return a == b or (a != a and b != b)  # NaN, e.g. as nodata, equals itself here


class _Absent:
    """Stands for a key that is not there."""


def _flat(tree: Any, path: Path_ = ()) -> dict[Path_, Any]:
    if isinstance(tree, dict) and tree:
        return {key: value for name, inner in tree.items() for key, value in _flat(inner, (*path, name)).items()}
    if isinstance(tree, list) and any(isinstance(item, dict | list) for item in tree):
        return {key: value for number, inner in enumerate(tree) for key, value in _flat(inner, (*path, number)).items()}
    return {path: tree}
