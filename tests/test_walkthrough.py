"""The demo from the first simulated scene to the report, with next to no training: mechanics, not figures.

The figures are what `skysense demo` itself prints and writes into report.json.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from skysense_cli.cli import demo
from skysense_cli.cli.options import Options
from skysense_cli.data.totals import block_reports

README = Path(__file__).parents[1] / "README.md"
SHORT = {
    "pretrain": ("train.steps=4", "train.batch=24", "train.warmup=1", "train.workers=0"),
    "finetune": ("train.steps=2", "train.batch=2", "train.warmup=1"),
    "predict": ("dates.s2=3",),
    "map-prototypes": ("dates.s2=3", "dates.s1=1"),
}
MEASURED = {
    "cloud": {"raw_recall", "raw_precision", "clear_share_of_kept", "kept_share_of_clear"},
    "coregistration_px": {"before", "median", "p90", "refused"},
    "pretrain": {"first_loss", "last_loss"},
    "segmentation": {"miou", "majority_miou", "random_init_miou"},
    "prototypes": {"nmi", "untrained_nmi", "kmeans_nmi", "used"},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with `demo/`, made by the demo's own steps with few training steps and few dates on the maps."""
    home = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(demo, "STEPS", tuple(replace(step, sets=(*step.sets, *SHORT.get(step.kind, ()))) for step in demo.STEPS))
        demo.run(Options(out=Path("demo"), device="cpu"))
    return home


@pytest.mark.slow
def test_the_report_holds_every_figure(home):
    report = json.loads((home / "demo" / "report.json").read_text())
    for section, names in MEASURED.items():
        assert names <= set(report[section]), section
    assert report["simulated"] is True
    assert {"build-data", "pretrain", "finetune", "predict", "map-prototypes"} <= set(report["seconds"])
    for name, path in report["outputs"].items():
        assert (home / "demo" / path).exists(), name


@pytest.mark.slow
def test_what_needs_no_training_reaches_its_goals(home):
    report = json.loads((home / "demo" / "report.json").read_text())
    cloud, shift = report["cloud"], report["coregistration_px"]
    assert 0.70 <= cloud["raw_recall"] <= 0.85
    assert 0.70 <= cloud["raw_precision"] <= 0.90
    assert cloud["clear_share_of_kept"] >= 0.97
    assert cloud["kept_share_of_clear"] >= 0.80
    assert 0.6 <= shift["before"] <= 1.4
    assert shift["median"] <= 0.15
    assert shift["p90"] <= 0.35
    assert shift["refused"] <= 0.20


@pytest.mark.slow
def test_the_overcast_date_is_refused(home):
    truth = json.loads((home / "demo" / "landscape" / "truth" / "truth.json").read_text())
    overcast = [date["id"] for date in truth["sentinel-2-l2a"] if date["sky"] == "overcast"]
    decisions = {
        entry["decision"] for block in block_reports(home / "demo" / "data") for entry in block["dates"]["s2"] if entry["item"] in overcast
    }
    assert len(overcast) == 1
    assert decisions <= {"refused", "not measurable"}


@pytest.mark.slow
def test_every_map_is_a_cloud_optimized_geotiff_that_says_it_is_simulated(home):
    maps = sorted((home / "demo" / "maps").rglob("*.tif"))
    assert len(maps) == 8  # two of land cover, and index, similarity and region of two prototype maps
    for path in maps:
        valid, errors, warnings = cog_validate(path, strict=True)
        assert valid, (path, errors, warnings)
        with rasterio.open(path) as file:
            assert file.crs.to_epsg() == 32632
            assert "SIMULATED" in file.tags()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(home, monkeypatch):
    code = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    sample = next((home / "demo" / "data" / "samples").rglob("*.npz"))
    monkeypatch.chdir(home)
    names: dict = {}
    exec(code.replace("SHARD/SAMPLE", f"{sample.parent.name}/{sample.stem}"), names)
    features = names["features"]
    assert features.fused.shape[0] == 1
    assert features.seen_any.any()
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
