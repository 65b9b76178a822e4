"""The table of archives: complete for people, consistent with what the stac source takes."""

import typing

import pytest

from skysense_cli import sensors
from skysense_cli.data import archives
from skysense_cli.data.sources.stac import Stac
from skysense_cli.errors import RecipeError
from skysense_cli.geo.remote import REGIONS


def test_the_source_takes_every_archive():
    names = typing.get_args(typing.get_type_hints(Stac.__init__)["archive"])[0]
    assert typing.get_args(names) == tuple(archives.ARCHIVES)


def test_every_collection_is_in_the_table_with_what_it_needs():
    rows = {(archive, collection): (instruments, needs, note) for archive, collection, instruments, needs, note in archives.table()}
    assert len(rows) == sum(len(archive.collections) for archive in archives.ARCHIVES.values())
    assert rows["earth_search", "sentinel-2-l2a"][1] == "nothing"
    assert all(name in sensors.names() for instruments, _, _ in rows.values() for name in instruments.split(", "))
    for archive, place in archives.ARCHIVES.items():
        assert place.url.startswith("https://")
        for collection, one in place.collections.items():
            pays = bool(set(one.buckets) & set(REGIONS))
            assert pays == ("AWS_REQUEST_PAYER" in one.needs), f"{archive} {collection}"


def test_an_archive_fills_in_address_rule_and_buckets():
    source = Stac(archive="earth_search", collection="sentinel-2-c1-l2a")
    assert (source.url, source.rules.offset) == ("https://earth-search.aws.element84.com/v1", "raster")
    source = Stac(archive="cdse", collection="sentinel-2-l2a")
    assert (source.endpoint, source.allowed.buckets) == ("https://eodata.dataspace.copernicus.eu", ("eodata",))
    source = Stac(archive="cdse", collection="sentinel-2-l2a", url="https://mirror.example.org/v1", endpoint="https://store.example.org")
    assert (source.url, source.endpoint) == ("https://mirror.example.org/v1", "https://store.example.org")


def test_what_is_missing_or_unknown_is_named():
    with pytest.raises(
        RecipeError, match=r"unknown collection 'sentinel-3' of cdse \(known: sentinel-2-l2a, sentinel-2-l1c, sentinel-1-grd"
    ):
        Stac(archive="cdse", collection="sentinel-3")
    with pytest.raises(RecipeError, match=r"say which collection of earth_search \(known: sentinel-2-l2a"):
        Stac(archive="earth_search")
    with pytest.raises(RecipeError, match=r"give `archive` \(earth_search, planetary_computer, cdse\) or `url`"):
        Stac(collection="sentinel-2-l2a")
    with pytest.raises(RecipeError, match="unknown archive 'x'"):
        archives.find("x", None)


@pytest.mark.parametrize(
    ("href", "signed", "endpoint", "expected"),
    [
        ("https://a.blob.core.windows.net/b/c.tif", True, "", "planetary+https://a.blob.core.windows.net/b/c.tif"),
        ("https://example.org/blob.core.windows.net/c.tif", True, "", "https://example.org/blob.core.windows.net/c.tif"),
        ("https://a.blob.core.windows.net/b/c.tif", False, "", "https://a.blob.core.windows.net/b/c.tif"),
        ("s3://eodata/a/b.jp2", False, "https://store.example.org/", "s3+https://store.example.org/eodata/a/b.jp2"),
        ("s3://eodata/a/b.jp2", False, "", "s3://eodata/a/b.jp2"),
        ("/data/b.tif", True, "https://store.example.org", "/data/b.tif"),
    ],
)
def test_addresses_are_opened_where_their_archive_keeps_them(href, signed, endpoint, expected):
    assert archives.opened_as(href, signed=signed, endpoint=endpoint) == expected
