import re

import numpy as np
import pytest

from skysense_cli.data.products import sentinel1
from skysense_cli.errors import DataError


def one(folder, start, polarisation):
    return next(folder.glob(f"{start}-{polarisation}-*.xml"))


@pytest.fixture(scope="module")
def annotation_text(grd_tree):
    return one(grd_tree / "annotation", "s1a-iw-grd", "vv").read_bytes()


def test_the_real_annotation_is_read_right(annotation_text):
    facts = sentinel1.read_annotation(annotation_text, "a")  # numbers read by eye in the file
    assert (facts.mission, facts.polarisation, facts.orbit_pass, facts.absolute_orbit) == ("S1A", "VV", "ascending", 39156)
    assert facts.relative_orbit == 59  # as its manifest says
    assert facts.start == np.datetime64("2021-08-09T17:39:53") and facts.first_line == np.datetime64("2021-08-09T17:39:53.153776")
    assert facts.shape == (16676, 26144) and facts.sample_spacing_m == 10 and facts.line_interval_s == 1.499191837510891e-03
    assert facts.grid.line.shape == (10, 21) and facts.grid.line[:, 0].tolist()[-2:] == [16016, 16675]
    assert facts.grid.lat[0, 0] == 4.453525246605311e01 and facts.grid.lon[0, 0] == 1.929931301635841
    assert facts.grid.height[0, 0] == 3.309828611686826e02 and facts.grid.incidence[0, 0] == 3.047481883903625e01
    assert len(facts.orbit.times_s) == 16 and facts.orbit.times_s[0] == pytest.approx(-64.153776)
    assert facts.orbit.positions[0].tolist() == [5430376.907, -120620.073, 4525906.749]
    assert facts.orbit.velocities[0].tolist() == [-4770.34038, -1681.807741, 5663.122891]
    assert facts.ground_range.coefficients.shape == (28, 9) and facts.ground_range.origins_m[0] == 800463.7352013956
    assert facts.grid.bounds == pytest.approx((1.512143, 44.536255, 5.188996, 46.436539), abs=2e-3)  # of its STAC item


@pytest.mark.parametrize(("polarisation", "noise"), [("vv", (2392.147, 823.5303)), ("vh", (2696.415, 901.7542))])
def test_the_real_tables_are_read_right(grd_tree, polarisation, noise):
    home = grd_tree / "annotation" / "calibration"
    table = sentinel1.read_calibration(one(home, "calibration-s1a-iw-grd", polarisation).read_bytes(), "c")
    assert len(table.lines) == 27 and table.lines[[0, 1, 20, 26]].tolist() == [0, 667, 13341, 17343]
    assert len(table.samples[0]) == 655 and table.samples[0][-2:].tolist() == [26120, 26143]
    assert table.values[0][:3].tolist() == [662.8682, 662.5948, 662.3219] and table.values[0][-1] == 557.7147
    assert table.values[13][300] == 601.1893
    thermal = sentinel1.read_noise(one(home, "noise-s1a-iw-grd", polarisation).read_bytes(), "n")
    assert len(thermal.by_range.lines) == 26 and thermal.by_range.lines[-1] == 16675
    assert (thermal.by_range.values[0][0], thermal.by_range.values[13][300]) == noise
    assert [block.block for block in thermal.by_azimuth] == [(0, 16675, 0, 8759), (0, 16675, 8760, 17560), (0, 16675, 17561, 26143)]
    assert len(thermal.by_azimuth[0].lines) == 1687 and (polarisation == "vh" or thermal.by_azimuth[0].values[0] == 1.040491)


def test_noise_of_the_format_before_2018_is_read():
    vectors = "".join(
        f'<noiseVector><line>{line}</line><pixel count="3">0 40 80</pixel><noiseLut count="3">{v} {v} {v}</noiseLut></noiseVector>'
        for line, v in ((0, 10), (100, 20))
    )
    noise = sentinel1.read_noise(f'<noise><noiseVectorList count="2">{vectors}</noiseVectorList></noise>'.encode(), "n")
    assert noise.by_azimuth == () and noise.by_range.lines.tolist() == [0, 100] and noise.by_range.values[1].tolist() == [20, 20, 20]


def test_a_product_across_the_antimeridian_has_bounds_across_it(annotation_text):
    grid = sentinel1.read_annotation(annotation_text, "a").grid
    moved = sentinel1.GeolocationGrid(grid.line, grid.sample, (grid.lon + 176.5 + 180) % 360 - 180, grid.lat, grid.height, grid.incidence)
    left, _, right, _ = moved.bounds
    assert left == pytest.approx(178.01, abs=0.01) and right == pytest.approx(-178.31, abs=0.01)


@pytest.mark.parametrize(
    ("pattern", "put", "words"),
    [
        (rb"<productType>GRD", b"<productType>SLC", "is the annotation of a 'SLC' product, expected a ground range detected one"),
        (rb"<numberOfLines>16676", b"<numberOfLines>0", "numberOfLines is '0', expected a whole number from 1"),
        (rb"<line>2002</line>", b"<line>2001</line>", "the 210 points of geolocationGrid form no grid of lines and pixels"),
        (rb"<latitude>4.453525246605311e\+01", b"<latitude>144.5", "geolocationGrid has a point outside the globe"),
        (rb"17:38:59.000000</time>", b"17:38:49.000000</time>", "the times of orbitList do not ascend"),
        (rb"(?s)<orbitList.*</orbitList>", b"", "orbitList has 0 state vectors, at least 2 are needed"),
        (rb"(?s)<coordinateConversionList.*</coordinateConversionList>", b"", "has no coordinateConversion"),
    ],
)
def test_a_damaged_annotation_is_named(annotation_text, pattern, put, words):
    with pytest.raises(DataError, match=f"^a.xml: {words}"):
        sentinel1.read_annotation(re.sub(pattern, put, annotation_text, count=1), "a.xml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<calibration/>", "has no calibrationVector"),
        ("{0}<sigmaNought>1 2</sigmaNought>{1}", "sigmaNought at line 0 has 2 values for 3 ascending pixels"),
        ("{0}<sigmaNought>1 0 2</sigmaNought>{1}", "sigmaNought holds a value that is not positive"),
    ],
)
def test_a_damaged_calibration_is_named(text, words):
    start = "<calibration><calibrationVectorList><calibrationVector><line>0</line><pixel>0 40 80</pixel>"
    with pytest.raises(DataError, match=f"^c.xml: {words}"):
        sentinel1.read_calibration(text.format(start, "</calibrationVector></calibrationVectorList></calibration>").encode(), "c.xml")


def test_damaged_noise_is_named():
    one = "<noiseRangeVector><line>0</line><pixel>0 9</pixel><noiseRangeLut>1 1</noiseRangeLut></noiseRangeVector>"
    ranges = f"<noiseRangeVectorList>{one}</noiseRangeVectorList>"
    other = "<noiseAzimuthVector><line>0 5</line><noiseAzimuthLut>1</noiseAzimuthLut></noiseAzimuthVector>"
    along = f"<noiseAzimuthVectorList>{other}</noiseAzimuthVectorList>"
    with pytest.raises(DataError, match="^n.xml: noiseAzimuthLut has 1 values for 2 ascending lines"):
        sentinel1.read_noise(f"<noise>{ranges}{along}</noise>".encode(), "n.xml")
    whole = sentinel1.read_noise(f"<noise>{ranges}{along.replace('>1<', '>1 2<')}</noise>".encode(), "n.xml")
    assert whole.by_azimuth[0].block[0] < 0 and whole.by_azimuth[0].block[3] > 1_000_000  # stripmap: no block is given
