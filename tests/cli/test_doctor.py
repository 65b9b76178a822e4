"""`skysense doctor`: facts, advice, and JSON for programs."""

import json

import pytest
from typer.testing import CliRunner

from skysense_cli.cli import doctor
from skysense_cli.cli.doctor import Finding
from skysense_cli.cli.main import app


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_everything_a_command_needs_is_reported():
    result = run("--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    names = {finding["name"] for finding in report["findings"]}
    assert report["ok"] is True
    assert {
        "python",
        "torch",
        "torchvision",
        "rasterio",
        "driver COG",
        "driver JP2OpenJPEG",
        "driver netCDF",
        "free memory",
        "disk here",
    } <= names
    assert any(name.startswith("cuda") for name in names)
    assert all(finding["advice"] for finding in report["findings"] if finding["state"] != "ok")


def test_a_person_sees_a_table_and_one_line_of_advice_per_problem(monkeypatch):
    found = [Finding("torch", "2.13"), Finding("disk here", "1.0 GB free", "note", "free some space")]
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter(found),))
    result = run()
    assert result.exit_code == 0
    assert "disk here  1.0 GB free  note" in result.stdout
    assert result.stdout.endswith("note: disk here: free some space\n")


def test_a_thing_that_commands_need_fails_the_doctor(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter([Finding("torch", "does not import", "bad", "install it")]),))
    assert run().exit_code == 3
    assert json.loads(run("--json").stdout)["ok"] is False


def test_little_memory_and_disk_bring_advice(monkeypatch):
    monkeypatch.setattr(doctor, "LITTLE_MEMORY_GB", 10**9)
    monkeypatch.setattr(doctor, "LITTLE_DISK_GB", 10**9)
    findings = [*doctor._memory(), *doctor._disk()]
    assert {finding.state for finding in findings} == {"note"}
    assert "--out" in findings[1].advice


@pytest.mark.parametrize(("name", "state"), [("netCDF", "note"), ("COG", "bad")])
def test_a_missing_driver_says_what_it_costs(monkeypatch, name, state):
    from rasterio.env import Env

    drivers = {driver: driver for driver in doctor.DRIVERS if driver != name}
    monkeypatch.setattr(Env, "drivers", lambda self: drivers)
    finding = next(finding for finding in doctor._gdal() if finding.name == f"driver {name}")
    assert finding.state == state
    assert finding.advice.startswith(doctor.DRIVERS[name])
