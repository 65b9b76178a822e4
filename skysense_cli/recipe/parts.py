"""The folder is the registry: `kind: upernet` is `core/heads/upernet.py`, and its signature is its schema.

A part file ends with `build = TheClass`. The keyword-only arguments of the class are the options of the
recipe. They are read from the source with `ast`, so that checking a recipe imports neither torch nor
rasterio; only `Part.build` imports the file.

Types an option may have: bool, int, float, str, Literal, `X | None`, tuple, list and dict of these, frozen
dataclasses of the same file, and names of such types of the same file. Defaults are literals.
"""

import ast
import builtins
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, create_model
from pydantic_core import CoreSchema, core_schema

from skysense_cli.errors import RecipeError

PACKAGE = Path(__file__).parents[1]
NAME = re.compile(r"[a-z][a-z0-9_]*")
BUILTIN_TYPES = ("bool", "int", "float", "str", "tuple", "list", "dict")


@dataclass(frozen=True)
class Part:
    """A choice that was made and checked: which file, with which options; plain data, so it pickles.

    options: the values of all keyword-only arguments; one that is a dataclass is kept as a dict.
    """

    folder: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, *given: Any) -> Any:
        """The part itself: its class called with `given` and the options. The only place that imports it."""
        source = _Source.of(self.folder, self.kind)
        module = importlib.import_module(".".join(["skysense_cli", *self.folder.split("/"), self.kind]))
        types = source.annotations()
        options = {name: _revive(types.get(name), value, source, module) for name, value in self.options.items()}
        return module.build(*given, **options)


def kinds(folder: str) -> list[str]:
    """Names of the kinds in a part folder, sorted; a file whose name starts with `_` is none."""
    return sorted(path.stem for path in (PACKAGE / folder).glob("*.py") if NAME.fullmatch(path.stem))


def find_kind(folder: str, kind: str) -> type:
    """The class behind `kind`. Raises RecipeError that lists the known kinds. Imports the file."""
    if not NAME.fullmatch(kind) or not (PACKAGE / folder / f"{kind}.py").is_file():
        raise RecipeError(f"{folder}: unknown kind {kind!r} (known: {', '.join(kinds(folder))})")
    return importlib.import_module(".".join(["skysense_cli", *folder.split("/"), kind])).build


def bind(folder: str, kind: str, options: Mapping[str, Any] | None = None) -> Part:
    """A Part from Python instead of a recipe: options checked, defaults filled in.

    Raises RecipeError for an unknown kind, pydantic's ValidationError for a wrong option.
    """
    if not NAME.fullmatch(kind) or not (PACKAGE / folder / f"{kind}.py").is_file():
        raise RecipeError(f"{folder}: unknown kind {kind!r} (known: {', '.join(kinds(folder))})")
    return Part(folder, kind, options_model(folder, kind)(**(options or {})).model_dump())


@cache
def options_model(folder: str, kind: str, tagged: bool = False) -> type[BaseModel]:
    """The pydantic model of a kind's options; `tagged` adds the key `kind`."""
    source = _Source.of(folder, kind)
    fields: dict[str, Any] = {"kind": (Literal[kind], ...)} if tagged else {}
    return _model(f"{folder}/{kind}".replace("/", "_"), fields | source.options())


def PartOf(folder: str) -> Any:
    """The type of a key whose value is `{kind: ..., options}` for a file of `folder`."""
    return Annotated[Part, _Choice(folder)]


def FixedPart(path: str) -> Any:
    """The type of a key whose value is the options of the one file `path`, e.g. `core/prototypes`."""
    folder, _, kind = path.rpartition("/")
    return Annotated[Part, _Fixed(folder, kind)]


