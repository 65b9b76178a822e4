"""Fixtures that every test may use: where the shared data, the parity vectors and the bad inputs lie."""

import json
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

SHARED = Path(__file__).parents[2] / "shared"
PLACES = {
    "SKYSENSE_DATA_DIR": SHARED / "data",
    "SKYSENSE_PARITY_DIR": SHARED / "reference" / "parity",
    "SKYSENSE_BADINPUT_DIR": SHARED / "badinput",
}


def place_of(variable: str) -> Path:
    """The folder that `variable` names, there or not."""
    return Path(os.environ.get(variable, PLACES[variable]))


def pytest_configure(config: pytest.Config) -> None:
    """Where the parity vectors lie, for tests that are made from the list of their files."""
    config.skysense_parity_dir = place_of("SKYSENSE_PARITY_DIR")  # type: ignore[attr-defined]


def find_shared(variable: str, name: str = "") -> Path:
    """The folder or file `name` below the place that `variable` names; skips when it is not there.

    With SKYSENSE_REQUIRE_SHARED=1 the test fails instead of being skipped.
    """
    path = place_of(variable) / name
    if not path.exists():
        message = f"{path} is not there; set {variable} to the folder that holds {name or 'it'}"
        if os.environ.get("SKYSENSE_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path.resolve()


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A function from the name of a shared data set to its folder."""
    return lambda name: find_shared("SKYSENSE_DATA_DIR", name)


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The folder of vectors made by the published modules."""
    return find_shared("SKYSENSE_PARITY_DIR")


@pytest.fixture(scope="session")
def badinput_dir() -> Path:
    """The folder of damaged inputs and of the tools that make them."""
    return find_shared("SKYSENSE_BADINPUT_DIR")


@pytest.fixture(scope="session")
def stand_ins() -> SimpleNamespace:
    """The functions of `make_released_stand_ins.py`, and `keys`: names and shapes of the published weights."""
    functions = runpy.run_path(str(Path(__file__).parent / "make_released_stand_ins.py"))
    keys = json.loads((find_shared("SKYSENSE_PARITY_DIR").parent / "upstream_state_dict_keys.json").read_text())
    return SimpleNamespace(**functions, keys=keys)


@pytest.fixture(scope="session")
def scene_kit() -> SimpleNamespace:
    """The functions of `make_scenes.py`: bundles, scenes, the command, and the slow way to the same map."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "make_scenes.py")))


@pytest.fixture(autouse=True, scope="session")
def _few_threads() -> None:
    """Two cores are shared by everything that runs; small tensors gain nothing from more threads."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
