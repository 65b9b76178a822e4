"""The guide to archives: its recipes load, its commands exist, its table lists what the program knows.

Nothing is asked of the internet: commands of `network` and `cluster` blocks are checked as recipes with the same `--set`.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import rasterio
import typer
from affine import Affine
from typer.testing import CliRunner

from skysense_cli.cli.main import app
from skysense_cli.data import archives
from skysense_cli.data.readers import write_data_set
from skysense_cli.data.readers.treesat import TreeSat

GUIDE = (Path(__file__).parents[2] / "examples" / "guides" / "archives.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", GUIDE, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    (tag, line) for language, tag, text in BLOCKS if language == "bash" for line in text.splitlines() if line.startswith("skysense ")
]


def run(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A working folder with the recipes that the guide spells out."""
    monkeypatch.chdir(tmp_path)
    for language, name, text in BLOCKS:
        if language == "yaml":
            (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def options_of(command: str) -> set[str]:
    """All options of a subcommand such as `build-data`."""
    group = typer.main.get_command(app)
    return {name for option in group.commands[command].params for name in getattr(option, "opts", [])}


def test_every_command_that_needs_no_network_runs(home):
    plain = [line for tag, line in COMMANDS if not tag]
    assert len(plain) >= 6
    for line in plain:
        words = shlex.split(line)[1:]
        target = words[-1] if ">" in words else ""
        found = run(*(words[: words.index(">")] if target else words))
        assert found.exit_code == 0, f"{line}: {found.output}"
        if target:
            (home / target).write_text(found.output, encoding="utf-8")


def test_every_build_of_the_guide_is_a_recipe_that_loads_with_known_options(home):
    for recipe in ("cdse", "safe"):
        shown = run("recipe", "show", f"build_data/{recipe}")
        (home / {"cdse": "products.yaml", "safe": "own_products.yaml"}[recipe]).write_text(shown.output, encoding="utf-8")
    builds = [shlex.split(line)[1:] for tag, line in COMMANDS if tag in ("network", "cluster")]
    assert len(builds) >= 6 and {words[0] for words in builds} == {"build-data"}
    known = options_of("build-data")
    for words in builds:
        assert {word for word in words if word.startswith("--")} <= known, words
        sets = [part for k, word in enumerate(words) if word == "--set" for part in ("--set", words[k + 1])]
        found = run("recipe", "check", words[1], *sets)
        assert found.exit_code == 0, f"{words}: {found.output}"


def test_the_checks_of_samples_run_on_a_data_set(home, shared_data):
    published = shared_data("trimodal_treesat")
    write_data_set(TreeSat(str(published)), home / "data" / "lake", name="here")
    (home / "moved").mkdir()
    for path in published.iterdir():
        shutil.copyfile(path, home / "moved" / path.name.replace("_1_1005_", "_2_1006_"))
    with rasterio.open(next((home / "moved").glob("*.tif")), "r+") as dataset:
        dataset.transform = Affine.translation(3000, 0) @ dataset.transform
    write_data_set(TreeSat(str(home / "moved")), home / "data" / "lake", name="moved", split="test")
    lines = [line for tag, line in COMMANDS if tag == "samples"]
    assert [shlex.split(line)[2] for line in lines] == ["check", "audit", "preview"]
    for line in lines:
        found = run(*shlex.split(line)[1:])
        assert found.exit_code == 0, f"{line}: {found.output}"
    assert (home / "lake.html").is_file()


def test_the_table_lists_every_collection_and_who_is_billed():
    rows = {
        tuple(re.findall(r"`([^`]+)`", " | ".join(line.split("|")[1:3]))): line for line in GUIDE.splitlines() if line.startswith("| `")
    }
    for archive, collection, sensors, needs, _ in archives.table():
        line = rows[archive, collection]
        assert all(f"`{sensor}`" in line for sensor in sensors.split(", ")), line
        assert ("billed" in needs) == ("requester pays" in line) == ("billed" in line), line
        assert ("planetary" in needs) == ("extra `planetary`" in line), line
        assert ("PC_SDK_SUBSCRIPTION_KEY" in needs) == ("PC_SDK_SUBSCRIPTION_KEY" in line), line
        assert ("S3 keys" in needs) == ("S3 keys" in line) and (needs == "nothing") == ("| nothing |" in line), line


def test_every_extra_and_shipped_recipe_that_is_named_is_there(home):
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"'\.\[(\w+)\]'", GUIDE):
        assert re.search(rf"^{extra} = \[", project, flags=re.MULTILINE), extra
    for name in sorted(set(re.findall(r"build_data/\w+", GUIDE))):
        assert run("recipe", "check", name).exit_code == 0, name
