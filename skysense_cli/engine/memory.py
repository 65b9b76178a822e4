"""What predicting a scene holds in memory, and how its strips are cut so that it is not more than allowed.

Counted are pixels, scores and GDAL's cache; not the program with its libraries, the model, and what it computes with.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from skysense_cli import sensors
from skysense_cli.data.channel import Channel
from skysense_cli.engine.predict import STEPS_AHEAD, STRIPS_AHEAD
from skysense_cli.engine.tiling import Plan
from skysense_cli.errors import GridError

FLOAT = 4
FINISHED_STRIPS = 3  # at work, waiting to be decided, being decided
WORK = 6  # bytes beside a number of the date that is being read: flags, and a copy as float


@dataclass(frozen=True)
class Made:
    """What is made of a scene. scores: numbers blended on a unit, of all rasters      written: bytes of all files' pixels on a unit
    pictures: bytes of cells kept for them while the files are written"""

    scores: int = 0
    written: int = 0
    pictures: int = 0


@dataclass(frozen=True)
class Needs:
    """Bytes by what holds them. read: strips as read      steps: tiles on their way through the model
    blended: scores of strips      kept: rows of scores that strips share      cache: GDAL's
    files: strips on their way into files and cells kept for pictures, when all else but the cache is gone"""

    read: int
    steps: int
    blended: int
    kept: int
    cache: int
    files: int

    @property
    def total(self) -> int:
        """The most at any time."""
        return max(self.read + self.steps + self.blended + self.kept, self.files) + self.cache


def needs(plan: Plan, channels: Mapping[str, Channel], made: Made, abreast: int) -> Needs:
    """What a plan needs. abreast: steps in the model at the same time"""
    widest = max(_width(plan, block) for block in range(len(plan.blocks)))
    read = steps = 0
    tile = plan.rows.size * plan.columns.size
    for channel in channels.values():
        sensor, dates, bands = sensors.get(channel.input.sensor), len(channel.items), len(channel.input.bands)
        itemsize = {"uint8": 1, "uint16": 2}.get(sensor.dtype, FLOAT)
        pixels = plan.rows.size * widest * channel.unit_px**2
        read += (STRIPS_AHEAD + 3) * dates * pixels * (bands * itemsize + 1) + pixels * bands * WORK
        steps += plan.batch * dates * tile * channel.unit_px**2 * (2 * bands * FLOAT + 1)
    steps += plan.batch * tile * made.scores * FLOAT
    strip = plan.rows.size * widest
    blended = strip * (FINISHED_STRIPS * made.scores * FLOAT + 3 * made.written)
    shared = max((plan.rows.before(row) for row in range(1, plan.tiles[0])), default=0)
    kept = shared * _active(plan) * made.scores * FLOAT
    return Needs(read, (STEPS_AHEAD + 1 + 2 * abreast) * steps, blended, kept, plan.cache, strip * 3 * made.written + made.pictures)


def lines(plan: Plan, held: Needs, pixel_bytes: int, allowed: str = "") -> list[tuple[str, str]]:
    """(what, value) lines of a plan about memory and disk. pixel_bytes: of all files      allowed: the limit, if there is one"""
    cut = f", strips cut into {len(plan.blocks)} pieces" if len(plan.blocks) > 1 else ""
    limit = f", {allowed} allowed" if allowed else ""
    wanted = plan.cached(plan.block_row * 2).cache
    again = []
    if wanted > plan.cache:
        hint = f"; --max-memory {math.ceil(2 * wanted / 1e9)}GB would keep them until the next" if allowed else ""
        again = [("reading", f"every strip decodes the blocks of the files that it meets{hint}")]
    disk = pixel_bytes * (3.7 if allowed else 2.7)
    return [
        ("memory", f"about {held.total / 2**20:,.0f} MiB beside program and model{limit}{cut}"),
        *again,
        ("disk", f"at most {disk / 2**20:,.1f} MiB, most of it until the end only"),
    ]


def fitted(plan: Plan, limit: int, channels: Mapping[str, Channel], made: Made, abreast: int) -> Plan:
    """The plan with its strips cut into the fewest pieces that need at most `limit` bytes; half of it may go to decoded blocks.

    Raises GridError when even pieces of one tile need more.
    """

    plan = plan.cached(limit // 2)

    def total(count: int) -> int:
        return needs(plan.in_blocks(count), channels, made, abreast).total

    fewest, most = 1, plan.tiles[1]
    if (least := total(most)) > limit:
        raise GridError(
            f"tiles.max_memory: {limit / 2**20:,.0f} MiB are allowed, strips of one tile need {least / 2**20:,.0f} MiB; "
            "allow more, or make tiles.size_m or tiles.batch smaller"
        )
    while fewest < most:
        middle = (fewest + most) // 2
        if total(middle) <= limit:
            most = middle
        else:
            fewest = middle + 1
    return plan.in_blocks(fewest)


def _width(plan: Plan, block: int) -> int:
    columns = plan.block_columns(block)
    return plan.columns.starts[columns.stop - 1] + plan.columns.size - plan.columns.starts[columns.start]


def _active(plan: Plan) -> int:
    """Units of columns in blocks that hold a wanted tile."""
    total = 0
    for block in range(len(plan.blocks)):
        columns = plan.block_columns(block)
        if plan.wanted is None or plan.wanted[:, columns.start : columns.stop].any():
            total += _width(plan, block)
    return total
