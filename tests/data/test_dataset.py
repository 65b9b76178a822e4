"""Samples as model inputs: what is read, how it is normalised, how it is cut and turned, and that it is reproducible."""

import numpy as np
import pytest

from skysense_cli import sensors
from skysense_cli.data import index, npz
from skysense_cli.data.dataset import FixedDataset, Input, LabelledDataset, PairDataset, Reading, batch_of, label_of, within
from skysense_cli.data.order import Key
from skysense_cli.data.sample import Label, Sample, Series
from skysense_cli.data.views import Cut, Cutter, pieces
from skysense_cli.errors import DataError
from skysense_cli.geo.grid import lonlat, make_grid
from skysense_cli.recipe.schema.train import ViewsSection

CRS, LEFT, TOP, SIDE_M = "EPSG:32631", 500_000.0, 5_600_000.0, 160.0
STILL = ViewsSection(same_dates=True, date_jitter=0, color_jitter=0, blur=0)


def series(sensor_name, gsd_m, times, rng):
    sensor = sensors.get(sensor_name)
    side = round(SIDE_M / gsd_m)
    shape = (len(times), len(sensor.bands), side, side)
    pixels = rng.normal(-15, 3, shape) if sensor.kind == "sar" else rng.integers(1, 250, shape)
    return Series(
        sensor=sensor.name, bands=sensor.band_names, pixels=pixels.astype(sensor.dtype), times=np.array(times, "datetime64[s]"),
        valid=np.ones((len(times), side, side), bool), items=tuple(f"{sensor.name}-{i}" for i in range(len(times))),
        grid=make_grid(LEFT, TOP, gsd_m, side, side, CRS), units=sensor.units, nodata=sensor.nodata, meta=({},) * len(times),
    )  # fmt: skip


def make_sample(name="a", seed=0):
    rng = np.random.default_rng(seed)
    days = [f"2019-{month:02d}-01" for month in range(1, 13)]
    label = Label(raster=rng.integers(0, 3, (16, 16)).astype(np.uint8), grid=make_grid(LEFT, TOP, 10, 16, 16, CRS),
                  held_out=np.full((16, 16), 255, np.uint8), names=("x", "y", "z"), colors=np.zeros((3, 3), np.uint8))  # fmt: skip
    bounds = (LEFT, TOP - SIDE_M, LEFT + SIDE_M, TOP)
    parts = {
        "s2": series("sentinel2_l2a", 10, days, rng),
        "s1": series("sentinel1_grd", 20, days[:4], rng),
        "hr": series("rgb", 2.5, days[5:6], rng),
    }
    return Sample(name, CRS, bounds, lonlat(bounds, CRS), parts, label)


def inputs_of(sample):
    facts = {}
    for name, part in sample.series.items():
        mean, std = sensors.get(part.sensor).statistics(part.bands)
        facts[name] = Input(part.sensor, part.bands, part.grid.affine.a, mean, std)
    return facts


@pytest.fixture
def stored(tmp_path):
    sample = make_sample()
    npz.write(sample, tmp_path / "samples" / "a.npz")
    dates = {name: tuple(str(time) for time in part.times) for name, part in sample.series.items()}
    row = index.Row("a", "samples/a.npz", "train", CRS, sample.bounds, sample.lonlat, tuple(sample.series), dates)
    return sample, tmp_path, [row]


DATES = {"s2": 4, "s1": 2, "hr": 1}


def test_a_view_holds_normalised_pixels_of_the_drawn_dates(stored):
    sample, folder, rows = stored
    reading = Reading(inputs_of(sample), DATES)
    view = FixedDataset(folder, rows, reading, [(0, piece) for piece in pieces((SIDE_M, SIDE_M), None)])[0]
    part = sample.series["s2"]
    picked = [0, 4, 7, 11]  # evenly spread
    expected = (part.pixels[picked].astype(float) - np.array(reading.inputs["s2"].mean)[:, None, None]) / np.array(
        reading.inputs["s2"].std
    )[:, None, None]
    assert np.allclose(view.series["s2"].pixels, expected, atol=1e-5)
    assert view.series["s2"].days.tolist() == [0, 120, 212, 334]
    assert view.series["s1"].pixels.shape == (2, 2, 8, 8)
    assert np.array_equal(view.raster, sample.label.raster)
    assert view.frame.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_the_same_key_gives_the_same_views_and_another_step_others(stored):
    _, folder, rows = stored
    sample = stored[0]
    data = PairDataset(folder, rows, Reading(inputs_of(sample), DATES, seed=3), Cutter(80, 20), ViewsSection())
    first, again, other = data[Key(5, 1, 0)], data[Key(5, 1, 0)], data[Key(6, 1, 0)]
    for one, two in zip(first, again, strict=True):
        assert all(np.array_equal(one.series[name].pixels, two.series[name].pixels) for name in one.series)
        assert all(np.array_equal(one.series[name].days, two.series[name].days) for name in one.series)
    assert not np.array_equal(first[0].series["s2"].pixels, other[0].series["s2"].pixels)


def test_frames_say_where_the_pixels_of_a_view_lie(stored):
    sample, folder, rows = stored
    data = PairDataset(folder, rows, Reading(inputs_of(sample), DATES, seed=1), Cutter(80, 20), STILL)
    for step in range(12):
        for view in data[Key(step, 0, 0)]:
            pixels = view.series["hr"].pixels[0]  # one date, so it is known which
            facts = inputs_of(sample)["hr"]
            whole = sensors.to_model(sample.series["hr"].pixels, facts.mean, facts.std)[0]
            side = pixels.shape[-1]
            for row, col in [(0, 0), (3, side - 1), (side - 1, 7)]:
                x, y = view.frame @ np.array([(col + 0.5) / side, (row + 0.5) / side, 1])
                assert np.allclose(pixels[:, row, col], whole[:, int(y * 64), int(x * 64)], atol=1e-5)


