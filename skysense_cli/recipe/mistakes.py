"""Pydantic's errors as lines for the person who wrote the recipe.

`file:line:column: key.path: message (found ...; known: ...)`, with the nearest known name as a suggestion.
"""

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from skysense_cli.recipe.text import Path_, Place, Text, show

LONGEST_FOUND = 60
WORDS = (
    ("Input should be ", "must be "),
    ("Input should ", "must "),
    ("a valid ", "a "),
    ("must be a integer", "must be a whole number"),
    ("must be a boolean", "must be true or false"),
    ("must be a string", "must be text"),
    ("must be a array", "must be a list"),
    ("must be a dictionary", "must be a mapping"),
    ("must be an object", "must be a mapping"),
)
LOCATED = ("at", "value_error", "extra_forbidden", "missing")  # never noise of a union


def describe(error: ValidationError, text: Text, model: type[BaseModel], file: str) -> list[str]:
    """One line per mistake, in the order of the file."""
    schema = model.model_json_schema()
    merged: dict[Path_, list[dict[str, Any]]] = {}
    deeper: set[Path_] = set()  # places above a mistake in one branch of a union: the other branches' errors are noise
    for detail in error.errors(include_url=False):
        path, skipped = _path_in(text.tree, detail)
        merged.setdefault(path, []).append(dict(detail))
        if skipped:
            deeper |= {path[:length] for length in range(len(path))}
    merged = {path: details for path, details in merged.items() if path not in deeper or details[0]["type"] in LOCATED}
    misspelt = {
        (*path[:-1], nearest(str(path[-1]), _known_keys(schema, path[:-1], text.tree)))
        for path, details in merged.items()
        if details[0]["type"] == "extra_forbidden"
    }
    lines = []
    for path, details in merged.items():
        if path in misspelt and details[0]["type"] == "missing":
            continue  # said by the suggestion already
        place = _place(path, details[0], text, file)
        lines.append((place, f"{place}: {show(path) or 'recipe'}: {_message(path, details, schema, text.tree)}"))
    return [line for _, line in sorted(lines, key=lambda pair: (pair[0].file != file, pair[0].file, pair[0].line, pair[0].column))]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely stands for, or None."""
    names = {candidate.casefold().replace("-", "_"): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold().replace("-", "_"), names, n=1, cutoff=0.6)
    return names[close[0]] if close else None


def _path_in(tree: Any, detail: Any) -> tuple[Path_, bool]:
    """Pydantic's location without the steps that are no keys: kinds, branches of a union, `[key]`."""
    path: list[str | int] = []
    node, skipped = tree, False
    steps = list(detail["loc"])
    if detail["type"] == "at":
        steps += detail["ctx"]["at"]
    for number, step in enumerate(steps):
        last_missing = number == len(steps) - 1 and detail["type"] == "missing"
        if isinstance(node, dict) and step == node.get("kind"):
            skipped = True
        elif isinstance(node, dict) and (step in node or last_missing):
            path.append(step)
            node = node.get(step)
        elif isinstance(node, list) and isinstance(step, int) and step < len(node):
            path.append(step)
            node = node[step]
        else:
            skipped = True
    if detail["type"].startswith("union_tag") and isinstance(node, dict) and "kind" in node:
        path.append("kind")
    return tuple(path), skipped


def _place(path: Path_, detail: dict[str, Any], text: Text, file: str) -> Place:
    top = text.values.get((), Place(file, 1, 1))
    if detail["type"] == "extra_forbidden":
        return text.keys.get(path, top)
    if detail["type"] == "missing":  # the key of the section that lacks it
        return text.keys.get(path[:-1]) or text.values.get(path[:-1], top)
    return next((text.values[path[:length]] for length in range(len(path), 0, -1) if path[:length] in text.values), top)