@dataclass(frozen=True)
class SceneInput:
    """The scenes of one modality: options of the `folder` source, or any other `source`, with `cloud_mask`; or a plain list of paths."""

    source: Part
    cloud_mask: Part

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        cloudless = Field(Part("data/clouds", "none"), validate_default=False)
        options = _Source.of("data/sources", "folder").options()
        masked: dict[str, Any] = {"cloud_mask": (PartOf("data/clouds"), cloudless)}
        mapping = _model("scene", options | masked)
        sourced = _model("scene_source", {"source": (PartOf("data/sources"), ...)} | masked)
        paths = handler.generate_schema(Annotated[list[str], Field(min_length=1)])
        given = core_schema.tagged_union_schema(
            {
                "<options>": core_schema.no_info_after_validator_function(cls._from_options, handler.generate_schema(mapping)),
                "<source>": core_schema.no_info_after_validator_function(cls._from_source, handler.generate_schema(sourced)),
                "<paths>": core_schema.no_info_after_validator_function(cls._from_paths, paths),
            },
            discriminator=cls._form,
        )
        return _accept_instances(cls, given, cls._dump)

    @staticmethod
    def _form(value: Any) -> str:
        if isinstance(value, list | tuple):
            return "<paths>"
        return "<source>" if isinstance(value, Mapping) and "source" in value else "<options>"

    @classmethod
    def _from_source(cls, model: Any) -> "SceneInput":
        return cls(model.source, model.cloud_mask)

    @classmethod
    def _from_options(cls, model: Any) -> "SceneInput":
        values = {name: value for name, value in model.model_dump().items() if name != "cloud_mask"}
        return cls(Part("data/sources", "folder", values), model.cloud_mask)

    @classmethod
    def _from_paths(cls, paths: list[str]) -> "SceneInput":
        return cls(bind("data/sources", "folder", {"path": paths}), Part("data/clouds", "none", {}))

    def _dump(self) -> dict[str, Any]:
        mask = {"kind": self.cloud_mask.kind, **self.cloud_mask.options}
        if self.source.kind == "folder":
            return {**self.source.options, "cloud_mask": mask}
        return {"source": {"kind": self.source.kind, **self.source.options}, "cloud_mask": mask}


@dataclass(frozen=True)
class _Choice:
    folder: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {kind: handler.generate_schema(options_model(self.folder, kind, tagged=True)) for kind in kinds(self.folder)}
        tagged = core_schema.tagged_union_schema(choices, discriminator="kind")  # type: ignore[arg-type]
        checked = core_schema.no_info_after_validator_function(self._part, tagged)
        return _accept_instances(Part, checked, lambda part: {"kind": part.kind, **part.options})

    def _part(self, model: BaseModel) -> Part:
        options = model.model_dump()
        return Part(self.folder, options.pop("kind"), options)


@dataclass(frozen=True)
class _Fixed:
    folder: str
    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        checked = core_schema.no_info_after_validator_function(
            lambda model: Part(self.folder, self.kind, model.model_dump()), handler.generate_schema(options_model(self.folder, self.kind))
        )
        return _accept_instances(Part, checked, lambda part: dict(part.options))


def _accept_instances(kind: type, schema: CoreSchema, dump: Any) -> CoreSchema:
    """`schema`, but Python code may also give a ready `kind`; `dump` is how it is written to a recipe."""
    return core_schema.json_or_python_schema(
        json_schema=schema,
        python_schema=core_schema.union_schema([core_schema.is_instance_schema(kind), schema], mode="left_to_right"),
        serialization=core_schema.plain_serializer_function_ser_schema(dump),
    )


def _model(name: str, fields: dict[str, Any]) -> type[BaseModel]:
    return create_model(name, __config__=ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=True), **fields)


