"""Downloads against a server that misbehaves on purpose: what can be mended is, what cannot is refused, no wrong file comes out."""

import hashlib
import http.server
import importlib.util
import io
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from skysense_cli.data import web
from skysense_cli.data.fetch import Expected, fetch
from skysense_cli.data.web import Credentials, Limits
from skysense_cli.errors import SourceError
from skysense_cli.geo.hrefs import allowed_for

QUICK = Limits(backoff_s=0.01, connect_s=1, read_s=0.4, slow_s=0.8, longest_wait_s=5)
BODY = b"".join(hashlib.sha256(bytes([k])).digest() for k in range(125))  # 4000 bytes
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(scope="module")
def servers():
    """Servers that are still up; they end together, since a shutdown takes half a second."""
    started = []
    yield started
    with ThreadPoolExecutor(len(started) or 1) as pool:
        list(pool.map(lambda server: server.shutdown(), started))
    for server in started:
        server.server_close()


@pytest.fixture
def flaky(servers, badinput_dir, tmp_path):
    """A server of this test alone: it notes a request after the answer is out, maybe when the next test is on."""
    spec = importlib.util.spec_from_file_location("flaky_server", badinput_dir / "flaky_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path / "served"
    root.mkdir()
    (root / "f.bin").write_bytes(BODY)
    log = io.StringIO()
    server = module.start(str(root), log=log)
    servers.append(server)
    return Flaky(f"http://127.0.0.1:{server.server_address[1]}", log, tmp_path / "got")


class Flaky:
    def __init__(self, address, log, home):
        self.address, self.log, self.home = address, log, home

    def fetch(self, fault, **more):
        options = {"allowed": allowed_for(self.address), "limits": QUICK, **more}
        return fetch(f"{self.address}/{fault}/f.bin", self.home / "f.bin", **options)

    def asked(self):
        """The requests so far, once none has been noted for a while."""
        seen = None
        while seen != (now := self.log.getvalue()):
            seen = now
            time.sleep(0.1)
        return [json.loads(line) for line in seen.splitlines()]

    def plant(self, have, fault, validator=f'"{DIGEST[:16]}"'):
        """What an earlier run left behind."""
        self.home.mkdir()
        (self.home / "f.bin.part").write_bytes(BODY[:have])
        note = {"href": f"{self.address}/{fault}/f.bin", "validator": validator, "digest": ["", ""]}
        (self.home / "f.bin.validator.part").write_text(json.dumps(note))


class Token(Credentials):
    def __init__(self, *hosts):
        self.hosts, self.number = hosts, 1

    def headers(self):
        return {"Authorization": f"Bearer SECRET-{self.number}"}

    def renew(self):
        self.number += 1


RECOVERABLE = {  # fault -> requests it takes
    "ok": 1, "drop:1": 2, "drop:4": 5, "reset:1": 2, "reset:3": 4, "500:1": 2, "500:4": 5, "503:1": 2, "429:1": 2, "429date": 2, "401:1": 2,
    "401:2": 3, "403:1": 2, "403:2": 3, "longlen": 2, "changing": 3, "dispo": 1, "norange": 1, "wrongrange": 1, "range416": 1,
}  # fmt: skip


@pytest.mark.parametrize("fault", RECOVERABLE)
def test_faults_that_pass_are_mended_in_at_most_five_tries(flaky, fault):
    path = flaky.fetch(fault)
    asked = flaky.asked()
    assert len(asked) == RECOVERABLE[fault] <= 5
    want = bytes((c + 3) & 255 for c in BODY) if fault == "changing" else BODY
    assert path.read_bytes() == want
    assert [one.name for one in flaky.home.iterdir()] == ["f.bin"]
    if fault.startswith("drop"):
        assert asked[1]["range"] == "bytes=2000-"
        assert sum(one["sent"] for one in asked) == len(BODY)  # nothing came twice


PATIENT = {"gzipbomb": replace(QUICK, read_s=60), "slow": replace(QUICK, read_s=1)}  # the first needs its time to be made
UNRECOVERABLE = {
    "truncate": "breaks off before its end",
    "shortlen": "has the sha256 .* is expected",
    "nolen": "does not say how long it is",
    "chunkcut": "breaks off before its end",
    "flip": f"has the sha256 .*, {DIGEST} is expected",
    "zeros": f"has the sha256 .*, {DIGEST} is expected",
    "badsum": f"has the sha256 {DIGEST}, 0000.* is expected",
    "html200": "is a web page, not the file",
    "empty200": "is empty",
    "gzipbomb": "comes as gzip, which was not asked for",
    "403:99": r"answers 403: credentials are missing, expired .* \(given up after 3 tries\)",
    "429huge": "answers 429, and the server asks to wait 86400 s",
    "slow": r"comes at \d bytes a second",
    "stall": "does not answer in time",
    "hanghead": r"does not answer in time \(given up after 5 tries\)",
    "badhead": "the connection failed",
    "hughead": "the connection failed",
    "redirloop": "is redirected more than 5 times",
    "redirfile": "is redirected to file:///etc/passwd: only http, https addresses can be read",
    "redirpriv": "is redirected to http://169.254.169.254/latest/meta-data/: leads to 169.254.169.254, which is no public address",
    "500:99": r"answers 500 \(given up after 5 tries\)",
    "nothing": "answers 404",
}


@pytest.mark.parametrize("fault", [pytest.param(one, marks=pytest.mark.slow if one == "gzipbomb" else ()) for one in UNRECOVERABLE])
def test_faults_that_stay_are_named_in_one_line_and_leave_no_file(flaky, fault):
    with pytest.raises(SourceError, match=UNRECOVERABLE[fault]) as error:
        flaky.fetch(fault, limits=PATIENT.get(fault, QUICK))
    assert str(error.value).startswith(f"{flaky.address}/{fault}/f.bin: ") and len(str(error.value).splitlines()) == 1
    assert error.value.exit_code == 5
    assert len(flaky.asked()) <= 6  # a loop of redirects is one try
    assert not (flaky.home / "f.bin").exists()


def test_a_closed_port_is_given_up(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/a"
    with pytest.raises(SourceError, match=r"the connection failed \(Connection refused\) \(given up after 5 tries\)"):
        fetch(address, tmp_path / "a", allowed=allowed_for(address), limits=QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["flip", "zeros", "shortlen", "nolen", "truncate", "html200", "changing"])
def test_what_the_catalogue_knows_is_checked(flaky, fault):
    with pytest.raises(SourceError):
        flaky.fetch(fault, expected=Expected(len(BODY), {"md5": hashlib.md5(BODY).hexdigest()}))
    assert not (flaky.home / "f.bin").exists()


def test_the_catalogue_is_believed_before_the_server(flaky):
    assert flaky.fetch("badsum", expected=Expected(digests={"sha256": DIGEST})).read_bytes() == BODY


@pytest.mark.parametrize(("fault", "requests"), [("ok", 1), ("norange", 1), ("wrongrange", 2), ("range416", 1), ("drop:2", 3)])
def test_an_earlier_run_is_continued(flaky, fault, requests):
    flaky.plant(1000, fault)
    assert flaky.fetch(fault).read_bytes() == BODY
    asked = flaky.asked()
    assert asked[0]["range"] == "bytes=1000-" if fault != "range416" else asked[0]["range"] is None  # that server does not note refusals
    assert len(asked) == requests
    assert [one.name for one in flaky.home.iterdir()] == ["f.bin"]
    if fault == "ok":
        assert asked[0]["sent"] == 3000


def test_another_version_is_not_continued(flaky):
    flaky.plant(1000, "ok", validator='"of-another-version"')
    (flaky.home / "f.bin.part").write_bytes(bytes(1000))
    assert flaky.fetch("ok").read_bytes() == BODY  # this server ignores If-Range, so the answer's own ETag tells
    assert [one["range"] for one in flaky.asked()] == ["bytes=1000-", None]


def test_a_part_of_another_address_is_not_continued(flaky):
    flaky.plant(1000, "drop:1")
    assert flaky.fetch("ok").read_bytes() == BODY
    assert flaky.asked()[0]["range"] is None


def test_what_is_there_is_not_asked_for(flaky):
    flaky.fetch("ok")
    flaky.fetch("500:99")
    flaky.fetch("500:99", expected=Expected(len(BODY)))
    assert len(flaky.asked()) == 1
    with pytest.raises(SourceError, match="answers 500"):
        flaky.fetch("500:99", expected=Expected(len(BODY) + 1))


def test_credentials_stay_with_their_host(flaky, monkeypatch):
    monkeypatch.setenv("SKYSENSE_ALLOW", "localhost")
    token = Token("127.0.0.1")
    assert flaky.fetch("redirauth", credentials=token).read_bytes() == BODY
    assert [(one["fault"], one["auth"]) for one in flaky.asked()] == [("redirauth", True), ("ok", False)]


def test_credentials_are_renewed_and_never_shown(flaky, capsys):
    token = Token("127.0.0.1")
    flaky.fetch("401:1", credentials=token)
    assert token.number == 2 and all(one["auth"] for one in flaky.asked())
    (flaky.home / "f.bin").unlink()
    with pytest.raises(SourceError) as error:
        flaky.fetch("403:99", credentials=token)
    said = f"{error.value!r} {error.value.__cause__!r} {capsys.readouterr()}"
    assert "SECRET" not in said


def test_a_signature_is_never_shown(flaky):
    for fault in ("500:99", "nothing", "redirloop", "badhead"):
        with pytest.raises(SourceError) as error:
            fetch(f"{flaky.address}/{fault}/f.bin?sig=SECRET", flaky.home / "f.bin", allowed=allowed_for(flaky.address), limits=QUICK)
        assert "SECRET" not in f"{error.value!r} {error.value.__cause__!r}"
    assert not any("SECRET" in path.read_text() for path in flaky.home.glob("*.validator.part"))


def test_credentials_are_not_sent_in_the_clear(flaky):
    """Over http only to a host that may be private."""
    token = Token("127.0.0.1", "example.org")
    allowed = allowed_for(flaky.address)
    assert web._may_have(token, "https://example.org/a", allowed) and not web._may_have(token, "http://example.org/a", allowed)
    assert not web._may_have(token, "https://example.org.evil.org/a", allowed)


def test_a_netrc_goes_nowhere(flaky, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login me password SECRET\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    flaky.fetch("ok")
    assert not flaky.asked()[0]["auth"]


def test_those_who_want_the_same_file_share_one_download(flaky):
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: flaky.fetch("drop:1"), range(6)))
    assert {path.read_bytes() for path in paths} == {BODY}
    assert len(flaky.asked()) == 2
    assert [one.name for one in flaky.home.iterdir()] == ["f.bin"]


def test_a_host_sees_at_most_four_connections(tmp_path):
    """Twelve files at once from a server that counts."""
    at_once, most, lock = [0], [0], threading.Lock()

    class Counting(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            time.sleep(0.05)
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            with lock:
                at_once[0] -= 1
            self.wfile.write(b"abc")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda k: fetch(f"{address}/{k}", tmp_path / str(k), allowed=allowed_for(address), limits=QUICK), range(12)))
    server.shutdown()
    assert most[0] == 4
    assert len(list(tmp_path.iterdir())) == 12


