"""The gate on the real dates of the Belgian patch, sound and with planted mistakes."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data import gate, radiometry
from skysense_cli.data.acquire import Acquisition
from skysense_cli.data.sources import Asset, Item, parse_time
from skysense_cli.data.verdicts import corrected, facts_of, refusal, settled
from skysense_cli.errors import DataError
from skysense_cli.geo.raster import open_raster

BANDS = sensors.get("sentinel2_l2a").band_names
REJECTED = (0, 1, 3, 8, 9, 10, 11)
MIN_VALID = 0.8


def numbers(path) -> np.ndarray:
    with open_raster(path) as dataset:
        return dataset.read()


def time_of(path) -> np.datetime64:
    return parse_time(path.stem.split("_")[1])


@pytest.fixture(scope="module")
def belgium(shared_data):
    """times, pixels (72, 10, 64, 64), scene classes (72, 64, 64)"""
    home = shared_data("ts_belgium_A")
    scenes, classes = sorted((home / "s2").glob("*.tif")), sorted((home / "scl").glob("*.tif"))
    assert [time_of(path) for path in scenes] == [time_of(path) for path in classes]
    return (
        np.array([time_of(path) for path in scenes]),
        np.stack([numbers(path) for path in scenes]),
        np.stack([numbers(path)[0] for path in classes]),
    )


@pytest.fixture(scope="module")
def radar(shared_data):
    paths = sorted((shared_data("ts_belgium_A") / "s1").glob("*.tif"))
    return np.array([time_of(path) for path in paths]), [numbers(path).astype(np.float32) for path in paths]


def judged(times, pixels, valid, least=MIN_VALID):
    """Only dates that a recipe could keep are looked at."""
    looks = [gate.look(image, clear) if clear.mean() >= least else None for image, clear in zip(pixels, valid, strict=True)]
    return gate.judge_counts(BANDS, times, looks)


def kept(belgium, rejected=REJECTED, least=MIN_VALID):
    _, pixels, classes = belgium
    valid = ~np.isin(classes, rejected) & (pixels != 0).any(axis=1)
    return valid, [k for k in range(len(valid)) if valid[k].mean() >= least]


def planted(pixels, dates, offset):
    found = pixels.astype(np.int32)
    for k in dates:
        found[k] = np.where((pixels[k] != 0).any(axis=0), np.clip(found[k] + offset, 1, 65534), 0)
    return found.astype(np.uint16)


@pytest.mark.parametrize("rejected", [REJECTED, (0, 1, 3, 8, 9, 10)], ids=["masked", "with the cloud that is called snow"])
@pytest.mark.parametrize("least", [MIN_VALID, 0.01])
def test_no_sound_date_is_refused(belgium, rejected, least):
    valid, usable = kept(belgium, rejected, least)
    verdicts = judged(belgium[0], belgium[1], valid, least)
    assert all(verdict.sound for verdict in verdicts)
    assert sum(verdict.shift is not None for verdict in verdicts) >= min(len(usable), 35)


@pytest.mark.parametrize("name", ["ts_belgium_C, six bands", "trimodal_treesat, 36 px"])
def test_haze_that_the_mask_calls_clear_is_no_offset(shared_data, name):
    """2018-09-28 and 2020-05-19: all bands 500 to 1500 higher than in their season, with half of its contrast."""
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "gate.py"))
    found = script["of_counts"](script["OPTICAL"][name](shared_data("")), 60)
    assert found["judged"] > 40 and found["alarms"] == 0 and found["+1000"]["others"] == found["-1000"]["others"] == 0


@pytest.mark.parametrize("offset", [1000, -1000])
def test_every_single_planted_offset_is_found(belgium, offset):
    times, pixels, _ = belgium
    valid, usable = kept(belgium)
    pixels, valid = pixels[:, :, ::3, ::3], valid[:, ::3, ::3]
    for k in usable:
        verdicts = judged(times, planted(pixels, [k], offset), valid, 0.75)
        assert [j for j, verdict in enumerate(verdicts) if not verdict.sound] == [k] and verdicts[k].offset == offset


@pytest.mark.parametrize("offset", [1000, -1000])
def test_several_dates_and_all_late_dates_are_found(belgium, offset):
    times, pixels, _ = belgium
    valid, usable = kept(belgium)
    some = np.random.default_rng(0).choice(usable, 12, replace=False).tolist()
    for dates in (some, usable[-9:], usable[-18:], usable[-27:]):
        verdicts = judged(times, planted(pixels, dates, offset), valid)
        assert {j for j, verdict in enumerate(verdicts) if verdict.offset == offset} == set(dates)
        assert sum(not verdict.sound for verdict in verdicts) == len(dates)


def test_one_season_alone_is_enough(belgium):
    times, pixels, _ = belgium
    valid, usable = kept(belgium)
    late = [k for k in usable if times[k] >= np.datetime64("2019-06-01")]
    year = times >= np.datetime64("2019-01-01")
    verdicts = judged(times[year], planted(pixels, late, 1000)[year], valid[year])
    found = {int(j) + int((~year).sum()) for j, verdict in enumerate(verdicts) if verdict.offset == 1000}
    assert found == set(late)


def test_few_dates_are_not_checked_and_say_so(belgium):
    times, pixels, _ = belgium
    valid, usable = kept(belgium)
    few = usable[:3]
    verdicts = judged(times[few], planted(pixels, few[:1], 1000)[few], valid[few])
    assert facts_of(verdicts[0])["radiometry"].startswith("not checked: ") and verdicts[0].sound


def test_power_called_decibels_is_found_on_every_date(radar):
    times, images = radar
    looks = [gate.look(image, np.isfinite(image).all(axis=0)) for image in images]
    assert all(verdict.sound and verdict.shift is not None for verdict in gate.judge_decibels(times, looks))
    for k, image in enumerate(images):
        swapped = [*looks[:k], gate.look(10 ** (image / 10), np.isfinite(image).all(axis=0)), *looks[k + 1 :]]
        assert [j for j, verdict in enumerate(gate.judge_decibels(times, swapped)) if verdict.linear] == [k]


def test_the_numbers_of_every_radar_date_tell_decibels_from_power(radar):
    sensor, (_, images) = sensors.get("sentinel1_grd"), radar
    for image in images:
        data = np.isfinite(image).all(axis=0)
        radiometry.check_numbers(sensor, image, data, "a", "sigma0 dB")
        with pytest.raises(radiometry.Contradiction, match="looks like dB") as error:
            radiometry.check_numbers(sensor, image, data, "a", "sigma0 linear")
        assert error.value.units == "sigma0 dB"
        with pytest.raises(radiometry.Contradiction, match="looks like linear power"):
            radiometry.check_numbers(sensor, 10 ** (image / 10), data, "a", "sigma0 dB")


def item_of(offset=0.0, **meta):
    return Item(
        "S2_x", np.datetime64("2021-05-01T00:00:00"), {"B02": Asset("a.tif", offset=offset), "SCL": Asset("b.tif")}, "sigma0 dB", meta
    )


def test_a_refusal_says_what_was_found_and_what_the_metadata_says():
    words = refusal(gate.Verdict(offset=1000.0, others=7, shift=980.0), item_of(baseline="02.12"))
    assert words == (
        "its numbers are about 1000 too high: the offset is still in them (7 other dates of the season; metadata: baseline 02.12, "
        "offset applied here +0); `radiometry: repair` corrects it"
    )
    assert "the offset was taken off twice" in refusal(gate.Verdict(offset=-1000.0, others=7), item_of(-1000.0))
    assert "linear power, but it is said to be sigma0 dB" in refusal(gate.Verdict(linear=True, others=4), item_of())


def test_a_repair_changes_the_offset_of_the_bands_only():
    item, what = corrected(gate.Verdict(offset=1000.0), item_of(), ["B02"])
    assert (item.assets["B02"].offset, item.assets["SCL"].offset, what) == (-1000, 0, "offset -1000")
    item, what = corrected(gate.Verdict(offset=-1000.0), item_of(-1000.0), ["B02"])
    assert (item.assets["B02"].offset, what) == (0, "offset +1000")
    assert corrected(gate.Verdict(linear=True), item_of(), [])[0].units == "sigma0 linear"


def test_a_date_that_denies_its_own_metadata_is_refused_or_repaired():
    def read(item):
        if item.units == "sigma0 dB":
            raise radiometry.Contradiction("looks like linear power", "sigma0 linear")
        nothing = np.zeros((1, 1))
        return Acquisition(nothing, nothing, nothing, {"units": item.units})

    with pytest.raises(DataError, match="looks like linear power"):
        settled(read, item_of(), repair=False)
    assert settled(read, item_of(), repair=True).meta == {"units": "sigma0 linear", "repaired": "sigma0 dB taken as sigma0 linear"}

    def contradicted(item):
        return Acquisition(np.zeros(1), np.zeros(1), np.zeros(1), {"offset_contradicted": True})

    with pytest.raises(DataError, match="S2_x: its numbers are too low to carry the offset of baseline 05.09; .*radiometry: repair"):
        settled(contradicted, item_of(-1000.0, baseline="05.09"), repair=False)
    assert settled(contradicted, item_of(-1000.0), repair=True).meta["repaired"] == "offset -1000 not applied"


def test_dates_without_a_time_are_not_judged():
    date = gate.look(np.full((10, 8, 8), 3000, np.uint16), np.ones((8, 8), bool))
    times = np.array(["NaT"] * 5, "datetime64[s]")
    assert [verdict.reason for verdict in gate.judge_counts(BANDS, times, [date] * 5)] == ["too little clear ground, or no date"] * 5
