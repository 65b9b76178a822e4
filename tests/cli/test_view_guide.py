"""The guide to the viewer: its commands run as they stand there, its pictures are there and small."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from typer.testing import CliRunner

from skysense_cli.cli.main import app
from skysense_cli.engine.viewer.serving import ViewServer
from skysense_cli.geo.cog import write_geotiff

GUIDES = Path(__file__).parents[2] / "examples" / "guides"
TEXT = (GUIDES / "viewer.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE) for line in block.splitlines()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES if line.startswith("skysense ")]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_of_the_guide_runs(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    grid = GeoBox((20, 30), Affine(10, 0, 500_000, 0, -10, 5_600_000), "EPSG:32631")
    for name in ("maps/crops.tif", "maps/crops_confidence.tif", "scene.tif"):
        write_geotiff(Path(name), np.full((1, 20, 30), 7, np.uint8), grid)
    served = []
    monkeypatch.setattr(ViewServer, "serve_forever", lambda server: served.append(server.address))  # it would not end
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output
    assert (tmp_path / words[-1]).is_file() if "--out" in words else served


def test_its_pictures_are_there_and_small():
    pictures = re.findall(r"!\[\]\(([^)]+)\)", TEXT)
    assert len(pictures) == 2
    assert all(0 < (GUIDES / picture).stat().st_size < 300_000 for picture in pictures)
