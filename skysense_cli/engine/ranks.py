"""The rows of a scene shared out over processes: own ones on this machine, or those that torchrun started.

They share nothing but the folder of finished strips. Which process makes a strip changes no bit of it.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from skysense_cli.engine.tiling import Plan
from skysense_cli.errors import DiskError, SkySenseError

if TYPE_CHECKING:
    from skysense_cli.recipe.schema.maps import PredictRecipe

REFUSED = 4  # exit status of a process whose reason stands on its stdout
POLL_S, PATIENCE_S = 0.25, 5.0


class RankError(SkySenseError):
    """A process that computed a part of the scene failed or died."""


@dataclass(frozen=True)
class World:
    """This process among those of a launcher such as torchrun. rank: from 0      count: of processes      local: rank on this machine"""

    rank: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def of_launcher(cls) -> World:
        """As the environment says; alone without a launcher."""
        rank, count, local = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
        return cls(rank, count, local) if count > 1 else cls()


@dataclass(frozen=True)
class Share:
    """What one process computes; it travels by pickle. rows: of tiles      writer: its number      parent: the process that starts it"""

    recipe: PredictRecipe
    recipe_digest: str
    output: Path
    threads: int
    parent: int
    device: str
    rows: tuple[range, ...]
    writer: int


def shares(plan: Plan, rows: Sequence[int], count: int) -> list[list[int]]:
    """`rows` in at most `count` runs with about equally many wanted tiles, none of them empty."""
    if not rows:
        return []
    tiles = [plan.tiles[1] if plan.wanted is None else int(plan.wanted[row].sum()) for row in rows]
    done = np.cumsum(tiles) - np.array(tiles) / 2
    owners = np.minimum((done * count / max(sum(tiles), 1)).astype(int), count - 1)
    return [[rows[k] for k in np.flatnonzero(owners == owner).tolist()] for owner in np.unique(owners)]


def compute_in_processes(parts_of: Sequence[Share]) -> Generator[None]:
    """Run each share in a process of its own, which ends with this one, however that ends; gives something now and then.

    The processes print nothing but what a bug leaves. Raises RankError when one of them fails: with its own reason and
    exit code (DiskError for one of the disk), or because it died. The others are ended; what they finished counts.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "LOCAL_RANK")}
    running: list[subprocess.Popen[bytes]] = []
    try:
        for share in parts_of:
            command = [sys.executable, "-m", "skysense_cli.engine.rank_process"]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**environment, "RANK": str(share.writer + 1)}
            )
            running.append(process)
            assert process.stdin is not None, "asked for"
            process.stdin.write(pickle.dumps(share))
            process.stdin.close()
        waiting = dict(enumerate(running))
        while waiting:
            time.sleep(POLL_S)
            yield
            for number, process in list(waiting.items()):
                if process.poll() is not None:
                    _check(process, number, len(running))
                    del waiting[number]
    finally:
        _end(running)


def device_of(device: str, number: int) -> str:
    """The device of process `number` on this machine: with `cuda` each has its own card, as far as there are enough."""
    return f"cuda:{number % max(torch.cuda.device_count(), 1)}" if device == "cuda" else device


def threads_each(count: int) -> int:
    """Threads of torch for each of `count` processes."""
    return max(torch.get_num_threads() // count, 1)


def _check(process: subprocess.Popen[bytes], number: int, count: int) -> None:
    if process.returncode == 0:
        return
    assert process.stdout is not None, "asked for"
    said = process.stdout.read().decode(errors="replace").strip()
    if process.returncode == REFUSED and said:
        reason = json.loads(said)
        error = DiskError(reason["message"]) if reason["disk"] else RankError(reason["message"])
        error.exit_code = int(reason["exit_code"])
        raise error
    how = f"was killed by signal {-process.returncode}" if process.returncode < 0 else f"ended with status {process.returncode}"
    raise RankError(f"rank {number} of {count} {how}; what is finished is kept, run the same command again to go on")


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        if process.poll() is None:
            process.terminate()
    for process in running:
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
