import functools
import http.server
import os
import threading
import zipfile

import pytest

from skysense_cli.data.archive import open_product, read_text
from skysense_cli.errors import DataError, SourceError

NAME = "S2B_MSIL2A_20240601T101031_N0510_R022_T33TUN_20240601T120000"


def packed(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_folder_and_a_zip_of_it_show_the_same_product(tmp_path, method):
    home = tmp_path / f"{NAME}.SAFE"
    (home / "GRANULE" / "a").mkdir(parents=True)
    (home / "MTD_MSIL2A.xml").write_text("<a/>")
    (home / "GRANULE" / "a" / "b.jp2").write_bytes(b"123")
    members = [(f"{home.name}/", b""), *((f.relative_to(tmp_path).as_posix(), f.read_bytes()) for f in home.rglob("*") if f.is_file())]
    for product in (open_product(home), open_product(packed(tmp_path / "other.zip", members, method))):
        assert product.name == NAME and product.files == ("GRANULE/a/b.jp2", "MTD_MSIL2A.xml")
        assert product.read("MTD_MSIL2A.xml") == b"<a/>"
        assert product.check("GRANULE/a/b.jp2") is None
    assert product.place("MTD_MSIL2A.xml") == f"zip://{tmp_path}/other.zip!/{NAME}.SAFE/MTD_MSIL2A.xml"


def test_a_zip_without_a_folder_is_named_by_itself(tmp_path):
    product = open_product(packed(tmp_path / f"{NAME}.SAFE.zip", [("MTD_MSIL2A.xml", b"<a/>"), ("x/y", b"")]))
    assert product.name == NAME and product.files == ("MTD_MSIL2A.xml", "x/y")


def test_what_is_not_there_or_damaged_is_named(tmp_path):
    with pytest.raises(SourceError, match=f"^{tmp_path}/gone.zip: no such file or folder"):
        open_product(tmp_path / "gone.zip")
    with pytest.raises(DataError, match=f"^{tmp_path}/gone.xml: cannot be read .*; fetch the product again"):
        read_text(f"{tmp_path}/gone.xml")
    path = packed(tmp_path / "a.zip", [("a/b", os.urandom(1000))])
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=rf"^zip://{path}!/a/b: cannot be read \(Bad CRC-32"):
        open_product(path).check("b")
    with pytest.raises(DataError, match=rf"^zip://{path}!/a/b: cannot be read \(Bad CRC-32"):
        open_product(path).read("b")


def test_a_text_that_unpacks_without_end_is_not_read(tmp_path):
    path = packed(tmp_path / "a.zip", [("a/b", bytes(70 << 20)), ("a/c", b"")], zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match=r"a/b: is larger than 67,108,864 bytes, which no metadata is"):
        open_product(path).read("b")


def test_a_text_is_read_from_a_server_too(tmp_path):
    (tmp_path / "a.xml").write_bytes(b"<a/>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}"
        assert read_text(f"{home}/a.xml") == b"<a/>"
        with pytest.raises(SourceError, match=f"^{home}/gone.xml: .*404"):
            read_text(f"{home}/gone.xml")
        server.shutdown()
