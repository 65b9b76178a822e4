import numpy as np

from skysense_cli.data.dates import choose

YEAR = (np.datetime64("2021-01-01"), np.datetime64("2021-12-31"))


def pick(days, shares, *, at_most, min_valid=0.5, spread=True, ids=None):
    times = np.array(days, "datetime64[s]")
    names = ids or [f"item{k}" for k in range(len(days))]
    return choose(times, np.array(shares, float), names, YEAR, at_most=at_most, min_valid=min_valid, spread=spread)


def test_dates_below_min_valid_go():
    assert pick(["2021-02-01", "2021-03-01", "2021-04-01"], [0.49, 0.5, 1.0], at_most=5) == [1, 2]


def test_a_date_without_any_valid_pixel_goes_even_when_min_valid_is_0():
    assert pick(["2021-02-01", "2021-03-01"], [0.0, 0.1], at_most=5, min_valid=0) == [1]


def test_spread_keeps_the_seasons_where_the_clearest_alone_would_not():
    days = ["2021-01-10", "2021-02-10", "2021-07-01", "2021-07-11", "2021-07-21", "2021-11-01"]
    shares = [0.6, 0.7, 1.0, 0.99, 0.98, 0.65]
    assert pick(days, shares, at_most=3, spread=False) == [2, 3, 4]
    assert pick(days, shares, at_most=3) == [1, 2, 5]


def test_places_of_empty_bins_go_to_the_clearest_of_the_rest():
    days = ["2021-07-01", "2021-07-11", "2021-07-21", "2021-07-29"]
    assert pick(days, [0.7, 0.9, 0.8, 1.0], at_most=3) == [1, 2, 3]


def test_of_one_overpass_only_the_clearest_item_is_kept():
    days = ["2021-06-01T10:50:30", "2021-06-01T10:50:45", "2021-06-01T17:30:00"]
    assert pick(days, [0.8, 0.9, 0.7], at_most=9) == [1, 2]
    assert pick(days, [0.9, 0.9, 0.7], at_most=9, ids=["b", "a", "c"]) == [1, 2]


def test_at_most_one_undated_item_is_kept():
    assert pick(["NaT", "NaT"], [0.9, 1.0], at_most=9) == [1]


def test_equal_shares_fall_to_the_earlier_date():
    assert pick(["2021-01-05", "2021-01-15", "2021-12-01"], [1, 1, 1], at_most=2) == [0, 2]


def test_of_one_day_only_the_clearest_is_kept_when_asked():
    """Equal ones: the earlier. A day is a day of UTC."""
    times = np.array(["2021-06-01T05:50:00", "2021-06-01T17:30:00", "2021-06-02T00:10:00", "2021-06-03T05:50:00", "2021-06-03T17:30:00"])
    times, shares, names = times.astype("datetime64[s]"), np.array([0.8, 0.9, 0.7, 1.0, 1.0]), list("abcde")
    common = {"at_most": 9, "min_valid": 0.5, "spread": True}
    assert choose(times, shares, names, YEAR, **common, one_per_day=True) == [1, 2, 3]
    assert choose(times, shares, names, YEAR, **common, one_per_day=False) == [0, 1, 2, 3, 4]