class _Source:
    """One part file as text: the types and defaults of its options."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        self.classes = {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}
        self.names = dict(_assignments(self.tree))

    @staticmethod
    @cache
    def of(folder: str, kind: str) -> "_Source":
        return _Source(PACKAGE / folder / f"{kind}.py")

    def options(self) -> dict[str, Any]:
        """Name -> (type, default or ...), as pydantic's `create_model` takes them."""
        return {name: (self.type_of(node), self.value_of(default)) for name, (node, default) in self._arguments().items()}

    def annotations(self) -> dict[str, ast.expr]:
        """Name -> annotation of each option."""
        return {name: node for name, (node, _) in self._arguments().items()}

    def dataclass_options(self, name: str) -> dict[str, tuple[ast.expr, ast.expr | None]]:
        """Name -> (annotation, default) of the fields of a dataclass of this file."""
        body = self.classes[name].body
        return {n.target.id: (n.annotation, n.value) for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}

    def type_of(self, node: ast.expr) -> Any:
        """The type an annotation means; a dataclass becomes a pydantic model of its fields."""
        match node:
            case ast.Constant(value=None):
                return None
            case ast.Name(id=name) if name in self.classes:
                fields = self.dataclass_options(name)
                return _model(name, {key: (self.type_of(kind), self.value_of(value)) for key, (kind, value) in fields.items()})
            case ast.Name(id=name) if name in self.names:
                return self.type_of(self.names[name])
            case ast.Name(id=name) if name in BUILTIN_TYPES:
                return getattr(builtins, name)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return Union[self.type_of(left), self.type_of(right)]  # noqa: UP007  the members are values here
            case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
                values = ast.literal_eval(inner)
                return Literal[values]
            case ast.Subscript(value=ast.Name(id=("tuple" | "list" | "dict") as name), slice=inner):
                members = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                types = tuple(... if isinstance(m, ast.Constant) and m.value is ... else self.type_of(m) for m in members)
                return getattr(builtins, name)[types]
        raise TypeError(f"{self.path}:{node.lineno}: an option cannot have the type {ast.unparse(node)}")

    def value_of(self, node: ast.expr | None) -> Any:
        """The value of a default, `...` for none; a call of a dataclass becomes a dict of its arguments."""
        if node is None:
            return ...
        if isinstance(node, ast.Name) and node.id in self.names:
            return self.value_of(self.names[node.id])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.classes:
            fields = self.dataclass_options(node.func.id)
            given = dict(zip(fields, node.args, strict=False)) | {key.arg: key.value for key in node.keywords if key.arg}
            return {name: self.value_of(value) for name, value in given.items()}
        try:
            return ast.literal_eval(node)
        except ValueError as error:
            raise TypeError(f"{self.path}:{node.lineno}: the default {ast.unparse(node)} is no literal") from error

    def _arguments(self) -> dict[str, tuple[ast.expr, ast.expr | None]]:
        """Name -> (annotation, default) of the keyword-only arguments of the class that `build` names."""
        built = self.names.get("build")
        if not isinstance(built, ast.Name) or built.id not in self.classes:
            raise TypeError(f"{self.path}: a part file ends with `build = TheClass`, a class of this file")
        functions = [n for n in self.classes[built.id].body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if not functions:
            return {}
        arguments = functions[-1].args
        found = {}
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if argument.annotation is None:
                raise TypeError(f"{self.path}:{argument.lineno}: the option {argument.arg} has no type")
            found[argument.arg] = (argument.annotation, default)
        return found


def _assignments(tree: ast.Module) -> list[tuple[str, ast.expr]]:
    found: list[tuple[str, ast.expr]] = []
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found.append((name, value))
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                found.append((name, value))
    return found


def _revive(node: ast.expr | None, value: Any, source: _Source, module: Any) -> Any:
    """`value` with the dicts that stand for a dataclass of the file turned into it."""
    match node:
        case ast.Name(id=name) if name in source.classes and isinstance(value, Mapping):
            fields = source.dataclass_options(name)
            return getattr(module, name)(**{key: _revive(fields[key][0], inner, source, module) for key, inner in value.items()})
        case ast.Name(id=name) if name in source.names:
            return _revive(source.names[name], value, source, module)
        case ast.BinOp(left=left, right=right) if value is not None:
            return _revive(left, _revive(right, value, source, module), source, module)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, inner])) if isinstance(value, Mapping):
            return {key: _revive(inner, item, source, module) for key, item in value.items()}
        case ast.Subscript(value=ast.Name(id="tuple" | "list"), slice=inner) if isinstance(value, list | tuple):
            members = [m for m in (inner.elts if isinstance(inner, ast.Tuple) else [inner]) if not isinstance(m, ast.Constant)]
            each = members if len(members) == len(value) else members[:1] * len(value)
            return type(value)(_revive(kind, item, source, module) for kind, item in zip(each, value, strict=True))
    return value
