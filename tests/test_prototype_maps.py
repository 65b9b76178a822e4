"""The walk in examples/prototype_maps, shortened and on one of its places: it checks the mechanics, not the scores."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "examples" / "prototype_maps" / "run.sh"


@pytest.mark.slow
def test_the_walk_ends_with_scores_a_picture_and_a_page(shared_data, tmp_path):
    data = shared_data("ts_slovenia").parent
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", RUN, data, tmp_path, "100", "slovenia"], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "scores.json").read_text())["slovenia"]
    assert {"trained", "untrained", "kmeans", "wanted", "reached"} <= set(found)
    assert found["kmeans"]["nmi"] == pytest.approx(0.226, abs=0.01)  # of the data, whatever is trained
    assert all(0 < found[kind]["nmi"] < 0.4 and len(found[kind]["by_split"]) == 5 for kind in ("trained", "untrained", "kmeans"))
    assert found["commonest"]["oa"] == pytest.approx(0.73, abs=0.05)  # forest
    assert "compared with label_lulc.tif" in done.stdout and "slovenia: NMI trained" in done.stdout
    for name in ("maps.png", "slovenia/map/legend.html", "slovenia/map/comparison.png", "slovenia/map_untrained/prototypes.tif"):
        assert (tmp_path / name).stat().st_size > 1000
