"""Strips are cut into the fewest pieces that fit, and what fits nowhere is refused."""

from dataclasses import replace

import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data.channel import Channel
from skysense_cli.data.clouds import CloudMask
from skysense_cli.data.dataset import Input
from skysense_cli.data.sources import Item
from skysense_cli.engine.memory import Made, fitted, lines, needs
from skysense_cli.engine.tiling import make_plan
from skysense_cli.errors import GridError
from skysense_cli.geo.grid import make_grid
from skysense_cli.recipe.schema.maps import PredictTilesSection, size_bytes

PIXELS = 16  # of a unit
S2 = sensors.get("sentinel2_l2a")
SIDE = 20_000


def channels(dates):
    items = tuple(Item(str(n), np.datetime64("2021-01-01"), {}, "DN") for n in range(dates))
    input_ = Input(S2.name, S2.band_names, 10.0, S2.mean, S2.std)
    return {"s2": Channel(input_, items, CloudMask, make_grid(0, 0, 10, SIDE, SIDE, "EPSG:32631"), 4)}


def plan():
    return make_plan((SIDE // 4, SIDE // 4), size=16, overlap=0.25, batch=8, unit_px=4, shape=(SIDE, SIDE))


@pytest.mark.parametrize("dates", [1, 12])
@pytest.mark.parametrize("limit", [400 << 20, 700 << 20, 4 << 30])
def test_strips_are_cut_into_the_fewest_pieces_that_fit(dates, limit):
    given = channels(dates), Made(10 * PIXELS, 11 * PIXELS), 2
    found = fitted(plan(), limit, *given)
    assert needs(found, *given).total <= limit
    pieces = len(found.blocks)
    assert pieces == 1 or needs(plan().in_blocks(pieces - 1), *given).total > limit
    assert found.blocks[0] == 0 and list(found.blocks) == sorted(set(found.blocks))


def test_what_a_strip_holds_at_least_is_counted():
    held = needs(plan(), channels(3), Made(10 * PIXELS, PIXELS), 1)
    assert held.read >= 3 * 64 * SIDE * 10 * 2 and held.blended >= 64 * SIDE * 10 * 4
    assert 16 * SIDE * 10 * 4 <= held.kept <= 48 * SIDE * 10 * 4 and held.cache == 64 << 20  # the last row shares more


def test_a_row_of_blocks_is_kept_where_half_of_the_memory_holds_it_and_else_the_user_is_told():
    row = 512 * SIDE * 10 * 2
    scene = replace(plan(), block_row=row)
    given = channels(1), Made(10 * PIXELS, PIXELS), 1
    kept = fitted(scene, 4 << 30, *given)
    assert kept.cache >= row and needs(kept, *given).cache == kept.cache
    assert [what for what, _ in lines(kept, needs(kept, *given), 1, "4GB")] == ["memory", "disk"]
    small = fitted(scene, 400 << 20, *given)
    assert small.cache == 64 << 20  # less than a row would keep none of it
    told = dict(lines(small, needs(small, *given), 1, "400MB"))
    assert "every strip decodes the blocks" in told["reading"] and "--max-memory 1GB" in told["reading"]
    assert fitted(scene, 10**9, *given).cache >= row


def test_too_little_is_refused_with_what_is_needed():
    with pytest.raises(
        GridError, match=r"tiles.max_memory: 66 MiB are allowed, strips of one tile need \d+ MiB; allow more, or make tiles"
    ):
        fitted(plan(), 66 << 20, channels(12), Made(10 * PIXELS, PIXELS), 1)


def test_only_columns_that_are_wanted_are_counted():
    wanted = np.zeros(plan().tiles, bool)
    wanted[:, 5] = True
    few = needs(replace(plan(), wanted=wanted).in_blocks(20), channels(1), Made(10 * PIXELS, PIXELS), 1)
    assert few.kept * 15 < needs(plan().in_blocks(20), channels(1), Made(10 * PIXELS, PIXELS), 1).kept


def test_sizes_are_read_and_nonsense_is_refused():
    assert [size_bytes(text) for text in ("2GB", "512MiB", "1.5 KB")] == [2 * 10**9, 512 << 20, 1500]
    assert PredictTilesSection(max_memory="64MB").max_bytes == 64_000_000
    for text in ("2", "2G", "-1GB", "GB", "1e9"):
        with pytest.raises(ValueError, match="is no size; write a number and KB, MB, GB"):
            PredictTilesSection(max_memory=text)


def test_pictures_are_held_while_files_are_written_not_beside_the_strips_of_the_scene():
    given = plan(), channels(1)
    small, large = (needs(*given, Made(10 * PIXELS, PIXELS, pictures), 1) for pictures in (1 << 20, 4 << 30))
    assert small.total == needs(*given, Made(10 * PIXELS, PIXELS), 1).total
    assert 4 << 30 <= large.total - large.cache <= (4 << 30) + 3 * 16 * SIDE // 4 * PIXELS
