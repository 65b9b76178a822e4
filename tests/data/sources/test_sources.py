import numpy as np
import pytest

from skysense_cli.data.sources import meets, parse_time, within

NAT = np.datetime64("NaT", "s")


@pytest.mark.parametrize(
    "text", ["20210401T105031", "2021-04-01T10:50:31Z", "2021-04-01 10:50:31", "2021:04:01 10:50:31", "2021-04-01T10:50:31.024000+00:00"]
)
def test_the_usual_spellings_of_a_time_are_read(text):
    assert parse_time(text) == np.datetime64("2021-04-01T10:50:31")


def test_a_day_is_its_midnight_and_nonsense_is_none():
    assert parse_time("20210401") == np.datetime64("2021-04-01T00:00:00")
    assert [parse_time(text) for text in ("20211301", "april", "", "2021")] == [None] * 4


def test_both_ends_of_a_period_count_and_unknown_times_always_lie_in_it():
    period = (np.datetime64("2021-01-01"), np.datetime64("2021-01-31"))
    inside = [within(np.datetime64(t, "s"), period) for t in ("2020-12-31T23:59:59", "2021-01-01", "2021-01-31T23:59:59", "2021-02-01")]
    assert inside == [False, True, True, False]
    assert within(NAT, period) and within(np.datetime64("1999-01-01", "s"), None)


def test_bounds_meet_also_across_the_antimeridian():
    pacific = (179.5, -10, -179.5, 10)
    assert meets(pacific, (179.8, 0, 179.9, 1)) and meets((-179.9, 0, -179.8, 1), pacific)
    assert not meets(pacific, (0, 0, 1, 1)) and not meets((0, 0, 1, 1), (1, 0, 2, 1))
