"""Every command of examples/guides/prototypes.md runs, in a folder laid out as the guide says."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import rasterio

from skysense_cli.cli.map_prototypes import run
from skysense_cli.cli.options import Options
from skysense_cli.recipe.load import load_recipe

GUIDE = Path(__file__).parents[3] / "examples" / "guides" / "prototypes.md"
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines() if line.startswith("skysense map-prototypes")
]  # fmt: skip


@pytest.fixture(scope="module")
def home(world, tmp_path_factory):
    """Scenes, samples, a bundle and a land-cover raster."""
    home = tmp_path_factory.mktemp("guide")
    world.write_bundle(home / "runs" / "pretrain" / "bundle", [world.here()])
    for name, left in (("s2", 0), ("west", 0), ("east", 320)):
        (home / "scenes" / name).mkdir(parents=True)
        world.write_scene(home / "scenes" / name / "S2_20210401.tif", 64, 64, left=world.LEFT + left)
    (home / "scenes" / "scl").mkdir()
    with rasterio.open(home / "scenes" / "s2" / "S2_20210401.tif") as file:
        profile = {**file.profile, "count": 1, "dtype": "uint8"}
    for path, codes in (("scenes/scl/SCL_20210401.tif", np.full((64, 64), 4)), ("landcover.tif", np.indices((64, 64))[1] // 22 + 1)):
        with rasterio.open(home / path, "w", **profile) as file:
            file.write(codes.astype(np.uint8), 1)
    (home / "classes.csv").write_text("code,name\n1,wood\n2,water\n3,town\n")
    world.write_samples(home / "data" / "own", [(world.LEFT, world.TOP), (world.LEFT + 160, world.TOP)])
    return home


def test_the_guide_has_commands():
    assert len(COMMANDS) == 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_guide_runs(home, monkeypatch, command):
    monkeypatch.chdir(home)
    _, _, recipe, *options = shlex.split(command)
    sets = [text for option, text in zip(options, options[1:], strict=False) if option == "--set"]
    run(load_recipe(recipe, "map-prototypes", sets, inputs=True), Options(dry_run="--dry-run" in options, device="cpu"))
    if "--dry-run" not in options:
        folder = home / {"region": "maps/prototypes", "samples": "maps/samples", "compare": "maps/compared"}[recipe.split("/")[1]]
        assert (folder / "prototypes.tif").exists() and (folder / "legend.html").exists()
        assert (folder / "comparison.json").exists() == (recipe == "map_prototypes/compare")
