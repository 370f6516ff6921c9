"""Intervals around metrics by the bootstrap: what else would have come out of other text of the same kind.

Sequences are drawn with replacement, as many as there are, 1,000 times, and each time the metrics are
computed again (Efron and Tibshirani 1993, chapter 13, percentile intervals). A metric is made of sums, so it
is enough to keep the sums of each sequence; of a large set those of 1,000 groups of neighbours, which are
drawn whole. The draws are a function of a fixed seed: equal sums give equal intervals, whoever computes them.
"""

from collections.abc import Callable, Mapping

import numpy as np

from keyed_random import derive_key, draw_bits

RESAMPLES = 1000
# Histograms of so many groups take 33 MB, those of the resamples as much, whatever the size of the set.
MOST_GROUPS = 1000
_LOW, _HIGH = 2.5, 97.5
_KEY = derive_key(20_200_323, "bootstrap")


def groups_of(positions: np.ndarray, count: int) -> np.ndarray:
    """The group of each of these positions among `count` sequences: its own, else one of 1,000 of a size.

    Neighbours share a group: they come from the same documents.

    Returns:
        int64, the shape of `positions`, rising with them, less than min(count, 1,000).
    """
    return np.asarray(positions, np.int64) * min(count, MOST_GROUPS) // count


def add_to_groups(totals: dict[str, np.ndarray], groups: np.ndarray, sums: Mapping[str, np.ndarray]) -> None:
    """Add the sums of sequences to those of their groups.

    Args:
        totals: [groups, …] by name, changed in place.
        groups: [sequences], never falling.
        sums: [sequences, …] by name.
    """
    distinct, starts = np.unique(groups, return_index=True)
    for name, values in sums.items():
        totals[name][distinct] += np.add.reduceat(values, starts, axis=0)


def draw_counts(groups: int) -> np.ndarray:
    """How often each group is in each resample: float64 [resamples, groups], each row with sum `groups`."""
    counts = np.empty((RESAMPLES, groups))
    for number in range(RESAMPLES):
        bits = draw_bits(_KEY, np.arange(number * groups, (number + 1) * groups))
        drawn = ((bits >> np.uint64(32)) * np.uint64(groups)) >> np.uint64(32)
        counts[number] = np.bincount(drawn.astype(np.int64), minlength=groups)
    return counts


def intervals(
    grouped: Mapping[str, np.ndarray], metrics: Callable[[dict[str, np.ndarray]], dict[str, float]]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of metrics, by name; none of a single group.

    Args:
        grouped: sums of each group, float64 [groups, …] by name.
        metrics: from the sums of a whole set to values by name.
    """
    groups = len(next(iter(grouped.values())))
    if groups < 2:
        return {}
    counts = draw_counts(groups)
    sums = {
        name: (counts @ values.reshape(groups, -1)).reshape(RESAMPLES, *values.shape[1:])
        for name, values in grouped.items()
    }
    drawn: dict[str, list[float]] = {}
    for number in range(RESAMPLES):
        for metric, value in metrics({name: values[number] for name, values in sums.items()}).items():
            drawn.setdefault(metric, []).append(value)
    return {
        metric: tuple(float(end) for end in np.percentile(values, [_LOW, _HIGH]))
        for metric, values in drawn.items()
    }
