"""Accounts of weights as a person and as a program read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skysense_cli import console
from skysense_cli.engine.account import WORDS, Account, Fate

SILENT = "loaded"  # needs no line of its own


def show(title: str, accounts: Sequence[Account], missing: Mapping[str, str]) -> None:
    """Print a row per file, a line per kind of key that is not simply loaded, and what no file gives."""
    words = [word for word in WORDS if word != "wrong" or any(one.counts["wrong"] for one in accounts)]
    rows = [(one.source.file.path.name, one.source.what, _keys(one), *(one.counts[word] or "-" for word in words)) for one in accounts]
    console.table(title, ["file", "holds", "keys", *words], rows)
    for one in accounts:
        for line in _lines(one.fates):
            console.say(f"  {one.source.file.path.name}: {line}")
    for line in _missing(missing):
        console.say(f"  in no file: {line}")


def as_plain(one: Account) -> dict[str, Any]:
    """The account as plain data: every key with its fate."""
    keys = [{"key": fate.key, "fate": fate.word, "target": fate.target, "note": fate.note} for fate in one.fates]
    file = one.source.file
    return {
        "file": str(file.path), "form": file.form, "holds": one.source.what, "keys": _keys(one),
        "counts": one.counts, "fates": keys,
    }  # fmt: skip


def missing_as_plain(missing: Mapping[str, str]) -> list[dict[str, str]]:
    """What no file gives, as plain data. A list, since the console hides values behind names such as `cls_token`."""
    return [{"target": name, "starts_as": start} for name, start in missing.items()]


def _keys(one: Account) -> int:
    """How many entries the file has, those beside the weights included."""
    return len(one.source.file.tensors) + len(one.source.file.beside)


def _lines(fates: Iterable[Fate]) -> list[str]:
    """One line for all keys that differ in numbers only and share their fate."""
    kinds: dict[tuple[str, str, str, str], list[Fate]] = {}
    for fate in fates:
        if fate.word != SILENT or fate.note:
            kinds.setdefault((fate.word, _pattern(fate.key), _pattern(fate.target), fate.note), []).append(fate)
    lines = []
    for (word, key, target, note), alike in kinds.items():
        first = alike[0]
        key, target = (key, target) if len(alike) > 1 else (first.key, first.target)
        arrow = target if not key else f"{key} -> {target}" if target and word in ("renamed", "wrong") else key
        lines.append(f"{word}: {arrow}{f' ({len(alike)} alike)' if len(alike) > 1 else ''}{f'; {note}' if note else ''}")
    return lines


def _missing(missing: Mapping[str, str]) -> list[str]:
    """The tensors that no file gives, by part and by what they start as."""
    parts: dict[tuple[str, str], list[str]] = {}
    for name, start in missing.items():
        depth = 3 if name.startswith(("model.encoders.", "model.lifts.")) else 2
        parts.setdefault((".".join(name.split(".")[:depth]), start), []).append(name)
    return [
        f"{names[0] if len(names) == 1 else f'{part} ({len(names)} tensors)'}; starts as: {start}" for (part, start), names in parts.items()
    ]


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