def test_views_of_a_pair_overlap(stored):
    sample, folder, rows = stored
    data = PairDataset(folder, rows, Reading(inputs_of(sample), DATES), Cutter(40, 20), STILL)
    for step in range(20):
        centres = [view.frame @ np.array([0.5, 0.5, 1]) for view in data[Key(step, 0, 0)]]
        assert np.abs(centres[0] - centres[1]).max() <= 20 / 160 + 1e-6


def test_pixels_and_labels_turn_together(stored):
    sample, folder, rows = stored
    marked = sample.series["s2"].pixels.copy()
    marked[:, 0] = sample.label.raster + 1  # the first band shows the label
    parts = sample.series | {"s2": Series(**{**sample.series["s2"].__dict__, "pixels": marked})}
    npz.write(Sample("a", CRS, sample.bounds, sample.lonlat, parts, sample.label), folder / "samples" / "a.npz")
    facts = inputs_of(sample)
    data = LabelledDataset(folder, rows, Reading({"s2": facts["s2"]}, DATES), Cutter(80, 40))
    turned = set()
    for step in range(16):
        view = data[Key(step, 0, 0)]
        shown = view.series["s2"].pixels[0, 0] * facts["s2"].std[0] + facts["s2"].mean[0] - 1
        assert np.array_equal(np.rint(shown), view.raster)
        turned.add(tuple(np.sign(np.rint(view.frame[:, :2] * 100)).ravel()))
    assert len(turned) > 4


def test_pixels_without_data_are_zero_but_clouds_stay():
    sample = make_sample()
    part = sample.series["s2"]
    part.pixels[0, :, 0, 0] = 0
    part.valid[0, 0, :2] = False  # (0, 0) has no data, (0, 1) is a cloud
    normal = inputs_of(sample)["s2"].normalise(part, "s2")
    assert (normal[0, :, 0, 0] == 0).all()
    assert (normal[0, :, 0, 1] != 0).all()
    radar = sample.series["s1"]
    radar.pixels[1, :, 2, 3] = np.nan
    assert (inputs_of(sample)["s1"].normalise(radar, "s1")[1, :, 2, 3] == 0).all()


def test_bands_are_found_by_name():
    sample = make_sample()
    facts = inputs_of(sample)["s2"]
    two = Input(facts.sensor, ("B08", "B04"), 10, facts.mean[:2], facts.std[:2])
    assert two.order(sample.series["s2"], "s2") == [6, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sensor": "sentinel2_l1c"}, "a.npz: s2 is sentinel2_l2a, the model was built for sentinel2_l1c"),
        ({"gsd_m": 20}, "has pixels of 10 m, the model was built for 20 m"),
        ({"bands": ("B02", "B99")}, "s2 lacks band B99"),
    ],
)
def test_samples_that_do_not_fit_the_model_are_refused(change, message):
    sample = make_sample()
    facts = Input(**{**inputs_of(sample)["s2"].__dict__, **change})
    with pytest.raises(DataError, match=message):
        facts.order(sample.series["s2"], "a.npz: s2")


def test_the_period_limits_the_dates(stored):
    sample, folder, rows = stored
    period = (np.datetime64("2019-03-01"), np.datetime64("2019-05-01"))
    data = FixedDataset(folder, rows, Reading(inputs_of(sample), DATES | {"s2": 20}, period), [(0, pieces((160, 160), None)[0])])
    view = data[0]
    assert view.series["s2"].days.tolist() == [59, 90, 120]
    assert "hr" not in view.series  # June
    assert within(np.array(["NaT"], "datetime64[s]"), period).all()


def test_a_modality_can_be_dropped_from_a_view(stored):
    sample, folder, rows = stored
    data = PairDataset(folder, rows, Reading(inputs_of(sample), DATES), Cutter(None, 20), ViewsSection(drop_modality=1.0))
    assert {len(view.series) for view in data[Key(0, 0, 0)]} == {2}


def test_labels_of_pieces_are_scored_once(stored):
    _, folder, rows = stored
    path = folder / rows[0].path
    counted = np.zeros((16, 16), int)
    for piece in pieces((160, 160), 100):
        raster = label_of(path, piece.cut, "label", piece)["raster"]
        rows_, columns = piece.cut.window(10)
        counted[rows_, columns] += raster != 255
    assert (counted == 1).all()


def test_a_crop_that_splits_label_pixels_is_refused(stored):
    _, folder, rows = stored
    with pytest.raises(DataError, match="splits pixels of 10 m"):
        label_of(folder / rows[0].path, Cut(0, 5, 40, 40), "label")


def test_batch_of_whole_samples():
    samples = [make_sample("a", 0), make_sample("b", 1)]
    del samples[1].series["hr"]
    batch = batch_of(samples, inputs_of(samples[0]), (4096, "equal_area"))
    assert batch.series["s2"].pixels.shape == (2, 12, 10, 16, 16)
    assert batch.series["hr"].present.tolist() == [[True], [False]]
    assert batch.region.tolist()[0] == batch.region.tolist()[1] >= 0
    assert batch.place.tolist() == [0, 1]


def test_batch_of_a_sample_without_any_input_is_refused():
    sample = make_sample()
    with pytest.raises(DataError, match="a: has s2, s1, hr, the model sees x9"):
        batch_of([sample], {"x9": inputs_of(sample)["s2"]})
