"""The stac source against a STAC API with a real database: stac-fastapi-pgstac on PostgreSQL with PostGIS, all on loopback.

The server runs from an environment of its own, which SKYSENSE_STAC_SERVER names (`.ci/run` makes it), with Debian's
postgresql-15-postgis-3. Without them the tests say what is missing and skip.
"""

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data.build import build
from skysense_cli.data.sources.stac import Stac
from skysense_cli.files import TEMPORARY
from skysense_cli.recipe.parts import bind

POSTGRES = Path("/usr/lib/postgresql/15/bin")
POSTGIS = Path("/usr/share/postgresql/15/extension/postgis.control")
S2 = sensors.get("sentinel2_l2a")
HERE = (4.0, 50.7, 4.1, 50.8)
LONGEST_WAIT_S = 300
PASSWORD = "only-for-this-test"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _as_postgres(*command: object) -> list[str]:
    """PostgreSQL refuses to run as root."""
    return [*(("runuser", "-u", "postgres", "--") if os.getuid() == 0 else ()), *map(str, command)]


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command[:4]}: {done.stdout[-1000:]}{done.stderr[-2000:]}"


@pytest.fixture(scope="module")
def server_home() -> Path:
    """The environment that the server runs from; `.ci/run` makes it meanwhile and says when it is ready, or why it failed."""
    named = os.environ.get("SKYSENSE_STAC_SERVER")
    if not named:
        pytest.skip("SKYSENSE_STAC_SERVER names no environment with tests/stac_server.txt")
    home = Path(named)
    until = time.monotonic() + LONGEST_WAIT_S
    while (home / "log").exists() and not (home / "ready").exists() and not (home / "failed").exists() and time.monotonic() < until:
        time.sleep(0.5)
    if (home / "failed").exists():
        pytest.skip(f"no STAC API with a database: {(home / 'failed').read_text().strip()}")
    if not (home / "bin" / "pypgstac").exists():
        pytest.skip(f"{home} holds no environment with tests/stac_server.txt")
    if not POSTGIS.exists():
        pytest.skip("Debian's postgresql-15-postgis-3 is not installed")
    return home


@pytest.fixture(scope="module")
def database(server_home: Path) -> Iterator[dict[str, str]]:
    """An empty cluster on loopback: the environment variables that lead to it."""
    home = Path(tempfile.mkdtemp(prefix="skysense-pg.", dir="/tmp"))
    port = str(_free_port())
    secret = home / "secret"
    secret.write_text(PASSWORD)
    if os.getuid() == 0:
        shutil.chown(home, "postgres")
        shutil.chown(secret, "postgres")
    plain = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    try:
        _run(
            _as_postgres(POSTGRES / "initdb", "-D", home / "data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", secret, "-N"), plain
        )
        settings = f"-p {port} -h 127.0.0.1 -k {home} -c fsync=off -c max_connections=30"
        _run(_as_postgres(POSTGRES / "pg_ctl", "-D", home / "data", "-l", home / "log", "-w", "-o", settings, "start"), plain)
        try:
            yield plain | {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": "postgres", "PGPASSWORD": PASSWORD, "PGDATABASE": "postgres"}
        finally:
            _run(_as_postgres(POSTGRES / "pg_ctl", "-D", home / "data", "-m", "immediate", "stop"), plain)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def api(server_home: Path, database: dict[str, str], belgium: Path, serve, tmp_path_factory) -> Iterator[str]:
    """The address of an API that lists the Belgian patch, whose files lie behind a range server."""
    files = serve(belgium).address
    program, folder = server_home / "bin" / "pypgstac", tmp_path_factory.mktemp("pgstac")
    _run([str(program), "migrate"], database)
    for name in ("s2", "s1"):
        collection = json.loads((belgium / name / "collection.json").read_text()) | {"links": []}
        items = [json.loads(path.read_text()) for path in sorted((belgium / name).glob("S*.json"))]
        for item in items:
            item["assets"] = {key: asset | {"href": _absolute(f"{files}/{name}", asset["href"])} for key, asset in item["assets"].items()}
            if name == "s2":  # one in three is overcast, as its properties say
                item["properties"]["eo:cloud_cover"] = 95 if int(item["id"][9:11]) % 3 == 0 else 5
        (folder / f"{name}.json").write_text(json.dumps(collection))
        (folder / f"{name}.ndjson").write_text("".join(json.dumps(item) + "\n" for item in items))
        _run([str(program), "load", "collections", str(folder / f"{name}.json"), "--method", "insert"], database)
        _run([str(program), "load", "items", str(folder / f"{name}.ndjson"), "--method", "insert"], database)
    port = _free_port()
    command = [str(server_home / "bin" / "uvicorn"), "stac_fastapi.pgstac.app:create_app", "--factory", "--host", "127.0.0.1"]
    with (folder / "log").open("w") as log:
        with subprocess.Popen([*command, "--port", str(port)], env=database, stdout=log, stderr=log) as server:
            try:
                _wait_for(f"http://127.0.0.1:{port}/collections", server, folder / "log")
                yield f"http://127.0.0.1:{port}"
            finally:
                server.terminate()


def _absolute(folder: str, href: str) -> str:
    return f"{folder}/{href.removeprefix('./')}" if href.startswith("./") else f"{folder.rpartition('/')[0]}/{href.removeprefix('../')}"


def _wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.1)
    pytest.fail(f"{url} does not answer: {log.read_text()[-2000:]}")


