"""Which dates of a footprint are kept."""

from collections.abc import Sequence

import numpy as np

SAME_PASS_S = 300  # items nearer in time than this are pieces or versions of one overpass


def choose(times: np.ndarray, shares: np.ndarray, ids: Sequence[str], period: tuple[np.datetime64, np.datetime64], *,
           at_most: int, min_valid: float, spread: bool, one_per_day: bool = False) -> list[int]:  # fmt: skip
    """Positions of the dates to keep, ascending.

    times: (T,) datetime64[s] ascending, NaT = unknown      shares: (T,) valid share of the footprint, 0..1
    Dates under min_valid go, and of one overpass all but the clearest; with `one_per_day` of one day (UTC), too, since
    dates are told apart by their day. When more than at_most are left,
    the period is cut into at_most equal bins and the clearest of each bin is taken, so that seasons
    survive; places that empty bins leave go to the clearest of the rest. Without `spread`: the clearest.
    Equal shares: the earlier date, then the smaller id. At most one date without a time is kept.
    """
    good = [k for k in range(len(times)) if shares[k] >= min_valid and shares[k] > 0]
    order = sorted(_apart(good, times, shares, ids, one_per_day), key=lambda k: (-shares[k], _seconds(times[k]), ids[k]))
    if len(order) <= at_most:
        return sorted(order)
    if not spread:
        return sorted(order[:at_most])
    taken: dict[int, int] = {}
    for k in order:
        taken.setdefault(bin_of(times[k], period, at_most), k)
    chosen = sorted(taken.values(), key=order.index)[:at_most]
    chosen += [k for k in order if k not in chosen][: at_most - len(chosen)]
    return sorted(chosen)


def _apart(good: list[int], times: np.ndarray, shares: np.ndarray, ids: Sequence[str], one_per_day: bool) -> list[int]:
    """The clearest item of each overpass, then of each day; items without a time count as one."""
    kept: list[int] = []
    for k in sorted(good, key=lambda k: (-shares[k], ids[k])):
        if all(abs(_seconds(times[k]) - _seconds(times[other])) > SAME_PASS_S for other in kept):
            kept.append(k)
    if not one_per_day:
        return kept
    days: dict[object, int] = {}
    for k in sorted(kept, key=lambda k: (-shares[k], _seconds(times[k]), ids[k])):
        days.setdefault(None if np.isnat(times[k]) else times[k].astype("datetime64[D]"), k)
    return list(days.values())


def _seconds(time: np.datetime64 | np.ndarray) -> int:
    return 2**62 if np.isnat(time) else int(np.asarray(time, "datetime64[s]").astype(np.int64))


def bin_of(time: np.datetime64, period: tuple[np.datetime64, np.datetime64], count: int) -> int:
    """Number of the bin of the period that holds `time`; -1 for an unknown time."""
    if np.isnat(time):
        return -1
    first = period[0].astype("datetime64[D]").astype("datetime64[s]")
    length = (period[1].astype("datetime64[D]") + 1).astype("datetime64[s]") - first
    return int(np.clip((time.astype("datetime64[s]") - first) * count // length, 0, count - 1))
