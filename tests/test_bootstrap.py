"""Bootstrap intervals against plain loops, the normal distribution, and how often they should hold."""

import numpy as np
import pytest

import bootstrap
from bootstrap import add_to_groups, draw_counts, groups_of, intervals


def _mean(sums):
    return {"mean": float(sums["total"] / sums["count"])}


def _grouped(values: np.ndarray) -> dict[str, np.ndarray]:
    return {"total": values, "count": np.ones_like(values)}


def test_intervals_equal_a_loop_that_draws_sequence_by_sequence():
    """Two metrics of sums with other axes; each resample is put together from its sequences."""
    random = np.random.RandomState(0)
    grouped = {
        "right": random.randint(0, 20, 7).astype(np.float64),
        "tokens": random.randint(20, 40, 7).astype(np.float64),
        "histogram": random.randint(0, 5, (7, 4, 2)).astype(np.float64),
    }

    def metrics(sums):
        return {"accuracy": sums["right"] / sums["tokens"], "above": sums["histogram"][2:, 0].sum()}

    found = intervals(grouped, metrics)
    drawn = {"accuracy": [], "above": []}
    for counts in draw_counts(7):
        sequences = [number for number in range(7) for _ in range(int(counts[number]))]
        assert len(sequences) == 7
        right = tokens = above = 0.0
        for number in sequences:
            right += grouped["right"][number]
            tokens += grouped["tokens"][number]
            above += grouped["histogram"][number, 2, 0] + grouped["histogram"][number, 3, 0]
        drawn["accuracy"].append(right / tokens)
        drawn["above"].append(above)
    for name, values in drawn.items():
        # Of 1,000 values in order, number 24.975 and 974.025 from 0, between neighbours in proportion.
        ordered = sorted(values)
        low = ordered[24] + 0.975 * (ordered[25] - ordered[24])
        high = ordered[974] + 0.025 * (ordered[975] - ordered[974])
        assert found[name] == pytest.approx((low, high), rel=1e-9)


def test_draws_are_a_multinomial_distributions():
    counts = draw_counts(50)
    assert counts.shape == (1000, 50) and (counts.sum(axis=1) == 50).all()
    # Each is binomial with 50 draws of 1 / 50: mean 1, variance .98; 50,000 of them.
    assert counts.mean() == 1 and counts.var() == pytest.approx(0.98, rel=0.03)
    # A group's mean over the resamples deviates by sqrt(.98 / 1000) = .031.
    assert abs(counts.mean(axis=0) - 1).max() < 4.5 * 0.0313
    correlation = np.corrcoef(counts[:-1].ravel(), counts[1:].ravel())[0, 1]
    assert abs(correlation) < 0.02


def test_the_interval_of_a_mean_is_the_normal_distributions():
    values = np.random.RandomState(1).normal(3.0, 2.0, 900)
    low, high = intervals(_grouped(values), _mean)["mean"]
    half = 1.96 * values.std(ddof=1) / 30
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.1 * half)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)


def test_the_interval_holds_the_truth_nineteen_times_of_twenty():
    random = np.random.RandomState(2)
    held = 0
    for _ in range(200):
        low, high = intervals(_grouped(random.exponential(1.0, 200)), _mean)["mean"]
        held += low <= 1.0 <= high
    # Binomial: 190 expected, 3.1 the deviation; percentile intervals of skewed values are a little short.
    assert 178 <= held <= 198


def test_intervals_do_not_hang_on_chance_or_on_what_was_drawn_before():
    values = np.random.RandomState(3).normal(size=40)
    first = intervals(_grouped(values), _mean)
    np.random.seed(99)
    intervals(_grouped(values[:17]), _mean)
    assert intervals(_grouped(values), _mean) == first


def test_a_single_group_has_no_interval():
    assert intervals(_grouped(np.array([2.0])), _mean) == {}


@pytest.mark.parametrize("count", [1, 999, 1000, 2500, 1_000_003])
def test_groups_are_neighbours_of_about_one_size(count):
    groups = groups_of(np.arange(count), count)
    assert (np.diff(groups) >= 0).all() and groups[0] == 0
    sizes = np.bincount(groups)
    assert len(sizes) == min(count, bootstrap.MOST_GROUPS)
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1


def test_sums_of_sequences_are_added_to_their_groups():
    random = np.random.RandomState(4)
    groups = groups_of(np.arange(2500), 2500)
    sums = {"a": random.normal(size=2500), "b": random.normal(size=(2500, 3, 2))}
    totals = {"a": np.zeros(1000), "b": np.zeros((1000, 3, 2))}
    for first in range(0, 2500, 130):
        part = slice(first, first + 130)
        add_to_groups(totals, groups[part], {name: values[part] for name, values in sums.items()})
    for name, values in sums.items():
        expected = np.zeros_like(totals[name])
        for number, group in enumerate(groups):
            expected[group] += values[number]
        np.testing.assert_allclose(totals[name], expected, atol=1e-12)
