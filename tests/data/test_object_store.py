"""Signatures of object stores: the example of Amazon's manual, and which keys, hosts and headers are used."""

import datetime

import pytest

from skysense_cli.data import object_store, web
from skysense_cli.data.archive import read_text
from skysense_cli.errors import SourceError

KEYS = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "")
THEN = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC)


@pytest.fixture
def environment(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_REQUEST_PAYER", "AWS_NO_SIGN_REQUEST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS[1])
    return monkeypatch


def test_the_example_of_the_manual_is_signed_as_there():
    """`GET Object` of "Signature Calculations for the Authorization Header" (S3 API reference)."""
    headers = object_store.signed("https://examplebucket.s3.amazonaws.com/test.txt", "us-east-1", KEYS, THEN, {"Range": "bytes=0-9"})
    assert headers["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )
    assert headers["x-amz-date"] == "20130524T000000Z" and headers["Range"] == "bytes=0-9"


@pytest.mark.parametrize(
    ("place", "href"),
    [
        ("s3://a-bucket/x/y z.xml", "https://s3.us-east-1.amazonaws.com/a-bucket/x/y%20z.xml"),
        ("s3://sentinel-s1-l1c/GRD/a.xml", "https://s3.eu-central-1.amazonaws.com/sentinel-s1-l1c/GRD/a.xml"),
        ("s3+https://eodata.example.org/eodata/a/b.xml", "https://eodata.example.org/eodata/a/b.xml"),
        ("s3+http://127.0.0.1:9000/eodata/b.xml", "http://127.0.0.1:9000/eodata/b.xml"),
    ],
)
def test_the_address_names_store_bucket_and_key(environment, place, href):
    assert object_store.href_of(place) == href
    environment.setenv("AWS_REGION", "eu-west-3")
    assert object_store.href_of("s3://sentinel-s1-l1c/a").startswith("https://s3.eu-west-3.amazonaws.com/")


def test_temporary_keys_and_who_pays_are_signed_with_it(environment):
    environment.setenv("AWS_SESSION_TOKEN", "temporary")
    environment.setenv("AWS_REQUEST_PAYER", "requester")
    found = object_store.credentials("s3://sentinel-s1-l1c/a.xml")
    headers = found.headers()
    assert found.hosts == ("s3.eu-central-1.amazonaws.com",)
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-request-payer;x-amz-security-token," in headers["Authorization"]
    assert (headers["x-amz-security-token"], headers["x-amz-request-payer"]) == ("temporary", "requester")
    assert KEYS[1] not in str(headers)


def test_without_keys_they_are_asked_for_unless_none_are_wanted(environment):
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(SourceError, match=r"^s3\+https://host/eodata/a.xml: needs keys of its store: set AWS_ACCESS_KEY_ID and"):
        read_text("s3+https://host/eodata/a.xml")
    with pytest.raises(SourceError, match=r"requester pays: bucket sentinel-s1-l1c bills"):
        read_text("s3://sentinel-s1-l1c/a.xml")
    environment.setenv("AWS_NO_SIGN_REQUEST", "YES")
    assert object_store.credentials("s3://bucket/a.xml") is None
    with pytest.raises(SourceError, match="is no address of a file in a bucket"):
        read_text("s3://bucket/../other/a.xml")


def test_a_refusal_names_its_cause(environment, monkeypatch):
    def refused(*_, **__):
        raise SourceError("https://x: answers 403: credentials are missing, expired or not good for it (given up after 3 tries)")

    monkeypatch.setattr(web, "persist", refused)
    with pytest.raises(
        SourceError, match=r"^s3://sentinel-s1-l1c/a.xml: requester pays: bucket sentinel-s1-l1c bills whoever reads and ref"
    ):
        read_text("s3://sentinel-s1-l1c/a.xml")
    with pytest.raises(SourceError, match=r"^s3\+https://host/eodata/a.xml: the store refused it .403.: its keys"):
        read_text("s3+https://host/eodata/a.xml")