@pytest.mark.slow
def test_search_pages_through_the_database(api, belgium):
    """72 items in pages of the server's own size; the period's ends are inclusive; other ground has none."""
    found = Stac(url=api, collection="sentinel-2-l2a").search(S2, HERE, None, ("SCL",))
    assert [item.id for item in found] == sorted(path.stem for path in (belgium / "s2").glob("*.tif"))
    assert found[0].meta == {"platform": "sentinel-2a", "baseline": "02.11"}
    period = (np.datetime64("2018-08-04"), np.datetime64("2018-08-14"))
    assert [item.id for item in Stac(url=api, collection="sentinel-2-l2a").search(S2, HERE, period)] == [
        "S2_20180804T105022", "S2_20180814T105021"
    ]  # fmt: skip
    assert Stac(url=api, collection="sentinel-2-l2a").search(S2, (10, 40, 11, 41), None) == []


@pytest.mark.slow
def test_cloud_cover_is_checked_here_too(api):
    found = Stac(url=api, collection="sentinel-2-l2a", max_cloud=60).search(S2, HERE, None)
    assert 0 < len(found) < 72
    assert all(int(item.id[9:11]) % 3 for item in found)


@pytest.mark.slow
def test_a_build_from_the_api_is_the_build_from_the_folder(api, belgium_recipe, check_as_by_folder, tmp_path):
    """Search, build; then again, where everything is done; then again after a kill in the middle of a block."""
    sources = {
        "s2": bind("data/sources", "stac", {"url": api, "collection": "sentinel-2-l2a"}),
        "s1": bind("data/sources", "stac", {"url": api, "collection": "sentinel-1-grd"}),
    }
    recipe = belgium_recipe(tmp_path, sources)
    report = build(recipe, tmp_path, "digest")
    check_as_by_folder(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").rglob("*.npz")}
    assert build(recipe, tmp_path, "digest") == report
    assert {path: path.stat().st_mtime_ns for path in before} == before
    part, lost = next((tmp_path / "index").rglob("*.parquet")), next(iter(before))
    part.unlink()  # it is written last
    lost.unlink()
    lost.with_name(f"{lost.name}{TEMPORARY}").write_bytes(b"half")
    (tmp_path / f"scratch-{part.stem.removeprefix('part-')}{TEMPORARY}").mkdir()
    build(recipe, tmp_path, "digest")
    check_as_by_folder(tmp_path)
    assert part.exists()
