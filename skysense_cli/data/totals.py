"""What became of a build: totals of all blocks in `report.json`, one line for each block in `blocks.jsonl`, `coregistration.png`.

Reports of blocks are taken one by one, so that a million of them need no memory.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from skysense_cli.data.shifts import Shifts
from skysense_cli.errors import DataError, ItemsFailed
from skysense_cli.files import whole_file, write_text

TOTALS, BLOCKS = "report.json", "blocks.jsonl"


def write_report(home: Path, facts: dict[str, Any], reports: Iterable[dict[str, Any]], shifts: Shifts | None = None) -> dict[str, Any]:
    """Write both files; the totals come back: `facts` with `samples` per split and `dates` per modality.

    reports: of the blocks that were built, in a stable order      shifts: what was measured is added to it and drawn
    Raises DataError when they made no sample, ItemsFailed when `facts["failed"]` names blocks or dates could not be read.
    """
    samples: Counter[str] = Counter()
    dates: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    with whole_file(home / BLOCKS) as temporary, temporary.open("w", encoding="utf-8") as file:
        for report in reports:
            samples[report["split"]] += report["samples"]
            reasons.update(report["skipped"].values())
            for name, entries in report["dates"].items():
                dates.setdefault(name, Counter(dict.fromkeys(_KINDS, 0))).update(_counted(entries))
            if shifts is not None:
                shifts.add(report["dates"])
            file.write(json.dumps(report, sort_keys=True) + "\n")
    totals = {**facts, "samples": dict(samples), "dates": {name: dict(dates[name]) for name in sorted(dates)}}
    write_text(home / TOTALS, json.dumps(totals, indent=1, sort_keys=True) + "\n")
    if shifts is not None:
        shifts.draw(home)
    _raise_if_incomplete(home, totals, reasons)
    return totals


def block_reports(home: Path) -> Iterator[dict[str, Any]]:
    """The report of each block of a build: block, split, samples, skipped (footprint -> reason), dates (modality -> entries).

    Raises DataError when the file is not there or is none of ours.
    """
    path = home / BLOCKS
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); build-data writes it at its end") from error


_KINDS = ("kept", "refused", "moved", "unreadable", "radiometry", "not_valid_enough", "all")


def _counted(dates: list[dict[str, Any]]) -> dict[str, int]:
    """How many dates of a block were kept and why others were not."""
    return {
        "kept": sum(date["samples"] > 0 for date in dates),
        "refused": sum(date.get("decision") == "refused" for date in dates),
        "moved": sum(date.get("decision") == "moved" for date in dates),
        "unreadable": sum(date["dropped"].startswith("unreadable") for date in dates),
        "radiometry": sum(date["dropped"].startswith("radiometry") for date in dates),
        "not_valid_enough": sum(date["dropped"].startswith(("valid on", "too little clear")) for date in dates),
        "all": len(dates),
    }


def _raise_if_incomplete(home: Path, totals: dict[str, Any], reasons: Counter[str]) -> None:
    unreadable = sum(counts["unreadable"] for counts in totals["dates"].values())
    if not sum(totals["samples"].values()):
        most = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        raise DataError(f"{home}: no footprint of {totals['footprints']} makes a sample ({most or 'no block was built'}); see {BLOCKS}")
    if totals["failed"] or unreadable:
        raise ItemsFailed(
            f"{home}: {len(totals['failed'])} blocks failed and {unreadable} dates could not be read; "
            f"what could be built is there, see {TOTALS}. The same command tries failed blocks again."
        )
