"""Parts: the options of a recipe are the signature of a class, read without importing it."""

import inspect
import json
import pickle
import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from skysense_cli.errors import RecipeError
from skysense_cli.recipe import parts
from skysense_cli.recipe.parts import FixedPart, Part, PartOf, bind, find_kind, kinds, options_model

FOLDERS = ("core/encoders", "core/fusions", "core/heads", "core/objectives", "data/sources", "data/clouds", "data/readers")
ALL = [(folder, kind) for folder in FOLDERS for kind in kinds(folder)] + [("core", "prototypes")]

MODEL_PART = """
from dataclasses import dataclass
from typing import Literal

RATES = (0.5, 1.0)
Pair = tuple[float, float]

@dataclass(frozen=True)
class Heat:
    student: float = 0.1
    teacher: float = 0.04

class Example:
    def __init__(self, given, /, *, width: int, rates: Pair = RATES, heat: Heat = Heat(teacher=0.07),
                 mode: Literal["a", "b"] = "a", taps: tuple[int, ...] | None = None, steps: list[Heat] | None = None) -> None:
        self.given, self.width, self.rates, self.heat, self.mode, self.taps, self.steps = given, width, rates, heat, mode, taps, steps

build = Example
"""


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A part folder `example_parts` with the kind `example`, importable."""
    folder = tmp_path / "skysense_cli" / "example_parts"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "example.py").write_text(MODEL_PART)
    (folder / "_private.py").write_text("")
    monkeypatch.setattr(parts, "PACKAGE", tmp_path / "skysense_cli")
    import skysense_cli

    monkeypatch.setattr(skysense_cli, "__path__", [*skysense_cli.__path__, str(tmp_path / "skysense_cli")])
    yield "example_parts"
    for name in [name for name in sys.modules if name.startswith("skysense_cli.example_parts")]:
        del sys.modules[name]
    parts.options_model.cache_clear()
    parts._Source.of.cache_clear()


def test_every_file_is_a_kind_except_private_ones(example):
    assert kinds(example) == ["example"]


def test_options_become_the_arguments_of_the_class(example):
    part = TypeAdapter(PartOf(example)).validate_json(
        json.dumps({"kind": "example", "width": 3, "taps": [1, 2], "heat": {"student": 0.2}, "steps": [{"teacher": 1}]}), strict=True
    )
    built = part.build("spec")
    assert (built.given, built.width, built.rates, built.mode, built.taps) == ("spec", 3, (0.5, 1.0), "a", (1, 2))
    assert (built.heat.student, built.heat.teacher) == (0.2, 0.04)
    assert type(built.heat).__name__ == "Heat"
    assert built.steps[0].teacher == 1.0


def test_a_default_that_is_a_dataclass_keeps_its_arguments(example):
    built = bind(example, "example", {"width": 1}).build(None)
    assert (built.heat.student, built.heat.teacher) == (0.1, 0.07)
    assert built.steps is None


def test_a_part_is_written_as_it_was_read_and_pickles(example):
    adapter = TypeAdapter(PartOf(example))
    part = adapter.validate_json('{"kind": "example", "width": 3}', strict=True)
    assert adapter.validate_json(json.dumps(adapter.dump_python(part)), strict=True) == part
    assert pickle.loads(pickle.dumps(part)) == part
    assert adapter.validate_python(part) is part


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Field required"),
        ({"width": "3"}, "valid integer"),
        ({"width": 3, "mode": "c"}, "'a' or 'b'"),
        ({"width": 3, "widht": 3}, "Extra inputs"),
        ({"width": 3, "heat": {"studnet": 1}}, "Extra inputs"),
        ({"width": 3, "rates": [1.0]}, "Field required"),
    ],
)
def test_wrong_options_are_refused(example, options, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(PartOf(example)).validate_json(json.dumps({"kind": "example", **options}), strict=True)


@pytest.mark.parametrize("kind", ["nope", "../errors", "__init__", "_private", "Example", ""])
def test_a_kind_is_a_file_of_the_folder_and_nothing_else(example, kind):
    with pytest.raises(RecipeError, match=r"unknown kind .* \(known: example\)"):
        find_kind(example, kind)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("def __init__(self, *, width): ...", "the option width has no type"),
        ("def __init__(self, *, width: bytes): ...", "cannot have the type bytes"),
        ("def __init__(self, *, width: int = int('3')): ...", "is no literal"),
    ],
)
def test_a_part_that_cannot_be_read_names_file_and_line(example, line, message):
    path = parts.PACKAGE / example / "broken.py"
    path.write_text(f"class Broken:\n    {line}\nbuild = Broken\n")
    with pytest.raises(TypeError, match=message) as error:
        options_model(example, "broken")
    assert f"{path}:2" in str(error.value)


@pytest.mark.parametrize(("folder", "kind"), ALL)
def test_the_signature_read_from_the_source_is_the_real_one(folder, kind):
    signature = inspect.signature(find_kind(folder, kind).__init__)
    real = {name: p for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY}
    read = options_model(folder, kind).model_fields
    assert list(read) == list(real)
    for name, parameter in real.items():
        assert read[name].is_required() == (parameter.default is parameter.empty)
        if parameter.default is not parameter.empty and not hasattr(parameter.default, "__dataclass_fields__"):
            assert read[name].default == parameter.default


@pytest.mark.parametrize(("folder", "kind"), ALL)
def test_options_are_a_json_schema(folder, kind):
    annotation = FixedPart(f"{folder}/{kind}") if folder == "core" else PartOf(folder)
    schema = TypeAdapter(annotation).json_schema()
    assert schema["additionalProperties"] is False if folder == "core" else kind in schema["discriminator"]["mapping"]


def test_binding_imports_neither_torch_nor_rasterio():
    code = (
        "import sys; from skysense_cli.recipe.parts import kinds, options_model\n"
        f"for folder in {FOLDERS!r}:\n    for kind in kinds(folder): options_model(folder, kind)\n"
        "assert not {'torch', 'rasterio', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_part_builds_only_what_it_names():
    assert Part("data/clouds", "none").kind == "none"
    with pytest.raises(RecipeError, match="unknown kind 'os'"):
        bind("data/clouds", "os")
