"""What a person sees while a command runs: lines, warnings, progress, tables; only from the first process.

On a terminal progress is a bar that lives on stderr; elsewhere it is plain lines, about one per tenth.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

_HIDDEN = "***"
_KEY = r"access_?key|accesskeyid|api_?key|auth|authorization|credential|password|passwd|secret|sig|signature|x-amz-[\w-]+"
_NAME = rf"(?:{_KEY}|(?<!class_)(?<!extra_)token)"  # not the tokens of a transformer
_VALUE = rf"(?!Bearer|Basic|{re.escape(_HIDDEN)})[^\s'\",&]+"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # of names that somebody else chose; a terminal would obey them
_SECRETS = (
    (re.compile(r"(\w[\w+.-]*://)[^/\s@]+@"), rf"\1{_HIDDEN}@"),  # user:password@ of a url
    (re.compile(rf"([?&;][\w.-]*{_NAME}[\w.-]*=)[^&\s#'\"]+", re.IGNORECASE), rf"\1{_HIDDEN}"),  # query of a url
    (re.compile(r"(\b(?:Bearer|Basic)\s+)[\w.~+/=-]{6,}", re.IGNORECASE), rf"\1{_HIDDEN}"),  # header value
    (re.compile(rf"(\b[\w.-]*{_NAME}['\"]?\s*[:=]\s*['\"]?){_VALUE}", re.IGNORECASE), rf"\1{_HIDDEN}"),  # key: value
)


def say(text: str = "") -> None:
    """Print `text` on stdout."""
    if _first():
        print(redact(text), flush=True)  # noqa: T201


def warn(text: str) -> None:
    """Print `warning: text` on stderr."""
    if _first():
        print(f"warning: {redact(text)}", file=sys.stderr, flush=True)  # noqa: T201


def fail(text: str) -> None:
    """Print `error: text` on stderr, from every process."""
    print(f"error: {redact(text)}", file=sys.stderr, flush=True)  # noqa: T201


def progress(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """The items of `iterable`, one by one, while the share that is done is shown.

    total: number of items; asked from `iterable` when it has a length
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    if not _first():
        yield from iterable
    elif sys.stderr.isatty():
        yield from _bar(iterable, description, total)
    else:
        yield from _lines(iterable, description, total)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print `rows` below `columns`, aligned; numbers to the right."""
    cells = [[redact(str(cell)) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    numbers = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(columns))]

    def line(texts: Sequence[str]) -> str:
        return "  ".join(
            text.rjust(width) if right else text.ljust(width) for text, width, right in zip(texts, widths, numbers, strict=True)
        ).rstrip()

    say(title)
    say("  " + line(columns))
    say("  " + "  ".join("-" * width for width in widths))
    for row in cells:
        say("  " + line(row))


def redact(text: str) -> str:
    """`text` with passwords, tokens and signatures in urls, queries and headers replaced by ***, and without control characters."""
    text = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d,.]+(?:e[-+]?\d+)?\s?%?|-|", text) is not None


def _bar(iterable: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import track

    yield from track(iterable, description=description, total=total, console=Console(stderr=True))


def _lines(iterable: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    """Plain lines: after each tenth when the total is known, else at every doubling."""
    done, shown = 0, 0
    for item in iterable:
        yield item
        done += 1
        if total is None:
            if done >= max(10, 2 * shown):
                shown = done
                _note(f"{description}: {done}")
        elif done * 10 // max(total, 1) > shown * 10 // max(total, 1):
            shown = done
            _note(f"{description}: {done}/{total}")
    if total is None and done != shown:
        _note(f"{description}: {done}")


def _note(text: str) -> None:
    print(redact(text), file=sys.stderr, flush=True)  # noqa: T201
