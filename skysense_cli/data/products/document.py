"""XML of product metadata as a tree: no DTD, no entities, limited in size, depth and number of elements."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from skysense_cli.errors import DataError

MOST_BYTES = 64 << 20  # the largest annotations have some megabytes
MOST_DEPTH = 100
MOST_ELEMENTS = 2_000_000
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z?")


@dataclass(frozen=True, eq=False)
class Document:
    """An element of an XML file and the file's name, for messages. Names of elements come without their namespace.

    Paths are those of ElementTree: `a/b`, `.//b`. All readers raise DataError that names file and element.
    """

    name: str
    root: Element

    def all(self, path: str) -> list["Document"]:
        """Every element at `path`, in the order of the file."""
        return [Document(self.name, element) for element in self.root.iterfind(path)]

    def first(self, path: str) -> "Document | None":
        """The first element at `path`, if there is one."""
        element = self.root.find(path)
        return None if element is None else Document(self.name, element)

    def part(self, path: str) -> "Document":
        """The element at `path`, which must be there."""
        found = self.first(path)
        if found is None:
            raise DataError(f"{self.name}: has no {_leaf(path)}; the file is incomplete or of another kind")
        return found

    def text(self, path: str) -> str:
        """The text of the element at `path`; never empty."""
        found = (self.part(path).root.text or "").strip()
        if not found:
            raise DataError(f"{self.name}: {_leaf(path)} is empty")
        return found

    def number(self, path: str, *, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number from low to high."""
        text = self.text(path)
        value = _parsed(float, text)
        if value is None or not math.isfinite(value) or not low <= value <= high:
            limits = "" if low == -math.inf and high == math.inf else f" from {low:g} to {high:g}"
            raise DataError(f"{self.name}: {_leaf(path)} is {text[:40]!r}, expected a number{limits}")
        return value

    def whole(self, path: str, *, low: int = -(2**31), high: int = 2**31) -> int:
        """A whole number from low to high."""
        text = self.text(path)
        value = _parsed(int, text)
        if value is None or not low <= value <= high:
            raise DataError(f"{self.name}: {_leaf(path)} is {text[:40]!r}, expected a whole number from {low} to {high}")
        return value

    def numbers(self, path: str) -> np.ndarray:
        """(N,) float64 of a list that blanks separate, all finite, at least one."""
        text = self.text(path)
        try:
            values = np.array(text.split(), dtype=np.float64)
        except ValueError as error:
            raise DataError(f"{self.name}: {_leaf(path)} is no list of numbers ({text[:40]!r})") from error
        if not np.isfinite(values).all():
            raise DataError(f"{self.name}: {_leaf(path)} holds a number that is not finite")
        return values

    def moment(self, path: str) -> np.datetime64:
        """A UTC time in microseconds."""
        text = self.text(path)
        value = _parsed(lambda one: np.datetime64(one.removesuffix("Z"), "us"), text) if _MOMENT.fullmatch(text) else None
        if value is None:
            raise DataError(f"{self.name}: {_leaf(path)} is {text[:40]!r}, expected a time such as 2021-08-09T17:39:53.153776")
        return value


def parse(data: bytes, name: str) -> Document:
    """The tree of an XML file. Raises DataError in one line for what is damaged, too large, or could hold entities."""
    if len(data) > MOST_BYTES:
        raise DataError(f"{name}: has {len(data):,} bytes, at most {MOST_BYTES:,} of metadata are read")
    builder, parser = _Limited(name), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = builder.refuse
    parser.EntityDeclHandler = builder.refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.tree.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{name}: is no well-formed XML ({error}); the file is damaged, fetch the product again") from error
    return Document(name, builder.tree.close())


class _Limited:
    """What the parser calls: builds the tree, counts, and stops at a limit."""

    def __init__(self, name: str) -> None:
        self.name, self.tree = name, TreeBuilder()
        self.depth = self.count = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth, self.count = self.depth + 1, self.count + 1
        if self.depth > MOST_DEPTH or self.count > MOST_ELEMENTS:
            raise DataError(f"{self.name}: is nested deeper than {MOST_DEPTH} levels or has more than {MOST_ELEMENTS:,} elements")
        self.tree.start(_plain(tag), attributes)

    def end(self, tag: str) -> None:
        self.depth -= 1
        self.tree.end(_plain(tag))

    def refuse(self, *_: object) -> None:
        raise DataError(
            f"{self.name}: declares a document type (DTD), which may hold entities; product metadata has none, so it is not read"
        )


def _plain(tag: str) -> str:
    return tag.rpartition(":")[2]


def _leaf(path: str) -> str:
    return path.rpartition("/")[2]


def _parsed(convert: Callable[[str], Any], text: str) -> Any:
    try:
        return convert(text)
    except (ValueError, OverflowError):
        return None
