"""YAML 1.2 text to plain data, with the line and column of every key and value.

Aliases, tags, directives and second documents are refused, size and depth bounded, duplicate keys reported.
"""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, DocumentStartEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from skysense_cli.errors import RecipeError

LARGEST_BYTES = 1_000_000
DEEPEST = 32
Path_ = tuple[str | int, ...]  # keys and list positions from the top


@dataclass(frozen=True)
class Place:
    """Where a key or value stands: `file:line:column`, or the option `--set key` it came from."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass
class Text:
    """A parsed recipe.

    tree: dicts, lists and scalars; dates stay text      mistakes: lines that could not wait, e.g. duplicate keys
    keys, values: path of keys -> where the key, or the value, stands
    """

    tree: Any
    keys: dict[Path_, Place] = field(default_factory=dict)
    values: dict[Path_, Place] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)


def read(path: Path, shown: str) -> Text:
    """The YAML file at `path`, called `shown` in messages. Raises RecipeError if it cannot be read or parsed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{shown}: cannot be read ({error.strerror or error})") from error
    if len(content) > LARGEST_BYTES:
        raise RecipeError(f"{shown}: has {len(content)} bytes, a recipe has at most {LARGEST_BYTES}")
    try:
        return parse(content.decode("utf-8-sig"), shown)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(f"{shown}:{line}:1: is not UTF-8 text") from error


def parse(text: str, shown: str, place: Place | None = None) -> Text:
    """`text` as YAML; with `place` everything is said to stand there. Raises RecipeError."""
    yaml = YAML(typ="safe", pure=True)
    try:
        _refuse_extras(yaml.parse(text), shown)
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place or (Place(shown, mark.line + 1, mark.column + 1) if mark else Place(shown))
        raise RecipeError(f"{where}: is not YAML: {error.problem or error.context}") from error
    except (YAMLError, ValueError) as error:
        raise RecipeError(f"{place or shown}: is not YAML: {' '.join(str(error).split())}") from error
    result = Text(None)
    if node is not None:
        constructor = YAML(typ="safe", pure=True).constructor
        result.tree = _build(node, (), result, _Context(shown, place, constructor))
    return result


@dataclass(frozen=True)
class _Context:
    shown: str
    place: Place | None
    constructor: Any

    def where(self, node: Node) -> Place:
        return self.place or Place(self.shown, node.start_mark.line + 1, node.start_mark.column + 1)


def _refuse_extras(events: Iterator[Any], shown: str) -> None:
    depth, documents = 0, 0
    for event in events:
        where = f"{shown}:{event.start_mark.line + 1}:{event.start_mark.column + 1}" if event.start_mark else shown
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            raise RecipeError(f"{where}: anchors and aliases (&, *) are not allowed; write the value out")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            raise RecipeError(f"{where}: tags are not allowed (found {event.tag})")
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if event.version or event.tags or documents > 1:
                raise RecipeError(f"{where}: a recipe is one document without % directives")
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise RecipeError(f"{where}: is nested deeper than {DEEPEST} levels")


def _build(node: Node, path: Path_, result: Text, context: _Context) -> Any:
    result.values[path] = context.where(node)
    if isinstance(node, SequenceNode):
        return [_build(child, (*path, index), result, context) for index, child in enumerate(node.value)]
    if isinstance(node, MappingNode):
        return _build_mapping(node, path, result, context)
    if str(node.tag).endswith((":timestamp", ":merge", ":value")):
        return node.value
    value = context.constructor.construct_object(node)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _build_mapping(node: MappingNode, path: Path_, result: Text, context: _Context) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        where = context.where(key_node)
        if not isinstance(key_node, ScalarNode):
            result.mistakes.append(f"{where}: a key must be a word (found a {key_node.id})")
            continue
        key = key_node.value
        if key in tree:
            first = result.keys[(*path, key)]
            result.mistakes.append(f"{where}: {show((*path, key))}: the key stands twice; first at line {first.line}")
            continue
        result.keys[(*path, key)] = where
        tree[key] = _build(value_node, (*path, key), result, context)
    return tree


def show(path: Path_) -> str:
    """The path of keys as a person writes it: `train.lr`, `classes[2]`."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def simple(value: Any) -> Any:
    """`value` in JSON's types; unlike pydantic's JSON mode NaN stays NaN."""
    if isinstance(value, Mapping):
        return {str(key): simple(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [simple(inner) for inner in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value
