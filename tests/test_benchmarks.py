"""The benchmarks run; what they measure is no test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def last_line(*arguments, script="model.py"):
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_ratios_of_layers_are_measured():
    found = last_line("--quick")
    pairs = {name: figures for name, figures in found.items() if "goal" in (figures if isinstance(figures, dict) else {})}
    assert len(pairs) == 16
    assert all(0 < figures["least"] <= figures["median"] for figures in pairs.values())
    parts = found["absent modalities"]["ms computed, ms skipped"]
    assert parts["encoders.s2"][0] > 0 and parts["encoders.s2"][1] == 0


@pytest.mark.slow
def test_the_throughput_of_whole_models_is_measured():
    found = last_line("--device", "cpu", "--quick", "--models", "tiny")["tiny"]
    assert found["forward"]["samples/s"] > 0 and found["training step"]["samples/s"] > 0


def test_reading_samples_is_measured():
    found = last_line("--quick", script="loader.py")
    assert 0 < found["ms memory"] and 0 < found["first / memory, rate"] < 2


@pytest.mark.slow
def test_metadata_of_many_footprints_is_measured():
    found = last_line("--quick", script="scale.py")
    assert found["footprints"] > 1500 and found["left out"] > 0
    assert found["all rows read"]["cpu s"] > 0


@pytest.mark.slow
def test_a_build_is_measured_beside_its_limit_and_gives_the_limit_s_numbers():
    found = last_line("--quick", script="build_data.py")
    assert found["build / limit, CPU"] > 0 and found["odc_stac"]["cpu s"] > 0


@pytest.mark.slow
def test_prediction_is_measured_beside_its_limit():
    found = last_line("--quick", script="predict.py")["256 px, 1 threads"]
    assert found["predict / limit, cpu s"] > 0
    assert all(found[kind]["cpu s"] > 0 and found[kind]["peak MB"] > 0 for kind in ("predict", "limit", "loop"))


def test_the_shifts_of_real_scenes_are_measured(shared_data):
    found = last_line(str(shared_data("ts_belgium_A").parent), "--quick", script="coregistration.py")
    assert found["s2 dates"]["of"] == 12 and found["s1 single dates"]["measured"] == 14
    assert all(0 <= value <= 60 for kind in found.values() for value in kind["length m"])


def test_putting_samples_together_is_measured():
    found = last_line("2", script="prototype_mosaic.py")
    assert found["samples"] == 600 and found["cells"] == 96 * 9632
    assert found["peak_mb"] >= found["imports_mb"] > 0
