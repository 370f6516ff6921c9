"""Rules on whether a run's time is well spent: padding, waiting for data, slow workers, throughput.

Thresholds stand above the rules, with where they come from.
"""

import itertools
import math
from statistics import median, mode

from health_finding import Finding, finite, last_trained, not_judged
from run_log import Phase, RunLog

# A third of the work for nothing; the examples that data/dataPrep.py makes have under a tenth.
_MOST_PADDING = 1 / 3
# Reading is two updates ahead of computing, so that a run whose disk keeps up waits for nothing.
_MOST_WAITING = 0.1
# On two busy cores the quickstart's lines differ by half, quarters of a phase by a quarter; what lasts for
# seconds is no trend.
_SLOWEST_QUARTER, _LINES_FOR_QUARTERS, _LEAST_SECONDS = 0.7, 12, 600


def padding(run: RunLog) -> Finding:
    """Whether much of a pre-training run's work goes into padding."""
    rule = "little padding"
    pretraining = [phase for phase in run.phases if phase.settings.get("pretrain_tfrecords")]
    if not pretraining:
        return Finding(rule, None, "not pre-training: batches are padded to lengths of their own")
    shares = {phase.number: _padding_share(phase) for phase in pretraining}
    shares = {number: share for number, share in shares.items() if share is not None}
    if not shares:
        return not_judged(rule, "train_perf, tokens_per_second and max_seq_length")
    evidence = "; ".join(f"phase {number}: {100 * share:.1f} % padding" for number, share in shares.items())
    if max(shares.values()) <= _MOST_PADDING:
        return Finding(rule, True, evidence)
    return Finding(
        rule,
        False,
        evidence,
        "documents are shorter than the examples: let several share a sequence (--pack_sequences), build "
        "shards with a smaller --max_seq_length, or check that blank lines stand between documents alone and "
        "not between paragraphs",
    )


def waiting_for_data(run: RunLog) -> Finding:
    """Whether updates wait for their data."""
    rule = "not waiting for data"
    phase = last_trained(run)
    waits = [value for _, value in finite(phase.points("training", "data_wait"))]
    if not waits:
        return not_judged(rule, "data_wait")
    share = median(waits[len(waits) // 2 :])
    evidence = f"{100 * share:.1f} % of the time goes into waiting for data"
    if share <= _MOST_WAITING:
        return Finding(rule, True, evidence)
    return Finding(
        rule,
        False,
        evidence,
        "put the shards on a local disk, or read neighbours together (--shuffle_block_size 64)",
    )


def slow_worker(run: RunLog) -> Finding:
    """Whether one worker's data keep all the others waiting.

    Workers end every update together, so that the log can show who waited for data, but not whose processor
    is slow.
    """
    rule = "no slow worker"
    phase = last_trained(run)
    if phase.setting("workers", 1) == 1:
        return Finding(rule, None, "one worker, or the log does not say how many")
    worst = [value for _, value in finite(phase.points("training", "worst_data_wait"))]
    typical = [value for _, value in finite(phase.points("training", "data_wait"))]
    ranks = [value for _, value in finite(phase.points("training", "worst_data_wait_worker"))]
    if not worst or not typical or not ranks:
        return not_judged(rule, "worst_data_wait and worst_data_wait_worker")
    later = slice(len(worst) // 2, None)
    share, usual, rank = median(worst[later]), median(typical[later]), mode(ranks[later])
    evidence = (
        f"the worker that waits longest for its data does so {100 * share:.1f} % of the time, "
        f"worker 0 {100 * usual:.1f} %"
    )
    if share <= _MOST_WAITING or usual > share / 2:
        return Finding(rule, True, evidence)
    return Finding(
        rule,
        False,
        f"{evidence}; most often worker {rank:.0f}",
        "look at that worker's disk and its share of processors (--affinity, --log_all_ranks)",
    )


def steady_throughput(run: RunLog) -> Finding:
    """Whether a phase became slower while it ran, since its last start."""
    rule = "steady throughput"
    told = []
    for phase in run.phases:
        points = finite(phase.points("training", "train_perf"))
        rates = [value for update, value in points if update >= phase.starts[-1] and value > 0]
        updates = phase.last_update - phase.starts[-1] if phase.starts else 0
        seconds = updates * (phase.sequences_per_update() or math.inf) / median(rates) if rates else 0
        if len(rates) < _LINES_FOR_QUARTERS or seconds < _LEAST_SECONDS:
            continue
        ends = [round(len(rates) * quarter / 4) for quarter in range(5)]
        quarters = [median(rates[first:last]) for first, last in itertools.pairwise(ends)]
        best, last = max(quarters[:3]), quarters[3]
        told.append(f"phase {phase.number}: {last:.4g} sequences/s in its last quarter, at best {best:.4g}")
        if last < _SLOWEST_QUARTER * best:
            return Finding(
                rule,
                False,
                told[-1],
                "look for other programs on the machine, heat, a disk that has become slow, and memory that "
                "is swapped",
            )
    if not told:
        return not_judged(rule, f"{_LINES_FOR_QUARTERS} lines with train_perf over ten minutes")
    return Finding(rule, True, "; ".join(told))


def _padding_share(phase: Phase) -> float | None:
    """Of the places in the sequences, from both rates of each line: real tokens and sequences a second."""
    lines = [
        line for line in phase.training.values() if line.get("train_perf") and "tokens_per_second" in line
    ]
    if not lines or not phase.max_seq_length:
        return None
    return 1 - median(line["tokens_per_second"] / line["train_perf"] for line in lines) / phase.max_seq_length