def test_a_name_that_leads_elsewhere_at_the_last_moment_is_not_asked(flaky, monkeypatch):
    """The name is public when it is checked and this machine when it is connected to."""
    port = int(flaky.address.rpartition(":")[2])
    real = socket.getaddrinfo
    monkeypatch.setattr("skysense_cli.geo.hrefs._resolved", lambda host, port: ("8.8.8.8",))
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *given, **more: real("127.0.0.1", *given, **more))
    with pytest.raises(SourceError, match="rebound.example.org: leads to 127.0.0.1"):
        fetch(f"http://rebound.example.org:{port}/ok/f.bin", flaky.home / "f.bin", allowed=allowed_for("https://example.org"), limits=QUICK)
    assert flaky.asked() == []


def test_a_full_disk_is_named_and_nothing_is_left(flaky, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skysense_cli.data.fetch.publish", full)
    with pytest.raises(OSError, match="No space left on device: .*f.bin.part"):
        flaky.fetch("ok")
    assert list(flaky.home.iterdir()) == []


def test_a_file_longer_than_the_limit_is_refused(flaky):
    with pytest.raises(SourceError, match="is longer than the 1,000 bytes that are taken"):
        flaky.fetch("ok", limits=Limits(most_bytes=1000))


def test_nothing_lies_beside_a_file_when_it_gets_its_name(flaky, monkeypatch):
    """A run that is killed right after it leaves the file alone."""
    seen = []

    def replace(source, target):
        seen.append({path.name for path in flaky.home.iterdir()})
        return real(source, target)

    real = os.replace
    monkeypatch.setattr(os, "replace", replace)
    assert flaky.fetch("drop:1").read_bytes() == BODY
    assert seen == [{"f.bin.part"}] and {path.name for path in flaky.home.iterdir()} == {"f.bin"}
