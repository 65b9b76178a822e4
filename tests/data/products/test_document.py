import json
import subprocess
import sys

import numpy as np
import pytest

from skysense_cli.data.products import sentinel2
from skysense_cli.data.products.document import MOST_BYTES, parse
from skysense_cli.errors import DataError, SkySenseError


def test_elements_come_without_their_namespace():
    document = parse(b'<n:a xmlns:n="urn:x"><n:b k="v">1 2.5 3</n:b><b>4</b><t>2021-08-09T17:39:53.153776</t></n:a>', "a.xml")
    assert document.root.tag == "a" and [one.root.get("k") for one in document.all("b")] == ["v", None]
    assert document.numbers("b").tolist() == [1, 2.5, 3]
    assert document.moment("t") == np.datetime64("2021-08-09T17:39:53.153776")


@pytest.mark.parametrize(
    ("text", "read", "words"),
    [
        ("<a/>", lambda d: d.text("b/c"), "a.xml: has no c; the file is incomplete or of another kind"),
        ("<a><b/></a>", lambda d: d.text("b"), "a.xml: b is empty"),
        ("<a><b>x</b></a>", lambda d: d.number("b"), "a.xml: b is 'x', expected a number"),
        ("<a><b>inf</b></a>", lambda d: d.number("b"), "a.xml: b is 'inf', expected a number"),
        ("<a><b>3</b></a>", lambda d: d.number("b", low=0, high=1), "a.xml: b is '3', expected a number from 0 to 1"),
        ("<a><b>1.5</b></a>", lambda d: d.whole("b", low=0, high=9), "a.xml: b is '1.5', expected a whole number from 0 to 9"),
        ("<a><b>1 two</b></a>", lambda d: d.numbers("b"), "a.xml: b is no list of numbers"),
        ("<a><b>1 nan</b></a>", lambda d: d.numbers("b"), "a.xml: b holds a number that is not finite"),
        ("<a><b>2021-02-30T00:00:00</b></a>", lambda d: d.moment("b"), "a.xml: b is '2021-02-30T00:00:00', expected a time"),
    ],
)
def test_what_is_missing_or_wrong_is_named(text, read, words):
    with pytest.raises(DataError, match=f"^{words}"):
        read(parse(text.encode(), "a.xml"))


def test_what_is_too_large_is_not_parsed():
    with pytest.raises(DataError, match=r"^a.xml: has 67,108,865 bytes, at most 67,108,864 of metadata are read"):
        parse(b" " * (MOST_BYTES + 1), "a.xml")


def test_hostile_and_damaged_metadata_is_refused_in_one_line(badinput_dir, tmp_path):
    subprocess.run([sys.executable, badinput_dir / "make_bad.py", tmp_path, "--only", "xml"], check=True, capture_output=True)
    cases = json.loads((tmp_path / "cases.json").read_text())
    assert len(cases) > 20
    for case in cases:
        text = (tmp_path / case["path"]).read_bytes()
        if case["want"] != "reject":
            assert sentinel2.read(text, None, "MTD_MSIL2A.xml").level == "2A"
            continue
        with pytest.raises(SkySenseError, match=r"^MTD_MSIL2A.xml: [^\n]*$") as caught:
            sentinel2.read(text, None, "MTD_MSIL2A.xml")
        assert case["say"].casefold() in str(caught.value).casefold()