def _message(path: Path_, details: list[dict[str, Any]], schema: dict[str, Any], tree: Any) -> str:
    detail = details[0]
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(schema, path[:-1], tree)
        return _unknown("", str(path[-1]), known)
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_invalid":
        return _unknown("kind ", context["tag"], [name.strip("' ") for name in context["expected_tags"].split(",")])
    if kind == "union_tag_not_found":
        return f"needs a kind (known: {', '.join(_kinds(schema, path, tree))})"
    if kind == "value_error":
        return str(context["error"])
    if kind == "at":
        return str(detail["msg"])
    found = _found(detail["input"])
    if kind == "literal_error" and len(details) == 1:
        known = [name.strip("' ") for name in context["expected"].replace(" or ", ", ").split(",")]
        hint = nearest(str(detail["input"]), known)
        return f"must be {context['expected']} ({found}{f'; did you mean {hint!r}?' if hint else ''})"
    wanted = " or ".join(dict.fromkeys(_wanted(each) for each in details))
    return f"{wanted} ({found}{_hint(detail)})"


def _wanted(detail: dict[str, Any]) -> str:
    text = str(detail["msg"])
    for pydantics, ours in WORDS:
        text = text.replace(pydantics, ours, 1)
    return text


def _hint(detail: dict[str, Any]) -> str:
    value = detail["input"]
    if detail["type"] == "bool_type" and isinstance(value, str) and value.casefold() in ("yes", "no", "on", "off"):
        return f"; YAML 1.2 writes {'true' if value.casefold() in ('yes', 'on') else 'false'}"
    if detail["type"] in ("int_type", "float_type", "string_type") and isinstance(value, str) and value[:1].isdigit():
        return "; write it without quotes"
    return ""


def _found(value: Any) -> str:
    if isinstance(value, dict):
        return "found a mapping"
    if isinstance(value, list) and len(value) > 6:
        return f"found a list of {len(value)}"
    text = "nothing" if value is None else repr(value)
    return f"found {text if len(text) <= LONGEST_FOUND else text[: LONGEST_FOUND - 3] + '...'}"


def _unknown(what: str, name: str, known: list[str]) -> str:
    hint = nearest(name, known)
    return f"unknown {what}{name!r}{f'; did you mean {hint!r}?' if hint else ''} (known: {', '.join(known) or 'none'})"


def _known_keys(schema: dict[str, Any], path: Path_, tree: Any) -> list[str]:
    keys = (key for node in _nodes(schema, path, tree) for key in node.get("properties", {}))
    return [key for key in dict.fromkeys(keys) if key != "kind"]


def _kinds(schema: dict[str, Any], path: Path_, tree: Any) -> list[str]:
    return sorted({kind for node in _nodes(schema, path, tree) for kind in node.get("discriminator", {}).get("mapping", {})})


def _nodes(schema: dict[str, Any], path: Path_, tree: Any) -> list[dict[str, Any]]:
    """The places of the JSON Schema that describe the value at `path`; several for a union."""
    nodes, value = _branches(schema, schema, tree), tree
    for step in path:
        value = value[step] if isinstance(value, dict | list) else None  # type: ignore[call-overload,index]
        inner = []
        for node in nodes:
            named = node.get("properties", {}).get(step)
            others = [node.get("additionalProperties"), node.get("items"), *node.get("patternProperties", {}).values()]
            for child in [named] if named else others:
                inner += _branches(schema, child, value) if isinstance(child, dict) else []
        nodes = inner
    return nodes


def _branches(schema: dict[str, Any], node: dict[str, Any], value: Any) -> list[dict[str, Any]]:
    """`node` with references followed and unions opened; of a part only the kind that was chosen."""
    if "$ref" in node:
        return _branches(schema, schema["$defs"][node["$ref"].rsplit("/", 1)[1]], value)
    mapping = node.get("discriminator", {}).get("mapping", {})
    chosen = value.get("kind") if isinstance(value, dict) else None
    if chosen in mapping:
        return _branches(schema, {"$ref": mapping[chosen]}, value)
    found = [node]
    for branch in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        found += _branches(schema, branch, value)
    return found
