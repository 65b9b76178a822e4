"""Imports go down: each package may import only what the table allows, and files form no cycle."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skysense_cli"
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "processes": set(),
    "console": {"errors"},
    "sensors": {"errors"},
    "core": {"errors"},
    "recipe": {"errors", "files"},
    "geo": {"errors", "files", "processes"},
    "data": {"errors", "files", "console", "sensors", "geo", "recipe.schema", "core.batch", "core.frames"},
    "engine": {"errors", "files", "processes", "console", "sensors", "geo", "data", "core", "recipe.schema"},
    "demo": {"errors", "files", "console", "sensors", "geo", "data", "engine"},
    "cli": {"errors", "files", "console", "recipe", "geo", "data", "engine", "demo"},
}
FILES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTED = [path for path in FILES if path.relative_to(PACKAGE).parts[0] in ("core", "data", "geo", "engine")]
LONGEST_FUNCTION = 80


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path) for path in FILES}


def nodes_of(path):
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imports_of(path):
    """Dotted names inside skysense_cli that this file imports, wherever the statement stands."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("skysense_cli.") for a in node.names if a.name.startswith("skysense_cli."))
        module = getattr(node, "module", None) or ""
        if isinstance(node, ast.ImportFrom) and (module == "skysense_cli" or module.startswith("skysense_cli.")):
            base = module.removeprefix("skysense_cli").lstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}".lstrip(".")
                yield full if full in MODULES else base


def outside_imports_of(path):
    """Top-level names of the other packages that this file imports."""
    for node in nodes_of(path):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        yield from (name.split(".")[0] for name in names if name.split(".")[0] != "skysense_cli")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path):
    home = name_of(path).split(".")[0]
    for target in imports_of(path):
        listed = any(target == a or target.startswith(a + ".") for a in ALLOWED.get(home, ()))
        assert not target or listed or target.split(".")[0] == home or home in ("", "__main__"), f"{name_of(path)} must not import {target}"


def test_no_cycles():
    graph = {name_of(path): {t for t in imports_of(path) if t != name_of(path)} for path in FILES}
    list(TopologicalSorter(graph).static_order())


def test_every_package_has_a_floor():
    packages = {name_of(path).split(".")[0] for path in FILES} - {"", "__main__"}
    assert packages <= set(ALLOWED), f"no floor for {sorted(packages - set(ALLOWED))}"


@pytest.mark.parametrize("path", [path for path in FILES if name_of(path).startswith("core")], ids=name_of)
def test_core_imports_only_torch_numpy_and_the_standard_library(path):
    allowed = {"torch", "numpy", *sys.stdlib_module_names}
    if path.name == "_timm.py":
        allowed |= {"timm", "torchvision"}
    assert set(outside_imports_of(path)) <= allowed


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_relative_imports(path):
    assert not [node.lineno for node in nodes_of(path) if isinstance(node, ast.ImportFrom) and node.level]


def test_rasters_are_opened_in_geo_only():
    opening = {
        name_of(path)
        for path in FILES
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "rasterio.open"
    }
    assert all(name.startswith("geo.") for name in opening), f"rasterio.open is called in {sorted(opening)}"


@pytest.mark.parametrize("path", DOCUMENTED, ids=name_of)
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    # a class of its own documents its methods; one that fills a contract may leave that to the contract
    own = [node for node in public if isinstance(node, ast.ClassDef) and not node.bases]
    methods = [m for node in own for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
    missing = [f"{node.name} (line {node.lineno})" for node in (*public, *methods) if not ast.get_docstring(node)]
    assert ast.get_docstring(tree), "the file has no docstring"
    assert not missing, f"no docstring: {', '.join(missing)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_are_short(path):
    functions = [node for node in nodes_of(path) if isinstance(node, ast.FunctionDef)]
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in functions
        if node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert not long, f"longer than {LONGEST_FUNCTION} lines: {', '.join(long)}"
