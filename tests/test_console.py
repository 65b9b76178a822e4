"""Lines, progress and tables for people; secrets never reach them."""

import pytest

from skysense_cli import console


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@example.org/a.tif", "https://***@example.org/a.tif"),
        ("https://x.org/a.tif?sig=abc%3D&se=2021", "https://x.org/a.tif?sig=***&se=2021"),
        ("/vsicurl/https://x.org/a?X-Amz-Signature=ab12&b=1", "/vsicurl/https://x.org/a?X-Amz-Signature=***&b=1"),
        ("Authorization: Bearer eyJhbGciOi.abc-def", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ("AWS_SECRET_ACCESS_KEY=abcd/efgh region=x", "AWS_SECRET_ACCESS_KEY=*** region=x"),
        ('{"access_token": "abc", "b": 1}', '{"access_token": "***", "b": 1}'),
        ("password: hunter2", "password: ***"),
        ("a recipe.yaml:3:4: train.lr: must be a number", "a recipe.yaml:3:4: train.lr: must be a number"),
        ("tokens: 3, author: me, https://x.org/path?date=2020", "tokens: 3, author: me, https://x.org/path?date=2020"),
    ],
)
def test_secrets_are_replaced_and_nothing_else(text, shown):
    assert console.redact(text) == shown


def test_progress_gives_every_item_and_about_ten_lines(capsys):
    assert list(console.progress(range(1000), "reading")) == list(range(1000))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading: 100/1000"
    assert lines[-1] == "reading: 1000/1000"
    assert len(lines) == 10


def test_progress_without_a_total_counts(capsys):
    assert list(console.progress(iter("ab"), "reading")) == ["a", "b"]
    assert capsys.readouterr().err == "reading: 2\n"


def test_other_processes_are_silent_but_for_failures(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    console.say("a")
    console.warn("b")
    assert list(console.progress([1], "c")) == [1]
    console.fail("d")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: d\n")


def test_a_table_is_aligned_with_numbers_to_the_right(capsys):
    console.table("scores", ["class", "iou"], [("wheat", 0.5), ("maize, late", 12.25)])
    assert capsys.readouterr().out.splitlines() == [
        "scores",
        "  class          iou",
        "  -----------  -----",
        "  wheat          0.5",
        "  maize, late  12.25",
    ]


def test_a_table_without_rows_is_its_head(capsys):
    console.table("scores", ["class", "iou"], [])
    assert capsys.readouterr().out.splitlines() == ["scores", "  class  iou", "  -----  ---"]
